"""The report: one self-contained HTML page about a trained or evaluated network.

The page loads nothing: its images are one embedded PNG, its charts are SVG (``svg``), its script and style
stand in ``report_template.html``, and its content security policy forbids every request.
"""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from cifarcnn import metrics
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.figures import svg
from cifarcnn.machine import files
from cifarcnn.metrics import Array, Metrics
from cifarcnn.wording import percent, short_percent

IMAGES_PER_CELL = 6
SCALE = 3
SPRITE_COLUMNS = 24


@dataclass(frozen=True)
class Subject:
    """What a report is about: images and answers, and the figures computed from them.

    ``images`` is uint8 (n, 32, 32, 3), ``labels`` int (n,), ``probabilities`` float (n, 10).
    """

    images: Array
    labels: Array
    probabilities: Array
    metrics: Metrics


def write_report(
    path: Path,
    title: str,
    subject: Subject | None,
    *,
    facts: Mapping[str, Mapping[str, Any]],
    commands: Sequence[str],
    epochs: Sequence[dict[str, Any]] = (),
    worst: int = 20,
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the HTML file.
        title: its heading, such as the name of the run and the images it was measured on.
        subject: the images and the answers that the figures were computed from; without it the page
            shows the training alone.
        facts: tables of names and values by heading, such as settings and environment.
        commands: what to type to get these results again.
        epochs: rows as ``charts.learning_curves`` takes them; without any, no curves are drawn.
        worst: how many mistakes are shown.

    Raises:
        OSError: the file cannot be written.
    """
    text = page(title, subject, facts, commands, epochs=epochs, worst=worst)
    # Names of files may hold bytes that are no UTF-8.
    files.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def page(
    title: str,
    subject: Subject | None,
    facts: Mapping[str, Mapping[str, Any]],
    commands: Sequence[str],
    *,
    epochs: Sequence[dict[str, Any]] = (),
    worst: int = 20,
) -> str:
    """The page as text. Arguments as ``write_report``."""
    parts = {
        "title": escape(title),
        "curves": _curves(epochs),
        "facts": "".join(_facts(heading, values) for heading, values in facts.items()),
        "commands": escape("\n".join(commands)),
    }
    template = resources.files("cifarcnn.figures").joinpath("report_template.html").read_text("utf-8")
    if subject is None:
        template = re.sub("<!-- measured -->.*?<!-- end -->", "", template, flags=re.DOTALL)
        parts |= {"sprite": "data:,", "sprite_width": "0", "sprite_height": "0"}
    else:
        parts |= _measured(subject, worst)
    return re.sub(r"@([a-z_]+)@", lambda match: parts[match[1]], template)


def _measured(subject: Subject, worst: int) -> dict[str, str]:
    """The parts of the page that show images and answers."""
    mistakes = metrics.worst_mistakes(subject.probabilities, subject.labels, worst).tolist()
    cells = _cells(subject)
    embedded = sorted({*mistakes, *(index for cell in cells.values() for index in cell)})
    rows = max(1, -(-len(embedded) // SPRITE_COLUMNS))
    positions = {index: _position(number) for number, index in enumerate(embedded)}
    return {
        "headline": _headline(subject.metrics),
        "confusion": _confusion(subject.metrics.confusion),
        "per_class": _per_class(subject.metrics),
        "mistakes": "".join(_mistake(subject, index, positions[index]) for index in mistakes)
        or "<li>There are none.</li>",
        "reliability": svg.reliability(subject.metrics.bins),
        "cells": _cells_json(subject, cells, positions),
        "sprite": _sprite(subject.images[embedded], rows),
        "sprite_width": str(SPRITE_COLUMNS * 32 * SCALE),
        "sprite_height": str(rows * 32 * SCALE),
    }


def _cells(subject: Subject) -> dict[tuple[int, int], list[int]]:
    """For each filled cell (truth, answer) of the matrix, a few of its images of largest loss."""
    answers = subject.probabilities.argmax(axis=1)
    losses = metrics.losses(subject.probabilities, subject.labels)
    chosen: dict[tuple[int, int], list[int]] = {}
    for index in np.argsort(-losses, kind="stable").tolist():
        cell = chosen.setdefault((int(subject.labels[index]), int(answers[index])), [])
        if len(cell) < IMAGES_PER_CELL:
            cell.append(index)
    return chosen


def _cells_json(subject: Subject, cells: dict[tuple[int, int], list[int]], positions: dict[int, str]) -> str:
    document = {}
    for (truth, answer), indices in cells.items():
        count = int(subject.metrics.confusion[truth, answer])
        verdict = "rightly answered" if truth == answer else f"answered {CLASSES[answer]}"
        document[f"{truth}-{answer}"] = {
            "heading": f"{count:,} of class {CLASSES[truth]} {verdict}",
            "images": [
                {
                    "index": index,
                    "position": positions[index],
                    "caption": f"{_whole(subject.probabilities[index, answer])}, "
                    f"image\N{NO-BREAK SPACE}{index}",
                }
                for index in indices
            ],
        }
    # A "<" could end the script element that holds the document.
    return json.dumps(document).replace("<", "\\u003c")


def _sprite(images: Array, rows: int) -> str:
    """All embedded images in one lossless PNG, as a data URI."""
    from PIL import Image

    sheet = np.zeros((rows * SPRITE_COLUMNS, 32, 32, 3), np.uint8)
    sheet[: len(images)] = images
    pixels = sheet.reshape(rows, SPRITE_COLUMNS, 32, 32, 3).swapaxes(1, 2)
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(rows * 32, SPRITE_COLUMNS * 32, 3)).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _position(number: int) -> str:
    row, column = divmod(number, SPRITE_COLUMNS)
    return f"{-32 * SCALE * column}px {-32 * SCALE * row}px"


def _mistake(subject: Subject, index: int, position: str) -> str:
    truth, row = int(subject.labels[index]), subject.probabilities[index]
    answer = int(row.argmax())
    picture = (
        f'<span class="picture" style="background-position:{position}" role="img" aria-label="image {index}">'
    )
    return (
        f"<li>{picture}</span><b>{CLASSES[answer]}</b> {escape(_whole(row[answer]))}<br>"
        f"truth: {CLASSES[truth]} {escape(_whole(row[truth]))}<br>image {index}</li>"
    )


def _whole(probability: float) -> str:
    """A short percentage that no line break parts."""
    return short_percent(probability).replace(" ", "\N{NO-BREAK SPACE}")


def _headline(figures: Metrics) -> str:
    low, high = figures.accuracy_interval
    items = (
        (
            "accuracy",
            percent(figures.accuracy),
            f"95 % interval {percent(low)} to {percent(high)}",
        ),
        ("loss", f"{figures.loss:.4f}", "mean, in nats"),
        ("top-2", percent(figures.top2), ""),
        ("top-5", percent(figures.top5), ""),
        ("calibration error", percent(figures.ece), f"expected, {metrics.CALIBRATION_BINS} bins"),
        ("images", f"{figures.n:,}", ""),
    )
    return "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{remark}</small></dd></div>" for name, value, remark in items
    )


def _curves(epochs: Sequence[dict[str, Any]]) -> str:
    if not epochs:
        return ""
    charts = svg.curve(epochs, "loss", "Loss (nats)", 1) + svg.curve(epochs, "accuracy", "Accuracy (%)", 100)
    return f'<h2>Learning curves</h2>\n<div class="charts">{charts}</div>'


def _confusion(confusion: Array) -> str:
    heads = "".join(f'<th scope="col"><span>{name}</span></th>' for name in CLASSES)
    lines = [
        "<colgroup><col><col span=10></colgroup>",
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>",
    ]
    for truth, row in enumerate(confusion.tolist()):
        cells = []
        for answer, count in enumerate(row):
            if not count:
                cells.append("<td>·</td>")
                continue
            share = count / sum(row)
            # The square root makes mistakes of a few percent visible; 85 keeps the ink legible.
            label = f"{count} of class {CLASSES[truth]} answered {CLASSES[answer]}"
            cells.append(
                f'<td><button data-cell="{truth}-{answer}" style="--depth:{85 * share**0.5:.0f}%" '
                f'aria-label="{label}" title="{percent(share)}">{count}</button></td>'
            )
        lines.append(f'<tr><th scope="row">{CLASSES[truth]}</th>{"".join(cells)}</tr>')
    return "\n".join([*lines, "</tbody>"])


def _per_class(figures: Metrics) -> str:
    names = ("class", "precision", "recall", "F1", "images")
    heads = "".join(f'<th scope="col"><button>{name}</button></th>' for name in names)
    lines = [f"<thead><tr>{heads}</tr></thead><tbody>"]
    for name, score in zip(CLASSES, figures.per_class, strict=True):
        shares = "".join(
            f'<td data-value="{share}">{percent(share)}</td>'
            for share in (score.precision, score.recall, score.f1)
        )
        support = f'<td data-value="{score.support}">{score.support:,}</td>'
        lines.append(f'<tr><td data-value="{name}">{name}</td>{shares}{support}</tr>')
    return "\n".join([*lines, "</tbody>"])


def _facts(heading: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name).replace("_", " "))}</th><td>{escape(_shown(value))}</td></tr>'
        for name, value in values.items()
        if value is not None
    )
    return f'<h2>{escape(heading)}</h2>\n<table class="facts">{rows}</table>\n'


def _shown(value: Any) -> str:
    """A number at a readable length, all else as it is."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
