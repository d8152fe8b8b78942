"""The directory that keeps the canonical files: where it is, who may write it, how bytes are verified."""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cifarcnn.data.formats import Located
from cifarcnn.data.publication import Publication
from cifarcnn.errors import DataError
from cifarcnn.events import Note, OnEvent, Transfer
from cifarcnn.machine import files, locks


def directory() -> Path:
    """Say where the cache is: ``CIFARCNN_CACHE``, else in the platform's place for caches."""
    if own := os.environ.get("CIFARCNN_CACHE"):
        return Path(os.path.expanduser(own))
    if sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "cifarcnn"


def read(folder: Path, names: Iterable[str], publication: Publication) -> dict[str, bytes]:
    """Read canonical files and compare every byte with the published checksums.

    Returns:
        The content of each file, in the order of ``names``.

    Raises:
        DataError: a file is missing, unreadable, or not what was published.
    """

    def one(name: str) -> tuple[str, bytes]:
        try:
            with open(folder / name, "rb") as file:
                content = file.read(publication.file_bytes + 1)
        except OSError as problem:
            raise DataError(f"{folder / name} cannot be read: {problem.strerror}") from None
        check(folder / name, content, publication)
        return name, content

    # Reading and hashing both release the interpreter's lock, so threads use all processors.
    with ThreadPoolExecutor() as pool:
        return dict(pool.map(one, names))


def check(path: Path, content: bytes, publication: Publication) -> None:
    """Raise DataError unless ``content`` is what was published under the name of ``path``."""
    if len(content) != publication.file_bytes:
        size = f"{len(content):,}" if len(content) < publication.file_bytes else "more"
        raise DataError(f"{path} is damaged: it has {size} bytes, expected {publication.file_bytes:,}")
    if hashlib.sha256(content).hexdigest() != publication.sums[path.name]:
        raise DataError(f"{path} is damaged: its SHA-256 is not the published one")


def is_right(publication: Publication) -> bool:
    """Whether the cache holds all canonical files as published."""
    try:
        read(directory(), publication.sums, publication)
    except DataError:
        return False
    return True


def install(located: Located, publication: Publication, on_event: OnEvent) -> None:
    """Convert a form of the data into the cache. The caller holds the lock.

    The files are verified aside, all six, before the first is put in place.

    Raises:
        DataError: the source is not CIFAR-10, or the cache cannot be written.
    """
    with workspace("incoming") as aside:
        for name, content in converted(located, publication, on_event):
            with writing():
                files.write_bytes(aside / name, content)
        with writing():
            for name in publication.sums:
                (aside / name).replace(directory() / name)
            files.sync_directory(directory())


def converted(located: Located, publication: Publication, on_event: OnEvent) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each canonical file from any form of the data, verified.

    Raises:
        DataError: it is not CIFAR-10.
    """
    total = publication.file_bytes * len(publication.sums)
    for done, (name, content) in enumerate(located.files(publication), 1):
        check(located.path / name, content, publication)
        yield name, content
        on_event(Transfer("converting and verifying", done * publication.file_bytes, total))


@contextlib.contextmanager
def workspace(name: str) -> Iterator[Path]:
    """Give an empty directory in the cache that vanishes afterwards. The caller holds the lock."""
    # The cache may be a directory of other things, too: what vanishes has a name of our own.
    aside = directory() / f".cifarcnn-{name}"
    # A process that was killed may have left it.
    shutil.rmtree(aside, ignore_errors=True)
    with writing():
        aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn a failure to write the cache into an error that says what to do."""
    try:
        yield
    except OSError as problem:
        raise DataError(
            f"cannot write the cache {directory()}: {problem.strerror}; "
            "set CIFARCNN_CACHE to a directory that can be written and has 500 MB free"
        ) from None


@contextlib.contextmanager
def lock(on_event: OnEvent) -> Iterator[None]:
    """Let one process at a time fill the cache; the others wait and say so.

    Raises:
        DataError: the cache cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with writing():
            directory().mkdir(parents=True, exist_ok=True)
            told = Note(f"another process is preparing the data in {directory()}; waiting for it")
            stack.enter_context(locks.alone(directory() / locks.NAME, lambda: on_event(told)))
        yield
