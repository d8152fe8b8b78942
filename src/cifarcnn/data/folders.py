"""A user's own labelled images: a folder of folders, each named for a class and holding its pictures.

How one picture becomes 32x32 pixels stands in ``images``; ``sources`` decides when a folder is taken.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifarcnn.data import images
from cifarcnn.data.cifar10 import CLASSES, IMAGE_SHAPE, SPLITS, Bytes, Images, Split
from cifarcnn.errors import DataError, ImageError, UsageError
from cifarcnn.events import Note, OnEvent, Transfer, ignore
from cifarcnn.wording import count

SYNONYMS = {
    "plane": "airplane",
    "aeroplane": "airplane",
    "auto": "automobile",
    "car": "automobile",
    "boat": "ship",
    "lorry": "truck",
}
SHOWN = 3
"""How many names an error or a note gives before it only counts."""

REPORTED_EVERY = 500
"""Pictures from one report of progress to the next."""


@dataclass(frozen=True)
class Picture:
    """A file in a class-named folder, the class's position in ``CLASSES``, and the file's bytes."""

    path: Path
    label: int
    size: int


def class_of(name: str) -> int | None:
    """Find the class that a folder's name means: its position in ``CLASSES``, or None.

    Case, surrounding spaces and a plural's s make no difference; plain synonyms such as "car" count.
    """
    plain = name.strip().casefold()
    for word in (plain, plain.removesuffix("s"), plain.removesuffix("ies") + "y"):
        class_name = SYNONYMS.get(word, word)
        if class_name in CLASSES:
            return CLASSES.index(class_name)
    return None


def is_labelled_folder(path: Path) -> bool:
    """Whether a directory holds class-named folders or folders of pictures, itself or in train and test."""
    try:
        return path.is_dir() and any(
            _looks_labelled(folder) for folder in (path, *_split_folders(path).values())
        )
    except OSError:
        # What cannot be listed is reported by whoever uses it next.
        return False


def load(path: Path, split: Split, on_event: OnEvent = ignore, source: str = "") -> Images:
    """Read a labelled folder.

    Args:
        path: a directory of class-named folders, or one that has such directories named train and test.
        split: which of the two is read, where there are two; else all pictures are.
        on_event: receives ``Note`` about what is left out, and ``Transfer``.
        source: what the images say of their origin; without it the folder's path.

    Returns:
        The pictures at 32x32 pixels, in the order of classes and then of paths.

    Raises:
        UsageError: a folder's name means no class, or the split is not there.
        DataError: there is no picture, or one cannot be read.
    """
    folder, pictures = find(path, split, on_event)
    pixels = _read(pictures, folder, on_event)
    labels = np.array([picture.label for picture in pictures], np.uint8)
    missing = [name for label, name in enumerate(CLASSES) if label not in labels]
    without = f"; none of {', '.join(missing)}" if missing else ""
    on_event(Note(f"{split} images: {count(len(pictures), 'picture')} in {folder}{without}"))
    return Images(pixels, labels, source or str(path))


def find(path: Path, split: Split, on_event: OnEvent = ignore) -> tuple[Path, list[Picture]]:
    """List the pictures of a labelled folder, in the order of classes and then of paths, and read none.

    Args:
        path, split: as for ``load``.
        on_event: receives ``Note`` about what is left out.

    Returns:
        The directory of the class-named folders, and the pictures.

    Raises:
        UsageError: a folder's name means no class, or the split is not there.
        DataError: there is no picture, or a folder cannot be read.
    """
    try:
        folder = _folder_of_split(path, split)
        pictures, ignored = _find(folder)
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read: {problem.strerror}") from None
    if not pictures:
        raise DataError(f"{folder} holds no picture; expected pictures in folders named {', '.join(CLASSES)}")
    if ignored:
        why = "no pictures by their names, hidden, or linked folders"
        on_event(Note(f"{folder}: ignored {_some(ignored)}: {why}"))
    return folder, pictures


def _subfolders(folder: Path) -> list[Path]:
    """The visible directories in a directory, by name."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _looks_labelled(folder: Path) -> bool:
    return any(
        class_of(entry.name) is not None or any(_is_picture(inner.name) for inner in entry.iterdir())
        for entry in _subfolders(folder)
    )


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in images.SUFFIXES


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders named train and test, where the folder itself has no class-named ones."""
    folders = _subfolders(path)
    if any(class_of(entry.name) is not None for entry in folders):
        return {}
    return {entry.name.lower(): entry for entry in folders if entry.name.lower() in SPLITS}


def _folder_of_split(path: Path, split: str) -> Path:
    splits = _split_folders(path)
    if splits and split not in splits:
        raise UsageError(
            f"{path} has a folder {splits.popitem()[1].name!r} but none named {split!r}; "
            "expected both, or class-named folders"
        )
    return splits.get(split, path)


def _find(folder: Path) -> tuple[list[Picture], list[str]]:
    """List the pictures in and below class-named folders, and what else is there."""
    pictures: list[Picture] = []
    ignored = [entry.name for entry in folder.iterdir() if not entry.is_dir() or entry.name.startswith(".")]
    folders = [(entry, class_of(entry.name)) for entry in _subfolders(folder)]
    if unknown := [repr(entry.name) for entry, label in folders if label is None]:
        raise UsageError(
            f"no class of CIFAR-10 is meant by the folder{'s' * (len(unknown) > 1)} {', '.join(unknown)} in "
            f"{folder}; expected {', '.join(CLASSES)}"
        )
    for entry, label in folders:
        for parent, directories, names in os.walk(entry, onerror=_raise):
            # A linked folder could lead back to where it stands.
            left = [name for name in directories if name.startswith(".") or Path(parent, name).is_symlink()]
            directories[:] = [name for name in directories if name not in left]
            ignored += left
            for name in names:
                path = Path(parent, name)
                if label is not None and _is_picture(name):
                    # A link that leads nowhere is named when it is read.
                    size = path.stat().st_size if path.exists() else 0
                    pictures.append(Picture(path, label, size))
                else:
                    ignored.append(name)
    pictures.sort(key=lambda picture: (picture.label, picture.path))
    return pictures, sorted(ignored)


def _raise(problem: OSError) -> None:
    raise problem


def _read(pictures: list[Picture], folder: Path, on_event: OnEvent) -> Bytes:
    """Decode all pictures, several at a time."""
    pixels = np.empty((len(pictures), *IMAGE_SHAPE), np.uint8)
    failures: list[str] = []
    total, done = sum(picture.size for picture in pictures), 0
    # Pillow leaves Python's lock while it decodes.
    pool = ThreadPoolExecutor()
    try:
        for number, (picture, result) in enumerate(zip(pictures, pool.map(_pixels, pictures), strict=True)):
            if isinstance(result, str):
                failures.append(f"{picture.path.relative_to(folder)}: {result}")
            else:
                pixels[number] = result
            done += picture.size
            if (number + 1) % REPORTED_EVERY == 0:
                on_event(Transfer(f"reading {folder}", done, total))
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise DataError(
            f"{len(failures):,} of {len(pictures):,} pictures in {folder} cannot be read ("
            f"{_some(failures, '; ')}); mend or remove them"
        )
    return pixels


def _pixels(picture: Picture) -> Bytes | str:
    """Return the pixels of a picture, or the reason why there are none."""
    try:
        return images.read(picture.path)
    except ImageError as problem:
        return str(problem)


def _some(names: Iterable[str], separator: str = ", ") -> str:
    """Give the first few of many names, and the number of the others."""
    names = list(names)
    more = f"{separator}and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return separator.join(names[:SHOWN]) + more
