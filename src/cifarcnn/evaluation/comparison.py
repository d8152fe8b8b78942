"""Two models on the same images: the paired difference, its interval, and whether it could be chance.

It knows nothing but which predictions were correct. The figures of a single model stand in ``metrics``.
"""

import math
from dataclasses import dataclass

from cifarcnn.metrics import Z95, Array, Interval


@dataclass(frozen=True)
class Comparison:
    """Two models on the same ``n`` images.

    ``difference`` is the second's accuracy minus the first's, ``interval`` its 95 % interval;
    ``only_first`` and ``only_second`` count the images that one of them alone predicted correctly;
    ``p_value`` is that of McNemar's exact test.
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    interval: Interval
    p_value: float


def compare(first_correct: Array, second_correct: Array) -> Comparison:
    """Compare two models on the same images.

    Args:
        first_correct: bool (n,), which images the first model predicted correctly.
        second_correct: bool (n,), the same of the second.

    Returns:
        The paired difference with its interval (after Bonett and Price, which holds for few
        disagreements too) and the p-value of McNemar's exact test.
    """
    n = len(first_correct)
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    gain, loss = (only_second + 1) / (n + 2), (only_first + 1) / (n + 2)
    half = Z95 * math.sqrt((gain + loss - (gain - loss) ** 2) / (n + 2))
    return Comparison(
        n=n,
        only_first=only_first,
        only_second=only_second,
        difference=(only_second - only_first) / n,
        interval=(max(-1.0, gain - loss - half), min(1.0, gain - loss + half)),
        p_value=mcnemar_exact(only_first, only_second),
    )


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test: are the disagreements split like fair coin tosses?"""
    n = only_first + only_second
    ways = tail = 1
    for heads in range(min(only_first, only_second)):
        ways = ways * (n - heads) // (heads + 1)
        tail += ways
    return float(min(1.0, 2 * tail / 2**n))
