"""Which images each training step sees, and how they are moved and flipped: index arithmetic in NumPy.

Everything follows from (seed, epoch) alone. No generator's state lives from one epoch to the next, so a
resumed training sees what an uninterrupted one would have. In training, ``twin`` gathers the pixels
on the device; ``crop`` gathers the same ones for people to look at.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cifarcnn.data.cifar10 import Bytes, Images, stratified_split, stratified_subset

if TYPE_CHECKING:
    from cifarcnn.config import Settings

# What tells the streams apart that are drawn from the same seed. (NumPy takes a last 0 for nothing, so the
# order of the third epoch comes from the stream of the flips; as another kind of number, without harm.)
_ORDER, _SHIFT, _FLIP = range(3)
_JITTER = 6


def divide(images: Images, settings: "Settings") -> tuple[Images, Images | None]:
    """Hold the validation images out, then reduce the rest to ``train_size``.

    Args:
        images: all that the training was given.
        settings: of which ``val_size``, ``train_size`` and ``seed`` count.

    Returns:
        The images to train on, and those held out: None with ``val_size`` 0.

    Raises:
        UsageError: there are too few images.
    """
    rest, held_out = stratified_split(images.labels, settings.val_size, settings.seed)
    if settings.train_size is not None:
        rest = stratified_subset(images.labels, rest, settings.train_size, settings.seed)
    return images.at(rest), images.at(held_out) if settings.val_size else None


def picks_of_epoch(settings: "Settings", count: int, epoch: int) -> npt.NDArray[np.int32]:
    """Draw an epoch of a training with these settings; see ``draw_epoch``."""
    return draw_epoch(
        count,
        seed=settings.seed,
        epoch=epoch,
        augment=settings.augment,
        shift=settings.shift,
        jitter=settings.jitter,
    )


def draw_epoch(
    count: int, *, seed: int, epoch: int, augment: str, shift: int, jitter: float = 0
) -> npt.NDArray[np.int32]:
    """Draw one epoch: every image once, in random order, with its crop.

    Whether an image is flipped is drawn for the first epoch and alternates from then on, so that two epochs
    in a row always show both sides (Keller Jordan, 2024, https://arxiv.org/abs/2404.00498).

    Args:
        count: the number of training images.
        seed: the training's seed.
        epoch: the epoch's number.
        augment: "none", "flip", "shift" or "standard" (both).
        shift: the most pixels by which "shift" moves an image; also the margin of the stored images.
        jitter: the most by which brightness and contrast change, as a share. Varying them is after the
            speed run of Hiverge (2025, https://github.com/hiverge/cifar10-speedrun).

    Returns:
        int32, (count, 4): image, top and left of the crop in the padded image, 1 to flip else 0. With
        jitter (count, 6): then the changes of contrast and of brightness, in units of 1 / 1024.
    """
    picks = np.zeros((count, 4), np.int32)
    picks[:, 0] = np.random.default_rng([seed, epoch, _ORDER]).permutation(count)
    if augment in ("shift", "standard"):
        picks[:, 1:3] = np.random.default_rng([seed, epoch, _SHIFT]).integers(0, 2 * shift + 1, (count, 2))
    else:
        picks[:, 1:3] = shift
    if augment in ("flip", "standard"):
        flips = np.random.default_rng([seed, _FLIP]).integers(0, 2, count)
        picks[:, 3] = (flips[picks[:, 0]] + epoch) % 2
    if jitter:
        most = round(jitter * UNIT)
        changes = np.random.default_rng([seed, epoch, _JITTER]).integers(-most, most + 1, (count, 2))
        picks = np.concatenate([picks, changes.astype(np.int32)], axis=1)
    return picks


UNIT = 1024
"""What a whole is in the columns of contrast and brightness: a power of two, so that all is exact."""

MIDDLE = 121
"""The mean of the training images' pixels, which stays as it is when contrast changes."""

BRIGHTEST = 64
"""The pixels' standard deviation, in levels: what brightness changes by is a share of it."""


def crop(images: Bytes, picks: npt.NDArray[np.int32], margin: int) -> Bytes:
    """Gather what the network is shown for some picks.

    Args:
        images: uint8, (n, side, side, 3), not padded.
        picks: int32, (m, 4) or (m, 6), as ``draw_epoch`` returns them.
        margin: the ``shift`` that they were drawn with. Beyond the border, its pixels are repeated.

    Returns:
        uint8, (m, side, side, 3).
    """
    side = images.shape[1]
    image, top, left, flip, *colour = picks.T[:, :, None]
    line = np.arange(side)
    rows = np.clip(top + line - margin, 0, side - 1)
    columns = np.clip(left + np.where(flip == 1, side - 1 - line, line) - margin, 0, side - 1)
    crops: Bytes = images[image[:, :, None], rows[:, :, None], columns[:, None, :]]
    if colour:
        contrast, brightness = (change[:, None, None] for change in colour)
        changed = (crops.astype(np.int32) - MIDDLE) * (UNIT + contrast) + BRIGHTEST * brightness
        crops = np.clip((changed + UNIT // 2) // UNIT + MIDDLE, 0, 255).astype(np.uint8)
    return crops
