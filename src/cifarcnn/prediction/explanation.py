"""What in a picture spoke for the class a network named, found by covering parts of it.

A soft blot in the picture's own mean colour is laid over one place after the other, in several sizes; where
the named class becomes less probable, something mattered. This takes nothing but probabilities, so it serves
any model file, and what it finds can be repeated by hand with a paintbrush.
"""

import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cifarcnn import metrics, names
from cifarcnn.data import images
from cifarcnn.data.cifar10 import CLASSES, Bytes
from cifarcnn.data.images import SIDE, Resize
from cifarcnn.errors import CifarCNNError, UsageError
from cifarcnn.metrics import Array
from cifarcnn.models.modelfile import Model
from cifarcnn.prediction import lettering, picturefiles, sheet
from cifarcnn.prediction.picturefiles import Failure
from cifarcnn.prediction.sheet import TEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from PIL import Image

    from cifarcnn.prediction.prediction import Answer, Prediction

SPREADS = (2.0, 4.0, 6.0)
"""Standard deviations of the blots in pixels of the 32x32 picture."""

FAINTEST = 0.05
"""Nats that stand for full colour at least, so that a map of next to nothing does not look like something."""

SHORTEST = 320
"""Pixels that the longer side of a shown picture has at least, by whole repetition of its pixels."""

NARROWEST = 640
GAP = 16


def evidence(model: Model, pixels: Bytes, label: int) -> Array:
    """Measure how much each place of a picture speaks for a class.

    Args:
        model: the model that named the class; calibrated where it knows its temperature.
        pixels: uint8 (32, 32, 3).
        label: the class, 0 to 9.

    Returns:
        float64 (32, 32): the mean loss of the class's log-probability, in nats, when the place is covered;
        below zero where covering it makes the class more probable.
    """
    blots = [_blots(spread) for spread in SPREADS]
    every = np.concatenate(blots)[..., None]
    ground = pixels.mean(axis=(0, 1))
    covered = np.rint(pixels * (1 - every) + ground * every).astype(np.uint8)
    # In one call with the picture itself, so that both come from the same arithmetic.
    answers = model.calibrated(model.probabilities(np.concatenate([pixels[None], covered])))
    scores = metrics.log_probabilities(answers)[:, label]
    losses = np.split(scores[0] - scores[1:], np.cumsum([len(some) for some in blots])[:-1])
    maps = [
        np.tensordot(lost, some, axes=1) / some.sum(axis=0) for lost, some in zip(losses, blots, strict=True)
    ]
    return np.asarray(np.mean(maps, axis=0))


@functools.cache
def _blots(spread: float) -> Array:
    """Soft blots on a grid as close as they are wide, float64 (n, 32, 32), 0 to 1."""
    centres = np.linspace(0, SIDE - 1, round((SIDE - 1) / spread) + 1)
    profiles = np.exp(-(((np.arange(SIDE) - centres[:, None]) / spread) ** 2) / 2)
    return np.asarray(np.einsum("ay,bx->abyx", profiles, profiles).reshape(-1, SIDE, SIDE))


def in_sight(heat: Array, size: tuple[int, int], resize: Resize) -> Array:
    """Cut from a heat map what lies on the neutral ground around a picture that was fitted.

    Args:
        heat: float (32, 32), as ``evidence`` returns it.
        size: width and height of the picture.
        resize: how it became square.
    """
    if resize != "fit":
        return heat
    across, down, wide, high = images.place_in_fit(size)
    return heat[down : down + high, across : across + wide]


def laid_over(picture: "Image.Image", heat: Array, resize: Resize) -> "Image.Image":
    """Lay a heat map over the picture it belongs to.

    Args:
        picture: RGB, upright, at its own proportions.
        heat: float, as ``in_sight`` returns it. What is not above zero stays grey.
        resize: how the picture became square. What ``crop`` left out is darkened.

    Returns:
        RGB of the picture's size: in grey, with what mattered most in yellow, then red.
    """
    from PIL import Image

    left, top, width, height = images.part_seen(picture.size, resize)
    field = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(field) / max(float(heat.max()), FAINTEST), 0, 1)
    grey = np.asarray(picture.convert("L"), np.float32)
    result = np.repeat(grey[..., None] * 0.3, 3, axis=2)
    opacity = 0.75 * strength[..., None]
    part = grey[top : top + height, left : left + width, None]
    result[top : top + height, left : left + width] = part * (1 - opacity) + _colours(strength) * opacity
    return Image.fromarray(np.rint(result).astype(np.uint8))


