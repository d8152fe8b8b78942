"""Which images each training step sees, and how they are moved and flipped: index arithmetic in NumPy.

Everything is drawn from (seed, epoch) alone. No generator's state lives from one epoch to the next, so a
resumed training sees what an uninterrupted one would have. The pixels are gathered by ``cifarcnn.twin``.
"""

import numpy as np
import numpy.typing as npt

# Streams drawn from the same (seed, epoch) must differ.
_ORDER, _SHIFT, _FLIP = range(3)


def draw_epoch(count: int, *, seed: int, epoch: int, augment: str, shift: int) -> npt.NDArray[np.int32]:
    """Draw one epoch: every image once, in random order, with its crop.

    Args:
        count: the number of training images.
        seed: the training's seed.
        epoch: the epoch's number.
        augment: "none", "flip", "shift" or "standard" (both).
        shift: the most pixels by which "shift" moves an image; also the margin of the stored images.

    Returns:
        int32, (count, 4): image, top and left of the crop in the padded image, 1 to flip else 0.
    """
    picks = np.zeros((count, 4), np.int32)
    picks[:, 0] = np.random.default_rng([seed, epoch, _ORDER]).permutation(count)
    if augment in ("shift", "standard"):
        picks[:, 1:3] = np.random.default_rng([seed, epoch, _SHIFT]).integers(0, 2 * shift + 1, (count, 2))
    else:
        picks[:, 1:3] = shift
    if augment in ("flip", "standard"):
        picks[:, 3] = np.random.default_rng([seed, epoch, _FLIP]).integers(0, 2, count)
    return picks
