"""The corruptions of CIFAR-10-C."""

import numpy as np
import pytest

from cifarcnn.errors import UsageError
from cifarcnn.evaluation import corruptions
from cifarcnn.evaluation.corruptions import CORRUPTIONS, corrupt

SMOOTH = np.add.outer(np.arange(32), np.arange(32))[None, ..., None] * np.array([4, 3, 2])
IMAGES = np.repeat(SMOOTH, 20, axis=0).astype(np.uint8)
IMAGES[:, 8:20, 10:24] = (200, 90, 30)
MILDER_LATER = {"glass_blur", "elastic_transform"}
"""Their authors' constants trade one kind of damage for another."""


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_damages_more_with_severity(name: str) -> None:
    """Shape and type stay, the images do not, and the highest severity changes them more than the lowest."""
    damage = []
    for severity in corruptions.SEVERITIES:
        found = corrupt(IMAGES, name, severity)
        assert (found.shape, found.dtype) == (IMAGES.shape, np.uint8)
        damage.append(np.abs(found.astype(int) - IMAGES).mean())
    assert min(damage) > 0.1
    if name not in MILDER_LATER:
        assert damage[4] > 1.2 * damage[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_any_batch(name: str) -> None:
    """The generator of an image follows from its index."""
    whole = corrupt(IMAGES, name, 3)
    parts = [corrupt(IMAGES[:7], name, 3), corrupt(IMAGES[7:], name, 3, first=7)]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=1)
    random = {"brightness", "contrast", "defocus_blur", "zoom_blur", "pixelate", "jpeg_compression"}
    assert (whole[0] == whole[1]).all() == (name in random)


def test_what_deterministic_corruptions_do() -> None:
    """Contrast keeps means, brightness adds to the largest channel, pixelation leaves fewer colours."""
    noise = np.random.default_rng(0).integers(60, 180, (3, 32, 32, 3), np.uint8)
    contrast = corrupt(noise, "contrast", 5)
    np.testing.assert_allclose(contrast.mean((1, 2)), noise.mean((1, 2)), atol=1)
    assert contrast.std() == pytest.approx(0.15 * noise.std(), rel=0.1)
    brighter = corrupt(noise, "brightness", 3).max(axis=-1).astype(int)
    np.testing.assert_allclose(brighter - noise.max(axis=-1), 0.15 * 255, atol=1)
    impulses = corrupt(np.full((50, 32, 32, 3), 100, np.uint8), "impulse_noise", 5)
    assert np.mean(impulses != 100) == pytest.approx(0.07, abs=0.005)
    assert set(np.unique(impulses)) == {0, 100, 255}
    gaussian = corrupt(np.full((50, 32, 32, 3), 128, np.uint8), "gaussian_noise", 2)
    assert gaussian.std() == pytest.approx(0.06 * 255, rel=0.02)


def test_unknown_corruptions_are_refused() -> None:
    """Also severities that nobody defined."""
    with pytest.raises(UsageError, match="no corruption 'frost'; expected one of: gaussian_noise"):
        corrupt(IMAGES, "frost", 1)
    with pytest.raises(UsageError, match="severity is 6; expected 1 to 5"):
        corrupt(IMAGES, "fog", 6)
