"""Writing files so that they appear whole or not at all, and looking at files that may be anything.

A file is written beside its destination, flushed to the disk and renamed over it. A reader, or a process
killed at any instant, sees the old file or the new one, never a part.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cifarcnn.errors import UsageError

SMALL = 32 << 20
"""Bytes of the largest text that is read; a table of a training takes a hundred for each epoch."""

LONGEST_NAME = 255
"""Bytes that file systems take for a name."""

# Without O_NONBLOCK, opening a FIFO waits for a writer before its kind can be seen. Each system lacks some.
_READING = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    _READING |= getattr(os, _flag, 0)


class NotRegularError(OSError):
    """A FIFO, a device or a directory stands where a file was expected."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read; anything else could block or never end.

    Raises:
        NotRegularError: it is something else.
        OSError: it cannot be opened.
        ValueError: the name has a null byte.
    """
    descriptor = os.open(path, _READING)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise NotRegularError("is a directory" if stat.S_ISDIR(kind) else "not a regular file")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path) -> str:
    """Return the text of a small regular file, which need not be one.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else, larger than 32 MiB, or no text.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > SMALL:
        raise ValueError(f"{path.name} is not a regular file of at most 32 MiB")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path.name} is not text in UTF-8: {problem.reason}") from problem


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in and below a directory."""
    return sum(part.stat().st_size for part in (path, *path.rglob("*")) if part.is_file())


def check_place(path: Path) -> None:
    """Refuse to write to a place that is not there, before any work is done for it.

    Raises:
        UsageError: the directory of ``path`` does not exist.
    """
    # Where nobody may look, Path.is_dir raises an error.
    if not os.path.isdir(path.parent):
        raise UsageError(f"cannot write {path}: there is no directory {path.parent}; make it first")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of ``path``, or create it.

    Raises:
        OSError: the directory is missing or read-only, or the disk is full. ``path`` is then unchanged.
    """
    with replacing(path) as aside:
        aside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Like ``write_bytes``, in UTF-8 and without newline translation."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, which replaces ``path`` when the block ends without an error.

    For writers that insist on opening the file themselves. The temporary name keeps the suffix of ``path``,
    by which such writers choose a format.
    """
    descriptor, name = tempfile.mkstemp(prefix=beside(path), suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    aside = Path(name)
    try:
        yield aside
        with open(aside, "r+b") as file:
            os.fsync(file.fileno())
        # mkstemp made the file private; give it the mode that any other new file would have.
        mask = os.umask(0)
        os.umask(mask)
        aside.chmod(0o666 & ~mask)
        aside.replace(path)
        sync_directory(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def beside(path: Path) -> str:
    """Return how a temporary name next to ``path`` may begin; there is room for what makes it unique."""
    stem = path.stem
    while stem and len(os.fsencode(stem + path.suffix)) > LONGEST_NAME - len(".-12345678"):
        stem = stem[:-1]
    return f".{stem}-"


def sync_tree(directory: Path) -> None:
    """Make all that is in and below a directory survive a loss of power."""
    for path in (directory, *directory.rglob("*")):
        sync_directory(path)


def sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` survive a loss of power; Windows has no way to ask for it."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
