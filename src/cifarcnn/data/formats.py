"""The forms in which people have CIFAR-10 and CIFAR-100 on disk, and how each becomes the canonical files.

Nothing is parsed before its digest is that of a published file, so plain parsers do.
"""

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarcnn.data.cifar10 import TEST_FILES, TRAIN_FILES, encode
from cifarcnn.data.publication import Form, Publication
from cifarcnn.errors import DataError

LARGEST_FILE = 171_000_000
"""Bytes; the largest published file is CIFAR-10's python archive, 170.5 MB."""

Read = Callable[[str], bytes]


class NothingThere(DataError):  # noqa: N818 - named for what was met
    """There is no sign of the data set, as opposed to a form of it that is incomplete or damaged."""


@dataclass(frozen=True)
class Located:
    """A form of a data set found at ``path``: a directory that holds its files, or an archive."""

    publication: Publication
    form: Form
    path: Path

    @property
    def is_canonical(self) -> bool:
        """Whether the files can be used where they lie."""
        return self.form is self.publication.forms[0] and self.path.is_dir()

    @property
    def parts(self) -> dict[Path, str]:
        """The files on disk and their published digests."""
        if self.path.is_dir():
            return {self.path / name: digest for name, digest in self.form.members.items()}
        return {self.path: self.form.archive.digest}

    def problems(self) -> Iterator[tuple[str, str | None]]:
        """Compare each file with its published digest; yield its name and what is wrong, or None."""
        for path, digest in self.parts.items():
            try:
                read_verified(path, digest)
            except DataError as problem:
                yield path.name, str(problem)
            else:
                yield path.name, None

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the canonical files' names and verified contents.

        Raises:
            DataError: something cannot be read, or is not as published.
        """
        read: Read = lambda name: read_verified(self.path / name, self.form.members[name])  # noqa: E731
        if not self.path.is_dir():
            read = _unpacked(read_verified(self.path, self.form.archive.digest), self.form).__getitem__
        for name, digest in self.publication.sums.items():
            content = CONVERTERS[self.form.kind](name, read)
            check(self.path / name, content, digest)
            yield name, content


def locate(path: Path, *publications: Publication) -> Located:
    """Find out which published form of one of the data sets ``path`` holds; nothing is verified yet.

    Args:
        path: a directory with the files, a directory that contains such a directory or an archive, or an
            archive.
        publications: the data sets that are looked for.

    Raises:
        NothingThere: there is nothing, or nothing that looks like one.
        DataError: the data is incomplete or in a form that is not known.
    """
    try:
        if not path.exists():
            raise NothingThere(f"{path} does not exist")
        return (_in_directory if path.is_dir() else _archive)(path, publications)
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}") from None


def _in_directory(path: Path, publications: tuple[Publication, ...]) -> Located:
    faults: list[DataError] = []
    for publication in publications:
        for form in publication.forms:
            for folder in (path, path / form.folder) if form.members else ():
                missing = sorted(member for member in form.members if not (folder / member).is_file())
                if not missing:
                    return Located(publication, form, folder)
                if len(missing) < len(form.members):
                    part = f"part of the {form.kind} version of {publication.title}"
                    faults.append(DataError(f"{folder} holds {part}; missing: {', '.join(missing)}"))
        for name in _names_inside(publication):
            if (path / name).exists():
                try:
                    return locate(path / name, publication)
                except DataError as problem:
                    faults.append(problem)
    if faults:
        raise next((fault for fault in faults if not isinstance(fault, NothingThere)), faults[0])
    if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        # Maybe quite another data set, so a search passes over it in silence.
        raise NothingThere(f"{path} {PARQUET}")
    raise NothingThere(f"{path} holds no {_expected(publications)}")


def _names_inside(publication: Publication) -> Iterator[str]:
    """What else may stand in a directory: what Keras makes of the python version, then archives."""
    folder = publication.form("python").folder
    yield from (f"{folder}-target", f"{folder}-target_archive", f"{folder}.tar.gz")
    yield from (form.archive.name for form in publication.forms)


def _archive(path: Path, publications: tuple[Publication, ...]) -> Located:
    if path.suffix == ".parquet":
        raise DataError(f"{path} {PARQUET}")
    size = path.stat().st_size
    for publication in publications:
        for form in publication.forms:
            if size == form.archive.size:
                return Located(publication, form, path)
    archives = [form.archive for publication in publications for form in publication.forms]
    known = ", ".join(f"{archive.name} ({archive.size:,})" for archive in archives)
    raise DataError(
        f"{path} has {size:,} bytes and is none of the published archives; expected {known}; "
        "one packed anew can be unpacked and its folder named"
    )


def _expected(publications: tuple[Publication, ...]) -> str:
    titles = " or ".join(publication.title for publication in publications)
    forms = [form for publication in publications for form in publication.forms if form.members]
    return (
        f"{titles}; expected a folder {' or '.join(form.folder for form in forms)}, or one of their archives"
    )


def check(path: Path, content: bytes, digest: str) -> None:
    """Raise DataError unless ``content``, which ``path`` names, has the published digest."""
    algorithm, _, expected = digest.partition(":")
    if hashlib.new(algorithm, content).hexdigest() != expected:
        name = {"md5": "MD5", "sha256": "SHA-256", "sha512": "SHA-512"}[algorithm]
        raise DataError(
            f"{path} is damaged: its {name} is not the published one; it has {len(content):,} bytes"
        )


def read_verified(path: Path, digest: str) -> bytes:
    """Return the content of a file that has a published digest.

    Raises:
        DataError: it cannot be read, or is not what was published.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE)
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}") from None
    check(path, content, digest)
    return content


