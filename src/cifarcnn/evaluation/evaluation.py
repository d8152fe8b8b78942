"""Evaluation: run saved networks on test or validation images, gather their figures, compare them.

The figures are computed in ``metrics`` and shown by ``figures.presentation``; opening models is left to
``models.modelfile``, finding images to ``data.sources``. Only here are the test images asked about.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarcnn import metrics
from cifarcnn.data import cifar10, sources
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.errors import UsageError
from cifarcnn.evaluation import comparison, ood
from cifarcnn.evaluation.comparison import Comparison
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.metrics import Array, Metrics
from cifarcnn.models import modelfile
from cifarcnn.models.modelfile import HeldOut

MEASURABLE = ("test", "validation")
VIEWS = {"flip": "with flip", "flip_shift": "with flip and shift"}
"""The figures of test-time augmentation: their names in documents, and for people."""


@dataclass(frozen=True)
class Evaluation:
    """One model on one set of images.

    ``probabilities``, float (n, 10), and ``metrics`` are scaled by ``temperature`` where the model has one;
    ``uncalibrated`` then holds the figures without it, else None. ``averaged`` holds the figures of
    test-time augmentation by name, and is empty unless it was asked for. ``seconds`` is the time of the
    plain pass over all images, after the network was compiled. ``data`` is where the user said the images
    are, None if they were found. ``first_kernel`` is the colour kernel
    (height, width, 3, filters) of the first layer that has one, else None. ``metadata`` is what is stored
    with the model, empty for a file that plain Keras wrote. ``ood_false_positive_rate`` is the share of the images
    that ``predict`` would mark as probably none of the ten, all false alarms; None where the model has no limit.
    """

    model: Path
    metadata: dict[str, Any]
    split: str
    images: cifar10.Images
    probabilities: Array
    metrics: Metrics
    temperature: float | None
    uncalibrated: Metrics | None
    averaged: dict[str, Metrics]
    seconds: float
    data: str | None
    first_kernel: Array | None
    ood_false_positive_rate: float | None

    @property
    def images_per_second(self) -> float:
        """Throughput of the plain pass."""
        return self.metrics.n / self.seconds

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        figures = self.metrics
        return {
            "schema": 1,
            "model": modelfile.display_name(self.model),
            "split": self.split,
            "n": figures.n,
            "accuracy": figures.accuracy,
            "loss": figures.loss,
            "per_class": [
                {"class": name, **asdict(score)}
                for name, score in zip(CLASSES, figures.per_class, strict=True)
            ],
            "confusion_matrix": figures.confusion.tolist(),
            "source": self.images.source,
            "accuracy_interval": list(figures.accuracy_interval),
            "top2": figures.top2,
            "top5": figures.top5,
            "ece": figures.ece,
            "reliability": [asdict(part) for part in figures.bins],
            "most_confused": [
                {**asdict(pair), "truth": CLASSES[pair.truth], "answer": CLASSES[pair.answer]}
                for pair in figures.most_confused
            ],
            "temperature": self.temperature,
            "ood_false_positive_rate": self.ood_false_positive_rate,
            "uncalibrated": _brief(self.uncalibrated) if self.uncalibrated else None,
            "tta": {name: _brief(averaged) for name, averaged in self.averaged.items()},
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


def _brief(figures: Metrics) -> dict[str, Any]:
    """The figures that a variant of an evaluation reports beside the plain ones."""
    return {
        "accuracy": figures.accuracy,
        "accuracy_interval": list(figures.accuracy_interval),
        "loss": figures.loss,
        "ece": figures.ece,
    }


def evaluate(
    model: str | Path,
    *,
    split: str = "test",
    data: str | Path | None = None,
    batch_size: int = modelfile.BATCH_SIZE,
    tta: bool = False,
    on_event: OnEvent = ignore,
) -> Evaluation:
    """Measure a model on labelled images.

    Args:
        model: a ``.keras`` file, an exported model, or a run directory, which stands for its best model.
        split: "test", or "validation" for the images that the model's own training held out.
        data: where the data set is, or a folder of class-named folders of pictures; None looks in the usual
            places and downloads if need be.
        batch_size: images per step, at least 1.
        tta: also average over a flip, and over flips and shifts, of every image.
        on_event: receives notes and the progress of a download.

    Raises:
        UsageError: the split is unknown, or the model has no validation images, or these are not among the
            data.
        ModelError: the model cannot be opened, or answers with numbers that are not finite.
        DataError: the data set cannot be had.
    """
    if split not in MEASURABLE:
        raise UsageError(f"there is no split {split!r}; expected one of: {', '.join(MEASURABLE)}")
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}; expected 1 or more")
    path = modelfile.resolve(Path(model))
    # The metadata is read first: a wrong request fails before the seconds that loading a network takes.
    held_out = _held_out(path) if split == "validation" else None
    loaded = modelfile.load(path)
    limit = ood.limit(loaded.metadata, path)
    images = _load_images(path, held_out, data, on_event)
    on_event(Note(loaded.inference()))
    for text in loaded.warnings:
        on_event(Note(f"warning: {text}"))
    if modelfile.trained_on(loaded.metadata) == images.sha256():
        on_event(Note("warning: the model was trained on these very images: the figures flatter it"))
    # The first whole step, and one of the rest, compile the network, which is no part of its speed.
    loaded.probabilities(images.images[:batch_size], batch_size)
    loaded.probabilities(images.images[: len(images) % batch_size], batch_size)
    start = time.perf_counter()
    plain = loaded.probabilities(images.images, batch_size)
    seconds = time.perf_counter() - start
    loaded.checked(plain)
    temperature = loaded.temperature
    if temperature is not None and split == "validation":
        figures = "calibration error" if limit is None else "calibration error and false alarms"
        on_event(Note(f"the model was calibrated on these images: their {figures} flatter it"))
    views = _augmented_views(loaded, images.images, plain, batch_size) if tta else {}
    probabilities = loaded.calibrated(plain)
    return Evaluation(
        model=path,
        metadata=loaded.metadata,
        split=split,
        images=images,
        probabilities=probabilities,
        metrics=metrics.measure(probabilities, images.labels),
        temperature=temperature,
        uncalibrated=metrics.measure(plain, images.labels) if temperature else None,
        averaged={
            name: metrics.measure(metrics.softmax(scores / (temperature or 1.0)), images.labels)
            for name, scores in views.items()
        },
        seconds=seconds,
        data=None if data is None else str(data),
        first_kernel=_first_kernel(loaded),
        ood_false_positive_rate=None if limit is None else float((ood.scores(probabilities) > limit).mean()),
    )


def _held_out(path: Path) -> HeldOut:
    """Read from a model which images its training held out."""
    held_out = modelfile.held_out(modelfile.read_metadata(path))
    if held_out is None or held_out.sha256 is None:
        raise UsageError(
            f"the model {path} does not say which images its training held out; evaluate it with --split test"
        )
    if held_out.size == 0:
        raise UsageError(
            f"the model {path} was trained on all training images, none was held out; "
            "evaluate it with --split test"
        )
    return held_out


def _load_images(
    path: Path, held_out: HeldOut | None, data: str | Path | None, on_event: OnEvent
) -> cifar10.Images:
    """The test images, or those of the training images that were held out."""
    if held_out is None:
        return sources.load("test", data=data, on_event=on_event)
    train = sources.load("train", data=data, on_event=on_event)
    if train.sha256() != held_out.sha256:
        raise UsageError(
            f"the model {path} was trained on other images than those of {train.source}, so its validation "
            "images are not among them; give the data it was trained on with --data"
        )
    return held_out.among(train)


def _augmented_views(
    model: modelfile.Model, images: Array, plain: Array, batch_size: int
) -> dict[str, Array]:
    """Average log-probabilities, which equals averaging logits, over several views of every image.

    "flip" is the mean of an image and its mirror image. "flip_shift" gives that mean half the weight, and a
    quarter each to the same mean of the image shifted by one pixel down and right, and up and left; the
    border is filled by reflection. The results (n, 10) are not normalised.
    """

    def mean_with_mirror(view: Array, scores: Array) -> Array:
        mirrored = model.probabilities(view[:, :, ::-1], batch_size)
        return (scores + metrics.log_probabilities(mirrored)) / 2

    flip = mean_with_mirror(images, metrics.log_probabilities(plain))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shifted = []
    for offset in (0, 2):
        view = padded[:, offset : offset + 32, offset : offset + 32]
        scores = metrics.log_probabilities(model.probabilities(view, batch_size))
        shifted.append(mean_with_mirror(view, scores))
    return {"flip": flip, "flip_shift": flip / 2 + (shifted[0] + shifted[1]) / 4}


def _first_kernel(model: modelfile.Model) -> Array | None:
    """The first convolution kernel that sees colours; None also for an exported model, which shows none."""
    if model.format is not None:
        return None
    for variable in model.keras.variables:
        if len(variable.shape) == 4 and variable.shape[2] == 3:
            return np.asarray(variable, np.float32)
    return None


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare two models that were evaluated on the same images.

    Raises:
        UsageError: the images differ, as validation splits of different trainings do.
    """
    if not np.array_equal(first.images.images, second.images.images):
        raise UsageError(
            f"{first.model} and {second.model} were evaluated on different {second.split} images; "
            "compare them with --split test"
        )
    labels = first.images.labels
    return comparison.compare(
        first.probabilities.argmax(axis=1) == labels, second.probabilities.argmax(axis=1) == labels
    )


def comparison_document(evaluations: list[Evaluation], comparisons: list[Comparison]) -> dict[str, Any]:
    """Several evaluations as JSON can hold them, with each one's comparison with the first."""
    return {
        "schema": 1,
        "models": [evaluation.as_document() for evaluation in evaluations],
        "comparisons": [
            {
                "first": modelfile.display_name(evaluations[0].model),
                "second": modelfile.display_name(other.model),
                **asdict(found),
            }
            for other, found in zip(evaluations[1:], comparisons, strict=True)
        ],
    }
