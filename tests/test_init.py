"""Initial weights of the whitened networks: what they do to images, and that only the seed varies them."""

from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn import architectures
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.errors import UsageError
from cifarcnn.models import modelfile
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


@pytest.mark.parametrize("classes", [CLASSES, ("boot", "miau", "quak")])
def test_weights_are_taken_over_where_name_and_shapes_agree(tmp_path: Path, classes: tuple[str, ...]) -> None:
    """All but the last layer for other classes."""
    path = tmp_path / "vgg2.keras"
    source = architectures.build("vgg2")
    modelfile.save(source, path, {"classes": list(CLASSES)})
    network = architectures.build("vgg2", architectures.Variant("standard", classes=len(classes)))
    fresh = network.layers[-1].get_weights()
    text = init.transfer(network, str(path), np.zeros((1, 32, 32, 3), np.uint8), classes)
    for ours, theirs in zip(network.layers[:-1], source.layers[:-1], strict=True):
        for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            assert np.array_equal(one, other)
    expected = source.layers[-1].get_weights() if classes == CLASSES else fresh
    assert np.array_equal(network.layers[-1].get_weights()[0], expected[0])
    end = "" if classes == CLASSES else ", but not probabilities"
    number = 8 if classes == CLASSES else 7
    assert text == f"--init {path}: {number} of 8 layers begin with its weights{end}"


def test_models_that_do_not_suit_are_refused(tmp_path: Path) -> None:
    """Another network's, or one that saw other numbers in place of pixels."""
    path, images = tmp_path / "vgg2.keras", np.zeros((1, 32, 32, 3), np.uint8)
    modelfile.save(architectures.build("vgg2", architectures.Variant("unit")), path, {})
    with pytest.raises(UsageError, match="normalises pixels otherwise; give the --normalize of its training"):
        init.transfer(architectures.build("vgg2"), str(path), images, CLASSES)
    network = architectures.build("whiten6-tiny", architectures.Variant("unit", classes=3))
    with pytest.raises(UsageError, match="has no layer of the same name and shapes as whiten6-tiny"):
        init.transfer(network, str(path), images, ("a", "b", "c"))


def test_the_pretrained_model_gives_its_weights() -> None:
    """Its normalisations answer as its file does; see the tests of ``pretrained``."""
    network = architectures.build("whiten6", architectures.Variant(classes=2))
    images = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 3)).astype(np.uint8)
    assert init.transfer(network, "pretrained", images, ("a", "b")) == (
        "--init pretrained: 13 of 14 layers begin with its weights, but not probabilities"
    )
