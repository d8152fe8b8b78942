"""The directory that keeps the canonical files: where it is, who may write it, what it was made from."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cifarcnn.data.formats import Located, read_verified
from cifarcnn.data.publication import CIFAR100, Publication
from cifarcnn.errors import DataError
from cifarcnn.events import Note, OnEvent
from cifarcnn.machine import files, locks

SEEN = "converted.json"
"""What was converted before: paths, with the sizes and times of their files."""


def directory() -> Path:
    """Say where the cache is: ``CIFARCNN_CACHE``, else in the platform's place for caches."""
    if own := os.environ.get("CIFARCNN_CACHE"):
        return Path(os.path.expanduser(own))
    if sys.platform == "darwin":
        base = "~/Library/Caches"
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "cifarcnn"


def folder(publication: Publication) -> Path:
    """Say where the cache keeps a data set: CIFAR-10 in itself, CIFAR-100 in a directory of its own."""
    return directory() / (publication.forms[0].folder if publication.title == CIFAR100.title else "")


def read(place: Path, names: Iterable[str], publication: Publication) -> dict[str, bytes]:
    """Read canonical files, in the order of ``names``; DataError unless each is as published."""
    names = list(names)
    # Reading and hashing both release the interpreter's lock, so threads use all processors.
    with ThreadPoolExecutor() as pool:
        contents = pool.map(lambda name: read_verified(place / name, publication.sums[name]), names)
        return dict(zip(names, contents, strict=True))


def is_right(publication: Publication) -> bool:
    """Return whether the cache holds all canonical files as published."""
    try:
        read(folder(publication), publication.sums, publication)
    except DataError:
        return False
    return True


def install(located: Located, on_event: OnEvent) -> None:
    """Convert a form of a data set into the cache, unless it is there. The caller holds the lock.

    Raises:
        DataError: the source is not as published, or the cache cannot be written.
    """
    publication = located.publication
    if is_right(publication):
        # What was named must still be what it is taken for.
        for problem in filter(None, dict(located.problems()).values()):
            raise DataError(problem)
    else:
        target = folder(publication)
        on_event(Note(f"verifying {located.path} and converting it into {target}"))
        with workspace("incoming") as aside:
            for name, content in located.files():
                with writing():
                    files.write_bytes(aside / name, content)
            with writing():
                target.mkdir(exist_ok=True)
                for name in publication.sums:
                    (aside / name).replace(target / name)
                files.sync_directory(target)
    _remember(located)


def remembers(located: Located) -> bool:
    """Whether a form was converted before and its files have not changed since, by their sizes and times."""
    try:
        return bool(_seen().get(str(located.path.absolute())) == _state(located))
    except OSError:
        return False


def _remember(located: Located) -> None:
    if located.path.is_relative_to(directory()):
        return
    # It only saves time: where it cannot be written, files are verified again.
    with contextlib.suppress(OSError):
        seen = _seen() | {str(located.path.absolute()): _state(located)}
        files.write_text(directory() / SEEN, json.dumps(seen, indent=1))


def _seen() -> dict[str, object]:
    try:
        seen = json.loads(files.read_text(directory() / SEEN))
    except (OSError, ValueError):
        return {}
    return seen if isinstance(seen, dict) else {}


def _state(located: Located) -> list[list[object]]:
    states = ((path, path.stat()) for path in located.parts)
    return [[path.name, state.st_size, state.st_mtime_ns] for path, state in states]


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
    """Let one process at a time fill the cache; the others wait and say so."""
    with contextlib.ExitStack() as stack:
        with writing():
            directory().mkdir(parents=True, exist_ok=True)
            told = Note(f"another process is preparing the data in {directory()}; waiting for it")
            stack.enter_context(locks.alone(directory() / locks.NAME, lambda: on_event(told)))
        yield
