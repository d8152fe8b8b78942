"""Prediction: picture files in, ranked classes out, in batches."""

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from cifarcnn import metrics
from cifarcnn.data import images
from cifarcnn.data.cifar10 import Bytes
from cifarcnn.data.images import RESIZES, Resize
from cifarcnn.errors import ImageError, UsageError, reason
from cifarcnn.evaluation import ood, precisions
from cifarcnn.events import Note, OnEvent, PicturesDone, ignore
from cifarcnn.metrics import Array
from cifarcnn.models import modelfile, modelguard, pretrained
from cifarcnn.models.modelfile import Model
from cifarcnn.prediction.picturefiles import STANDARD_INPUT, Failure, expand

if TYPE_CHECKING:
    import io

    from PIL import Image

READERS = min(4, os.cpu_count() or 1)
"""Threads that decode pictures; Pillow releases Python's lock meanwhile."""

LOOK_FOR_SHEET, LOOK_TO_EXPLAIN = 200, 1600
"""Pixels of a side of the copies that are kept of pictures to be drawn."""

LOOKS = 128 << 20
"""Bytes that the copies of one batch's pictures may take."""

VIEWS = (1, 2, 4)
"""How many views of a picture may be averaged; ``framings`` says which."""

DEFAULT_VIEWS = 4


def framings(resize: Resize, views: int) -> tuple[Resize, ...]:
    """Return the ways in which a picture is made square for so many views.

    Two views are the picture and its mirror image; four add both of the middle square (``crop``) or, where
    that is ``resize`` itself, of the whole picture (``squash``).
    """
    if views < 4:
        return (resize,)
    return (resize, "squash" if resize == "crop" else "crop")


@dataclass(frozen=True)
class Ranked:
    """A class and the probability that a picture shows it."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What one picture shows.

    Args:
        path: the picture.
        top: its most probable classes, the best first.
        ood_score: how little it looks like any of the classes; see ``evaluation.ood``.
        is_ood: whether it probably shows none of them; None where the model has no limit.
        pixels: uint8 (32, 32, 3), what the network saw in the first view.
        picture: a copy for people, upright RGB at its own proportions; kept with ``look`` alone.
        explained: the file of the occlusion map, where one was drawn.
    """

    path: str
    top: tuple[Ranked, ...]
    ood_score: float
    is_ood: bool | None
    pixels: Bytes = field(compare=False, repr=False)
    picture: "Image.Image | None" = field(default=None, compare=False, repr=False)
    explained: Path | None = None

    def is_unsure(self, threshold: float | None) -> bool:
        """Whether even its best class is less probable than this; without a threshold, never."""
        return threshold is not None and self.top[0].probability < threshold


Outcome = Prediction | Failure


