"""The binary records and the divisions of the images."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn.data import cifar10, sources
from cifarcnn.data.cifar10 import RECORD_BYTES, Images, encode, parse, stratified_split, stratified_subset
from cifarcnn.errors import DataError, UsageError

LABELS = np.repeat(np.arange(10, dtype=np.uint8), 20)
EXPECTED_HELD_OUT = [11, 20, 59, 62, 92, 113, 128, 150, 173, 196]


@given(st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_records_survive_parsing_and_encoding(count: int, seed: int) -> None:
    """Encoding what was parsed gives the same bytes, and the other way round."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = generator.integers(0, 10, count, np.uint8)
    parsed_images, parsed_labels = parse(encode(images, labels))
    np.testing.assert_array_equal(parsed_images, images)
    np.testing.assert_array_equal(parsed_labels, labels)
    assert parsed_images.flags.c_contiguous
    assert parsed_images.dtype == parsed_labels.dtype == np.uint8


def test_a_record_is_a_label_and_three_planes() -> None:
    """The bytes of a record stand in the order label, red rows, green rows, blue rows."""
    raw = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes(range(32)) * 32
    images, labels = parse(raw)
    assert labels.tolist() == [7]
    assert images[0, 0, 5].tolist() == [1, 2, 5]
    assert images[0, 31, 30].tolist() == [1, 2, 30]


def test_a_record_may_have_several_labels() -> None:
    """CIFAR-100's have a coarse one and a fine one before the pixels."""
    raw = bytes([3, 77]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes([9]) * 1024
    for label_byte, classes, expected in ((0, 20, 3), (1, 100, 77)):
        images, labels = parse(raw, 2, label_byte, classes)
        assert labels.tolist() == [expected]
        assert images[0, 0, 0].tolist() == [1, 2, 9]
    with pytest.raises(DataError, match="labels go from 0 to 19"):
        parse(raw, 2, 1, 20)


def test_some_of_the_images_keep_their_classes() -> None:
    """Whatever is chosen, source and classes stay."""
    images = Images(
        np.zeros((3, 32, 32, 3), np.uint8), np.array([0, 1, 0]), "here", ("a", "b"), ("c.png: empty",)
    )
    some = images.at(np.array([2, 1]))
    assert (some.labels.tolist(), some.classes, some.source) == ([0, 1], ("a", "b"), "here")
    assert Images(images.images, images.labels).classes == cifar10.CLASSES


@given(st.binary(max_size=2 * RECORD_BYTES))
def test_other_bytes_are_refused_or_parsed(raw: bytes) -> None:
    """Any bytes are either refused with a DataError or are whole records that encode to themselves."""
    try:
        images, labels = parse(raw)
    except DataError:
        assert len(raw) % RECORD_BYTES or max(raw[::RECORD_BYTES]) > 9
    else:
        assert encode(images, labels) == raw


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), np.zeros(2, np.uint8)),
        (np.zeros((2, 3, 32, 32), np.uint8), np.zeros(2, np.uint8)),
        (np.zeros((2, 32, 32, 3), np.uint8), np.zeros(3, np.uint8)),
        (np.zeros((2, 32, 32, 3), np.uint8), np.full(2, 10, np.uint8)),
    ],
)
def test_impossible_records_are_not_encoded(images: np.ndarray, labels: np.ndarray) -> None:
    """Wrong types, shapes and labels are refused."""
    with pytest.raises(DataError):
        encode(images, labels)


@given(st.integers(0, 190), st.integers(0, 2**40))
def test_a_split_divides_every_class_equally(size: int, seed: int) -> None:
    """The two parts are disjoint, ascending and complete, and class counts differ by one at most."""
    rest, held_out = stratified_split(LABELS, size, seed)
    assert len(held_out) == size
    assert rest.dtype == held_out.dtype == np.int64
    np.testing.assert_array_equal(np.union1d(rest, held_out), np.arange(len(LABELS)))
    assert len(np.intersect1d(rest, held_out)) == 0
    assert np.all(np.diff(rest) > 0)
    assert np.all(np.diff(held_out) > 0)
    assert np.ptp(np.bincount(LABELS[held_out], minlength=10)) <= 1


def test_a_split_is_the_same_everywhere() -> None:
    """The division under seed 0 is fixed for ever: a model's validation images depend on it."""
    _, held_out = stratified_split(LABELS, 10, seed=0)
    assert held_out.tolist() == EXPECTED_HELD_OUT
    _, other = stratified_split(LABELS, 10, seed=1)
    assert other.tolist() != held_out.tolist()


