"""The crops of an epoch: complete, within bounds, and without a memory; and the sheet that shows them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cifarcnn import config
from cifarcnn.config import FIELDS, Settings
from cifarcnn.data.cifar10 import Images
from cifarcnn.training import augment
from cifarcnn.training.augment import cut, sample_epoch
from conftest import Run

AUGMENTS = FIELDS["augment"].metadata["choices"]
DRAWS = {
    "count": st.integers(1, 400),
    "seed": st.integers(0, 2**31 - 1),
    "epoch": st.integers(0, 100_000),
    "augment": st.sampled_from(AUGMENTS),
    "shift": st.integers(0, 16),
}


def draw_epoch(count: int, *, epoch: int, **settings: Any) -> np.ndarray:
    """The crops of an epoch of a training with these settings."""
    return sample_epoch(Settings(**settings), count, epoch)


@given(**DRAWS)
def test_every_image_comes_once_and_crops_stay_inside(
    count: int, seed: int, epoch: int, augment: str, shift: int
) -> None:
    """Any settings: a permutation, offsets of at most twice the margin, flips of 0 or 1."""
    crops = draw_epoch(count, seed=seed, epoch=epoch, augment=augment, shift=shift)
    assert (crops.shape, crops.dtype) == ((count, 4), np.int32)
    assert sorted(crops[:, 0]) == list(range(count))
    assert crops[:, 1:3].min() >= 0
    assert crops[:, 1:3].max() <= 2 * shift
    assert set(crops[:, 3]) <= {0, 1}
    if augment in ("none", "flip"):
        assert (crops[:, 1:3] == shift).all()
    if augment in ("none", "shift"):
        assert not crops[:, 3].any()


@given(**DRAWS)
def test_crops_depend_on_their_arguments_alone(
    count: int, seed: int, epoch: int, augment: str, shift: int
) -> None:
    """Drawn again, after others, it is the same: so a resumed epoch sees the same images."""
    first = draw_epoch(count, seed=seed, epoch=epoch, augment=augment, shift=shift)
    draw_epoch(count, seed=seed, epoch=epoch + 1, augment=augment, shift=shift)
    np.random.default_rng().random()
    assert np.array_equal(first, draw_epoch(count, seed=seed, epoch=epoch, augment=augment, shift=shift))


def test_epochs_and_seeds_differ_in_every_column() -> None:
    """Another epoch or seed gives another order, other shifts and other flips."""
    draws = [
        draw_epoch(1000, seed=seed, epoch=epoch, augment="standard", shift=4)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (draws[one] != draws[other]).any(axis=0).all()


def test_flips_alternate() -> None:
    """Each image is seen from one side in one epoch and from the other in the next."""
    flips = [np.zeros(0)] * 3
    for epoch in range(3):
        crops = draw_epoch(500, seed=1, epoch=epoch, augment="standard", shift=2)
        flips[epoch] = crops[np.argsort(crops[:, 0]), 3]
    assert (flips[0] != flips[1]).all()
    assert (flips[0] == flips[2]).all()
    assert 150 < flips[0].sum() < 350


@pytest.mark.parametrize("shift", [1, 4])
def test_shifts_and_flips_are_drawn_evenly(shift: int) -> None:
    """Each offset and each side comes about equally often, and independently of each other."""
    crops = draw_epoch(50_000, seed=0, epoch=0, augment="standard", shift=shift)
    for column in (1, 2):
        shares = np.bincount(crops[:, column], minlength=2 * shift + 1) / len(crops)
        assert shares == pytest.approx(1 / (2 * shift + 1), abs=0.01)
    assert crops[:, 3].mean() == pytest.approx(0.5, abs=0.01)
    correlations = np.corrcoef(crops.T)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 0.02


@given(st.floats(0.001, 0.9), st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_jitter_adds_two_columns_and_leaves_the_others(jitter: float, seed: int, epoch: int) -> None:
    """Contrast and brightness stay within their share; order, shifts and flips are those without it."""
    plain = draw_epoch(50, seed=seed, epoch=epoch, augment="standard", shift=2)
    crops = draw_epoch(50, seed=seed, epoch=epoch, augment="standard", shift=2, jitter=jitter)
    assert np.array_equal(crops[:, :4], plain)
    assert (crops.shape, crops.dtype) == ((50, 6), np.int32)
    assert np.abs(crops[:, 4:]).max() <= 1024 * jitter + 0.5


def test_contrast_turns_about_the_mean_and_brightness_moves_it() -> None:
    """By hand: 121 stays, the distance to it grows by the share; brightness adds that share of 64 levels."""
    images = np.full((1, 32, 32, 3), 121, np.uint8)
    images[0, :, :16] = 221
    images[0, :, 16:24] = 9
    for contrast, brightness, expected in (
        (0, 0, {9, 121, 221}),
        (102, 0, {0, 121, 231}),
        (-512, 0, {65, 121, 171}),
        (0, 256, {25, 137, 237}),
        (0, -512, {0, 89, 189}),
    ):
        seen = cut(images, np.array([[0, 0, 0, 0, contrast, brightness]], np.int32), 0)
        assert set(np.unique(seen)) == expected


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_forms_are_those_that_training_gathers(jitter: float) -> None:
    """Each image stands first as it is, then as each epoch crops it."""
    random = np.random.default_rng(0)
    train = Images(
        random.integers(0, 256, (60, 32, 32, 3), np.uint8), np.arange(60, dtype=np.uint8) % 10, "random"
    )
    settings = config.resolve({"seed": 7, "shift": 2, "jitter": jitter})
    forms = augment.augmented(train, settings, count=10, epochs=3)
    assert forms.shape == (10, 4, 32, 32, 3)
    for epoch in range(3):
        crops = sample_epoch(settings, 60, epoch)
        pixels = cut(train.images, crops, 2)
        for row in forms:
            image = next(index for index in range(60) if np.array_equal(train.images[index], row[0]))
            seen = pixels[crops[:, 0] == image]
            assert np.array_equal(seen[0], row[1 + epoch])


def test_command_draws_a_sheet_and_says_where(cifarcnn: Run, tmp_path: Path, data_directory: Path) -> None:
    """Real images, enlarged without blur, in a picture whose path is printed."""
    done = cifarcnn("data", "show", "--data", data_directory, "--count", 3, "--output", "sheet.png", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"schema": 1, "path": "sheet.png"}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 500


def test_impossible_sheets_are_refused_in_one_line(cifarcnn: Run) -> None:
    """Too many images, a directory that is not there: told before any image is looked for."""
    for options, reason in (
        (("--count", 101), "cannot show 101 images on one sheet; expected 1 to 100"),
        (("--output", "sheet.pdf"), "cannot draw sheet.pdf; expected a name that ends in .png"),
        (("--output", "no/sheet.png"), "cannot write no/sheet.png: there is no directory no; make it first"),
    ):
        done = cifarcnn("data", "show", *options)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {reason}\n")
