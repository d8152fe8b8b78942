"""The figures of evaluation, held against scikit-learn and against hand-made cases."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

from cifarcnn import metrics

CLASSES = list(range(10))


def one_hot(answers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Certain probabilities for the given answers."""
    return np.eye(10)[answers]


@st.composite
def guesses(draw: st.DrawFn) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Random probabilities and labels; often with classes that are never true or never answered."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 300))
    # Kept above 2e-16, where scikit-learn starts to clip the loss.
    scores = rng.normal(size=(n, 10)).clip(-4, 4) * draw(st.sampled_from([0.1, 1.0, 3.0]))
    silent = draw(st.lists(st.sampled_from(CLASSES), unique=True, max_size=9))
    scores[:, silent] -= 8
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    present = draw(st.lists(st.sampled_from(CLASSES), unique=True, min_size=1))
    return weights / weights.sum(axis=1, keepdims=True), rng.choice(present, n)


TEN_EACH = np.repeat(np.arange(10), 10)
DEGENERATE = {
    "a class never predicted": (one_hot(np.where(TEN_EACH == 3, 5, TEN_EACH)), TEN_EACH),
    "one class only": (one_hot(TEN_EACH), np.full(100, 7)),
    "one class, all right": (one_hot(np.full(40, 7)), np.full(40, 7)),
    "perfect": (one_hot(TEN_EACH), TEN_EACH),
    "constant answer": (one_hot(np.zeros(100, dtype=int)), TEN_EACH),
    "uniform probabilities": (np.full((100, 10), 0.1), TEN_EACH),
    "a single image": (one_hot(np.array([4])), np.array([4])),
}


def check_against_sklearn(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> None:
    """Compare every figure that scikit-learn has too."""
    ours = metrics.measure(probabilities, labels)
    answers = probabilities.argmax(axis=1)
    assert ours.n == len(labels)
    assert ours.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, answers))
    expected = sklearn_metrics.confusion_matrix(labels, answers, labels=CLASSES)
    np.testing.assert_array_equal(ours.confusion, expected)
    columns = sklearn_metrics.precision_recall_fscore_support(
        labels, answers, labels=CLASSES, zero_division=0
    )
    rows = [(score.precision, score.recall, score.f1, score.support) for score in ours.per_class]
    np.testing.assert_allclose(np.array(rows), np.stack(columns, axis=1))


@given(guesses())
def test_random_figures_agree_with_sklearn(case) -> None:
    """Accuracy, confusion, per-class scores, loss and top-k are those of scikit-learn."""
    probabilities, labels = case
    check_against_sklearn(probabilities, labels)
    ours = metrics.measure(probabilities, labels)
    loss = sklearn_metrics.log_loss(labels, probabilities, labels=CLASSES)
    assert ours.loss == pytest.approx(loss, rel=1e-6, abs=1e-9)
    for k, share in ((2, ours.top2), (5, ours.top5)):
        expected = sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=CLASSES)
        assert share == pytest.approx(expected)


