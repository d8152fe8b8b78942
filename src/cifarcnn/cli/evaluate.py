"""``cifarcnn evaluate``: measure models on labelled images, and show the figures in 80 columns."""

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cifarcnn.cli import console
from cifarcnn.cli.options import images_option, json_option, precision_option
from cifarcnn.formatting import percent
from cifarcnn.models.modelfile import BATCH_SIZE, display_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cifarcnn.evaluation.evaluate import Evaluation
    from cifarcnn.evaluation.precisions import Precision
    from cifarcnn.evaluation.robustness import Robustness
    from cifarcnn.metrics import Comparison, Interval, Metrics


MATRIX_CLASSES, TABLE_CLASSES = 12, 40
"""Up to so many classes the matrix is printed, and all rows of the table per class."""


@click.command(epilog="Example: cifarcnn evaluate pretrained --tta --report measured")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    help="On the test images (default), or on validation images: the folder's own, else those that the "
    "model's training held out.",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(min=1),
    default=BATCH_SIZE,
    show_default=True,
    help="Images per step; changes the speed, and of the figures the last digits at most.",
)
@images_option
@click.option("--tta", is_flag=True, help="Also average over mirror images and small shifts.")
@precision_option
@click.option(
    "--corruptions",
    is_flag=True,
    help="Measure one MODEL on corrupted images instead, as in CIFAR-10-C (Hendrycks and Dietterich 2019).",
)
@click.option(
    "--severity",
    "severities",
    metavar="N",
    type=click.IntRange(1, 5),
    multiple=True,
    help="With --corruptions: 1 to 5; may be repeated. Default: all.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    help="With --corruptions: take N images, in equal shares of all classes. Default: all.",
)
@click.option(
    "--figures",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw one MODEL's confusion matrix, reliability diagram, worst mistakes, samples, filters (with "
    "--corruptions: corruptions.png) into DIR. Replaces existing files.",
)
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write report.html into DIR: everything about one MODEL on a page that needs no other file."
    " Replaces an existing one.",
)
@click.option(
    "--worst",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="How many mistakes --figures and --report show.",
)
@json_option
def evaluate(
    *,
    models: tuple[Path, ...],
    split: str | None,
    batch_size: int,
    path: Path | None,
    tta: bool,
    precision: "Precision",
    corruptions: bool,
    severities: tuple[int, ...],
    limit: int | None,
    figures: Path | None,
    report: Path | None,
    worst: int,
    as_json: bool,
) -> None:
    """Measure a MODEL on the test images, or on pictures of your own.

    MODEL is a .keras file, a LiteRT file, a run directory, which stands for its best model, or 'pretrained',
    the model that comes with the program. One that was not made by cifarcnn must take raw pixels, 0 to 255,
    and end in probabilities. Several models are compared with the first one, image by image. Pictures of your
    own stand in a folder of folders that are named for classes of the model; a folder with such folders
    below train, val or test will do as well.
    """
    if len(models) > 1 and (figures or report or corruptions):
        raise click.UsageError(
            f"--figures, --report and --corruptions show one model, but {len(models)} were given; evaluate "
            "them one by one"
        )
    if corruptions and (tta or report or precision != "float32"):
        raise click.UsageError("--corruptions cannot be given with --tta, --report or --precision auto")
    if (severities or limit) and not corruptions:
        raise click.UsageError("--severity and --limit belong to --corruptions; add it")
    from cifarcnn.evaluation import evaluate as evaluation
    from cifarcnn.evaluation import robustness
    from cifarcnn.evaluation.corruptions import SEVERITIES
    from cifarcnn.figures import presentation

    common: dict[str, Any] = {"split": split, "data": path, "batch_size": batch_size}
    written: list[Path] = []
    if corruptions:
        with console.Display() as on_event:
            measured = robustness.evaluate_corruptions(
                models[0], **common, severities=severities or SEVERITIES, limit=limit, on_event=on_event
            )
        if as_json:
            console.emit_json(measured.as_document())
        else:
            _show_robustness(measured)
        written += [presentation.write_corruptions(measured, figures)] if figures else []
    else:
        with console.Display() as on_event:
            results = [
                evaluation.evaluate(model, **common, tta=tta, precision=precision, on_event=on_event)
                for model in models
            ]
        _show_results(results, as_json)
        # Last, so that a directory that cannot be written to costs no figure.
        written += presentation.write_figures(results[0], figures, worst) if figures else []
        written += [presentation.write_report(results[0], report, worst)] if report else []
    for file in written:
        console.note(f"wrote {file}")