def _unpacked(raw: bytes, form: Form) -> dict[str, bytes]:
    """Read the members of a verified archive into memory, at most 186 MB."""
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive:
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            if folder == form.folder and (content := archive.extractfile(member)):
                members[name] = content.read()
    return members


def _from_pickle(name: str, read: Read) -> bytes:
    """Turn a batch of the python version into binary records."""
    batch = load_pickle(read(Path(name).stem))
    keys = (b"labels",) if b"labels" in batch else (b"coarse_labels", b"fine_labels")
    labels = [np.array(batch[key], np.uint8)[:, np.newaxis] for key in keys]
    return np.concatenate([*labels, batch[b"data"]], axis=1).tobytes()


def load_pickle(raw: bytes) -> Any:
    """Unpickle what holds plain objects and numpy arrays.

    Raises:
        pickle.UnpicklingError: it asks for anything else.
    """
    return _Unpickler(io.BytesIO(raw), encoding="bytes").load()


class _Unpickler(pickle.Unpickler):
    """MD5 alone does not rule a forgery out, so the pickles' own few names are all that they may ask for."""

    admitted = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file does") from None


def _from_png(name: str, read: Read) -> bytes:
    """Convert a picture whose every row of 1024 pixels is one image, with labels in a JSON file."""
    from PIL import Image

    split, label_file = (
        (TRAIN_FILES, "train_lables.json") if name in TRAIN_FILES else (TEST_FILES, "test_lables.json")
    )
    with Image.open(io.BytesIO(read(f"{Path(name).stem}.png")), formats=["PNG"]) as picture:
        images = np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3)
    start = split.index(name) * len(images)
    labels = json.loads(read(label_file))[start : start + len(images)]
    return encode(images, np.array(labels, np.uint8))


CONVERTERS: dict[str, Callable[[str, Read], bytes]] = {
    "binary": lambda name, read: read(name),
    "python": _from_pickle,
    "npm": _from_png,
}

PARQUET = (
    "is in Parquet form, which cifarcnn does not read: write its rows as binary records with "
    "cifarcnn.data.cifar10.encode (training rows come in batch order 4, 3, 2, 5, 1), "
    "or give cifar-10-python.tar.gz"
)
