"""Pictures made of 32x32 images: worst mistakes, sample predictions, filters, augmented training samples.

Every image is enlarged by a whole factor with its pixels repeated, and placed on whole pixels, so that
what stands in the file is the data-set image itself, without blur. Charts stand in ``charts``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarcnn import metrics
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.figures.charts import BLUE, DOTS_PER_INCH, ORANGE, save
from cifarcnn.metrics import Array
from cifarcnn.wording import short_percent

GAP = 12
TITLE_HEIGHT = 76
LINE_HEIGHT = 19
FONT_SIZE = 7.5
TEXT_WIDTH = 160


@dataclass(frozen=True)
class Tile:
    """One image, uint8 (height, width, 3), with the lines below it and their colour."""

    image: Array
    caption: Sequence[str] = ()
    color: str = "black"


def worst_mistakes(images: Array, labels: Array, probabilities: Array, path: Path, count: int = 10) -> None:
    """Draw the wrongly answered images of largest loss, worst first.

    Args:
        images: uint8 (n, 32, 32, 3).
        labels: int (n,), the true classes.
        probabilities: float (n, 10).
        path: the PNG file to write.
        count: how many to show at most, 1 to 1000.
    """
    tiles = []
    for index in metrics.worst_mistakes(probabilities, labels, count).tolist():
        truth, row = int(labels[index]), probabilities[index]
        answer = int(row.argmax())
        caption = (
            f"{CLASSES[answer]} {short_percent(row[answer])}",
            f"truth: {CLASSES[truth]} {short_percent(row[truth])}",
            f"image {index}",
        )
        tiles.append(Tile(images[index], caption, ORANGE))
    # Wider beyond a screenful: matplotlib draws at most 65,535 pixels in height.
    columns = 5 if count <= 20 else 10
    title = f"The {len(tiles)} worst mistakes" if tiles else "No mistakes"
    _draw(tiles, path, title, "answer, truth, and the probability given to each", columns=columns, scale=4)


def sample_predictions(
    images: Array, labels: Array, probabilities: Array, path: Path, count: int = 24
) -> None:
    """Draw images taken evenly from the whole set, each with its answer. Arguments as ``worst_mistakes``."""
    tiles = []
    for index in np.linspace(0, len(images) - 1, min(count, len(images))).astype(int).tolist():
        truth, answer = int(labels[index]), int(probabilities[index].argmax())
        line = f"{CLASSES[answer]} {short_percent(probabilities[index, answer])}"
        if answer == truth:
            tiles.append(Tile(images[index], (f"✓ {line}",), BLUE))
        else:
            tiles.append(Tile(images[index], (f"✗ {line}", f"truth: {CLASSES[truth]}"), ORANGE))
    _draw(
        tiles,
        path,
        "Sample predictions",
        "✓ right, ✗ wrong; taken evenly from all images",
        columns=8,
        scale=4,
    )


def first_layer_filters(kernel: Array, path: Path) -> None:
    """Draw the colour filters of a first convolution.

    Args:
        kernel: float (height, width, 3, filters). All filters share one scale; mid-grey is weight zero.
        path: the PNG file to write.
    """
    largest = max(float(np.abs(kernel).max()), 1e-12)
    pixels = np.rint(127.5 + 127.5 * kernel / largest).astype(np.uint8)
    height, width, _, count = kernel.shape
    tiles = [Tile(pixels[..., index]) for index in range(count)]
    explanation = f"{height} by {width} weights for red, green, blue; grey is 0, extremes are ±{largest:.2g}"
    columns = max(8, math.isqrt(2 * count))
    _draw(
        tiles,
        path,
        f"The {count} filters of the first layer",
        explanation,
        columns=columns,
        scale=64 // width or 1,
    )


def augmented_sheet(images: Array, path: Path) -> None:
    """Draw what the network sees while it trains.

    Args:
        images: uint8, (rows, columns, 32, 32, 3): each row is one training image, first as it is, then as
            the network sees it in one epoch after the other.
        path: the PNG file to write.
    """
    columns = images.shape[1]
    tiles = [Tile(image) for row in images for image in row]
    explanation = f"left: training images; right of each: what the network sees in epochs 1 to {columns - 1}"
    _draw(tiles, path, "Augmented training samples", explanation, columns=columns, scale=4)


def _draw(
    tiles: Sequence[Tile], path: Path, title: str, explanation: str, *, columns: int, scale: int
) -> None:
    """Lay tiles out in rows below a title and write the picture."""
    from matplotlib.figure import Figure

    columns = min(columns, len(tiles)) or 1
    lines = max((len(tile.caption) for tile in tiles), default=0)
    side = max((tile.image.shape[1] * scale for tile in tiles), default=0)
    cell_width = (max(side, TEXT_WIDTH) if any(len(tile.caption) for tile in tiles) else side) + GAP
    cell_height = max((tile.image.shape[0] * scale for tile in tiles), default=0) + lines * LINE_HEIGHT + GAP
    width = max(columns * cell_width + GAP, 560)
    height = TITLE_HEIGHT + math.ceil(len(tiles) / columns) * cell_height + GAP
    figure = Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)

    def write(x: float, top: int, text: str, size: float, **style: Any) -> None:
        figure.text(x / width, 1 - top / height, text, fontsize=size, va="top", **style)

    write(GAP, 14, title, 12, weight="bold")
    write(GAP, 44, explanation, 8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        left, top = GAP + column * cell_width, TITLE_HEIGHT + row * cell_height
        pixels = tile.image.repeat(scale, axis=0).repeat(scale, axis=1)
        figure.figimage(pixels, left + (cell_width - GAP - pixels.shape[1]) // 2, height - top - len(pixels))
        for line, text in enumerate(tile.caption):
            below = top + len(pixels) + 4 + line * LINE_HEIGHT
            centre = left + (cell_width - GAP) / 2
            write(centre, below, text, FONT_SIZE, ha="center", color=tile.color if line == 0 else "black")
    save(figure, path)
