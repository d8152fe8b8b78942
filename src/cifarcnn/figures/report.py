"""The report: one HTML page about a network, which loads nothing. How it looks stands in ``report.html``."""

import base64
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from cifarcnn import metrics
from cifarcnn.figures import charts
from cifarcnn.figures.style import DARK, LIGHT
from cifarcnn.formatting import percent, short_percent
from cifarcnn.metrics import Array, Metrics

if TYPE_CHECKING:
    from jinja2 import Template

IMAGES_PER_CELL = 6
SCALE = 3
SPRITE_COLUMNS = 24


@dataclass(frozen=True)
class Subject:
    """What a report is about: images and predictions, and the figures computed from them.

    ``images`` is uint8 (n, 32, 32, 3), ``labels`` int (n,), ``probabilities`` float (n, classes).
    """

    images: Array
    labels: Array
    probabilities: Array
    metrics: Metrics
    classes: Sequence[str]


def page(
    title: str,
    subject: Subject | None,
    facts: Mapping[str, Mapping[str, Any]],
    commands: Sequence[str],
    *,
    epochs: Sequence[dict[str, Any]] = (),
    best_epoch: int | None = None,
    worst: int = 20,
) -> str:
    """Return the page as HTML.

    Args:
        title: its heading, such as the name of the run and the images it was measured on.
        subject: what was measured; without it the page shows the training alone.
        facts: tables of names and values by heading, such as settings and environment.
        commands: what to type to get these results again.
        epochs: rows as ``charts.learning_curves`` takes them; without any, no curves are drawn.
        best_epoch: which of them is marked.
        worst: how many mistakes are shown.

    Raises:
        FigureError: a chart cannot be drawn.
    """
    curves = [
        _chart(
            f"{heading} by epoch{_last(epochs[-1], name)}",
            functools.partial(charts.learning_curves, epochs, best_epoch=best_epoch, panels=[name]),
        )
        for name, (heading, _) in charts.PANELS.items()
        if epochs
    ]
    measured = _measured(subject, worst) if subject else None
    return _template().render(
        title=title, curves=curves, facts=facts, commands=commands, measured=measured, light=LIGHT, dark=DARK
    )


@functools.cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    return environment.from_string(resources.files(__package__).joinpath("report.html").read_text("utf-8"))


def _last(row: Mapping[str, Any], name: str) -> str:
    """Say where the curves end."""
    ends = {"training": row[name], "validation": row.get(f"val_{name}")}
    form = ".2%" if name == "accuracy" else ".4g"
    return "".join(
        f", {which} {value:{form}} at the end" for which, value in ends.items() if value is not None
    )


def _measured(subject: Subject, worst: int) -> dict[str, Any]:
    """Gather what the page says of images and predictions."""
    figures, classes = subject.metrics, subject.classes
    numbered = len(classes) <= charts.SOME_CLASSES
    mistakes = metrics.worst_mistakes(subject.probabilities, subject.labels, worst).tolist()
    cells = _cells(
        subject, None if numbered else {(pair.label, pair.prediction) for pair in figures.most_confused}
    )
    embedded = sorted({*mistakes, *(index for cell in cells.values() for index in cell)})
    rows = max(1, math.ceil(len(embedded) / SPRITE_COLUMNS))
    shown = {index: _shown(subject, index, place) for place, index in enumerate(embedded)}
    matrix = functools.partial(charts.confusion_matrix, figures.confusion, classes, listed=False)
    error = f"Reliability diagram, expected calibration error {percent(figures.ece)}"
    return {
        "figures": figures,
        "classes": classes,
        "confusion": figures.confusion.tolist(),
        "matrix": None if numbered else _chart("Confusion matrix", matrix),
        "cells": {cell: [shown[index] for index in chosen] for cell, chosen in cells.items()},
        "mistakes": [shown[index] for index in mistakes],
        "reliability": _chart(error, functools.partial(charts.reliability, figures.bins)),
        "sprite": _sprite(subject.images[embedded], rows),
        "sprite_width": SPRITE_COLUMNS * 32 * SCALE,
        "sprite_height": rows * 32 * SCALE,
    }


def _cells(subject: Subject, wanted: set[tuple[int, int]] | None) -> dict[tuple[int, int], list[int]]:
    """Choose a few images of largest loss for each filled, or wanted, cell (true class, predicted class)."""
    predictions = subject.probabilities.argmax(axis=1)
    losses = metrics.losses(subject.probabilities, subject.labels)
    chosen: dict[tuple[int, int], list[int]] = {}
    for index in np.argsort(-losses, kind="stable").tolist():
        cell = (int(subject.labels[index]), int(predictions[index]))
        if (wanted is None or cell in wanted) and len(chosen.setdefault(cell, [])) < IMAGES_PER_CELL:
            chosen[cell].append(index)
    return chosen


def _shown(subject: Subject, index: int, place: int) -> dict[str, Any]:
    """Describe an image by its predicted and its true class, and its place in the sprite."""
    row, column = divmod(place, SPRITE_COLUMNS)
    label, probabilities = int(subject.labels[index]), subject.probabilities[index]
    prediction = int(probabilities.argmax())
    return {
        "index": index,
        "position": f"{-32 * SCALE * column}px {-32 * SCALE * row}px",
        "prediction": subject.classes[prediction],
        "probability": short_percent(probabilities[prediction]),
        "label": None if label == prediction else subject.classes[label],
        "label_probability": short_percent(probabilities[label]),
    }


def _sprite(images: Array, rows: int) -> str:
    """Put all embedded images into one lossless PNG, as a data URI."""
    from PIL import Image

    sheet = np.zeros((rows * SPRITE_COLUMNS, 32, 32, 3), np.uint8)
    sheet[: len(images)] = images
    pixels = sheet.reshape(rows, SPRITE_COLUMNS, 32, 32, 3).swapaxes(1, 2)
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(rows * 32, SPRITE_COLUMNS * 32, 3)).save(buffer, "png")
    return _data_uri("image/png", buffer)


def _chart(text: str, draw: Callable[..., Any]) -> dict[str, str]:
    """Draw a chart in the colours of a light ground and of a dark one; its text is for who cannot see it."""
    drawn = {"text": text}
    for name, theme in (("light", LIGHT), ("dark", DARK)):
        buffer = io.BytesIO()
        draw(target=buffer, theme=theme)
        drawn[name] = _data_uri("image/svg+xml", buffer)
    return drawn


def _data_uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
