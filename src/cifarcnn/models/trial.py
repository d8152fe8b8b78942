"""What a model from elsewhere is asked first, and what its answers must be to be believed.

Opening it is left to ``kerasfile`` and ``runtimes``.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cifarcnn.errors import ModelError

SMALLEST_BATCH = 8
"""A batch of one takes another path through the convolutions, whose sums differ in the last digits."""


def images(count: int) -> npt.NDArray[np.uint8]:
    """Return the images to ask about, uint8 (count, 32, 32, 3): a black one, and noise."""
    pixels = np.zeros((count, 32, 32, 3), np.uint8)
    pixels[1:] = np.random.default_rng(0).integers(0, 256, pixels[1:].shape, np.uint8)
    return pixels


def check_probabilities(name: object, rows: npt.NDArray[Any]) -> None:
    """Refuse a model whose answers, float (n, 10), are no probabilities.

    Args:
        name: what messages call the model.
        rows: its answers.

    Raises:
        ModelError: a row has a negative number, or does not sum to one.
    """
    # bfloat16 outputs have three digits, and their ten roundings add up.
    if not np.allclose(rows.sum(axis=1), 1, atol=0.02) or not (rows >= 0).all():
        raise ModelError(
            f"the output of the model {name} is not probabilities; expected a softmax at its end"
        )
