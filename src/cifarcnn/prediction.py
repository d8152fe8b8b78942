"""Pictures in, ranked classes out: finding the pictures and the model, and streaming batches through it.

How a picture is read stands in ``cifarcnn.images``, how one asks a model in ``cifarcnn.modelfile``.
"""

import glob
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifarcnn import backend, images, metrics, modelfile
from cifarcnn.cifar10 import CLASSES, Bytes
from cifarcnn.errors import ImageError, ModelError, UsageError
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.images import Resize
from cifarcnn.modelfile import Model

STANDARD_INPUT = "-"
READERS = min(4, os.cpu_count() or 1)
"""Threads that decode pictures; Pillow leaves Python's lock while it does."""


@dataclass(frozen=True)
class Ranked:
    """A class and the probability that a picture shows it."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture, the best first."""

    path: str
    top: tuple[Ranked, ...]


@dataclass(frozen=True)
class Failure:
    """A picture that got no answer, and the reason in one line."""

    path: str
    error: str


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
    resize: Resize = "crop",
    recursive: bool = False,
    batch_size: int = modelfile.BATCH_SIZE,
    on_event: OnEvent = ignore,
) -> Answers:
    """Say what pictures show.

    Args:
        paths: files, directories (with ``recursive``), patterns such as ``photos/*.jpg``, ``-`` for one
            picture on standard input.
        model: a model file, a run directory, or an opened model; ``default_model()`` without it.
        top_k: how many classes to name for each picture, 1 to 10.
        resize: how pictures of other proportions become square: ``crop``, ``fit`` or ``squash``.
        recursive: take the pictures in and below directories.
        batch_size: pictures per step. The default gives exactly the answers that evaluation counts.
        on_event: told which model was chosen.

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
    sources = [source for path in paths for source in _expand(os.fspath(path), recursive)]
    if not sources:
        raise UsageError("no picture was named; give files, directories or - for standard input")
    if not isinstance(model, Model):
        model = modelfile.load(default_model(on_event) if model is None else Path(model))
        on_event(Note(backend.inference()))
    names = tuple(source.path if isinstance(source, Failure) else source for source in sources)
    return Answers(model, names, top_k, _stream(sources, model, top_k, resize, batch_size))


def default_model(on_event: OnEvent = ignore) -> Path:
    """Choose a model where none was named, and say which.

    In this order: the environment variable ``CIFARCNN_MODEL``; the newest run under ``./runs``.

    Raises:
        ModelError: there is none.
    """
    named = os.environ.get("CIFARCNN_MODEL")
    runs = sorted(Path("runs").glob(f"*/{modelfile.BEST}"), key=lambda best: (best.stat().st_mtime_ns, best))
    if named:
        path, reason = modelfile.resolve(Path(named)), "named by CIFARCNN_MODEL"
    elif runs:
        path, reason = runs[-1], "the newest run here"
    else:
        raise ModelError(
            "no model to predict with: train one with `cifarcnn train`, or name one with --model"
        )
    on_event(Note(f"model: {path} ({reason})"))
    return path


def _expand(path: str, recursive: bool) -> list[str | Failure]:
    """Find the pictures that a path stands for; a path that stands for none is a failure."""
    if "\0" in path:
        return [Failure(path, "not a valid file name")]
    if os.path.isdir(path):
        if not recursive:
            return [Failure(path, "is a directory; add --recursive for the pictures in it")]
        return _pictures_below(path) or [Failure(path, "no picture in this directory")]
    if path == STANDARD_INPUT or os.path.lexists(path) or not glob.has_magic(path):
        return [path]
    # A name found by a pattern is a name, even where it looks like another pattern.
    return [
        source
        for name in sorted(glob.glob(path, recursive=True), key=_natural)
        for source in (_expand(name, recursive) if os.path.isdir(name) else [name])
    ] or [Failure(path, "no file matches this pattern")]


def _pictures_below(directory: str) -> list[str | Failure]:
    """Walk a directory in natural order. Linked directories are not entered, so the walk ends."""
    found: list[str | Failure] = []

    def unreadable(problem: OSError) -> None:
        found.append(Failure(str(problem.filename), (problem.strerror or str(problem)).lower()))

    for parent, directories, names in os.walk(directory, onerror=unreadable):
        directories.sort(key=_natural)
        found.extend(
            os.path.join(parent, name)
            for name in sorted(names, key=_natural)
            if os.path.splitext(name)[1].lower() in images.SUFFIXES
        )
    return found


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort ``img2`` before ``img10``: runs of digits compare by value, all else by letters."""
    parts = [
        (0, len(digits := part.lstrip("0")), digits) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
    ]
    return parts, name


def _stream(
    sources: list[str | Failure], model: Model, top_k: int, resize: Resize, batch_size: int
) -> Iterator[Answer]:
    """Answer in order, decoding one batch while the network works on the batch before it."""
    remaining = iter(sources)
    pool = ThreadPoolExecutor(READERS)
    try:
        batch = _submit(pool, remaining, resize, batch_size)
        while batch:
            following = _submit(pool, remaining, resize, batch_size)
            yield from _answer(batch, model, top_k, batch_size)
            batch = following
    finally:
        pool.shutdown(cancel_futures=True)


Pending = list[tuple[str, "Future[Bytes] | str"]]
"""Paths, each with its pixels to be, or with the reason why there are none."""


def _submit(
    pool: ThreadPoolExecutor, sources: Iterator[str | Failure], resize: Resize, batch_size: int
) -> Pending:
    """Start reading the next batch."""
    return [
        (source.path, source.error)
        if isinstance(source, Failure)
        else (source, pool.submit(_read, source, resize))
        for source in itertools.islice(sources, batch_size)
    ]


def _read(path: str, resize: Resize) -> Bytes:
    """Read one picture, from a file or from standard input."""
    if path != STANDARD_INPUT:
        return images.read(Path(path), resize)
    data = sys.stdin.buffer.read(images.LARGEST_FILE + 1)
    return images.read(images.checked_size(data), resize)


def _answer(batch: Pending, model: Model, top_k: int, batch_size: int) -> Iterator[Answer]:
    """Ask the network about a batch, and put the failures where their pictures stood."""
    pixels: list[Bytes] = []
    reasons: list[str | None] = []
    for _, pending in batch:
        reason = None
        if isinstance(pending, str):
            reason = pending
        else:
            try:
                pixels.append(pending.result())
            except ImageError as problem:
                reason = str(problem)
        reasons.append(reason)
    ranked = iter(_rank(model, np.stack(pixels), top_k, batch_size) if pixels else [])
    for (path, _), reason in zip(batch, reasons, strict=True):
        yield Prediction(path, next(ranked)) if reason is None else Failure(path, reason)


def _rank(model: Model, pixels: Bytes, top_k: int, batch_size: int) -> list[tuple[Ranked, ...]]:
    """Name the most probable classes of each image, calibrated where the model knows its temperature."""
    raw = model.probabilities(pixels, batch_size)
    # Ranked before calibration, whose rounding could make two classes equal.
    order = np.argsort(-raw, axis=1, kind="stable")[:, :top_k]
    if "temperature" in model.metadata:
        raw = metrics.apply_temperature(raw, model.metadata["temperature"])
    return [
        tuple(Ranked(CLASSES[label], float(row[label])) for label in labels)
        for row, labels in zip(raw, order, strict=True)
    ]
