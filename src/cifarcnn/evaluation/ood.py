"""Out-of-distribution score: how little a picture looks like any of the classes that a model knows.

It is the entropy of the calibrated probabilities over its largest value: 0 when one class is certain, 1 when
all are equally likely. The limit is the score that 5 % of the validation images exceed.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from cifarcnn import metrics
from cifarcnn.errors import ModelError
from cifarcnn.metrics import Array

KEY = "none_threshold"
"""The limit's name in a model's metadata."""

FALSE_POSITIVE_RATE = 0.05
"""The share of validation images above a model's limit, though each shows one of the classes."""


def scores(probabilities: Array) -> Array:
    """Score pictures by their calibrated probabilities (n, classes); float64 (n,)."""
    logarithms = metrics.log_probabilities(probabilities)
    return np.asarray(0.0 - (probabilities * logarithms).sum(axis=1) / math.log(probabilities.shape[1]))


def fit_limit(probabilities: Array) -> float:
    """Find the limit that marks 5 % of these images, to which no weight was fitted."""
    return float(np.quantile(scores(probabilities), 1 - FALSE_POSITIVE_RATE))


def limit(metadata: dict[str, Any], path: Path) -> float | None:
    """Read the limit from a model's metadata; None where there is none.

    Raises:
        ModelError: what stands there is no number.
    """
    found = metadata.get(KEY)
    if found is None:
        return None
    # Beyond the largest float, JSON's integers are no numbers to compare with.
    if isinstance(found, bool) or not isinstance(found, int | float) or not -1e300 < found < 1e300:
        raise ModelError(
            f"the model {path} has the {KEY} {str(found)[:40]}; expected a number; train it again"
        )
    return float(found)
