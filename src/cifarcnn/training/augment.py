"""Which image, crop, flip and colour each training step sees: index arithmetic in NumPy.

In training, ``model`` gathers the pixels on the device; ``cut`` gathers the same ones for people to look at.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cifarcnn.data.cifar10 import Bytes, Images, stratified_subset
from cifarcnn.training.streams import Stream, generator

if TYPE_CHECKING:
    from cifarcnn.config import Settings

UNIT = 1024
"""One, in the columns of contrast and brightness: a power of two, so that the arithmetic is exact."""

MIDDLE = 121
"""The mean of CIFAR-10's pixels, which stays as it is when contrast changes."""

BRIGHTEST = 64
"""The standard deviation of CIFAR-10's pixels: brightness changes by a share of it."""


def sample_epoch(settings: "Settings", count: int, epoch: int) -> npt.NDArray[np.int32]:
    """Draw one epoch: every image once, in random order, with the parameters of its crop.

    Whether an image is flipped is drawn for the first epoch and alternates from then on, so that two epochs
    in a row always show both sides (Keller Jordan, 2024, https://arxiv.org/abs/2404.00498). Varying contrast
    and brightness is after the speed run of Hiverge (2025, https://github.com/hiverge/cifar10-speedrun).

    Args:
        settings: of which ``seed``, ``augment``, ``shift`` and ``jitter`` count.
        count: the number of training images.
        epoch: the epoch's number, from 0.

    Returns:
        int32, (count, 4): image, top and left of the crop in the padded image, 1 to flip else 0. With
        jitter (count, 6): then the changes of contrast and of brightness, in units of 1 / 1024.
    """
    seed, augment, shift = settings.seed, settings.augment, settings.shift
    crops = np.zeros((count, 4), np.int32)
    crops[:, 0] = generator(seed, Stream.ORDER, epoch).permutation(count)
    crops[:, 1:3] = shift
    if augment in ("shift", "standard"):
        crops[:, 1:3] = generator(seed, Stream.SHIFT, epoch).integers(0, 2 * shift + 1, (count, 2))
    if augment in ("flip", "standard"):
        flips = generator(seed, Stream.FLIP).integers(0, 2, count)
        crops[:, 3] = (flips[crops[:, 0]] + epoch) % 2
    if settings.jitter:
        most = round(settings.jitter * UNIT)
        changes = generator(seed, Stream.JITTER, epoch).integers(-most, most + 1, (count, 2))
        crops = np.concatenate([crops, changes.astype(np.int32)], axis=1)
    return crops


def cut(images: Bytes, crops: npt.NDArray[np.int32], margin: int) -> Bytes:
    """Gather what the network is shown for some crops.

    Args:
        images: uint8, (n, side, side, 3), not padded.
        crops: int32, (m, 4) or (m, 6), as ``sample_epoch`` returns them.
        margin: the ``shift`` that they were drawn with. Beyond the border, its pixels are repeated.

    Returns:
        uint8, (m, side, side, 3).
    """
    side = images.shape[1]
    image, top, left, flip, *colour = crops.T[:, :, None]
    line = np.arange(side)
    rows = np.clip(top + line - margin, 0, side - 1)
    columns = np.clip(left + np.where(flip == 1, side - 1 - line, line) - margin, 0, side - 1)
    pixels: Bytes = images[image[:, :, None], rows[:, :, None], columns[:, None, :]]
    if colour:
        contrast, brightness = (change[:, None, None] for change in colour)
        changed = (pixels.astype(np.int32) - MIDDLE) * (UNIT + contrast) + BRIGHTEST * brightness
        pixels = np.clip((changed + UNIT // 2) // UNIT + MIDDLE, 0, 255).astype(np.uint8)
    return pixels


def augmented(train: Images, settings: "Settings", count: int, epochs: int) -> Bytes:
    """Gather training images and their forms in a training's first epochs, before they are downscaled.

    Args:
        train: the images that are trained on.
        settings: as for ``sample_epoch``.
        count: how many images.
        epochs: how many forms of each.

    Returns:
        uint8, (count, 1 + epochs, 32, 32, 3): each image as it is, then as it is seen in each epoch.
    """
    chosen = stratified_subset(train.labels, np.arange(len(train)), count, settings.seed)
    forms = [train.images[chosen]]
    for epoch in range(epochs):
        crops = sample_epoch(settings, len(train), epoch)
        positions = np.argsort(crops[:, 0])[chosen]
        forms.append(cut(train.images, crops[positions], settings.shift))
    return np.stack(forms, axis=1)
