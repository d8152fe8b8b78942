"""Out-of-distribution score: how little a picture looks like any of the classes that a model knows.

The score is the entropy of the calibrated probabilities, divided by its largest value, the logarithm of the
number of classes: 0 when one class is certain, 1 when all are equally likely. The limit is the score that
5 % of the validation images exceed. Of pictures that show something else only some exceed it: the mark says
that a prediction means little, its absence proves nothing.
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
    """Score pictures, 0 (one class is certain) to 1 (all are as likely).

    Args:
        probabilities: float (n, classes), calibrated where the model knows its temperature.

    Returns:
        float64 (n,).
    """
    logarithms = metrics.log_probabilities(probabilities)
    return np.asarray(0.0 - (probabilities * logarithms).sum(axis=1) / math.log(probabilities.shape[1]))


def fit_limit(probabilities: Array) -> float:
    """Find the limit that marks 5 % of these images.

    Args:
        probabilities: float (n, classes), calibrated, of images of the classes that no weight was fitted to.
    """
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