@pytest.mark.parametrize("case", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_degenerate_figures_agree_with_sklearn(case) -> None:
    """Never-answered and never-true classes get the zeros that scikit-learn gives them."""
    check_against_sklearn(*case)


def test_loss_of_an_impossible_truth_is_large_but_finite() -> None:
    """A true class of probability zero costs as much as the smallest float32, not infinity."""
    result = metrics.measure(one_hot(np.array([0, 0])), np.array([0, 1]))
    assert result.loss == pytest.approx(-math.log(np.finfo(np.float32).tiny) / 2)


def test_a_perfect_model_has_zero_loss_and_no_confused_pairs() -> None:
    """Certain and always right: loss and calibration error vanish, no pair is listed."""
    result = metrics.measure(one_hot(TEN_EACH), TEN_EACH)
    assert math.copysign(1, result.loss) == 1
    assert (result.loss, result.ece, result.most_confused) == (0.0, 0.0, ())
    assert result.accuracy_interval[1] == 1.0


def test_confused_pairs_are_sorted_and_leave_out_right_answers() -> None:
    """The most frequent mistake comes first with its share of the true class."""
    answers = TEN_EACH.copy()
    answers[30:37] = 5
    answers[50:53] = 3
    pairs = metrics.measure(one_hot(answers), TEN_EACH).most_confused
    assert pairs == (metrics.ConfusedPair(3, 5, 7, 0.7), metrics.ConfusedPair(5, 3, 3, 0.3))


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(case) -> None:
    """The interval is scipy's Wilson interval without continuity correction."""
    successes, n = case
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_calibration_error_of_a_hand_made_case() -> None:
    """Ten answers at 0.75, half right, and ten at 0.95, all right: 0.5 * 0.25 + 0.5 * 0.05."""
    confidence = np.repeat([0.75, 0.95], 10)
    right = np.concatenate([np.arange(10) % 2 == 0, np.ones(10, dtype=bool)])
    bins = metrics.reliability_bins(confidence, right)
    assert metrics.calibration_error(bins) == pytest.approx(0.15)
    assert [part.count for part in bins if part.count] == [10, 10]
    assert sum(part.accuracy is None for part in bins) == 13


@given(guesses())
def test_every_answer_falls_into_the_bin_that_holds_its_confidence(case) -> None:
    """The bins cover 0..1 without gap, count every image, and each mean lies between its edges."""
    probabilities, labels = case
    bins = metrics.measure(probabilities.astype(np.float32), labels).bins
    assert sum(part.count for part in bins) == len(labels)
    assert (bins[0].low, bins[-1].high, len(bins)) == (0.0, 1.0, metrics.CALIBRATION_BINS)
    for part in bins:
        if part.confidence is not None:
            assert part.low - 1e-6 <= part.confidence <= part.high + 1e-6


@given(guesses(), st.floats(0.2, 5))
def test_temperature_changes_no_ranking_and_keeps_sums(case, temperature: float) -> None:
    """Scaled rows sum to one and have the same answers; temperature one changes nothing."""
    probabilities, _ = case
    scaled = metrics.apply_temperature(probabilities, temperature)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    np.testing.assert_array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
    np.testing.assert_allclose(metrics.apply_temperature(probabilities, 1.0), probabilities, atol=1e-12)


@settings(max_examples=20)
@given(st.floats(0.25, 4), st.integers(0, 1000))
def test_fitted_temperature_finds_the_overconfidence(factor: float, seed: int) -> None:
    """Labels drawn from p, shown to the fit as p sharpened by a factor, give that factor back."""
    rng = np.random.default_rng(seed)
    truth = metrics.apply_temperature(rng.dirichlet(np.full(10, 0.4), 20_000), 1.0)
    labels = (truth.cumsum(axis=1) < rng.random((len(truth), 1))).sum(axis=1).clip(max=9)
    temperature = metrics.fit_temperature(metrics.log_probabilities(truth) * factor, labels)
    assert temperature == pytest.approx(factor, rel=0.05)


@given(guesses())
def test_fitted_temperature_never_raises_the_loss(case) -> None:
    """On the images it was fitted to, no temperature nearby, and not 1 either, has a smaller loss."""
    probabilities, labels = case
    best = metrics.fit_temperature(metrics.log_probabilities(probabilities), labels)

    def loss(temperature: float) -> float:
        return float(metrics.losses(metrics.apply_temperature(probabilities, temperature), labels).mean())

    low, high = metrics.TEMPERATURE_LIMITS
    if best == 1.0 and loss(low) <= loss(low * 1.01):
        return  # the least would be the best
    for other in (1.0, max(low, best * 0.99), min(high, best * 1.01)):
        # Beyond the floor of the logarithm the loss is flat, hence the small tolerance.
        assert loss(best) <= loss(other) + 1e-9


def test_temperature_of_hopeless_and_perfect_cases_stays_within_its_limits() -> None:
    """Nothing to learn gives 1; so does always right, which sets no bound; always wrong is softened."""
    high = max(metrics.TEMPERATURE_LIMITS)
    uniform = np.log(np.full((100, 10), 0.1))
    sure = metrics.log_probabilities(0.9 * one_hot(TEN_EACH) + 0.01)
    assert metrics.fit_temperature(uniform, TEN_EACH) == 1.0
    assert metrics.fit_temperature(sure, TEN_EACH) == 1.0
    one_wrong = np.where(np.arange(len(TEN_EACH)) == 7, 9, TEN_EACH)
    assert 0.3 < metrics.fit_temperature(sure, one_wrong) < 1
    assert metrics.fit_temperature(sure, (TEN_EACH + 1) % 10) == pytest.approx(high)


@given(guesses(), st.integers(1, 20))
def test_worst_mistakes_are_the_largest_losses_among_wrong_answers(case, count: int) -> None:
    """No image left out has a wrong answer and a larger loss than one that is listed."""
    probabilities, labels = case
    chosen = metrics.worst_mistakes(probabilities, labels, count)
    every = metrics.losses(probabilities, labels)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    assert len(chosen) == min(count, len(wrong))
    np.testing.assert_allclose(every[chosen], np.sort(every[wrong])[::-1][: len(chosen)])
    assert set(chosen) <= set(wrong)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_agrees_with_the_binomial_test(only_first: int, only_second: int) -> None:
    """The exact test is a two-sided binomial test of the disagreements."""
    expected = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    assert metrics.mcnemar_exact(only_first, only_second) == pytest.approx(expected)


def test_comparison_of_a_model_with_itself_finds_no_difference() -> None:
    """No disagreement: difference zero, p-value one, an interval around zero that is not a point."""
    right = np.arange(1000) % 5 > 0
    result = metrics.compare(right, right)
    assert (result.difference, result.p_value) == (0.0, 1.0)
    assert result.interval[0] < 0 < result.interval[1] < 0.01


def test_comparison_counts_each_side_and_signs_the_difference() -> None:
    """The difference is second minus first, and many one-sided wins are significant."""
    first = np.arange(1000) < 700
    second = np.arange(1000) < 760
    second[:10] = False
    result = metrics.compare(first, second)
    assert (result.only_first, result.only_second, result.n) == (10, 60, 1000)
    assert result.difference == pytest.approx(0.05)
    assert result.p_value < 1e-6


def test_paired_interval_is_that_of_bonett_and_price() -> None:
    """Each side's count is one more and the images are two more; nothing lies beyond the possible."""
    first = np.arange(1000) < 700
    second = np.arange(1000) < 760
    second[:10] = False
    # 61/1002 - 11/1002 -+ 1.959964 sqrt((61/1002 + 11/1002 - (61/1002 - 11/1002)^2) / 1002)
    assert metrics.compare(first, second).interval == pytest.approx((0.0335926630, 0.0662077362), rel=1e-8)
    # 4/5 - 1/5 -+ 1.959964 sqrt((4/5 + 1/5 - (4/5 - 1/5)^2) / 5)
    wrong, right = np.zeros(3, bool), np.ones(3, bool)
    assert metrics.compare(wrong, right).interval == pytest.approx((-0.1012180325, 1.0), rel=1e-8)
    assert metrics.compare(right, wrong).interval == pytest.approx((-1.0, 0.1012180325), rel=1e-8)


def test_paired_interval_covers_the_truth_about_95_percent_of_the_time() -> None:
    """Over many simulated comparisons the interval holds the true difference as often as it promises."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        outcome = rng.choice(4, size=300, p=[0.7, 0.16, 0.04, 0.1])
        low, high = metrics.compare(outcome % 3 == 0, (outcome == 0) | (outcome == 1)).interval
        covered += low <= 0.16 - 0.10 <= high
    assert 925 <= covered <= 975
