"""A data set like CIFAR-10 in every form, with twenty images to a file, and its own ``Publication``."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cifarcnn.data import cifar100
from cifarcnn.data.cifar10 import CLASSES, SPLITS, TEST_FILES, TRAIN_FILES, encode, parse
from cifarcnn.data.publication import Archive, Form, Pace, Publication

RECORDS = 20
FILES = TRAIN_FILES + TEST_FILES


@dataclass(frozen=True)
class TinyData:
    """The canonical files, the members of each other form, three archives, and the publication."""

    files: dict[str, bytes]
    pickles: dict[str, bytes]
    pngs: dict[str, bytes]
    python_archive: bytes
    binary_archive: bytes
    npm_archive: bytes
    publication: Publication

    def write(self, folder: Path, members: dict[str, bytes]) -> Path:
        """Write members into a directory and return it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in members.items():
            (folder / name).write_bytes(content)
        return folder


def make(seed: int = 0) -> TinyData:
    """Make the data set from a seed."""
    generator = np.random.default_rng(seed)
    files: dict[str, bytes] = {}
    for name in FILES:
        images = generator.integers(0, 256, (RECORDS, 32, 32, 3), np.uint8)
        labels = generator.permutation(np.arange(RECORDS) % 10).astype(np.uint8)
        files[name] = encode(images, labels)
    pickles = {Path(name).stem: python2_pickle(content) for name, content in files.items()}
    pngs = {f"{Path(name).stem}.png": png(content) for name, content in files.items()}
    for member, names in (("train_lables.json", TRAIN_FILES), ("test_lables.json", TEST_FILES)):
        pngs[member] = json.dumps([int(v) for name in names for v in parse(files[name])[1]]).encode()
    python_archive = tar("cifar-10-batches-py", pickles | {"readme.html": b"<html>", "batches.meta": b"?"})
    npm_archive = tar("package", {"package.json": b"{}"} | pngs)
    binary_archive = tar("cifar-10-batches-bin", files)
    publication = Publication(
        title="CIFAR-10",
        classes=CLASSES,
        label_bytes=1,
        label_byte=0,
        splits=SPLITS,
        forms=(
            form("binary", "cifar-10-batches-bin", "cifar-10-binary.tar.gz", binary_archive, files),
            form("python", "cifar-10-batches-py", "cifar-10-python.tar.gz", python_archive, pickles),
            form("npm", "package", "tiny-1.0.0.tgz", npm_archive, {}),
        ),
        mirrors=(),
        npm="tiny@1.0.0",
        npm_seconds=20,
        brisk=Pace(rate=1_000_000, window=1, timeout=1),
        patient=Pace(rate=1, window=0.1, timeout=5),
    )
    return TinyData(files, pickles, pngs, python_archive, binary_archive, npm_archive, publication)


def form(kind: str, folder: str, name: str, archive: bytes, members: dict[str, bytes]) -> Form:
    """Publish an archive and the files in it."""
    sums = {member: f"md5:{hashlib.md5(content).hexdigest()}" for member, content in members.items()}
    if kind == "binary":
        sums = {member: digest(content) for member, content in members.items()}
    return Form(kind, folder, Archive(name, len(archive), digest(archive)), sums)


def digest(content: bytes) -> str:
    """Return the SHA-256 as digests are published."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def make_cifar100(seed: int = 0) -> TinyData:
    """Make a data set like CIFAR-100, of 200 training and 100 test images."""
    generator = np.random.default_rng(seed)
    files: dict[str, bytes] = {}
    for name, count in (("train.bin", 200), ("test.bin", 100)):
        records = generator.integers(0, 256, (count, 2 + 3072), np.uint8)
        records[:, 1] = np.arange(count) % 100
        records[:, 0] = records[:, 1] // 5
        files[name] = records.tobytes()
    pickles = {name.removesuffix(".bin"): python2_pickle(content, 2) for name, content in files.items()}
    binary_archive, python_archive = tar("cifar-100-binary", files), tar("cifar-100-python", pickles)
    publication = Publication(
        title="CIFAR-100",
        classes=cifar100.FINE,
        label_bytes=2,
        label_byte=1,
        splits={"train": ("train.bin",), "test": ("test.bin",)},
        forms=(
            form("binary", "cifar-100-binary", "cifar-100-binary.tar.gz", binary_archive, files),
            form("python", "cifar-100-python", "cifar-100-python.tar.gz", python_archive, pickles),
        ),
        mirrors=(),
    )
    return TinyData(files, pickles, {}, python_archive, binary_archive, b"", publication)


def tar(folder: str, members: dict[str, bytes]) -> bytes:
    """Pack members into a gzipped tar archive, under a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    # Without a time in it, so that every process makes the same archive.
    return gzip.compress(packed.getvalue(), mtime=0)


def png(content: bytes) -> bytes:
    """Write the images of a canonical file as the npm package has them: one to a row."""
    images, _ = parse(content)
    packed = io.BytesIO()
    Image.fromarray(images.reshape(len(images), 1024, 3)).save(packed, "PNG")
    return packed.getvalue()


def python2_pickle(content: bytes, label_bytes: int = 1) -> bytes:
    """Write a canonical file as Python 2 pickled it, operation by operation."""
    records = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + 3072)
    data = records[:, label_bytes:].tobytes()

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"M" + value.to_bytes(2, "little")

    def list_of(labels: np.ndarray) -> bytes:
        return b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"

    names = b"".join(text(b"leptodactylus_pentadactylus_s_%06d.png" % i) for i in range(len(records)))
    dtype = b"cnumpy\ndtype\nq\x0a" + text(b"u1") + b"K\x00K\x01\x87Rq\x0b(K\x03" + text(b"|")
    dtype += b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85" + text(b"b")
    array += b"\x87Rq\x09(K\x01" + number(len(records)) + number(3072) + b"\x86" + dtype
    array += b"\x89T" + len(data).to_bytes(4, "little") + data + b"tb"
    keys = [b"labels"] if label_bytes == 1 else [b"coarse_labels", b"fine_labels"]
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            text(b"batch_label") + b"q\x02" + text(b"training batch 1 of 5"),
            *(text(key) + list_of(records[:, column]) for column, key in enumerate(keys)),
            text(b"data") + array,
            text(b"filenames") + b"]q\x0c(" + names + b"e",
            b"u.",
        ]
    )


def damage(path: Path, position: int = 5000) -> None:
    """Flip the lowest bit of one byte."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
