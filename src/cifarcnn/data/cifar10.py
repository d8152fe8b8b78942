"""CIFAR-10 itself: its classes, its checksums, its binary records; and how images are divided among uses."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cifarcnn.errors import DataError, UsageError

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[Any]
"""uint8, or uint16 for more than 256 classes."""
Indices = npt.NDArray[np.int64]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)
RECORDS_PER_FILE = 10_000
PIXEL_BYTES = 32 * 32 * 3
RECORD_BYTES = 1 + PIXEL_BYTES

# The official binary version. The sums agree with several independent publications, so whoever
# delivers the bytes need not be trusted.
FILES_SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
TEST_FILES = ("test_batch.bin",)
TRAIN_FILES = tuple(name for name in FILES_SHA256 if name not in TEST_FILES)

Split = Literal["train", "validation", "test"]
SPLITS: dict[Split, tuple[str, ...]] = {"train": TRAIN_FILES, "test": TEST_FILES}

# Over the 50,000 training images, red, green, blue, on a scale from 0 to 1.
CHANNEL_MEAN = (0.49139968, 0.48215841, 0.44653091)
CHANNEL_STD = (0.24703223, 0.24348513, 0.26158784)

TRAINING_IMAGES_SHA256 = "f912919bdea371136f1aa4feed6beeca728015a5f08b1899a29c932a7e30be2b"
"""What ``Images.sha256`` gives for all 50,000 training images as published."""


@dataclass(frozen=True)
class Images:
    """Images with their labels.

    Args:
        images: uint8, (n, 32, 32, 3), 0 to 255.
        labels: uint8, or uint16 for more than 256 classes, (n,): positions in ``classes``.
        source: where they were read, for people.
        classes: the names of the classes.
        skipped: pictures that could not be read, each with the reason.
    """

    images: Bytes
    labels: Labels
    source: str = ""
    classes: tuple[str, ...] = CLASSES
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Indices) -> "Images":
        """Return some of them, int (k,), in this order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def sha256(self) -> str:
        """Checksum over the bytes of the images, then the labels, by which a model knows its data."""
        digest = hashlib.sha256(self.images.ravel().data)
        digest.update(self.labels.ravel().data)
        return digest.hexdigest()


def label_type(classes: int) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest type that holds the labels of so many classes."""
    return np.uint8 if classes <= 256 else np.uint16


def parse(raw: bytes, label_bytes: int = 1, label_byte: int = 0, classes: int = 10) -> tuple[Bytes, Bytes]:
    """Read binary records: bytes of labels, then 1024 red, 1024 green and 1024 blue bytes.

    Args:
        raw: whole records, any number of them.
        label_bytes: labels of each record: CIFAR-10 has one, CIFAR-100 a coarse and a fine one.
        label_byte: which of them is returned.
        classes: how many values it has.

    Returns:
        Images, uint8 (n, 32, 32, 3) in C order, and labels, uint8 (n,).

    Raises:
        DataError: the length is no multiple of a record's, or a label is too large.
    """
    record_bytes = label_bytes + PIXEL_BYTES
    if len(raw) % record_bytes:
        raise DataError(f"{len(raw):,} bytes are no whole number of records of {record_bytes:,} bytes")
    records = np.frombuffer(raw, np.uint8).reshape(-1, record_bytes)
    labels = records[:, label_byte].copy()
    if labels.size and labels.max() >= classes:
        raise DataError(f"a record has the label {labels.max()}; labels go from 0 to {classes - 1}")
    images = np.empty((len(records), *IMAGE_SHAPE), np.uint8)
    # Channel by channel reads consecutive bytes: several times faster than one transposed copy.
    for channel in range(3):
        start = label_bytes + 1024 * channel
        images[..., channel] = records[:, start : start + 1024].reshape(-1, 32, 32)
    return images, labels


def encode(images: Bytes, labels: Bytes) -> bytes:
    """Write binary records: the inverse of ``parse``, for images and labels as it returns them.

    Raises:
        DataError: shapes or types are others, or a label exceeds 9.
    """
    if images.dtype != np.uint8 or images.shape[1:] != IMAGE_SHAPE:
        raise DataError(f"images are {images.dtype} {images.shape}; expected uint8 (n, 32, 32, 3)")
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise DataError(f"labels are {labels.dtype} {labels.shape}; expected uint8 ({len(images)},)")
    if labels.size and labels.max() >= len(CLASSES):
        raise DataError(f"a label is {labels.max()}; labels go from 0 to {len(CLASSES) - 1}")
    records = np.empty((len(images), RECORD_BYTES), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = images.transpose(0, 3, 1, 2).reshape(len(images), RECORD_BYTES - 1)
    return records.tobytes()


def stratified_split(
    labels: Labels, size: int, seed: int, classes: Sequence[str] = ()
) -> tuple[Indices, Indices]:
    """Hold ``size`` images out, from every class the same share, as nearly as possible.

    The same labels, size and seed give the same division on every machine and with every numpy.

    Args:
        labels: (n,).
        size: how many to hold out; 0 holds out none.
        seed: not negative.
        classes: their names, for the message.

    Returns:
        Indices of the rest and of those held out: int64, each ascending.

    Raises:
        UsageError: the size is impossible, or would leave some class without an image.
    """
    limit = len(labels) - len(np.unique(labels))
    if not 0 <= size <= limit:
        raise UsageError(
            f"--val-size is {size:,}, but there are {len(labels):,} images; expected 0 to {limit:,}, "
            "so that every class keeps an image to train on"
        )
    dealt = _deal(labels, np.arange(len(labels)), seed)
    rest, held_out = np.sort(dealt[size:]), np.sort(dealt[:size])
    lost = np.setdiff1d(labels, labels[rest])
    if lost.size:
        name = classes[lost[0]] if classes else str(lost[0])
        raise UsageError(
            f"--val-size is {size:,} of {len(labels):,} images, which leaves none of class {name} to train"
            " on; expected less"
        )
    return rest, held_out


def stratified_subset(labels: Labels, indices: Indices, size: int, seed: int) -> Indices:
    """Choose ``size`` of the images at ``indices``, from every class the same share, as nearly as possible.

    Args:
        labels: (n,): of all images.
        indices: those to choose among.
        size: how many to choose.
        seed: not negative.

    Returns:
        The chosen indices: int64, ascending.

    Raises:
        UsageError: fewer than one or more than all are asked for.
    """
    if not 1 <= size <= len(indices):
        raise UsageError(f"--train-size is {size:,}; expected 1 to {len(indices):,}")
    return np.sort(_deal(labels, indices, seed)[:size])


def _deal(labels: Labels, indices: Indices, seed: int) -> Indices:
    """Shuffle ``indices`` and put them in such an order that every beginning of it holds the classes' shares.

    Where the classes are equally large, that is one of every class, then the next of every class.
    """
    if seed < 0:
        raise UsageError(f"the seed is {seed}; expected 0 or more")
    # numpy promises that the raw output of a bit generator never changes; of `permutation` it does not.
    shuffled = indices[np.argsort(np.random.PCG64(seed).random_raw(len(indices)), kind="stable")]
    by_class = np.argsort(labels[shuffled], kind="stable")
    counts = np.bincount(labels[shuffled])
    place = np.empty(len(indices), np.float64)
    rank = np.arange(len(indices)) - np.repeat(np.cumsum(counts) - counts, counts)
    place[by_class] = (rank + 0.5) / np.repeat(counts, counts)
    return shuffled[np.argsort(place, kind="stable")].astype(np.int64)
