"""Initial weights of the whitened networks: what they do to images, and that only the seed varies them."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn import architectures
from cifarcnn.training import init


def correlated_images(count: int = 40, seed: int = 0) -> np.ndarray:
    """Images whose neighbouring pixels and colours are alike, as in photographs."""
    noise = np.random.default_rng(seed).normal(size=(count, 33, 33, 3)).astype(np.float32)
    smooth = noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1]
    return smooth + smooth.mean(axis=-1, keepdims=True)


def test_whitened_patches_are_uncorrelated() -> None:
    """Over the images that it was made from, the covariance of its first twelve outputs is diagonal."""
    images = correlated_images()
    kernel = init.whitening_kernel(images)
    assert kernel.shape == (2, 2, 3, 24)
    outputs = np.asarray(keras.ops.conv(images, kernel, padding="valid")).reshape(-1, 24)
    covariance = outputs.T @ outputs / len(outputs)
    assert np.allclose(covariance[:12, :12], np.eye(12), atol=0.02)
    assert np.allclose(outputs[:, 12:], -outputs[:, :12], atol=1e-4)


def test_components_come_in_order_of_their_variance() -> None:
    """The first component is what most of the images' variance lies in."""
    images = correlated_images()
    kernel = init.whitening_kernel(images)[..., :12]
    # A component is divided by its standard deviation: the larger the variance, the smaller its numbers.
    norms = np.sqrt((kernel**2).sum(axis=(0, 1, 2)))
    assert (np.diff(norms) > 0).all()


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_first_filters_pass_their_channel_on(inputs: int, outputs: int) -> None:
    """Of a kernel with enough outputs, the first outputs are the inputs themselves."""
    kernel = init.identity_kernel((3, 3, inputs, outputs), np.random.default_rng(0))
    images = np.random.default_rng(1).normal(size=(2, 5, 5, inputs)).astype(np.float32)
    answers = np.asarray(keras.ops.conv(images, kernel, padding="same"))
    passed = min(inputs, outputs)
    assert np.allclose(answers[..., :passed], images[..., :passed], atol=1e-6)


def test_a_network_is_initialised_by_images_and_seed_alone() -> None:
    """The same images and seed give the same weights; another seed leaves the whitening as it is."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (50, 32, 32, 3)).astype(np.uint8), random.integers(0, 10, 50)

    def weights(seed: int) -> list[np.ndarray]:
        network = architectures.build("whiten6-tiny")
        init.initialise(network, images, labels.astype(np.uint8), seed)
        return list(network.get_weights())

    first, again, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert np.array_equal(first[0], other[0])
    assert any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_images_of_all_classes_are_looked_at() -> None:
    """The first 5,000 in random order, and as many of a folder's, which stand class by class."""
    mixed = np.random.default_rng(0).integers(0, 10, 20_000).astype(np.uint8)
    assert np.array_equal(mixed[init._sample(mixed)], mixed[:5000])
    counts = np.bincount(np.sort(mixed)[init._sample(np.sort(mixed))])
    assert counts.sum() == 5000
    assert counts.min() > 400
    assert list(init._sample(np.zeros(3, np.uint8))) == [0, 1, 2]


@pytest.mark.parametrize("name", [row.name for row in architectures.ARCHITECTURES if row.whitened])
def test_the_whitening_is_not_trained(name: str) -> None:
    """Its kernel is no trainable variable of the network; everything else but batch statistics is."""
    network = architectures.build(name)
    assert [layer.name for layer in network.layers if layer.weights and not layer.trainable_weights] == [
        "whiten"
    ]
