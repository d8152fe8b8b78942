"""Models made of arithmetic, for tests that need answers but no network."""

from pathlib import Path
from typing import Any

import numpy as np

from cifarcnn import metrics
from cifarcnn.models.modelfile import Model


class _Corner:
    """Says ``frog`` the more, the redder the upper left 8x8 pixels are, and sees nothing else."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(images), 10))
        scores[:, 6] = np.asarray(images, float)[:, :8, :8, 0].mean(axis=(1, 2)) / 32
        return metrics.softmax(scores)


def corner(**metadata: Any) -> Model:
    """A model that looks at one corner alone."""
    return Model(Path("corner.keras"), metadata, _Corner())  # type: ignore[arg-type]
