"""Pictures in, ranked classes out: finding the pictures and the model, and streaming batches through it.

How a picture is read stands in ``data.images``, how one asks a model in ``models.modelfile``.
"""

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from cifarcnn.data import images
from cifarcnn.data.cifar10 import CLASSES, Bytes
from cifarcnn.data.images import Resize
from cifarcnn.errors import ImageError, UsageError, reason
from cifarcnn.evaluation import ood
from cifarcnn.events import Note, OnEvent, PicturesDone, ignore
from cifarcnn.models import modelfile, modelguard, pretrained
from cifarcnn.models.modelfile import Model
from cifarcnn.prediction.picturefiles import STANDARD_INPUT, Failure, expand

if TYPE_CHECKING:
    import io

    from PIL import Image

READERS = min(4, os.cpu_count() or 1)
"""Threads that decode pictures; Pillow leaves Python's lock while it does."""

LOOK_FOR_SHEET, LOOK_TO_EXPLAIN = 200, 1600
"""Pixels of a side of the copies that are kept of pictures to be drawn."""

LOOKS = 128 << 20
"""Bytes that the copies of one batch's pictures may take."""


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
        ood_score: how little it looks like any of the ten classes; see ``evaluation.ood``.
        is_ood: whether it probably shows none of them; None where the model knows no limit.
        pixels: uint8 (32, 32, 3), what the network saw.
        picture: a copy for people, upright RGB at its own proportions; kept with ``look`` alone.
        explained: the file that shows what mattered, where ``explanation.drawn`` drew one.
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


Answer = Prediction | Failure


@dataclass(frozen=True)
class Answers:
    """The answers to one call of ``predict``. Iterating does the work, in batches, once.

    Args:
        model: the model that answers.
        paths: the pictures, in the order of their answers.
        top_k: how many classes each prediction names.
        stream: one answer for each of ``paths``.
    """

    model: Model
    paths: tuple[str, ...]
    top_k: int
    stream: Iterator[Answer]

    def __iter__(self) -> Iterator[Answer]:
        return self.stream


