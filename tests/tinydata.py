"""A data set like CIFAR-10 in every form, with twenty images to a file, and its own ``Publication``."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cifarcnn.data.cifar10 import TEST_FILES, TRAIN_FILES, encode, parse
from cifarcnn.data.publication import Archive, NpmPackage, Pace, Publication

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
    publication = Publication(
        sums={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        records=RECORDS,
        archive=Archive(
            "cifar-10-python.tar.gz", len(python_archive), hashlib.sha256(python_archive).hexdigest()
        ),
        mirrors=(),
        npm=NpmPackage(
            "tiny@1.0.0",
            f"sha512-{base64.b64encode(hashlib.sha512(npm_archive).digest()).decode()}",
            size=len(npm_archive),
            seconds=20,
        ),
        brisk=Pace(rate=1_000_000, window=1, timeout=1),
        patient=Pace(rate=1, window=0.1, timeout=5),
    )
    return TinyData(
        files, pickles, pngs, python_archive, tar("cifar-10-batches-bin", files), npm_archive, publication
    )


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


def python2_pickle(content: bytes) -> bytes:
    """Write a canonical file as Python 2 pickled it, operation by operation."""
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    data = records[:, 1:].tobytes()

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"M" + value.to_bytes(2, "little")

    labels = b"".join(b"K" + bytes([label]) for label in records[:, 0])
    names = b"".join(text(b"leptodactylus_pentadactylus_s_%06d.png" % i) for i in range(len(records)))
    dtype = b"cnumpy\ndtype\nq\x0a" + text(b"u1") + b"K\x00K\x01\x87Rq\x0b(K\x03" + text(b"|")
    dtype += b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85" + text(b"b")
    array += b"\x87Rq\x09(K\x01" + number(len(records)) + number(3072) + b"\x86" + dtype
    array += b"\x89T" + len(data).to_bytes(4, "little") + data + b"tb"
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            text(b"batch_label") + b"q\x02" + text(b"training batch 1 of 5"),
            text(b"labels") + b"q\x04]q\x05(" + labels + b"e",
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
