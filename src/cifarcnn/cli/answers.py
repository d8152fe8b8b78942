"""The ways to show predictions on stdout: JSON, JSON lines, CSV, and for people a table or thumbnails.

Each function shows all outcomes as they come, and returns how many pictures could not be read.
"""

import csv
import itertools
import json
import sys
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.markup import escape

from cifarcnn.cli import console
from cifarcnn.prediction.picturefiles import Failure

if TYPE_CHECKING:
    from cifarcnn.prediction.predict import Outcome, Prediction, Predictions

WIDEST_NAME, WIDEST_CLASS = 48, 24
BAR = 20
"""Characters of a bar that stands for a probability of 1."""

OOD = "probably none of the classes"


def show_json(predictions: "Predictions", threshold: float | None) -> int:
    """Write one document when all pictures are done."""
    outcomes = [(isinstance(outcome, Failure), _document(outcome, threshold)) for outcome in predictions]
    errors = [document for failed, document in outcomes if failed]
    console.emit_json(
        {
            "schema": 1,
            "model": console.text(predictions.model.name),
            "classes": list(predictions.classes),
            "predictions": [document for failed, document in outcomes if not failed],
            "errors": errors,
        }
    )
    return len(errors)


def show_lines(predictions: "Predictions", threshold: float | None) -> int:
    """Write one JSON object per line, as the predictions come."""
    failed = 0
    for outcome in predictions:
        document = _document(outcome, threshold)
        failed += "error" in document
        sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
        sys.stdout.flush()
    return failed


def _document(outcome: "Outcome", threshold: float | None) -> dict[str, Any]:
    """Return an outcome as JSON shows it."""
    if isinstance(outcome, Failure):
        return {"path": console.text(outcome.path), "error": console.text(outcome.error)}
    top = [{"class": ranked.label, "probability": ranked.probability} for ranked in outcome.top]
    best = {"prediction": top[0]["class"], "probability": top[0]["probability"]}
    document = {"path": console.text(outcome.path), **best, "top": top}
    if threshold is not None:
        document["unsure"] = outcome.is_unsure(threshold)
    document["ood_score"] = outcome.ood_score
    if outcome.is_ood is not None:
        document["is_ood"] = outcome.is_ood
    if outcome.explained:
        document["explained"] = console.text(str(outcome.explained))
    return document


def show_csv(predictions: "Predictions", threshold: float | None) -> int:
    """Write a row per picture, each class in columns of its own."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    places = ("", *(f"_{place}" for place in range(2, predictions.top_k + 1)))
    ranks = [f"{column}{place}" for place in places for column in ("prediction", "probability")]
    unsure = [] if threshold is None else ["unsure"]
    writer.writerow(["path", "error", *unsure, *ranks, "ood_score", "is_ood"])
    failed = 0
    cells: list[object]
    for outcome in predictions:
        if isinstance(outcome, Failure):
            failed += 1
            error, cells = console.text(outcome.error), [""] * (len(unsure + ranks) + 2)
        else:
            error, cells = "", [int(outcome.is_unsure(threshold)) for _ in unsure]
            cells += [cell for ranked in outcome.top for cell in (ranked.label, f"{ranked.probability:.6f}")]
            cells += [f"{outcome.ood_score:.6f}", "" if outcome.is_ood is None else int(outcome.is_ood)]
        writer.writerow([console.text(outcome.path), error, *cells])
    return failed


def _marks(outcome: "Prediction", threshold: float | None) -> list[str]:
    """Say in words what is doubtful about a prediction."""
    return ["unsure"] * outcome.is_unsure(threshold) + [OOD] * bool(outcome.is_ood)


def _padded(shown: str, width: int) -> str:
    """Fill a text up to so many columns; a longer one stays whole."""
    return shown + " " * (width - cell_len(shown))


def show_table(predictions: "Predictions", threshold: float | None) -> int:
    """Print a line per image for people."""
    names = [console.printable(path) for path in predictions.paths]
    width = min(WIDEST_NAME, max(map(cell_len, names)))
    widest = min(WIDEST_CLASS, max(10, *map(cell_len, predictions.classes)))
    failed = 0
    for name, outcome in zip(names, predictions, strict=True):
        if isinstance(outcome, Failure):
            failed += 1
            line = f"[red]cannot be read: {escape(console.printable(outcome.error))}[/]"
        else:
            best, *others = (
                (console.printable(ranked.label), f"{ranked.probability:.1%}") for ranked in outcome.top
            )
            marks = _marks(outcome, threshold)
            style = "yellow" if marks else "bold"
            line = f"[{style}]{escape(_padded(best[0], widest))}[/] {best[1]:>6}  "
            line += escape(", ".join(map(" ".join, others)))
            line += f"  [yellow]{', '.join(marks)}[/]" if marks else ""
        console.stdout.print(escape(_padded(name, width) + "  ") + line, soft_wrap=True)
    return failed


def show_thumbnails(predictions: "Predictions", threshold: float | None) -> int:
    """Print a small picture per image, and its classes beside it."""
    from rich.text import Text

    from cifarcnn.cli import halfblocks

    failed = 0
    for outcome in predictions:
        thumbnail: list[Text] = []
        words = [Text(console.printable(outcome.path), "bold")]
        if isinstance(outcome, Failure):
            failed += 1
            words.append(Text(f"cannot be read: {console.printable(outcome.error)}", "red"))
        else:
            thumbnail = halfblocks.lines(outcome.pixels)
            marks = _marks(outcome, threshold)
            for ranked in outcome.top:
                filled = round(ranked.probability * BAR)
                bar = Text("━" * filled, "yellow" if marks else "green")
                bar.append("━" * (BAR - filled), "bright_black")
                words.append(
                    Text(f"{_padded(console.printable(ranked.label), 10)} {ranked.probability:>6.1%} ") + bar
                )
            words.append(Text(", ".join(marks), "yellow"))
        empty = Text(" " * halfblocks.COLUMNS)
        for left, right in itertools.zip_longest(thumbnail, words):
            line = right or Text()
            line.truncate(console.stdout.width - halfblocks.COLUMNS - 2, overflow="ellipsis")
            console.stdout.print(Text.assemble(left or empty, "  ", line), no_wrap=True)
        console.stdout.print()
    return failed


WAYS = {
    "json": show_json,
    "jsonl": show_lines,
    "csv": show_csv,
    "table": show_table,
    "thumbnails": show_thumbnails,
}
