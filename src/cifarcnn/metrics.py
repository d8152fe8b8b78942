"""Everything that is computed from class probabilities and true labels, in NumPy alone."""

import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Interval = tuple[float, float]

CALIBRATION_BINS = 15
CONFUSED_PAIRS = 10
# The smallest normal float32: a softmax that underflowed to zero still has a finite, honest loss of 87.3.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
TEMPERATURE_LIMITS = (0.05, 20.0)
Z95 = NormalDist().inv_cdf(0.975)
"""Standard deviations on either side that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class ClassScore:
    """How one class fares. A ratio whose denominator is zero counts as 0, as in scikit-learn."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ConfusedPair:
    """``count`` images of class ``label`` were taken for ``prediction``: a ``share`` of that class."""

    label: int
    prediction: int
    count: int
    share: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose confidence lies in (low, high]. Both means are None where there are none."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Metrics:
    """The figures of one model on one set of images. Shares lie in 0..1, losses are in nats.

    ``confusion`` is an int64 array [label][prediction]; ``per_class`` stands in class order;
    ``most_confused`` is sorted by falling count; ``ece`` is the expected calibration error over ``bins``.
    """

    n: int
    accuracy: float
    accuracy_interval: Interval
    loss: float
    top2: float
    top5: float
    confusion: Array
    per_class: tuple[ClassScore, ...]
    most_confused: tuple[ConfusedPair, ...]
    ece: float
    bins: tuple[ReliabilityBin, ...]


def measure(probabilities: Array, labels: Array) -> Metrics:
    """Compute all figures of one model.

    Args:
        probabilities: float (n, classes), each row summing to 1.
        labels: int (n,), the true classes. n is at least 1.

    Returns:
        The metrics. Among equal probabilities the class of lower index is the prediction.
    """
    predictions = probabilities.argmax(axis=1)
    correct = predictions == labels
    ranks = true_class_ranks(probabilities, labels)
    confusion = confusion_matrix(predictions, labels, probabilities.shape[1])
    bins = reliability_bins(probabilities.max(axis=1), correct)
    return Metrics(
        n=len(labels),
        accuracy=float(correct.mean()),
        accuracy_interval=wilson_interval(int(correct.sum()), len(labels)),
        loss=float(losses(probabilities, labels).mean()),
        top2=float((ranks < 2).mean()),
        top5=float((ranks < 5).mean()),
        confusion=confusion,
        per_class=class_scores(confusion),
        most_confused=confused_pairs(confusion),
        ece=calibration_error(bins),
        bins=bins,
    )


def losses(probabilities: Array, labels: Array) -> Array:
    """Negative log-likelihood of each image's true class, float64 (n,), in nats."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # Subtracting from zero turns the -0.0 of a certain prediction into 0.0.
    return np.asarray(0.0 - np.log(np.clip(of_label, SMALLEST_PROBABILITY, 1.0)))


def worst_mistakes(probabilities: Array, labels: Array, count: int) -> Array:
    """Indices of the up to ``count`` wrongly predicted images of largest loss, worst first, int (k,)."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-losses(probabilities[wrong], labels[wrong]), kind="stable")
    return wrong[order[:count]]


