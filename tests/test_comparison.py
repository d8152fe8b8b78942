"""Two models compared: held against the binomial test, and against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cifarcnn.evaluation import comparison


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_agrees_with_the_binomial_test(only_first: int, only_second: int) -> None:
    """The exact test is a two-sided binomial test of the disagreements."""
    expected = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    assert comparison.mcnemar_exact(only_first, only_second) == pytest.approx(expected)


def test_comparison_of_a_model_with_itself_finds_no_difference() -> None:
    """No disagreement: difference zero, p-value one, an interval around zero that is not a point."""
    right = np.arange(1000) % 5 > 0
    result = comparison.compare(right, right)
    assert (result.difference, result.p_value) == (0.0, 1.0)
    assert result.interval[0] < 0 < result.interval[1] < 0.01


def test_comparison_counts_each_side_and_signs_the_difference() -> None:
    """The difference is second minus first, and many one-sided wins are significant."""
    first = np.arange(1000) < 700
    second = np.arange(1000) < 760
    second[:10] = False
    result = comparison.compare(first, second)
    assert (result.only_first, result.only_second, result.n) == (10, 60, 1000)
    assert result.difference == pytest.approx(0.05)
    assert result.p_value < 1e-6


def test_paired_interval_is_that_of_bonett_and_price() -> None:
    """Each side's count is one more and the images are two more; nothing lies beyond the possible."""
    first = np.arange(1000) < 700
    second = np.arange(1000) < 760
    second[:10] = False
    # 61/1002 - 11/1002 -+ 1.959964 sqrt((61/1002 + 11/1002 - (61/1002 - 11/1002)^2) / 1002)
    assert comparison.compare(first, second).interval == pytest.approx((0.0335926630, 0.0662077362), rel=1e-8)
    # 4/5 - 1/5 -+ 1.959964 sqrt((4/5 + 1/5 - (4/5 - 1/5)^2) / 5)
    wrong, right = np.zeros(3, bool), np.ones(3, bool)
    assert comparison.compare(wrong, right).interval == pytest.approx((-0.1012180325, 1.0), rel=1e-8)
    assert comparison.compare(right, wrong).interval == pytest.approx((-1.0, 0.1012180325), rel=1e-8)


def test_paired_interval_covers_the_truth_about_95_percent_of_the_time() -> None:
    """Over many simulated comparisons the interval holds the true difference as often as it promises."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        outcome = rng.choice(4, size=300, p=[0.7, 0.16, 0.04, 0.1])
        low, high = comparison.compare(outcome % 3 == 0, (outcome == 0) | (outcome == 1)).interval
        covered += low <= 0.16 - 0.10 <= high
    assert 925 <= covered <= 975