def _show_results(results: "list[Evaluation]", as_json: bool) -> None:
    """Show the figures of one model, or several and their comparison."""
    from cifarcnn.evaluation import evaluate as evaluation

    comparisons = [evaluation.compare(results[0], other) for other in results[1:]]
    if as_json and comparisons:
        console.emit_json(evaluation.comparison_document(results, comparisons))
    elif as_json:
        console.emit_json(results[0].as_document())
    elif comparisons:
        _show_comparison(results, comparisons)
    else:
        _show(results[0])


def _table(first: str, *headings: str) -> Table:
    """A table whose first column is words, and all others figures."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _headline(model: Path, what: str, source: str) -> None:
    """Print what was measured on what."""
    name, source = (escape(console.printable(text)) for text in (display_name(model), source))
    console.stdout.print(f"[bold]{name}[/] on {what} images from {source}", soft_wrap=True)


def _show_robustness(result: "Robustness") -> None:
    """Print accuracy by corruption and severity, then the means and calibration errors."""
    from cifarcnn.evaluation.corruptions import MISSING

    def shares(values: "Iterable[float]") -> list[str]:
        return [f"{value:.1%}" for value in values]

    _headline(result.model, f"{result.n:,} corrupted {result.split}", result.source)
    table = _table("accuracy at severity", *map(str, result.severities), "mean", "ECE")
    for corruption in dict.fromkeys(score.corruption for score in result.scores):
        scores = [score for score in result.scores if score.corruption == corruption]
        accuracies = [score.accuracy for score in scores]
        means = fmean(accuracies), fmean(score.ece for score in scores)
        table.add_row(corruption.replace("_", " "), *shares((*accuracies, *means)))
    table.add_section()
    accuracies, errors = map(
        list, zip(*(result.mean(severity) for severity in (*result.severities, None)), strict=True)
    )
    table.add_row("mean", *shares((*accuracies, errors[-1])), style="bold")
    table.add_row("calibration error", *shares(errors), "")
    console.stdout.print(table, crop=False)
    clean = f"{percent(result.clean.accuracy)} accuracy, {percent(result.clean.ece)} calibration error (ECE)"
    console.stdout.print(f"\nclean images: {clean}\nmissing of CIFAR-10-C: {', '.join(MISSING)}")


def _show(result: "Evaluation") -> None:
    """Print the figures of one model for people."""
    show = console.stdout.print
    _headline(result.model, f"{result.metrics.n:,} {result.split}", result.images.source)
    show(_summary(result))
    classes = [console.printable(name) for name in result.classes]
    shown = sorted(range(len(classes)), key=lambda label: result.metrics.per_class[label].f1)
    few = len(classes) <= TABLE_CLASSES
    note = "" if few else f": the {TABLE_CLASSES // 2} of lowest F1 of {len(classes)}; --json has all"
    show(f"\n[bold]Per class[/]{note}")
    labels = range(len(classes)) if few else shown[: TABLE_CLASSES // 2]
    show(_per_class(result.metrics, classes, labels))
    if len(classes) <= MATRIX_CLASSES:
        show("\n[bold]Confusion matrix[/]: rows are true classes, columns predictions")
        show(_confusion(result.metrics, classes), crop=False)
    if result.metrics.most_confused:
        show("\n[bold]Most confused[/]")
        for pair in result.metrics.most_confused[: 5 if len(classes) <= MATRIX_CLASSES else None]:
            mistake = escape(f"{classes[pair.label]} taken for {classes[pair.prediction]}")
            show(f"  {mistake:<32}{pair.count:>6,}   {percent(pair.share)} of its class")


def _summary(result: "Evaluation") -> Table:
    from cifarcnn.evaluation import evaluate as evaluation

    figures, plain = result.metrics, result.uncalibrated
    with_, loss, ece = "", "", ""
    if plain and result.temperature:
        with_ = f" with temperature {result.temperature:.3f}"
        loss, ece = f", {plain.loss:.4f} without", f", {percent(plain.ece)} without"
    rows = [
        ("accuracy", _accuracy(figures)),
        ("loss", f"{figures.loss:.4f}{with_}{loss}"),
        ("top-2, top-5", f"{percent(figures.top2)}, {percent(figures.top5)}"),
        ("calibration error", f"{percent(figures.ece)}{with_}{ece}"),
        ("speed", f"{result.images_per_second:,.0f} images/s ({result.seconds:.1f} s)"),
    ]
    if result.ood_false_positive_rate is not None:
        marked = f"{percent(result.ood_false_positive_rate)} marked as out of distribution"
        rows.append(("false positives", marked))
    if result.differing is not None:
        rows.append((result.precision, f"{result.differing:,} predictions differ from float32"))
    rows += [(evaluation.VIEWS[name], _accuracy(averaged)) for name, averaged in result.averaged.items()]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for row in rows:
        table.add_row(*row)
    return table


def _per_class(figures: "Metrics", classes: "Sequence[str]", labels: "Sequence[int]") -> Table:
    table = _table("class", "precision", "recall", "F1", "images")
    for label in labels:
        score = figures.per_class[label]
        shares = (percent(share) for share in (score.precision, score.recall, score.f1))
        table.add_row(escape(classes[label]), *shares, f"{score.support:,}")
    return table


def _confusion(figures: "Metrics", classes: "Sequence[str]") -> Table:
    """The matrix: predictions are headed by the first five letters of their class.

    Mistakes that befall at least 5% of a class stand out by colour and weight. A terminal that is narrower
    breaks the lines, but no column is left out.
    """
    least = 6 * len(classes) + 10
    width = least if console.stdout.width < least else None
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0, width=width)
    table.add_column("", no_wrap=True)
    for name in classes:
        table.add_column(escape(name[:5]), justify="right", no_wrap=True, min_width=5)
    for label, row in enumerate(figures.confusion.tolist()):
        styles = ["bold red" if count and count >= 0.05 * sum(row) else "dim" for count in row]
        styles[label] = "green"
        cells = [Text(str(count) if count else "·", style) for count, style in zip(row, styles, strict=True)]
        table.add_row(escape(classes[label]), *cells)
    return table


def _show_comparison(results: list["Evaluation"], comparisons: list["Comparison"]) -> None:
    """Print several models side by side, then each one's difference from the first."""
    from cifarcnn.evaluation import evaluate as evaluation

    show = console.stdout.print
    show(f"{len(results)} models on the same {results[0].metrics.n:,} {results[0].split} images")
    for number, result in enumerate(results, 1):
        show(f"  [bold]{number}[/]  {escape(console.printable(display_name(result.model)))}", soft_wrap=True)
    table = _table("model", "accuracy", "95% interval", "loss", "calibration error", "images/s")
    for number, result in enumerate(results, 1):
        figures = result.metrics
        table.add_row(
            str(number),
            percent(figures.accuracy),
            _interval(figures.accuracy_interval),
            f"{figures.loss:.4f}",
            percent(figures.ece),
            f"{result.images_per_second:,.0f}",
        )
    show(table)
    for number, result in enumerate(results, 1):
        for name, figures in result.averaged.items():
            show(f"  {number}  {evaluation.VIEWS[name]}: {_accuracy(figures)}")
    for number, other in enumerate(comparisons, 2):
        low, high = (100 * bound for bound in other.interval)
        change = f"{100 * other.difference:+.2f} points"
        show(f"\n{number} against 1: {change} (95% interval {low:+.2f} to {high:+.2f})")
        show(f"  correct in {number} alone: {other.only_second:,}; correct in 1 alone: {other.only_first:,}")
        show(f"  McNemar's exact test: p = {other.p_value:.2g}")


def _accuracy(figures: "Metrics") -> str:
    return f"{percent(figures.accuracy)} (95% interval {_interval(figures.accuracy_interval)})"


def _interval(interval: "Interval") -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}"
