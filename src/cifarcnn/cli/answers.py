"""The ways to show answers on stdout: JSON, JSON lines, CSV, and for people a table or thumbnails.

Each function shows all answers as they come, and returns how many pictures could not be read.
"""

import csv
import json
import sys
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.markup import escape

from cifarcnn.cli import console
from cifarcnn.prediction.picturefiles import Failure

if TYPE_CHECKING:
    from rich.text import Text

    from cifarcnn.prediction.prediction import Answer, Answers, Prediction

WIDEST_NAME = 48
BAR = 20
"""Characters of a bar that stands for certainty."""

NONE_OF_THE_TEN = "probably none of the ten"


def show_json(answers: "Answers", threshold: float | None) -> int:
    """Write one document when all images are answered."""
    everything = [(not isinstance(answer, Failure), _document(answer, threshold)) for answer in answers]
    errors = [document for answered, document in everything if not answered]
    console.emit_json(
        {
            "schema": 1,
            "model": console.text(answers.model.name),
            "predictions": [document for answered, document in everything if answered],
            "errors": errors,
        }
    )
    return len(errors)


def show_lines(answers: "Answers", threshold: float | None) -> int:
    """Write one JSON object per line, as the answers come."""
    failed = 0
    for answer in answers:
        document = _document(answer, threshold)
        failed += "error" in document
        sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
        sys.stdout.flush()
    return failed


def _document(answer: "Answer", threshold: float | None) -> dict[str, Any]:
    """Give an answer as JSON shows it."""
    if isinstance(answer, Failure):
        return {"path": console.text(answer.path), "error": console.text(answer.error)}
    top = [{"class": ranked.label, "probability": ranked.probability} for ranked in answer.top]
    document = {"path": console.text(answer.path), **top[0], "top": top}
    if threshold is not None:
        document["unsure"] = answer.is_unsure(threshold)
    document["ood_score"] = answer.ood_score
    if answer.is_ood is not None:
        document["is_ood"] = answer.is_ood
    if answer.explained:
        document["explained"] = console.text(str(answer.explained))
    return document


def show_csv(answers: "Answers", threshold: float | None) -> int:
    """Write a row per image, the runners-up in columns of their own."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    places = ("", *(f"_{place}" for place in range(2, answers.top_k + 1)))
    ranks = [f"{column}{place}" for place in places for column in ("class", "probability")]
    unsure = [] if threshold is None else ["unsure"]
    writer.writerow(["path", "error", *unsure, *ranks, "ood_score", "is_ood"])
    empty = [""] * (len(unsure + ranks) + 2)
    failed = 0
    for answer in answers:
        if isinstance(answer, Failure):
            failed += 1
            writer.writerow([console.text(answer.path), console.text(answer.error), *empty])
            continue
        doubt = [] if threshold is None else [int(answer.is_unsure(threshold))]
        cells = [cell for ranked in answer.top for cell in (ranked.label, f"{ranked.probability:.6f}")]
        none = "" if answer.is_ood is None else int(answer.is_ood)
        writer.writerow([console.text(answer.path), "", *doubt, *cells, f"{answer.ood_score:.6f}", none])
    return failed


def _marks(answer: "Prediction", threshold: float | None) -> list[str]:
    """Say in words what is doubtful about an answer."""
    return ["unsure"] * answer.is_unsure(threshold) + [NONE_OF_THE_TEN] * bool(answer.is_ood)


def show_table(answers: "Answers", threshold: float | None) -> int:
    """Print a line per image for people."""
    names = [console.printable(path) for path in answers.paths]
    width = min(WIDEST_NAME, max(map(cell_len, names)))
    failed = 0
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Failure):
            failed += 1
            line = f"[red]cannot be read: {escape(console.printable(answer.error))}[/]"
        else:
            best, *others = answer.top
            marks = _marks(answer, threshold)
            runners_up = ", ".join(f"{other.label} {other.probability:.1%}" for other in others)
            style = "yellow" if marks else "bold"
            line = f"[{style}]{best.label:<10}[/] {best.probability:>6.1%}  {runners_up}"
            line += f"  [yellow]{', '.join(marks)}[/]" if marks else ""
        gap = " " * (2 + max(0, width - cell_len(name)))
        console.stdout.print(f"{escape(name + gap)}{line}", soft_wrap=True)
    return failed


def show_thumbnails(answers: "Answers", threshold: float | None) -> int:
    """Print a small picture per image, and its answer beside it."""
    from rich.text import Text

    from cifarcnn.cli import halfblocks

    failed = 0
    width = console.stdout.width - halfblocks.COLUMNS - 2
    for answer in answers:
        words = [Text(console.printable(answer.path), "bold")]
        if isinstance(answer, Failure):
            failed += 1
            words.append(Text(f"cannot be read: {console.printable(answer.error)}", "red"))
            thumbnail = []
        else:
            thumbnail = halfblocks.lines(answer.pixels)
            marks = _marks(answer, threshold)
            words += [
                _bar(ranked.label, ranked.probability, "yellow" if marks else "green")
                for ranked in answer.top
            ]
            words.append(Text(", ".join(marks), "yellow"))
        for place in range(max(len(words), len(thumbnail))):
            left = thumbnail[place] if place < len(thumbnail) else Text(" " * halfblocks.COLUMNS)
            right = words[place] if place < len(words) else Text()
            right.truncate(width, overflow="ellipsis")
            console.stdout.print(Text.assemble(left, "  ", right), no_wrap=True)
        console.stdout.print()
    return failed


def _bar(label: str, probability: float, style: str) -> "Text":
    """A class, how probable it is, and a bar as long as that."""
    from rich.text import Text

    filled = round(probability * BAR)
    bar = Text("━" * filled, style) + Text("━" * (BAR - filled), "bright_black")
    return Text(f"{label:<10} {probability:>6.1%} ") + bar


WAYS = {
    "json": show_json,
    "jsonl": show_lines,
    "csv": show_csv,
    "table": show_table,
    "thumbnails": show_thumbnails,
}
