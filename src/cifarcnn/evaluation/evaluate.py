"""Evaluation: run models on labelled images, gather their figures, compare them."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarcnn import metrics
from cifarcnn.data import cifar10, sources
from cifarcnn.data.cifar10 import Split
from cifarcnn.errors import UsageError
from cifarcnn.evaluation import ood, precisions
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.metrics import Array, Comparison, Metrics
from cifarcnn.models import modelfile
from cifarcnn.models.modelfile import HeldOut

MEASURABLE: tuple[Split, ...] = ("test", "validation")
VIEWS = {"flip": "with flip", "flip_shift": "with flip and shift"}
"""The figures of test-time augmentation: their names in documents, and for people."""


@dataclass(frozen=True)
class Evaluation:
    """One model on one set of images.

    ``probabilities``, float (n, classes), and ``metrics`` are scaled by ``temperature`` where the model has
    one; ``uncalibrated`` then holds the figures without it. ``averaged`` holds the figures of test-time
    augmentation by name. ``seconds`` is the time of the plain pass, without compilation. ``data`` is where
    the user said the images are. ``first_kernel`` is the first colour kernel (height, width, 3, filters).
    ``ood_false_positive_rate`` is the share of the images that ``predict`` would mark as out of distribution.
    ``differing`` counts the predictions that float32 would change, where ``precision`` is another.
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
    precision: str = "float32"
    differing: int | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.images.classes

    @property
    def images_per_second(self) -> float:
        """Throughput of the plain pass."""
        return self.metrics.n / self.seconds

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        names, figures = self.classes, asdict(self.metrics)
        per_class = zip(names, figures.pop("per_class"), strict=True)
        return {
            "schema": 1,
            "model": modelfile.display_name(self.model),
            "split": self.split,
            "classes": list(names),
            **{name: figures[name] for name in ("n", "accuracy", "loss")},
            "per_class": [{"class": name, **score} for name, score in per_class],
            "confusion_matrix": figures.pop("confusion").tolist(),
            "source": self.images.source,
            "reliability": figures.pop("bins"),
            **figures,
            "most_confused": [
                pair | {"label": names[pair["label"]], "prediction": names[pair["prediction"]]}
                for pair in figures["most_confused"]
            ],
            "temperature": self.temperature,
            "ood_false_positive_rate": self.ood_false_positive_rate,
            "uncalibrated": _brief(self.uncalibrated) if self.uncalibrated else None,
            "tta": {name: _brief(averaged) for name, averaged in self.averaged.items()},
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "precision": self.precision,
            "differing_predictions": self.differing,
        }


def _brief(figures: Metrics) -> dict[str, Any]:
    """The figures that a variant of an evaluation reports beside the plain ones."""
    return {name: getattr(figures, name) for name in ("accuracy", "accuracy_interval", "loss", "ece")}


def evaluate(
    model: str | Path,
    *,
    split: str | None = None,
    data: str | Path | None = None,
    batch_size: int = modelfile.BATCH_SIZE,
    tta: bool = False,
    precision: precisions.Precision = "float32",
    on_event: OnEvent = ignore,
) -> Evaluation:
    """Measure a model on labelled images.

    Args:
        model: a ``.keras`` file, a LiteRT file, or a run directory, which stands for its best model.
        split: "test", or "validation": the folder's own validation images, else those that the model's
            training held out. None means "test", unless the data has validation images alone.
        data: where the data set is, or a folder of class-named folders of pictures; None looks in the usual
            places and downloads if need be.
        batch_size: images per step, at least 1.
        tta: also average over a flip, and over flips and shifts, of every image.
        precision: ``float32``, or ``auto`` for bfloat16 where the hardware computes it natively.
        on_event: receives notes and the progress of a download.

    Raises:
        UsageError: the split is unknown, the model has no validation images or these are not among the data,
            or the data has classes that the model does not know.
        ModelError: the model cannot be opened, or its outputs are not finite.
        DataError: the data set cannot be had.
    """
    split = choose_split(split, data, on_event)
    if batch_size < 1:
        raise UsageError(f"--batch-size is {batch_size}; expected 1 or more")
    path = modelfile.resolve(Path(model))
    loaded, images = load(path, split, data, on_event)
    limit = ood.limit(loaded.metadata, path)
    lower = precisions.lower(loaded, precision, on_event)
    plain, seconds = _timed(lower or loaded, images.images, batch_size)
    differing = None
    if lower:
        exact = loaded.checked(loaded.probabilities(images.images, batch_size))
        differing = int((plain.argmax(axis=1) != exact.argmax(axis=1)).sum())
        on_event(precisions.difference(differing, len(images)))
    temperature = loaded.temperature
    if temperature is not None and split == "validation" and _calibrated_on(loaded, images, data):
        figures = "calibration error" if limit is None else "calibration error and false positives"
        on_event(Note(f"the model was calibrated on these images: their {figures} flatter it"))
    views = _augmented_views(lower or loaded, images.images, plain, batch_size) if tta else {}
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
        precision="bfloat16" if lower else "float32",
        differing=differing,
    )