def predict(
    paths: Iterable[str | Path],
    *,
    model: str | Path | Model | None = None,
    top_k: int = 3,
    resize: Resize = images.DEFAULT_RESIZE,
    recursive: bool = False,
    batch_size: int = modelfile.BATCH_SIZE,
    look: int | None = None,
    on_event: OnEvent = ignore,
) -> Answers:
    """Say what pictures show.

    Args:
        paths: files, directories (with ``recursive``), patterns such as ``photos/*.jpg``, ``-`` for one
            picture on standard input.
        model: a model file, a run directory, or an opened model; ``default_model()`` without it.
        top_k: how many classes to name for each picture, 1 to 10.
        resize: how pictures of other proportions become square: ``squash``, ``fit`` or ``crop``.
        recursive: take the pictures in and below directories.
        batch_size: pictures per step. The default gives, of the same pictures in the same order, exactly the
            answers that evaluation counts.
        look: keep a copy of each picture for people, of at most so many pixels a side.
        on_event: told which model was chosen, and after each picture how many are answered.

    Returns:
        The answers, computed as they are iterated over. A picture that cannot be read becomes a ``Failure``
        in its place.

    Raises:
        UsageError: a setting is impossible, or no picture was named.
        ModelError: there is no usable model.
    """
    if not 1 <= top_k <= len(CLASSES):
        raise UsageError(f"top-k is {top_k}; expected 1 to {len(CLASSES)}")
    if batch_size < 1:
        raise UsageError(f"the batch size is {batch_size}; expected 1 or more")
    if resize not in images.RESIZES:
        raise UsageError(f"resize is {resize!r}; expected one of {', '.join(images.RESIZES)}")
    sources = [source for path in paths for source in expand(os.fspath(path), recursive)]
    if not sources:
        raise UsageError("no picture was named; give files, directories or - for standard input")
    if not isinstance(model, Model):
        model = modelfile.load(default_model(on_event) if model is None else Path(model))
        on_event(Note(model.inference()))
        for text in model.warnings:
            on_event(Note(f"warning: {text}"))
    names = tuple(source.path if isinstance(source, Failure) else source for source in sources)
    if look:
        batch_size = min(batch_size, max(modelguard.SMALLEST_BATCH, LOOKS // (3 * look * look)))
    work = _Work(model, top_k, resize, batch_size, look, ood.limit(model.metadata, model.path))
    return Answers(model, names, top_k, _stream(sources, work, on_event))


@dataclass(frozen=True)
class _Work:
    """The settings of one call of ``predict``; ``limit`` is the model's limit on the outsider score."""

    model: Model
    top_k: int
    resize: Resize
    batch_size: int
    look: int | None
    limit: float | None


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


def _stream(sources: list[str | Failure], work: _Work, on_event: OnEvent) -> Iterator[Answer]:
    """Answer in order, decoding one batch while the network works on the batch before it."""
    remaining = iter(sources)
    done = 0
    pool = ThreadPoolExecutor(READERS)
    try:
        batch = _submit(pool, remaining, work)
        while batch:
            following = _submit(pool, remaining, work)
            for answer in _answer(batch, work):
                yield answer
                done += 1
                on_event(PicturesDone(done, len(sources)))
            batch = following
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Read:
    """A picture that could be read: what the network sees of it, and the copy for people."""

    path: str
    pixels: Bytes
    picture: "Image.Image | None"


Pending = list["Future[_Read | Failure] | Failure"]
"""Pictures to be, and those that have failed already."""


def _submit(pool: ThreadPoolExecutor, sources: Iterator[str | Failure], work: _Work) -> Pending:
    """Start reading the next batch.

    Standard input is read at once: Ctrl-C interrupts only what waits in the calling thread.
    """
    return [
        source
        if isinstance(source, Failure)
        else _from_standard_input(pool, work)
        if source == STANDARD_INPUT
        else pool.submit(_read, source, None, work)
        for source in itertools.islice(sources, work.batch_size)
    ]


def _from_standard_input(pool: ThreadPoolExecutor, work: _Work) -> "Future[_Read | Failure] | Failure":
    try:
        return pool.submit(_read, STANDARD_INPUT, _standard_input(), work)
    except OSError as problem:
        return Failure(STANDARD_INPUT, f"standard input cannot be read: {reason(problem).lower()}")


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
        return _Read(
            path, images.read(data, work.resize), images.look(data, work.look) if work.look else None
        )
    except ImageError as problem:
        return Failure(path, str(problem))


def _answer(batch: Pending, work: _Work) -> Iterator[Answer]:
    """Ask the network about a batch, and put the failures where their pictures stood."""
    outcomes = [pending if isinstance(pending, Failure) else pending.result() for pending in batch]
    predictions = _rank([outcome for outcome in outcomes if isinstance(outcome, _Read)], work)
    for outcome in outcomes:
        yield outcome if isinstance(outcome, Failure) else next(predictions)


def _rank(read: list[_Read], work: _Work) -> Iterator[Prediction]:
    """Name the most probable classes of each picture, calibrated where the model knows its temperature."""
    if not read:
        return
    pixels = np.stack([one.pixels for one in read])
    rows = work.model.checked(work.model.probabilities(pixels, work.batch_size))
    # Ranked before calibration, whose rounding could make two classes equal.
    order = np.argsort(-rows, axis=1, kind="stable")[:, : work.top_k]
    rows = work.model.calibrated(rows)
    scores = ood.scores(rows).tolist()
    for one, row, labels, score in zip(read, rows, order, scores, strict=True):
        yield Prediction(
            one.path,
            tuple(Ranked(CLASSES[label], float(row[label])) for label in labels),
            score,
            None if work.limit is None else score > work.limit,
            one.pixels,
            one.picture,
        )
