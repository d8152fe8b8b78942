"""A user's own labelled images: a folder of folders, each named for a class and holding its pictures."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cifarcnn.data import images
from cifarcnn.data.cifar10 import CLASSES, IMAGE_SHAPE, Bytes, Images, Split, label_type
from cifarcnn.data.classnames import class_of, folded, labels_among, normal, some
from cifarcnn.errors import DataError, ImageError, UsageError
from cifarcnn.events import Note, OnEvent, Transfer, ignore
from cifarcnn.formatting import count

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
MOST_CLASSES = 1000

REPORTED_EVERY = 500  # pictures
REMEMBERED = 4  # folders, whose decoded pictures are kept in memory


@dataclass(frozen=True)
class Picture:
    """A file below a class-named folder, and the folder's name."""

    path: Path
    folder: str
    size: int
    changed: int


def is_labelled_folder(path: Path) -> bool:
    """Whether a directory holds class-named folders or folders of pictures, itself or for each split."""
    try:
        return path.is_dir() and bool(_split_folders(path) or _looks_labelled(path))
    except OSError:
        # What cannot be listed is reported by whoever uses it next.
        return False


def splits(path: Path) -> tuple[Split, ...]:
    """Return the splits of a labelled folder in order; without folders for them, all is train and test."""
    found = _split_folders(path)
    order: tuple[Split, ...] = ("train", "validation", "test")
    return tuple(split for split in order if split in found) or ("train", "test")


def load(
    path: Path,
    split: Split,
    on_event: OnEvent = ignore,
    source: str = "",
    classes: Sequence[str] | None = None,
) -> Images:
    """Read a labelled folder: the pictures at 32x32 pixels, in the order of classes and then of paths.

    All ten classes of CIFAR-10, in any spelling, are CIFAR-10; else the classes are the sorted names.

    Args:
        path: a directory of class-named folders, or one that has such directories named train, val and test.
        split: which of them is read, where there are any; else all pictures are.
        on_event: receives ``Note`` about what is left out, and ``Transfer``.
        source: what the images say of their origin; without it the folder's path.
        classes: a model's, which the folders' must be among. Without, they are the training folder's.

    Raises:
        UsageError: names of folders cannot be classes, are not among the classes, or the split is missing.
        DataError: there is no picture, a class of one's own has none to train on, or most cannot be read.
    """
    try:
        layout = _split_folders(path)
        folder = _folder_of_split(path, layout, split)
        known = tuple(classes) if classes is not None else own_classes(layout.get("train", folder))
        pictures = _labelled(folder, known, on_event)
        if split == "train":
            _note_duplicates(path, pictures, layout, on_event)
    except OSError as problem:
        raise DataError(f"{problem.filename} cannot be read: {problem.strerror}") from None
    pixels, skipped = _read(list(pictures), folder, on_event)
    labels = np.array(list(pictures.values()), label_type(len(known)))
    if skipped:
        read = [number for number in range(len(pictures)) if number not in skipped]
        pixels, labels = pixels[read], labels[read]
    present = set(labels.tolist())
    missing = [name for label, name in enumerate(known) if label not in present]
    if missing and split == "train" and classes is None and known != CLASSES:
        raise DataError(
            f"{folder}: no picture to train on in {some(map(repr, missing))}; add some or remove it"
        )
    without = f"; none of {some(missing, shown=10)}" if missing else ""
    kinds = "" if known == CLASSES else f" of {len(known):,} classes ({some(known)})"
    on_event(Note(f"{split} images: {count(len(labels), 'picture')}{kinds} in {folder}{without}"))
    return Images(pixels, labels, source or str(path), known, tuple(skipped.values()))