def true_class_ranks(probabilities: Array, labels: Array) -> Array:
    """How many classes stand before the true one in each ranking, int (n,): 0 is a correct prediction."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return np.asarray((order == labels[:, None]).argmax(axis=1))


def confusion_matrix(predictions: Array, labels: Array, classes: int) -> Array:
    """Count the images of each class by predicted class, int64 (classes, classes) [label][prediction]."""
    cells = labels.astype(np.int64) * classes + predictions
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def class_scores(confusion: Array) -> tuple[ClassScore, ...]:
    """Precision, recall, F1 and support of every class of a confusion matrix [label][prediction]."""
    hits = confusion.diagonal()
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(predicted + support, 1)
    columns = zip(precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True)
    return tuple(ClassScore(*row) for row in columns)


def confused_pairs(confusion: Array) -> tuple[ConfusedPair, ...]:
    """The up to ten most frequent kinds of mistake in a confusion matrix [label][prediction]."""
    mistakes = confusion - np.diag(confusion.diagonal())
    support = confusion.sum(axis=1)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:CONFUSED_PAIRS]
    return tuple(
        ConfusedPair(label, prediction, number, number / int(support[label]))
        for label, prediction in (divmod(int(cell), len(confusion)) for cell in order)
        if (number := int(mistakes[label, prediction]))
    )


def wilson_interval(successes: int, n: int) -> Interval:
    """Wilson's 95 % score interval of a proportion."""
    share = successes / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # The bound at an extreme is the extreme itself; rounding would miss it by a hair.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def reliability_bins(confidence: Array, correct: Array) -> tuple[ReliabilityBin, ...]:
    """Group predictions by confidence into 15 equally wide bins.

    Args:
        confidence: float (n,), the probability of each prediction.
        correct: bool (n,), whether the prediction was.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    # float32 rows may reach a hair above 1 and would fall out of the last bin.
    where = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, CALIBRATION_BINS - 1)
    bins = []
    for index, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
        inside = where == index
        means: tuple[float | None, float | None] = None, None
        if inside.any():
            means = float(confidence[inside].mean(dtype=np.float64)), float(correct[inside].mean())
        bins.append(ReliabilityBin(low, high, int(inside.sum()), *means))
    return tuple(bins)


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy, weighted by count."""
    gaps = [
        part.count * abs((part.accuracy or 0.0) - (part.confidence or 0.0)) for part in bins if part.count
    ]
    return sum(gaps) / sum(part.count for part in bins)


def fit_temperature(log_probabilities: Array, labels: Array) -> float:
    """Find the temperature T at which softmax(log p / T) has the smallest mean loss on these images.

    The loss is convex in 1/T, so the root of its slope is found by bisection.

    Args:
        log_probabilities: float (n, classes), logarithms of probabilities or logits. -inf is admitted.
        labels: int (n,), the true classes, of images that the network was not trained on.

    Returns:
        T within 0.05..20; above 1 the network was overconfident. 1 where no temperature changes anything,
        or where the least is the best, as of few images that are all predicted correctly: they do not tell
        how certain a prediction may be.
    """
    scores = np.maximum(log_probabilities.astype(np.float64), math.log(SMALLEST_PROBABILITY))
    scores -= scores.max(axis=1, keepdims=True)
    mean_of_label = scores[np.arange(len(labels)), labels].mean()

    def slope(sharpness: float) -> float:
        return float((softmax(scores * sharpness) * scores).sum(axis=1).mean() - mean_of_label)

    low, high = (math.log(1 / limit) for limit in reversed(TEMPERATURE_LIMITS))
    if np.ptp(scores) == 0 or slope(math.exp(high)) <= 0:
        return 1.0
    # 60 halvings of the logarithm's range exhaust the precision of a float.
    for _ in range(60):
        middle = (low + high) / 2
        if slope(math.exp(middle)) < 0:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)


def apply_temperature(probabilities: Array, temperature: float) -> Array:
    """Soften (T > 1) or sharpen (T < 1) probabilities (n, classes); the ranking stays as it is."""
    # In float64, so that no two probabilities fall together and no ranking hinges on rounding.
    return softmax(log_probabilities(probabilities) / temperature)


def softmax(scores: Array) -> Array:
    """Probabilities (n, classes) from logits or log-probabilities, which need not be normalised."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def log_probabilities(probabilities: Array) -> Array:
    """Logarithms of probabilities, float64, finite where a probability is zero."""
    return np.asarray(np.log(np.maximum(probabilities.astype(np.float64), SMALLEST_PROBABILITY)))


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
    """Compare two models by which of the same images each predicted correctly, bool (n,).

    The interval is that of Bonett and Price, which holds for few disagreements too.
    """
    n = len(first_correct)
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    gain, loss = (only_second + 1) / (n + 2), (only_first + 1) / (n + 2)
    half = Z95 * math.sqrt((gain + loss - (gain - loss) ** 2) / (n + 2))
    interval = (max(-1.0, gain - loss - half), min(1.0, gain - loss + half))
    p_value = mcnemar_exact(only_first, only_second)
    return Comparison(n, only_first, only_second, (only_second - only_first) / n, interval, p_value)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test: are the disagreements split like fair coin tosses?"""
    n = only_first + only_second
    tail = sum(math.comb(n, heads) for heads in range(min(only_first, only_second) + 1))
    return float(min(1.0, 2 * tail / 2**n))
