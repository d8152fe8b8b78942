"""Grids of a data set's images, enlarged by whole factors: mistakes, samples, filters, augmentation."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cifarcnn import metrics
from cifarcnn.figures import grid
from cifarcnn.figures.grid import Line, Tile
from cifarcnn.figures.style import LIGHT
from cifarcnn.formatting import count as counted
from cifarcnn.metrics import Array

BOX = 192
"""Six pixels for each of an image."""


def worst_mistakes(
    images: Array, labels: Array, probabilities: Array, classes: Sequence[str], path: Path, count: int = 10
) -> None:
    """Draw up to ``count`` wrongly classified images of largest loss, worst first, as a PNG file.

    Args:
        images: uint8 (n, 32, 32, 3).
        labels: int (n,), the true classes.
        probabilities: float (n, classes).
        classes: the names of the classes.
        path: the file.
        count: 1 to 1000.
    """
    chosen = metrics.worst_mistakes(probabilities, labels, count).tolist()
    tiles = [_tile(images, labels, probabilities, classes, index) for index in chosen]
    title = f"The {counted(len(tiles), 'worst mistake')}" if tiles else "No mistakes"
    key = "orange: predicted class, blue: true class, each with its probability"
    page = grid.draw(tiles, title, key, columns=5 if count <= 20 else 10, box=BOX)
    grid.save(page, path)


def sample_predictions(
    images: Array, labels: Array, probabilities: Array, classes: Sequence[str], path: Path, count: int = 24
) -> None:
    """Draw images taken evenly from the whole set with their predictions; arguments as ``worst_mistakes``."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int).tolist()
    tiles = [_tile(images, labels, probabilities, classes, index) for index in chosen]
    key = f"{counted(len(tiles), 'image')}, taken evenly from all; blue: true class, orange: mistaken for it"
    grid.save(grid.draw(tiles, "Sample predictions", key, columns=6, box=BOX), path)


def _tile(images: Array, labels: Array, probabilities: Array, classes: Sequence[str], index: int) -> Tile:
    """Show an image with its predicted class and, where that is wrong, the true one."""
    from PIL import Image

    label, row = int(labels[index]), probabilities[index]
    prediction = int(row.argmax())
    lines = [
        Line(f"image {index:,}", LIGHT.soft),
        Line(classes[label], LIGHT.blue, probability=float(row[label])),
    ]
    if prediction != label:
        lines.insert(1, Line(classes[prediction], LIGHT.orange, probability=float(row[prediction])))
    return Tile(Image.fromarray(images[index]), lines)


def first_layer_filters(kernel: Array, path: Path) -> None:
    """Draw the colour filters of a first convolution (height, width, 3, filters); mid-grey is weight zero."""
    from PIL import Image

    largest = max(float(np.abs(kernel).max()), 1e-12)
    pixels = np.rint(127.5 + 127.5 * kernel / largest).astype(np.uint8)
    height, width, _, count = kernel.shape
    tiles = [Tile(Image.fromarray(pixels[..., index])) for index in range(count)]
    key = f"{height} by {width} weights for red, green, blue; grey is 0, extremes are ±{largest:.2g}"
    side = max(height, width)
    page = grid.draw(
        tiles,
        f"The {counted(count, 'filter')} of the first layer",
        key,
        columns=max(8, math.isqrt(2 * count)),
        box=side * max(1, 72 // side),
    )
    grid.save(page, path)


def augmented_sheet(images: Array, path: Path) -> None:
    """Draw what the network sees while it trains.

    Each row of ``images``, uint8 (rows, columns, 32, 32, 3), is a training image, then its epochs' views.
    """
    from PIL import Image

    columns = images.shape[1]
    tiles = [Tile(Image.fromarray(image)) for row in images for image in row]
    key = f"left: training images; right of each: what the network sees in epochs 1 to {columns - 1}"
    grid.save(grid.draw(tiles, "Augmented training samples", key, columns=columns, box=128), path)