def _labelled(folder: Path, classes: tuple[str, ...], on_event: OnEvent) -> dict[Picture, int]:
    """Return the pictures of a directory of class-named folders with their labels, in order."""
    pictures, ignored = _list(folder)
    names = [entry.name for entry in _subfolders(folder)]
    label_of = dict(zip(names, labels_among(names, classes, str(folder)), strict=True))
    if not pictures:
        expected = some(classes, shown=10)
        raise DataError(f"{folder} holds no picture; expected pictures in folders named {expected}")
    if ignored:
        why = "no pictures by their names, hidden, or linked folders"
        on_event(Note(f"{folder}: ignored {some(ignored)}: {why}"))
    pictures.sort(key=lambda picture: (label_of[picture.folder], picture.path))
    return {picture: label_of[picture.folder] for picture in pictures}


def _note_duplicates(
    path: Path, pictures: Iterable[Picture], layout: dict[Split, Path], on_event: OnEvent
) -> None:
    """Say which pictures of other splits are to be trained on, too."""
    for split, folder in layout.items():
        if split != "train" and (same := duplicates(pictures, _list(folder)[0])):
            shown = some(str(picture.path.relative_to(path)) for picture in same)
            what = count(len(same), f"{split} picture")
            on_event(Note(f"{what} also among the training pictures: {shown}"))


def own_classes(folder: Path) -> tuple[str, ...]:
    """Return the classes that the folders in a directory are named for; UsageError if they cannot be."""
    names = [entry.name for entry in _subfolders(folder)]
    for name in names:
        if not all(letter.isprintable() or letter.isspace() for letter in name):
            raise UsageError(f"{folder}: the folder {name!r} cannot name a class; expected printable text")
    if {class_of(name) for name in names} == set(range(len(CLASSES))):
        return CLASSES
    alike = Counter(map(folded, names))
    if twins := [repr(name) for name in names if alike[folded(name)] > 1]:
        raise UsageError(f"{folder}: {some(twins)} differ only in case or Unicode form; rename or merge them")
    if not 2 <= len(names) <= MOST_CLASSES:
        raise UsageError(
            f"{folder} has {count(len(names), 'class-named folder')}; expected 2 to {MOST_CLASSES:,}"
        )
    return tuple(sorted(map(normal, names)))


def duplicates(first: Iterable[Picture], second: Iterable[Picture]) -> list[Picture]:
    """Return those of the second pictures whose files hold the same bytes as one of the first."""
    first, second = list(first), list(second)
    sizes = {picture.size for picture in first} & {picture.size for picture in second}
    known = {_digest(picture) for picture in first if picture.size in sizes} - {None}
    return [picture for picture in second if picture.size in sizes and _digest(picture) in known]


def _digest(picture: Picture) -> bytes | None:
    try:
        return hashlib.sha256(images.content(picture.path)).digest()
    except ImageError:
        return None


def _subfolders(folder: Path) -> list[Path]:
    """The directories in a directory that may be a class's or a split's, by name."""
    parents = {folder.resolve(), *folder.resolve().parents}
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir()
        and not _is_litter(entry.name)
        # A linked folder could lead back to where it stands.
        and not (entry.is_symlink() and entry.resolve() in parents)
    )


def _is_litter(name: str) -> bool:
    """Whether a name is hidden, or what macOS adds to the archives it packs."""
    return name.startswith(".") or name == "__MACOSX"


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in images.SUFFIXES


def _has_picture(folder: Path) -> bool:
    try:
        return any(_is_picture(entry.name) for entry in folder.iterdir())
    except OSError:
        # It is reported when it is listed.
        return False


def _looks_labelled(folder: Path) -> bool:
    return any(class_of(entry.name) is not None or _has_picture(entry) for entry in _subfolders(folder))


def _split_folders(path: Path) -> dict[Split, Path]:
    """The folders named for splits. One of loose pictures beside others is a class: that of trains, say."""
    entries = _subfolders(path)
    if any(class_of(entry.name) is not None for entry in entries):
        return {}
    named = [entry for entry in entries if entry.name.lower() in SPLIT_NAMES]
    loose = [entry for entry in named if _has_picture(entry)]
    found: dict[Split, Path] = {}
    for entry in named:
        split = SPLIT_NAMES[entry.name.lower()]
        if entry in loose or not _subfolders(entry):
            continue
        if split in found:
            twins = f"{found[split].name!r} and {entry.name!r}"
            raise UsageError(f"{path} has two folders of {split} images, {twins}; keep one")
        found[split] = entry
    if loose and (found or len(named) == len(entries)):
        raise UsageError(
            f"{loose[0]} holds pictures that no folder tells the class of; expected class-named folders"
        )
    return found