def choose_split(split: str | None, data: str | Path | None, on_event: OnEvent) -> Split:
    """Return the split to measure.

    Raises:
        UsageError: there is none of this name.
    """
    if split is None:
        found = sources.splits(data)
        split = "validation" if "validation" in found and "test" not in found else "test"
        if split != "test":
            on_event(Note(f"{data} has no test images; measuring its validation images"))
    if split not in MEASURABLE:
        raise UsageError(f"there is no split {split!r}; expected one of: {', '.join(MEASURABLE)}")
    return MEASURABLE[MEASURABLE.index(split)]


def load(
    path: Path, split: Split, data: str | Path | None, on_event: OnEvent
) -> tuple[modelfile.Model, cifar10.Images]:
    """Open a model and the images to measure it on, whose labels are positions in the model's classes.

    Raises:
        UsageError, ModelError, DataError: as ``evaluate``.
    """
    held_out = None
    if split == "validation" and "validation" not in sources.splits(data):
        # A wrong request should fail before the seconds that loading a network takes.
        held_out = _held_out(path)
    loaded = modelfile.load(path)
    images = sources.load("train" if held_out else split, data, on_event, classes=loaded.classes)
    if held_out:
        if images.sha256() != held_out.sha256:
            raise UsageError(
                f"the model {path} was trained on other images than those of {images.source}, so its "
                "validation images are not among them; give the data it was trained on with --data"
            )
        images = held_out.among(images)
    on_event(Note(loaded.inference()))
    for text in loaded.warnings:
        on_event(Note(f"warning: {text}"))
    if modelfile.trained_on(loaded.metadata) == images.sha256():
        on_event(Note("warning: the model was trained on these very images: the figures flatter it"))
    return loaded, images


def _calibrated_on(model: modelfile.Model, images: cifar10.Images, data: str | Path | None) -> bool:
    """Whether these validation images are those of the model's training: held out, or the folder's own."""
    own = model.metadata.get("facts", {}).get("validation_images_sha256")
    return "validation" not in sources.splits(data) or own == images.sha256()


def _timed(model: modelfile.Model, images: Array, batch_size: int) -> tuple[Array, float]:
    """Ask a model about images; its probabilities and how many seconds that took."""
    # The first whole step, and one of the rest, compile the network, which is no part of its speed.
    model.probabilities(images[:batch_size], batch_size)
    model.probabilities(images[: len(images) % batch_size], batch_size)
    start = time.perf_counter()
    probabilities = model.probabilities(images, batch_size)
    seconds = time.perf_counter() - start
    return model.checked(probabilities), seconds


def _held_out(path: Path) -> HeldOut:
    """Read from a model which images its training held out."""
    held_out = modelfile.held_out(modelfile.read_metadata(path))
    problem = ""
    if held_out is None or held_out.sha256 is None:
        problem = "does not say which images its training held out"
    elif held_out.size == 0:
        problem = "was trained on all training images, none was held out"
    if held_out is None or problem:
        raise UsageError(f"the model {path} {problem}; evaluate it with --split test")
    return held_out


def _augmented_views(
    model: modelfile.Model, images: Array, plain: Array, batch_size: int
) -> dict[str, Array]:
    """Average log-probabilities, which equals averaging logits, over several views of every image.

    "flip" is the mean of an image and its mirror image. "flip_shift" gives that mean half the weight, and a
    quarter each to the same mean of the image shifted by one pixel down and right, and up and left; the
    border is filled by reflection. The results (n, classes) are not normalised.
    """

    def scores(view: Array) -> Array:
        return metrics.log_probabilities(model.probabilities(view, batch_size))

    flip = (metrics.log_probabilities(plain) + scores(images[:, :, ::-1])) / 2
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = [padded[:, offset : offset + 32, offset : offset + 32] for offset in (0, 2)]
    first, second = ((scores(view) + scores(view[:, :, ::-1])) / 2 for view in views)
    return {"flip": flip, "flip_shift": flip / 2 + (first + second) / 4}


def _first_kernel(model: modelfile.Model) -> Array | None:
    """The first convolution kernel that sees colours; None also for an exported model, which shows none."""
    if model.format is not None:
        return None
    kernels = (kernel for kernel in model.keras.variables if len(kernel.shape) == 4 and kernel.shape[2] == 3)
    return next((np.asarray(kernel, np.float32) for kernel in kernels), None)


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
    return metrics.compare(*(one.probabilities.argmax(axis=1) == labels for one in (first, second)))


def comparison_document(evaluations: list[Evaluation], comparisons: list[Comparison]) -> dict[str, Any]:
    """Several evaluations as JSON can hold them, with each one's comparison with the first."""
    documents = [evaluation.as_document() for evaluation in evaluations]
    first, *others = (document["model"] for document in documents)
    pairs = zip(others, comparisons, strict=True)
    return {
        "schema": 1,
        "models": documents,
        "comparisons": [{"first": first, "second": second, **asdict(found)} for second, found in pairs],
    }
