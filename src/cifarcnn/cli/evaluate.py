"""``cifarcnn evaluate``: measure models on labelled images, and show the figures in 80 columns."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cifarcnn.cli import console
from cifarcnn.cli.options import images_option, json_option
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.models.modelfile import BATCH_SIZE, display_name
from cifarcnn.wording import percent

if TYPE_CHECKING:
    from cifarcnn.evaluation.comparison import Comparison
    from cifarcnn.evaluation.evaluation import Evaluation
    from cifarcnn.metrics import Interval, Metrics


CONFUSION_WIDTH = 70
"""Columns of a terminal: 60 for the ten classes, and a class's name."""


@click.command(epilog="Example: cifarcnn evaluate pretrained --tta --report measured")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="On the test images, or on the images that the model's training held out.",
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
@click.option("--tta", is_flag=True, help="Also average the answers over mirror images and small shifts.")
@click.option(
    "--figures",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw one MODEL's confusion matrix, reliability diagram, worst mistakes, samples, filters into DIR."
    " Replaces existing files.",
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
    split: str,
    batch_size: int,
    path: Path | None,
    tta: bool,
    figures: Path | None,
    report: Path | None,
    worst: int,
    as_json: bool,
) -> None:
    """Measure a MODEL on the test images, or on pictures of your own.

    MODEL is a .keras file, an exported model, a run directory, which stands for its best model, or
    'pretrained', the model that comes with the program. One that was not made by cifarcnn must take raw pixels, 0 to 255,
    and end in probabilities of the ten classes in CIFAR-10's order. Several models are compared with the
    first one, image by image. Pictures of your own stand in a folder of folders that are named for their
    classes (airplane, car, bird, ...); a folder with two such folders, train and test, will do as well.
    """
    if (figures or report) and len(models) > 1:
        raise click.UsageError(
            f"--figures and --report show one model, but {len(models)} were given; evaluate them one by one"
        )
    from cifarcnn.evaluation import evaluation
    from cifarcnn.figures import presentation

    with console.Display() as on_event:
        results = [
            evaluation.evaluate(
                model, split=split, data=path, batch_size=batch_size, tta=tta, on_event=on_event
            )
            for model in models
        ]
    comparisons = [evaluation.compare(results[0], other) for other in results[1:]]
    if comparisons and as_json:
        console.emit_json(evaluation.comparison_document(results, comparisons))
    elif comparisons:
        _show_comparison(results, comparisons)
    elif as_json:
        console.emit_json(results[0].as_document())
    else:
        _show(results[0])
    # Last, so that a directory that cannot be written to costs no figure.
    if figures:
        for picture in presentation.write_figures(results[0], figures, worst):
            console.note(f"wrote {picture}")
    if report:
        console.note(f"wrote {presentation.write_report(results[0], report, worst)}")


def _show(result: "Evaluation") -> None:
    """Print the figures of one model for people."""
    show = console.stdout.print
    name = escape(console.printable(display_name(result.model)))
    source = escape(console.printable(result.images.source))
    show(f"[bold]{name}[/] on {result.metrics.n:,} {result.split} images from {source}", soft_wrap=True)
    show(_summary(result))
    show("\n[bold]Per class[/]")
    show(_per_class(result.metrics))
    show("\n[bold]Confusion matrix[/]: rows are true classes, columns answers")
    show(_confusion(result.metrics), crop=False)
    if result.metrics.most_confused:
        show("\n[bold]Most confused[/]")
        for pair in result.metrics.most_confused[:5]:
            mistake = f"{CLASSES[pair.truth]} taken for {CLASSES[pair.answer]}"
            show(f"  {mistake:<32}{pair.count:>6,}   {percent(pair.share, 1)} of its class")