def _folder_of_split(path: Path, layout: dict[Split, Path], split: Split) -> Path:
    if layout and split not in layout:
        names = " and ".join(entry.name for entry in layout.values())
        raise UsageError(
            f"{path} has {names} but no {split} folder; choose another split with --split, or add the folder"
        )
    return layout.get(split, path)


def _list(folder: Path) -> tuple[list[Picture], list[str]]:
    """List the pictures in and below class-named folders, and what else is there; none is read."""
    pictures: list[Picture] = []
    classes = _subfolders(folder)
    ignored = [entry.name for entry in folder.iterdir() if entry not in classes]
    for entry in classes:
        for parent, directories, names in os.walk(entry, onerror=_raise):
            left = [name for name in directories if _is_litter(name) or Path(parent, name).is_symlink()]
            directories[:] = [name for name in directories if name not in left]
            ignored += left
            for name in names:
                path = Path(parent, name)
                if not _is_picture(name):
                    ignored.append(name)
                    continue
                # A link that leads nowhere is named when it is read.
                state = path.stat() if path.exists() else None
                size, changed = (state.st_size, state.st_mtime_ns) if state else (0, 0)
                pictures.append(Picture(path, entry.name, size, changed))
    return pictures, sorted(ignored)


def _raise(problem: OSError) -> None:
    raise problem


_decoded: dict[Path, tuple[list[Picture], Bytes, dict[int, str]]] = {}
"""The pixels of folders, so that several models and seeds decode their pictures once."""


def _read(pictures: list[Picture], folder: Path, on_event: OnEvent) -> tuple[Bytes, dict[int, str]]:
    """Decode all pictures, several at a time; return the pixels, and the reasons where there are none."""
    kept = _decoded.pop(folder.absolute(), None)
    if kept is None or kept[0] != pictures:
        kept = (pictures, *_decode(pictures, folder, on_event))
    while len(_decoded) >= REMEMBERED:
        del _decoded[next(iter(_decoded))]
    _decoded[folder.absolute()] = kept
    pixels, failures = kept[1:]
    if failures:
        what = f"{len(failures):,} of {len(pictures):,} pictures in {folder} cannot be read"
        shown = some(failures.values(), "; ")
        if 2 * len(failures) > len(pictures):
            raise DataError(f"{what} ({shown}); fix or remove them")
        on_event(Note(f"skipped: {what} ({shown})"))
    return pixels, failures


def _decode(pictures: list[Picture], folder: Path, on_event: OnEvent) -> tuple[Bytes, dict[int, str]]:
    pixels = np.empty((len(pictures), *IMAGE_SHAPE), np.uint8)
    failures: dict[int, str] = {}
    total, done = sum(picture.size for picture in pictures), 0
    # Pillow leaves Python's lock while it decodes.
    pool = ThreadPoolExecutor()
    try:
        for number, (picture, result) in enumerate(zip(pictures, pool.map(_pixels, pictures), strict=True)):
            if isinstance(result, str):
                failures[number] = f"{picture.path.relative_to(folder)}: {result}"
            else:
                pixels[number] = result
            done += picture.size
            if (number + 1) % REPORTED_EVERY == 0:
                on_event(Transfer(f"reading {folder}", done, total))
    finally:
        pool.shutdown(cancel_futures=True)
    pixels.flags.writeable = False
    return pixels, failures


def _pixels(picture: Picture) -> Bytes | str:
    """Return the pixels of a picture, or the reason why there are none."""
    try:
        return images.read(picture.path)
    except ImageError as problem:
        return str(problem)
