"""Finding the pictures that paths, directories and patterns stand for, and not writing over them."""

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cifarcnn.data import images
from cifarcnn.errors import reason

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Failure:
    """A picture that could not be read, and the reason in one line."""

    path: str
    error: str


def expand(path: str, recursive: bool) -> list[str | Failure]:
    """Find the pictures that a path stands for; a path that stands for none is a failure.

    Args:
        path: a file, a directory, a pattern such as ``photos/*.jpg``, or ``-``.
        recursive: take the pictures in and below directories.

    Returns:
        Files in natural order, none twice, and failures where there are none.
    """
    if "\0" in path or not path:
        return [Failure(path, "not a valid file name")]
    if os.path.isdir(path):
        if not recursive:
            return [Failure(path, "is a directory; add --recursive for the pictures in it")]
        return _pictures_below(path) or [Failure(path, "no picture in this directory")]
    if path == STANDARD_INPUT or os.path.lexists(path) or not glob.has_magic(path):
        return [path]
    found: dict[str, str | Failure] = {}
    for name in sorted(glob.glob(path, recursive=True), key=_natural):
        # A name found by a pattern is a name, even where it looks like another pattern.
        for source in expand(name, recursive) if os.path.isdir(name) else [name]:
            # ``**`` gives a directory, and what is in it once more.
            found.setdefault(os.path.normpath(source.path if isinstance(source, Failure) else source), source)
    return list(found.values()) or [Failure(path, "no file matches this pattern")]


def first_among(targets: Iterable[Path], pictures: Iterable[str]) -> Path | None:
    """Return the first of the files to be written that is one of the pictures, by whatever name."""
    taken = {_identity(name) for name in pictures} - {None}
    return next((target for target in targets if _identity(target) in taken), None)


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return what a file has in common with its other names and links; None if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _pictures_below(directory: str) -> list[str | Failure]:
    """Walk a directory in natural order, hidden entries left out.

    Linked directories are not entered, so the walk ends.
    """
    found: list[str | Failure] = []

    def unreadable(problem: OSError) -> None:
        found.append(Failure(str(problem.filename), reason(problem).lower()))

    for parent, directories, names in os.walk(directory, onerror=unreadable):
        directories[:] = sorted((name for name in directories if not name.startswith(".")), key=_natural)
        found.extend(
            os.path.join(parent, name)
            for name in sorted(names, key=_natural)
            if os.path.splitext(name)[1].lower() in images.SUFFIXES and not name.startswith(".")
        )
    return found


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort ``img2`` before ``img10``: runs of digits compare by value, all else by letters."""
    parts = [
        (0, len(digits := part.lstrip("0")), digits) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
    ]
    return parts, name