@dataclass(frozen=True)
class Predictions:
    """The outcomes of one call of ``predict``. Iterating does the work, in batches, once.

    Args:
        model: the model that predicts.
        paths: the pictures, in the order of their outcomes.
        top_k: how many classes each prediction names.
        stream: one outcome for each of ``paths``.
    """

    model: Model
    paths: tuple[str, ...]
    top_k: int
    stream: Iterator[Outcome]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the model knows."""
        return self.model.classes

    def __iter__(self) -> Iterator[Outcome]:
        return self.stream


def predict(
    paths: str | Path | Iterable[str | Path],
    *,
    model: str | Path | Model | None = None,
    top_k: int = 3,
    resize: Resize = images.DEFAULT_RESIZE,
    views: int = DEFAULT_VIEWS,
    precision: precisions.Precision = "float32",
    recursive: bool = False,
    batch_size: int = modelfile.BATCH_SIZE,
    look: int | None = None,
    on_event: OnEvent = ignore,
) -> Predictions:
    """Predict what pictures show.

    Args:
        paths: one or several files, directories (with ``recursive``), patterns such as ``photos/*.jpg``, or
            ``-`` for a picture on standard input.
        model: a model file, a run directory, or an opened model; by default ``default_model()``.
        top_k: how many classes to name for each picture; at most all that the model knows.
        resize: how pictures of other proportions become square: ``squash``, ``fit`` or ``crop``.
        views: over how many views of each picture to average: 1, 2 or 4; see ``framings``. With 1, test
            images get exactly the predictions that ``evaluate`` counts.
        precision: ``float32``, or ``auto`` for bfloat16 where the hardware computes it natively.
        recursive: take the pictures in and below directories.
        batch_size: pictures per step.
        look: keep a copy of each picture for people, of at most so many pixels a side.
        on_event: told which model was chosen, and after each picture how many are done.

    Returns:
        The predictions, computed as they are iterated over. A picture that cannot be read becomes a
        ``Failure`` in its place.

    Raises:
        UsageError: a setting is impossible, or no picture was named.
        ModelError: there is no usable model.
    """
    for option, value, possible, expected in (
        ("--top-k", top_k, top_k >= 1, "1 or more"),
        ("--batch-size", batch_size, batch_size >= 1, "1 or more"),
        ("--resize", resize, resize in RESIZES, f"one of {', '.join(RESIZES)}"),
        ("--views", views, views in VIEWS, f"one of {', '.join(map(str, VIEWS))}"),
    ):
        if not possible:
            raise UsageError(f"{option} is {value!r}; expected {expected}")
    named = [paths] if isinstance(paths, str | Path) else paths
    sources = [source for path in named for source in expand(os.fspath(path), recursive)]
    if not sources:
        raise UsageError("no picture was named; give files, directories or - for standard input")
    if not isinstance(model, Model):
        model = modelfile.load(default_model(on_event) if model is None else model)
        on_event(Note(model.inference()))
        for text in model.warnings:
            on_event(Note(f"warning: {text}"))
    names = tuple(source.path if isinstance(source, Failure) else source for source in sources)
    if look:
        batch_size = min(batch_size, max(modelguard.SMALLEST_BATCH, LOOKS // (3 * look * look)))
    lower = precisions.lower(model, precision, on_event)
    limit = ood.limit(model.metadata, model.path)
    top_k = min(top_k, len(model.classes))
    work = _Work(model, lower, top_k, resize, views, batch_size, look, limit, on_event)
    return Predictions(model, names, top_k, _stream(sources, work))


@dataclass(frozen=True)
class _Work:
    """The settings of one call of ``predict``; ``lower`` is the model in lower precision, if asked for."""

    model: Model
    lower: Model | None
    top_k: int
    resize: Resize
    views: int
    batch_size: int
    look: int | None
    limit: float | None
    on_event: OnEvent


def default_model(on_event: OnEvent = ignore) -> Path:
    """Choose a model where none was named, and say which.

    In this order: the environment variable ``CIFARCNN_MODEL``; the model that comes with the package.

    Raises:
        ModelError: there is no model of the name in ``CIFARCNN_MODEL``.
    """
    if named := os.environ.get("CIFARCNN_MODEL"):
        path = modelfile.resolve(Path(named))
        on_event(Note(f"model: {path} (named by CIFARCNN_MODEL)"))
        return path
    on_event(Note(f"model: {pretrained.NAME} (comes with cifarcnn; --model names another)"))
    return pretrained.PATH


def _stream(sources: list[str | Failure], work: _Work) -> Iterator[Outcome]:
    """Predict in order, decoding one batch while the network works on the batch before it."""
    remaining = iter(sources)
    done = differing = 0
    pool = ThreadPoolExecutor(READERS)
    try:
        batch = _submit(pool, remaining, work)
        while batch:
            following = _submit(pool, remaining, work)
            outcomes = [pending if isinstance(pending, Failure) else pending.result() for pending in batch]
            read = [outcome for outcome in outcomes if isinstance(outcome, _Read)]
            predictions: Iterator[Prediction] = iter(())
            if read:
                rows = _probabilities(work.lower or work.model, read, work)
                if work.lower:
                    exact = _probabilities(work.model, read, work)
                    differing += int((rows.argmax(axis=1) != exact.argmax(axis=1)).sum())
                predictions = _ranked(read, rows, work)
            for outcome in outcomes:
                yield outcome if isinstance(outcome, Failure) else next(predictions)
                done += 1
                work.on_event(PicturesDone(done, len(sources)))
            batch = following
    finally:
        pool.shutdown(cancel_futures=True)
    if work.lower:
        work.on_event(precisions.difference(differing, done))


@dataclass(frozen=True)
class _Read:
    """A picture that could be read: its framings, uint8 (n, 32, 32, 3), and the copy for people."""

    path: str
    pixels: Bytes
    picture: "Image.Image | None"


def _submit(
    pool: ThreadPoolExecutor, sources: Iterator[str | Failure], work: _Work
) -> "list[Future[_Read | Failure] | Failure]":
    """Start reading the next batch."""

    def submitted(source: str | Failure) -> "Future[_Read | Failure] | Failure":
        data = None
        if isinstance(source, Failure):
            return source
        if source == STANDARD_INPUT:
            # Read at once: Ctrl-C interrupts only what waits in the calling thread.
            try:
                data = _standard_input()
            except OSError as problem:
                return Failure(source, f"standard input cannot be read: {reason(problem).lower()}")
        return pool.submit(_read, source, data, work)

    return [submitted(source) for source in itertools.islice(sources, work.batch_size)]


def _standard_input() -> bytes:
    """Read standard input, up to a byte more than a picture may have.

    Piece by piece, since Python looks for signals between two reads of its own, but not within one.
    """
    stream, data = cast("io.BufferedReader", sys.stdin.buffer), bytearray()
    while piece := stream.read1(min(1 << 20, images.LARGEST_FILE + 1 - len(data))):
        data += piece
    return bytes(data)


def _read(path: str, data: bytes | None, work: _Work) -> _Read | Failure:
    """Read one picture, from its content or, without it, from its file."""
    try:
        data = images.content(Path(path)) if data is None else images.checked_size(data)
        pixels = images.read_framings(data, framings(work.resize, work.views))
        return _Read(path, pixels, images.look(data, work.look) if work.look else None)
    except ImageError as problem:
        return Failure(path, str(problem))


def _probabilities(model: Model, read: list[_Read], work: _Work) -> Array:
    """Average the log-probabilities over the views of a batch; (n, classes)."""
    pixels = np.array([one.pixels for one in read])
    views = [pixels[:, framing] for framing in range(pixels.shape[1])]
    if work.views > 1:
        views += [view[:, :, ::-1] for view in views]
    rows = [model.checked(model.probabilities(view, work.batch_size)) for view in views]
    if len(rows) == 1:
        return rows[0]
    return metrics.softmax(np.mean([metrics.log_probabilities(row) for row in rows], axis=0))


def _ranked(read: list[_Read], rows: Array, work: _Work) -> Iterator[Prediction]:
    """Name the most probable classes of each picture, calibrated where the model has a temperature."""
    # Ranked before calibration, whose rounding could make two classes equal.
    order = np.argsort(-rows, axis=1, kind="stable")[:, : work.top_k]
    rows = work.model.calibrated(rows)
    scores = ood.scores(rows).tolist()
    for one, row, labels, score in zip(read, rows, order, scores, strict=True):
        yield Prediction(
            one.path,
            tuple(Ranked(work.model.classes[label], float(row[label])) for label in labels),
            score,
            None if work.limit is None else score > work.limit,
            one.pixels[0],
            one.picture,
        )
