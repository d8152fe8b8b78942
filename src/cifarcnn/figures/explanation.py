"""Occlusion maps: where covering a picture by patches of its mean colour lowers the logit of its class."""

import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cifarcnn import metrics, names
from cifarcnn.data import images
from cifarcnn.data.cifar10 import Bytes
from cifarcnn.data.images import SIDE, Resize
from cifarcnn.errors import FigureError, UsageError
from cifarcnn.figures import grid, sheet
from cifarcnn.figures.style import LIGHT
from cifarcnn.formatting import short_percent
from cifarcnn.metrics import Array
from cifarcnn.models.modelfile import Model
from cifarcnn.prediction import picturefiles
from cifarcnn.prediction.picturefiles import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from PIL import Image

    from cifarcnn.prediction.predict import Outcome, Prediction

OUTLINED = 8
"""Pixels of a side of the patch whose strongest effect is outlined and stated."""

PATCHES = {OUTLINED: 9, 4: 11}
"""Sides of the patches in pixels of the 32x32 picture, and how many positions each takes along a side."""

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)

FAINTEST = 0.1
"""The logit that has full colour at least, so that a map of next to nothing does not look like something."""

SHORTEST = 320
"""Pixels that the longer side of a shown picture has at least, by whole repetition of its pixels."""

GAP, SCALE_WIDTH = 20, 14
INFERNO = [
    *[(0, 0, 4), (33, 12, 74), (87, 16, 110), (138, 34, 106), (188, 55, 84)],
    *[(228, 90, 49), (249, 142, 9), (249, 203, 53), (252, 255, 164)],
]
"""Matplotlib's perceptually uniform colour map, at nine even steps."""


Box = tuple[int, int, int, int]
"""Left, top, width and height."""


@dataclasses.dataclass(frozen=True)
class Occlusion:
    """What covering parts of a picture does to one class's logit, relative to the mean of all others.

    ``fall``, float (height, width), is how far the logit falls on average when a place is covered; ``before``
    the logit of the whole picture, ``after`` the lowest with one 8x8 patch covered, at ``left`` and ``top``.
    """

    fall: Array
    before: float
    after: float
    left: int
    top: int

    @property
    def strongest(self) -> float:
        """How far one patch alone lowers the logit."""
        return self.before - self.after

    @property
    def full_color(self) -> float:
        """The fall that has full colour: the largest, but enough to be of interest."""
        return max(float(self.fall.max()), FAINTEST)


def occlusion(model: Model, pixels: Bytes, label: int, window: Box = (0, 0, SIDE, SIDE)) -> Occlusion:
    """Measure how much each place of a picture speaks for a class.

    Args:
        model: any model; calibrated where it knows its temperature.
        pixels: uint8 (32, 32, 3).
        label: the index of the class.
        window: what of the pixels shows the picture; the map is of this part alone.
    """
    patches = [_patches(side, count) for side, count in PATCHES.items()]
    masks = np.concatenate(patches)
    covered = np.where(masks[..., None], np.rint(pixels.mean(axis=(0, 1))).astype(np.uint8), pixels)
    # In one call with the picture itself, so that both come from the same arithmetic.
    probabilities = model.calibrated(model.probabilities(np.concatenate([pixels[None], covered])))
    logits = _logits(probabilities, label)
    falls = logits[0] - logits[1:]
    parts = zip(np.split(falls, [PATCHES[OUTLINED] ** 2]), patches, strict=True)
    maps = [np.tensordot(fall, some, axes=1) / some.sum(axis=0) for fall, some in parts]
    left, top, width, height = window
    seen = np.s_[top : top + height, left : left + width]
    touching = patches[0][:, *seen].any(axis=(1, 2))
    strongest = int(np.where(touching, falls[: touching.size], -np.inf).argmax())
    row, column = np.argwhere(masks[strongest])[0].tolist()
    fall = _smooth(np.mean(maps, axis=0))[seen]
    return Occlusion(fall, float(logits[0]), float(logits[1 + strongest]), column - left, row - top)


def _logits(probabilities: Array, label: int) -> Array:
    """Recover a class's logit, which probabilities tell up to a constant: less the mean of all others."""
    logarithms = metrics.log_probabilities(probabilities)
    return np.asarray(logarithms[:, label] - np.delete(logarithms, label, axis=1).mean(axis=1))


def _smooth(values: Array) -> Array:
    """Blur a map by a pixel or so, since patches have edges and what they cover has none."""
    for _ in range(2):
        padded = np.pad(values, ((2, 2), (0, 0)), "edge")
        values = np.array([np.convolve(column, BINOMIAL, "valid") for column in padded.T])
    return values


@functools.cache
def _patches(side: int, count: int) -> Array:
    """What square patches at evenly spaced positions cover, bool (count², 32, 32)."""
    starts = np.linspace(0, SIDE - side, count).round()[:, None]
    covered = (np.arange(SIDE) >= starts) & (np.arange(SIDE) < starts + side)
    return np.asarray((covered[:, None, :, None] & covered[None, :, None, :]).reshape(-1, SIDE, SIDE))


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
        raise UsageError(f"{page} would also be an explanation; give the sheet another name with --output")


def _places(directory: Path) -> "Callable[[str], Path]":
    """Return what names the file for one picture after the other; failures too take a name."""
    unique = names.Unique()
    return lambda picture: directory / f"{unique(names.stem(picture))}-explained.png"


