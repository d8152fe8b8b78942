"""How a model fares on corrupted images: accuracy and calibration by corruption and severity."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from cifarcnn import metrics
from cifarcnn.data.cifar10 import Bytes, Images, stratified_split
from cifarcnn.errors import UsageError
from cifarcnn.evaluation import corruptions
from cifarcnn.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from cifarcnn.evaluation.evaluate import choose_split, load
from cifarcnn.events import OnEvent, PicturesDone, ignore
from cifarcnn.models import modelfile
from cifarcnn.models.modelfile import Model

CHUNK = 250
"""Images that a thread corrupts at a time."""


@dataclass(frozen=True)
class Score:
    """One corruption at one severity; ``ece`` is the expected calibration error."""

    corruption: str
    severity: int
    accuracy: float
    ece: float


@dataclass(frozen=True)
class Robustness:
    """A model on ``n`` images, clean and corrupted."""

    model: Path
    split: str
    source: str
    n: int
    clean: Score
    scores: tuple[Score, ...]

    @property
    def severities(self) -> tuple[int, ...]:
        """Those that were measured, in rising order."""
        return tuple(sorted({score.severity for score in self.scores}))

    def mean(self, severity: int | None = None) -> tuple[float, float]:
        """Mean accuracy and calibration error over all corruptions, at one severity or over all."""
        chosen = [score for score in self.scores if severity in (None, score.severity)]
        return fmean(score.accuracy for score in chosen), fmean(score.ece for score in chosen)

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        kinds = {severity: self.mean(severity) for severity in (None, *self.severities)}
        means = {key: {"accuracy": accuracy, "ece": ece} for key, (accuracy, ece) in kinds.items()}
        return {
            "schema": 1,
            "model": modelfile.display_name(self.model),
            "split": self.split,
            "source": self.source,
            "n": self.n,
            "clean": {"accuracy": self.clean.accuracy, "ece": self.clean.ece},
            "mean": means[None],
            "by_severity": [{"severity": severity, **means[severity]} for severity in self.severities],
            "corruptions": [asdict(score) for score in self.scores],
            "missing": list(corruptions.MISSING),
        }


def evaluate_corruptions(
    model: str | Path,
    *,
    split: str | None = None,
    data: str | Path | None = None,
    severities: Sequence[int] = SEVERITIES,
    limit: int | None = None,
    batch_size: int = modelfile.BATCH_SIZE,
    on_event: OnEvent = ignore,
) -> Robustness:
    """Measure a model on corrupted images, as CIFAR-10-C has them.

    Args:
        model, split, data, batch_size, on_event: as for ``evaluate``. Progress counts images.
        severities: which of 1 to 5.
        limit: how many images to take, in equal shares of all classes; None for all.

    Raises:
        UsageError, ModelError, DataError: as ``evaluate``.
    """
    wrong = [severity for severity in severities if severity not in SEVERITIES]
    if wrong or not severities:
        raise UsageError(f"--severity is {wrong[0] if wrong else 'empty'}; expected 1 to 5")
    split = choose_split(split, data, on_event)
    loaded, images = load(modelfile.resolve(Path(model)), split, data, on_event)
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}; expected 1 or more")
    if limit is not None and limit < len(images):
        images = images.at(stratified_split(images.labels, limit, 0)[1])
    pairs = [(name, severity) for name in CORRUPTIONS for severity in sorted(set(severities))]
    total = len(images) * (1 + len(pairs))
    clean = _score(loaded, images, None, batch_size)
    scores = []
    for number, pair in enumerate(pairs, 1):
        on_event(PicturesDone(number * len(images), total))
        scores.append(_score(loaded, images, pair, batch_size))
    on_event(PicturesDone(total, total))
    return Robustness(loaded.path, split, images.source, len(images), clean, tuple(scores))


def _score(model: Model, images: Images, pair: tuple[str, int] | None, batch_size: int) -> Score:
    """Measure on the images, corrupted if ``pair`` names a corruption and its severity."""
    pixels = images.images
    if pair:

        def corrupted(start: int) -> Bytes:
            return corruptions.corrupt(images.images[start : start + CHUNK], *pair, start)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pixels = np.concatenate(list(pool.map(corrupted, range(0, len(images), CHUNK))))
    probabilities = model.calibrated(model.checked(model.probabilities(pixels, batch_size)))
    correct = probabilities.argmax(axis=1) == images.labels
    bins = metrics.reliability_bins(probabilities.max(axis=1), correct)
    name, severity = pair or ("none", 0)
    return Score(name, severity, float(correct.mean()), metrics.calibration_error(bins))
