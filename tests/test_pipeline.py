"""The draw of an epoch: complete, within its bounds, and without a memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn.config import FIELDS
from cifarcnn.training.pipeline import crop, draw_epoch

AUGMENTS = FIELDS["augment"].metadata["choices"]
DRAWS = {
    "count": st.integers(1, 400),
    "seed": st.integers(0, 2**31 - 1),
    "epoch": st.integers(0, 100_000),
    "augment": st.sampled_from(AUGMENTS),
    "shift": st.integers(0, 16),
}


@given(**DRAWS)
def test_every_image_comes_once_and_crops_stay_inside(
    count: int, seed: int, epoch: int, augment: str, shift: int
) -> None:
    """Any settings: a permutation, offsets of at most twice the margin, flips of 0 or 1."""
    picks = draw_epoch(count, seed=seed, epoch=epoch, augment=augment, shift=shift)
    assert (picks.shape, picks.dtype) == ((count, 4), np.int32)
    assert sorted(picks[:, 0]) == list(range(count))
    assert picks[:, 1:3].min() >= 0
    assert picks[:, 1:3].max() <= 2 * shift
    assert set(picks[:, 3]) <= {0, 1}
    if augment in ("none", "flip"):
        assert (picks[:, 1:3] == shift).all()
    if augment in ("none", "shift"):
        assert not picks[:, 3].any()


@given(**DRAWS)
def test_a_draw_depends_on_its_arguments_alone(
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
        picks = draw_epoch(500, seed=1, epoch=epoch, augment="standard", shift=2)
        flips[epoch] = picks[np.argsort(picks[:, 0]), 3]
    assert (flips[0] != flips[1]).all()
    assert (flips[0] == flips[2]).all()
    assert 150 < flips[0].sum() < 350


@pytest.mark.parametrize("shift", [1, 4])
def test_shifts_and_flips_are_drawn_evenly(shift: int) -> None:
    """Each offset and each side comes about equally often, and independently of each other."""
    picks = draw_epoch(50_000, seed=0, epoch=0, augment="standard", shift=shift)
    for column in (1, 2):
        shares = np.bincount(picks[:, column], minlength=2 * shift + 1) / len(picks)
        assert shares == pytest.approx(1 / (2 * shift + 1), abs=0.01)
    assert picks[:, 3].mean() == pytest.approx(0.5, abs=0.01)
    correlations = np.corrcoef(picks.T)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 0.02


@given(st.floats(0.001, 0.9), st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_jitter_adds_two_columns_and_leaves_the_others(jitter: float, seed: int, epoch: int) -> None:
    """Contrast and brightness stay within their share; order, shifts and flips are those without it."""
    plain = draw_epoch(50, seed=seed, epoch=epoch, augment="standard", shift=2)
    picks = draw_epoch(50, seed=seed, epoch=epoch, augment="standard", shift=2, jitter=jitter)
    assert np.array_equal(picks[:, :4], plain)
    assert (picks.shape, picks.dtype) == ((50, 6), np.int32)
    assert np.abs(picks[:, 4:]).max() <= 1024 * jitter + 0.5


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
        seen = crop(images, np.array([[0, 0, 0, 0, contrast, brightness]], np.int32), 0)
        assert set(np.unique(seen)) == expected