def drawn(answers: "Iterable[Outcome]", model: Model, directory: Path, resize: Resize) -> "Iterator[Outcome]":
    """Hand predictions on, each naming in ``explained`` the file that its occlusion map was drawn into.

    Args:
        answers: predictions that keep their pictures, and failures, of which nothing is drawn.
        model: the model that predicted.
        directory: gets ``NAME-explained.png`` of each picture, or ``NAME-2-explained.png`` of a second one of
            that name, and is made if it is missing; existing files are replaced.
        resize: how the pictures became square.

    Raises:
        FigureError: the directory or a file cannot be written.
    """
    place = _places(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FigureError(
            f"cannot make the directory {directory}: {problem.strerror}; choose another with --explain"
        ) from None
    return (
        answer if isinstance(answer, Failure) else _explained(answer, model, target, resize)
        for answer in answers
        for target in [place(answer.path)]
    )


def _explained(prediction: "Prediction", model: Model, path: Path, resize: Resize) -> "Prediction":
    """Draw the occlusion map of one prediction."""
    if prediction.picture is None:
        raise ValueError("the prediction kept no picture; ask for `look`")
    size = prediction.picture.size
    window = images.place_in_fit(size) if resize == "fit" else (0, 0, SIDE, SIDE)
    label = model.classes.index(prediction.top[0].label)
    found = occlusion(model, prediction.pixels, label, window)
    sheet.save(page(prediction, prediction.picture, found, resize), path, "--explain", format="PNG")
    return dataclasses.replace(prediction, explained=path)


def page(prediction: "Prediction", picture: "Image.Image", found: Occlusion, resize: Resize) -> "Image.Image":
    """Draw a picture, its occlusion map with a colour scale, and in words what was measured."""
    from PIL import Image, ImageDraw

    if max(picture.size) < SHORTEST:
        picture = grid.fitted(picture, max(picture.size) * math.ceil(SHORTEST / max(picture.size)))
    # Panoramas would make a page that is all width.
    right, below = (0, 1) if picture.width > 2 * picture.height else (1, 0)
    left, top = GAP + right * (picture.width + GAP), GAP + below * (picture.height + GAP)
    end, bottom = left + picture.width, top + picture.height
    # Large pages are looked at from afar.
    size = max(grid.TEXT, end // 70)
    paper = Image.new("RGB", (end + 2 * GAP + SCALE_WIDTH + 3 * size, bottom + 6 * size), LIGHT.ground)
    pen = ImageDraw.Draw(paper)
    paper.paste(picture, (GAP, GAP))
    paper.paste(laid_over(picture, found, resize), (left, top))
    scale = _colors(np.linspace(1, 0, picture.height))[:, None].repeat(SCALE_WIDTH, axis=1)
    paper.paste(Image.fromarray(scale), (end + GAP, top))
    for share, anchor in ((0, "ld"), (0.5, "lm"), (1, "la")):
        place = (end + GAP + SCALE_WIDTH + 6, bottom - round(share * picture.height))
        text = f"{share * found.full_color:.1f}"
        grid.write(pen, place, text, 4 * size, LIGHT.soft, size=size, anchor=anchor)
    for number, line in enumerate(_caption(prediction, found)):
        place = (GAP, bottom + size // 2 + number * size * 3 // 2)
        color = LIGHT.soft if number else LIGHT.ink
        grid.write(pen, place, line, paper.width - 2 * GAP, color, size=size, bold=number == 0)
    return paper


def _caption(prediction: "Prediction", found: Occlusion) -> tuple[str, str, str]:
    """Say what is explained, what the strongest patch was measured to do, and what the colours mean."""
    best, path = prediction.top[0], names.printable(prediction.path)
    patch, logit = f"{OUTLINED}x{OUTLINED} patch", f"the logit of {best.label}"
    strongest = f"no {patch} that was covered lowers {logit} by {FAINTEST} or more"
    if found.strongest >= FAINTEST:
        before, after = round(found.before, 1), round(found.after, 1)
        change = f"by {before - after:.1f}, from {before} to {after}"
        strongest = f"covering the outlined {patch} lowers {logit} {change}"
    patches = " and ".join(f"{side}x{side}" for side in PATCHES)
    colors = f"colour: fall of {logit} where a place is covered (mean over {patches} patches)"
    return f"{best.label} {short_percent(best.probability)}   {path}", strongest, colors


def laid_over(picture: "Image.Image", found: Occlusion, resize: Resize) -> "Image.Image":
    """Return a picture in grey, with what matters in colours and the strongest patch outlined.

    What ``crop`` left out is darkened.
    """
    from PIL import Image, ImageDraw

    left, top, width, height = images.part_seen(picture.size, resize)
    smooth = Image.fromarray(found.fall.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth) / found.full_color, 0, 1)
    opacity = 0.25 + 0.55 * strength[..., None]
    grey = np.asarray(picture.convert("L"), np.float32)[..., None].repeat(3, axis=2)
    result = grey * 0.3
    seen = np.s_[top : top + height, left : left + width]
    result[seen] = grey[seen] * (1 - opacity) + _colors(strength) * opacity
    drawn = Image.fromarray(np.rint(result).astype(np.uint8))
    if found.strongest >= FAINTEST:
        across, down = width / found.fall.shape[1], height / found.fall.shape[0]
        x, y = left + found.left * across, top + found.top * down
        box = (x, y, x + OUTLINED * across - 1, y + OUTLINED * down - 1)
        ImageDraw.Draw(drawn).rectangle(box, outline="white", width=max(2, max(picture.size) // 160))
    return drawn


def _colors(strength: Array) -> Array:
    """Look colours up, uint8 (..., 3)."""
    steps = np.linspace(0, 1, len(INFERNO))
    channels = [np.interp(strength, steps, channel) for channel in zip(*INFERNO, strict=True)]
    return np.asarray(np.rint(np.stack(channels, axis=-1)), np.uint8)