@pytest.mark.parametrize("size", [-1, 191, 200, 1000])
def test_an_impossible_split_is_refused(size: int) -> None:
    """Every class must keep an image to train on."""
    with pytest.raises(UsageError, match="--val-size is"):
        stratified_split(LABELS, size, seed=0)


def test_a_split_that_would_use_up_a_rare_class_is_refused() -> None:
    """With unequal classes the smallest one counts."""
    labels = np.array([0] * 50 + [1] * 2, np.uint8)
    assert np.bincount(labels[stratified_split(labels, 26, seed=0)[1]]).tolist() == [25, 1]
    with pytest.raises(UsageError, match="none of class 1 to"):
        stratified_split(labels, 45, seed=0)
    with pytest.raises(UsageError, match="none of class dog to"):
        stratified_split(labels, 45, seed=0, classes=("cat", "dog"))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=10), st.floats(0, 0.4), st.integers(0, 2**40))
def test_a_split_of_unequal_or_missing_classes_holds_out_their_shares(
    counts: list[int], share: float, seed: int
) -> None:
    """Every class that is there gives its share of the images held out, as nearly as whole images can."""
    labels = np.repeat(np.arange(len(counts), dtype=np.uint8)[::-1], counts)
    size = int(share * len(labels))
    try:
        rest, held_out = stratified_split(labels, size, seed)
    except UsageError:
        # Where a class has one image, that may be the one to be held out.
        assert min(counts) < 3
        return
    np.testing.assert_array_equal(np.union1d(rest, held_out), np.arange(len(labels)))
    given_up = np.bincount(labels[held_out], minlength=len(counts))[::-1]
    # Each class is half an image off at most, and the large ones make up for all of them.
    bound = 0.5 + np.array(counts) * len(counts) / (2 * len(labels))
    assert (np.abs(given_up - np.array(counts) * size / len(labels)) <= bound + 1e-9).all()


def test_the_checksum_of_images_is_that_of_their_bytes_and_labels() -> None:
    """It does not depend on how the arrays lie in memory, and sees a changed label."""
    images = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 32, 32, 3)
    labels = np.array([1, 2], np.uint8)
    expected = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert Images(images, labels).sha256() == expected
    assert Images(np.asfortranarray(images), labels).sha256() == expected
    assert Images(images, labels[::-1]).sha256() != expected


@given(st.integers(1, 100), st.integers(0, 1000))
def test_a_subset_is_drawn_from_the_given_indices(size: int, seed: int) -> None:
    """A subset holds only indices it may choose among, and draws on the classes equally."""
    indices = np.flatnonzero(np.arange(len(LABELS)) % 2)
    chosen = stratified_subset(LABELS, indices, size, seed)
    assert len(chosen) == len(np.unique(chosen)) == size
    assert np.isin(chosen, indices).all()
    assert np.ptp(np.bincount(LABELS[chosen], minlength=10)) <= 1


@pytest.mark.parametrize("size", [0, -5, 201])
def test_an_impossible_subset_is_refused(size: int) -> None:
    """At least one and at most all images can be trained on."""
    with pytest.raises(UsageError, match="--train-size is"):
        stratified_subset(LABELS, np.arange(200), size, seed=0)


def test_a_negative_seed_is_refused() -> None:
    """The generator takes no negative seed."""
    with pytest.raises(UsageError, match="-1"):
        stratified_split(LABELS, 10, seed=-1)


def test_the_real_images_are_the_published_ones(data_directory: Path) -> None:
    """Sizes, first labels, class counts, channel statistics and the sum over all records agree."""
    train, test = sources.load("train", data_directory), sources.load("test", data_directory)
    assert (train.images.shape, test.images.shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    levels = np.arange(256) / 255
    for channel in range(3):
        counts = np.bincount(train.images[..., channel].ravel(), minlength=256) / train.images[..., 0].size
        mean = float(counts @ levels)
        deviation = float(np.sqrt(counts @ (levels - mean) ** 2))
        assert mean == pytest.approx(cifar10.CHANNEL_MEAN[channel], abs=1e-6)
        assert deviation == pytest.approx(cifar10.CHANNEL_STD[channel], abs=1e-6)
    whole = hashlib.sha256()
    for name in cifar10.TRAIN_FILES:
        whole.update((data_directory / name).read_bytes())
    assert whole.hexdigest() == "a0181da372c0d63a5920fdbea2ec3f83ecbc552d378218e1cb473cf634941a3b"
