"""``cifarcnn predict``: what pictures show, for people or as JSON, JSON lines or CSV."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from cifarcnn import console
from cifarcnn.images import RESIZES, Resize

if TYPE_CHECKING:
    from cifarcnn.prediction import Answer, Answers

WIDEST_NAME = 48


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--model",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A .keras file or a run directory. Default: $CIFARCNN_MODEL, else the newest run under ./runs.",
)
@click.option(
    "--top-k",
    metavar="N",
    type=click.IntRange(1, 10),
    default=3,
    show_default=True,
    help="How many classes to name for each image.",
)
@click.option(
    "--resize",
    type=click.Choice(RESIZES),
    default="crop",
    show_default=True,
    help="How an image becomes 32x32: its middle square, all of it on neutral ground, or out of proportion.",
)
@click.option("--recursive", is_flag=True, help="Take the images in and below directories.")
@click.option(
    "--threshold",
    metavar="F",
    type=click.FloatRange(0, 1),
    help="Mark answers of a lower probability as unsure.",
)
@click.option("--json", "form", flag_value="json", help="Write one JSON document to stdout.")
@click.option("--jsonl", "form", flag_value="jsonl", help="Write one JSON object per line and image.")
@click.option("--csv", "form", flag_value="csv", help="Write a table of comma-separated values.")
@click.pass_context
def predict(
    context: click.Context,
    *,
    images: tuple[str, ...],
    model: Path | None,
    top_k: int,
    resize: Resize,
    recursive: bool,
    threshold: float | None,
    form: str | None,
) -> None:
    """Say what IMAGEs show.

    IMAGE is a file, a directory (with --recursive), a pattern like 'photos/*.jpg', or - for standard input.
    Transparent images are laid over white; of an animation the first frame counts. An image that cannot be
    read does not stop the others, and makes the exit code 1.
    """
    from cifarcnn import prediction

    with console.Progress() as progress:
        answers = prediction.predict(
            images, model=model, top_k=top_k, resize=resize, recursive=recursive, on_event=progress
        )
    show = {"json": _show_json, "jsonl": _show_lines, "csv": _show_csv, None: _show_table}[form]
    failed = show(answers, threshold)
    if failed:
        if form is None:
            console.note(f"{failed:,} of {len(answers.paths):,} images could not be read")
        context.exit(1)


def _show_json(answers: "Answers", threshold: float | None) -> int:
    """Write one document when all images are answered; return how many could not be read."""
    from cifarcnn.prediction import Prediction

    everything = [(isinstance(answer, Prediction), _document(answer, threshold)) for answer in answers]
    errors = [document for answered, document in everything if not answered]
    console.emit_json(
        {
            "schema": 1,
            "model": console.text(str(answers.model.path)),
            "predictions": [document for answered, document in everything if answered],
            "errors": errors,
        }
    )
    return len(errors)


def _show_lines(answers: "Answers", threshold: float | None) -> int:
    """Write one JSON object per line, as the answers come; return how many could not be read."""
    failed = 0
    for answer in answers:
        document = _document(answer, threshold)
        failed += "error" in document
        sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
        sys.stdout.flush()
    return failed


def _document(answer: "Answer", threshold: float | None) -> dict[str, Any]:
    """Give an answer as JSON shows it."""
    from cifarcnn.prediction import Failure

    if isinstance(answer, Failure):
        return {"path": console.text(answer.path), "error": answer.error}
    top = [{"class": ranked.label, "probability": ranked.probability} for ranked in answer.top]
    document = {"path": console.text(answer.path), **top[0], "top": top}
    if threshold is not None:
        document["unsure"] = answer.top[0].probability < threshold
    return document


def _show_csv(answers: "Answers", threshold: float | None) -> int:
    """Write a row per image, the runners-up in columns of their own; return how many could not be read."""
    from cifarcnn.prediction import Failure

    writer = csv.writer(sys.stdout, lineterminator="\n")
    places = ("", *(f"_{place}" for place in range(2, answers.top_k + 1)))
    ranks = [f"{column}{place}" for place in places for column in ("class", "probability")]
    unsure = [] if threshold is None else ["unsure"]
    writer.writerow(["path", "error", *unsure, *ranks])
    failed = 0
    for answer in answers:
        if isinstance(answer, Failure):
            failed += 1
            writer.writerow([console.text(answer.path), answer.error] + [""] * len(unsure + ranks))
            continue
        doubt = [] if threshold is None else [int(answer.top[0].probability < threshold)]
        cells = [cell for ranked in answer.top for cell in (ranked.label, f"{ranked.probability:.6f}")]
        writer.writerow([console.text(answer.path), "", *doubt, *cells])
    return failed


def _show_table(answers: "Answers", threshold: float | None) -> int:
    """Print a line per image for people; return how many could not be read."""
    from cifarcnn.prediction import Failure

    names = [console.printable(path) for path in answers.paths]
    width = min(WIDEST_NAME, max(map(len, names)))
    failed = 0
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Failure):
            failed += 1
            line = f"[red]cannot be read: {escape(answer.error)}[/]"
        else:
            best, *others = answer.top
            unsure = threshold is not None and best.probability < threshold
            runners_up = ", ".join(f"{other.label} {other.probability:.1%}" for other in others)
            style = "yellow" if unsure else "bold"
            line = f"[{style}]{best.label:<10}[/] {best.probability:>6.1%}  {runners_up}"
            line += "  [yellow]unsure[/]" if unsure else ""
        console.stdout.print(f"{escape(name.ljust(width))}  {line}", soft_wrap=True)
    return failed