def _colours(strength: Array) -> Array:
    """From violet over red to yellow, which differ in brightness too; float (..., 3)."""
    stops = np.array([(70, 0, 110), (215, 45, 45), (255, 230, 60)])
    return np.stack([np.interp(strength, (0, 0.5, 1), stops[:, channel]) for channel in range(3)], axis=-1)


def check_apart(directory: Path, pictures: "Collection[str]", pages: "Collection[Path]" = ()) -> None:
    """Refuse to draw over one of the pictures that are explained, and to be drawn over by a sheet's pages.

    Raises:
        UsageError: a file that is to be written is among the pictures or the pages, by whatever name.
    """
    place = _places(directory)
    targets = [place(name) for name in pictures]
    if target := picturefiles.first_among(targets, pictures):
        raise UsageError(f"{target} is one of the pictures; give another directory with --explain")
    # None of them need be there yet.
    taken = {os.path.realpath(target).casefold() for target in targets}
    if page := next((page for page in pages if os.path.realpath(page).casefold() in taken), None):
        raise UsageError(
            f"{page} would be both an explanation and a page of the sheet; give the sheet another name with "
            "--output"
        )


def _places(directory: Path) -> "Callable[[str], Path]":
    """Return what names the file for one picture after the other; failures too take a name."""
    unique = names.Unique()
    return lambda picture: directory / f"{unique(names.stem(picture))}-explained.png"


def drawn(answers: "Iterable[Answer]", model: Model, directory: Path, resize: Resize) -> "Iterator[Answer]":
    """Hand answers on after drawing what mattered in each picture.

    Args:
        answers: predictions that keep their pictures, and failures, of which nothing is drawn.
        model: the model that answered.
        directory: gets ``<name>-explained.png`` of each picture, and is made if it is missing; existing files
            are replaced. A second picture of the same name gets ``<name>-2-explained.png``.
        resize: how the pictures became square.

    Returns:
        The same answers; predictions name their file in ``explained``.

    Raises:
        CifarCNNError: the directory or a file cannot be written.
    """
    place = _places(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CifarCNNError(
            f"cannot make the directory {directory}: {problem.strerror}; choose another with --explain"
        ) from None
    return (
        answer if isinstance(answer, Failure) else _explained(answer, model, target, resize)
        for answer in answers
        for target in [place(answer.path)]
    )


def _explained(prediction: "Prediction", model: Model, path: Path, resize: Resize) -> "Prediction":
    """Draw the explanation of one prediction."""
    heat = evidence(model, prediction.pixels, CLASSES.index(prediction.top[0].label))
    sheet.save(side_by_side(prediction, heat, resize), path, "--explain", format="PNG")
    return dataclasses.replace(prediction, explained=path)


def side_by_side(prediction: "Prediction", heat: Array, resize: Resize) -> "Image.Image":
    """Draw a picture, its heat map, and the class that is explained."""
    from PIL import Image, ImageDraw

    picture = prediction.picture
    if picture is None:
        raise ValueError("the prediction kept no picture; ask for `look`")
    heat = in_sight(heat, picture.size, resize)
    if max(picture.size) < SHORTEST:
        factor = math.ceil(SHORTEST / max(picture.size))
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    # Panoramas would make a page that is all width.
    across, down = (0, 1) if picture.width > 2 * picture.height else (1, 0)
    width, height = ((1 + across) * picture.width + across * GAP, (1 + down) * picture.height + down * GAP)
    # Large pages are looked at from afar.
    letters = max(TEXT, width // 90)
    page = Image.new("RGB", (max(width, NARROWEST) + 2 * GAP, height + 2 * GAP + 3 * letters), "white")
    left = (page.width - width) // 2
    for place, half in enumerate((picture, laid_over(picture, heat, resize))):
        page.paste(
            half,
            (left + place * across * (picture.width + GAP), GAP + place * down * (picture.height + GAP)),
        )
    draw = ImageDraw.Draw(page)
    best = prediction.top[0]
    odds = math.exp(min(float(heat.max()), 20))
    lines = (
        f"{best.label} {best.probability:.1%}   {names.printable(prediction.path)}",
        f"covering the brightest places makes {best.label} {_times(odds)} less probable"
        if odds > math.exp(FAINTEST)
        else f"covering no single place makes {best.label} less probable",
    )
    for number, line in enumerate(lines):
        draw.text(
            (GAP, height + GAP + letters // 2 + number * letters * 3 // 2),
            lettering.shortened(line, page.width - 2 * GAP, letters, bold=number == 0),
            lettering.GREY if number else lettering.BLACK,
            lettering.font(letters, number == 0),
        )
    return page


def _times(factor: float) -> str:
    return "more than 100 times" if factor > 100 else f"{factor:.1f} times"