def _summary(result: "Evaluation") -> Table:
    from cifarcnn.evaluation import evaluation

    figures = result.metrics
    rows = [
        ("accuracy", _accuracy(figures)),
        ("loss", f"{figures.loss:.4f}"),
        ("top-2, top-5", f"{percent(figures.top2)}, {percent(figures.top5)}"),
        ("calibration error", percent(figures.ece)),
        ("speed", f"{result.images_per_second:,.0f} images/s ({result.seconds:.1f} s)"),
    ]
    if result.uncalibrated and result.temperature:
        before = f"temperature {result.temperature:.3f}"
        rows[1] = ("loss", f"{figures.loss:.4f} with {before}, {result.uncalibrated.loss:.4f} without")
        rows[3] = (
            "calibration error",
            f"{percent(figures.ece)} with {before}, {percent(result.uncalibrated.ece)} without",
        )
    if result.ood_false_positive_rate is not None:
        rows.append(("false alarms", f"{percent(result.ood_false_positive_rate)} marked as none of the ten"))
    rows += [(evaluation.VIEWS[name], _accuracy(averaged)) for name, averaged in result.averaged.items()]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    for row in rows:
        table.add_row(*row)
    return table


def _per_class(figures: "Metrics") -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("class")
    for heading in ("precision", "recall", "F1", "images"):
        table.add_column(heading, justify="right")
    for name, score in zip(CLASSES, figures.per_class, strict=True):
        shares = (percent(share) for share in (score.precision, score.recall, score.f1))
        table.add_row(name, *shares, f"{score.support:,}")
    return table


def _confusion(figures: "Metrics") -> Table:
    """The matrix in ``CONFUSION_WIDTH`` columns: answers are headed by the first five letters of their class.

    Mistakes that befall at least 5 % of a class stand out by colour and weight. A terminal that is narrower
    breaks the lines, but no column is left out.
    """
    width = CONFUSION_WIDTH if console.stdout.width < CONFUSION_WIDTH else None
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0, width=width)
    table.add_column("", no_wrap=True)
    for name in CLASSES:
        table.add_column(name[:5], justify="right", no_wrap=True, min_width=5)
    for truth, row in enumerate(figures.confusion.tolist()):
        cells = []
        for answer, count in enumerate(row):
            if answer == truth:
                style = "green"
            else:
                style = "bold red" if count and count >= 0.05 * sum(row) else "dim"
            cells.append(Text(str(count) if count else "·", style))
        table.add_row(CLASSES[truth], *cells)
    return table


def _show_comparison(results: list["Evaluation"], comparisons: list["Comparison"]) -> None:
    """Print several models side by side, then each one's difference from the first."""
    from cifarcnn.evaluation import evaluation

    show = console.stdout.print
    show(f"{len(results)} models on the same {results[0].metrics.n:,} {results[0].split} images")
    for number, result in enumerate(results, 1):
        show(f"  [bold]{number}[/]  {escape(console.printable(display_name(result.model)))}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("model")
    for heading in ("accuracy", "95 % interval", "loss", "calibration error", "images/s"):
        table.add_column(heading, justify="right")
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
    averaged = [
        f"  {number}  {evaluation.VIEWS[name]}: {_accuracy(figures)}"
        for number, result in enumerate(results, 1)
        for name, figures in result.averaged.items()
    ]
    for line in averaged:
        show(line)
    for number, other in enumerate(comparisons, 2):
        low, high = (100 * bound for bound in other.interval)
        change = f"{100 * other.difference:+.2f} points"
        show(f"\n{number} against 1: {change} (95 % interval {low:+.2f} to {high:+.2f})")
        show(f"  right in {number} alone: {other.only_second:,}; right in 1 alone: {other.only_first:,}")
        show(f"  McNemar's exact test: p = {other.p_value:.2g}")


def _accuracy(figures: "Metrics") -> str:
    return f"{percent(figures.accuracy)} (95 % interval {_interval(figures.accuracy_interval)})"


def _interval(interval: "Interval") -> str:
    return f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f} %"
