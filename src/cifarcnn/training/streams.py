"""The random streams of a training: every number drawn comes from one of these, by seed and epoch alone.

No generator lives from one epoch to the next, so a resumed training draws what an uninterrupted one would
have. (The division into training and validation images, which must never change, has its own generator in
``data.cifar10``; Keras draws the initial weights of layers from its global seed.)
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn. Each has its own seed sequence; the numbers are fixed, since results depend on them."""

    ORDER = 0
    SHIFT = 1
    FLIP = 2
    JITTER = 3
    DROPOUT = 4
    INIT = 5


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """Return the generator of a stream.

    Args:
        seed: of the training.
        stream: what is drawn.
        index: the epoch, or the layer, where a stream has one for each.
    """
    # A spawn key, unlike a list of numbers as the seed, does not lose its trailing zeros.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, index)))
