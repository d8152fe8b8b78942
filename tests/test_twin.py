"""The training twin: the same function and gradients as the stock network, and crops by index arithmetic."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifarcnn import architectures
from cifarcnn.training import pipeline, twin
from cifarcnn.training.tensorflow_layers import (
    ByteDropout,
    FusedBatchNormalization,
    FusedSilu,
    SmallImageConv2D,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)


def make(name: str, precision: str = "float32", margin: int = 4) -> twin.Pair:
    """A pair without dropout, so that its training is a function of the images alone."""
    keras.utils.set_random_seed(1)
    stock = architectures.build(name, architectures.Variant(dropout=0.0))
    return twin.make(stock, IMAGES, margin=margin, precision=precision, seed=3)


def test_crops_are_shifts_and_flips_of_the_images() -> None:
    """Each pick gives the image moved by whole pixels, its border repeated, and mirrored if asked."""
    layer = twin.CropFromStore(IMAGES, 4, dtype="uint8")
    picks = pipeline.draw_epoch(len(IMAGES), seed=1, epoch=0, augment="standard", shift=4)
    crops = keras.ops.convert_to_numpy(layer(picks))
    padded = np.pad(IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    for crop, (image, top, left, flip) in zip(crops, picks, strict=True):
        expected = padded[image, top : top + 32, left : left + 32]
        assert np.array_equal(crop, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("jitter", [0.14, 0.9])
def test_jittered_crops_are_those_that_people_are_shown(jitter: float) -> None:
    """What is gathered on the device and what is drawn on a sheet agree in every byte."""
    layer = twin.CropFromStore(IMAGES, 4, dtype="uint8")
    for epoch in range(10):
        picks = pipeline.draw_epoch(
            len(IMAGES), seed=1, epoch=epoch, augment="standard", shift=4, jitter=jitter
        )
        crops = keras.ops.convert_to_numpy(layer(picks))
        assert crops.dtype == np.uint8
        assert np.array_equal(crops, pipeline.crop(IMAGES, picks, 4))


def test_without_augmentation_crops_are_the_images() -> None:
    """The centre of the padded image, untouched."""
    layer = twin.CropFromStore(IMAGES, 3, dtype="uint8")
    picks = pipeline.draw_epoch(len(IMAGES), seed=1, epoch=0, augment="none", shift=3)
    assert np.array_equal(keras.ops.convert_to_numpy(layer(picks)), IMAGES[picks[:, 0]])


@pytest.mark.parametrize("name", [row.name for row in architectures.ARCHITECTURES])
def test_twin_answers_as_the_stock_network_does(name: str) -> None:
    """The softmax of the twin's logits is the stock network's answer to the same images."""
    pair = make(name)
    picks = pipeline.draw_epoch(len(IMAGES), seed=1, epoch=0, augment="none", shift=4)
    answers = keras.ops.convert_to_numpy(keras.ops.softmax(pair.twin(picks, training=False)))
    assert np.allclose(answers, pair.stock.predict_on_batch(IMAGES[picks[:, 0]]), atol=1e-5)


@pytest.mark.parametrize("name", ["vgg2", "vgg3", "whiten6-tiny"])
def test_a_fused_step_changes_weights_as_a_stock_step_does(name: str) -> None:
    """In float32, one step of the twin and one of the stock layers agree, moving statistics included."""
    pair = make(name)
    reference = keras.models.clone_model(pair.stock)
    reference.set_weights(pair.stock.get_weights())
    picks = pipeline.draw_epoch(len(IMAGES), seed=1, epoch=0, augment="none", shift=4)
    targets = np.eye(10, dtype=np.float32)[np.arange(20) % 10]
    for model, inputs, from_logits in (
        (pair.twin, picks, True),
        (reference, IMAGES[picks[:, 0]].astype(np.float32), False),
    ):
        loss = keras.losses.CategoricalCrossentropy(from_logits=from_logits)
        model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
        model.train_on_batch(inputs, targets)
    before = pair.stock.get_weights()
    pair.update_stock()
    for ours, theirs, old in zip(pair.stock.weights, reference.weights, before, strict=True):
        if "moving" in ours.path:
            assert np.allclose(ours, theirs, rtol=2e-5, atol=1e-6), ours.path
        else:
            # Rounding grows on its way back through the layers, so the changes are compared, not the weights.
            difference, change = np.linalg.norm(ours - theirs), np.linalg.norm(theirs - old)
            assert difference <= 0.03 * change, (ours.path, difference, change)


@pytest.mark.parametrize("side", [3, 7])
def test_gradients_on_small_images_are_those_of_the_convolution(side: int) -> None:
    """The kernel's and the input's gradients, and the answer, against TensorFlow's own."""
    random = np.random.default_rng(side)
    images = tf.Variable(random.normal(size=(5, side, side, 96)).astype(np.float32))
    target = random.normal(size=(5, side, side, 8)).astype(np.float32)
    layer = SmallImageConv2D(8, 3, padding="same", use_bias=False)
    layer.build(images.shape)

    def answer_and_gradients(convolve: Any) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            answer = convolve(images)
            loss = tf.reduce_sum(answer * target)
        return [answer.numpy(), *(part.numpy() for part in tape.gradient(loss, [images, layer.kernel.value]))]

    ours = answer_and_gradients(layer)
    theirs = answer_and_gradients(lambda x: tf.nn.conv2d(x, layer.kernel.value, 1, "SAME"))
    for one, other in zip(ours, theirs, strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 2e-6), ("bfloat16", 0.04)])
def test_the_derivative_of_silu_is_that_of_the_formula(dtype: str, error: float) -> None:
    """At zero, where it divides by nothing, and far outside as well; bfloat16 has three digits of it."""
    numbers = np.concatenate([np.linspace(-100, 100, 4001), [0, -0.0, 1e-38, -1e-38, 3e38, -3e38]])
    x = tf.cast(numbers, dtype)
    change = tf.fill(x.shape, tf.cast(2, dtype))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = FusedSilu("silu", dtype=dtype)(x)
    exact = tf.cast(x, tf.float64).numpy()
    sigmoid = tf.sigmoid(tf.cast(x, tf.float64)).numpy()
    assert np.allclose(tf.cast(y, tf.float64).numpy(), exact * sigmoid, rtol=max(error / 4, 1e-6), atol=1e-30)
    found = tf.cast(tape.gradient(y, x, change), tf.float64).numpy() / 2
    assert np.abs(found - sigmoid * (1 + exact * (1 - sigmoid))).max() <= error


def test_another_activation_is_left_as_it_is() -> None:
    """The layer that makes SiLU fast also stands in for those of other functions."""
    numbers = tf.constant([-2.0, 0.0, 3.0])
    assert np.array_equal(FusedSilu("relu")(numbers), [0, 0, 3])


@pytest.mark.parametrize("side", [16, 20, 31])
def test_reduced_images_keep_colour_and_gradient(side: int) -> None:
    """A plain colour stays; a ramp from left to right stays one, but for the border."""
    layer = twin.Reduce(32, dtype="float32")
    layer.side = side
    plain = np.full((1, 32, 32, 3), 77, np.uint8)
    assert np.allclose(layer(plain), 77, atol=1e-3)
    ramp = np.broadcast_to(8 * np.arange(32, dtype=np.uint8)[:, None], (1, 32, 32, 3))
    reduced = np.asarray(layer(ramp))[0, 0, :, 0]
    assert reduced.shape == (side,)
    places = (np.arange(side) + 0.5) * 32 / side - 0.5
    assert np.allclose(reduced[2:-2], 8 * places[2:-2], atol=0.5)


def test_a_twin_trains_at_any_side_with_the_same_weights() -> None:
    """After a change of side, the step sees images of it; the stock network still gets its weights."""
    keras.utils.set_random_seed(1)
    stock = architectures.build("whiten6-tiny")
    pair = twin.make(stock, IMAGES, margin=2, precision="float32", seed=3, any_side=True)
    pair.twin.compile(keras.optimizers.SGD(0.01), keras.losses.CategoricalCrossentropy(from_logits=True))
    picks = pipeline.draw_epoch(len(IMAGES), seed=1, epoch=0, augment="none", shift=2)
    targets = np.eye(10, dtype=np.float32)[np.arange(20) % 10]
    seen = []
    for side in (20, 32):
        pair.train_at(side)
        pair.twin.fit(picks, targets, batch_size=20, verbose=0)
        seen.append(pair.twin.get_layer("reduce")(pair.twin.get_layer("crop")(picks)).shape[1])
    assert seen == [20, 32]
    pair.update_stock()
    answers = keras.ops.convert_to_numpy(keras.ops.softmax(pair.twin(picks, training=False)))
    assert np.allclose(answers, pair.stock.predict_on_batch(IMAGES[picks[:, 0]]), atol=1e-5)


def test_the_twin_uses_the_fast_layers_and_the_stock_network_does_not() -> None:
    """What is saved never holds a layer of ours."""
    for name, own in (("vgg2", ByteDropout), ("whiten6-tiny", FusedSilu)):
        pair = make(name, "mixed_bfloat16")
        fast = {type(layer) for layer in pair.fast.layers}
        assert {FusedBatchNormalization, own} <= fast
        assert all(type(layer).__module__.startswith("keras.") for layer in pair.stock.layers)
        assert {weight.dtype for weight in pair.stock.weights} == {"float32"}


def test_byte_dropout_keeps_the_mean_and_the_rate() -> None:
    """The share of dropped units is the rate within its rounding, and the mean is kept."""
    layer = ByteDropout(0.35, seed=1)
    dropped = keras.ops.convert_to_numpy(layer(np.ones((1000, 1000), np.float32), training=True))
    assert abs((dropped == 0).mean() - 0.35) < 0.005
    assert abs(dropped.mean() - 1) < 0.005
    assert np.array_equal(layer(np.ones((3, 3)), training=False), np.ones((3, 3)))


def test_byte_dropout_draws_anew_each_time() -> None:
    """Two calls drop different units; the same seed drops the same."""
    ones = np.ones((64, 64), np.float32)
    first, second = (ByteDropout(0.5, seed=1), ByteDropout(0.5, seed=1))
    one, other = (keras.ops.convert_to_numpy(first(ones, training=True)) for _ in range(2))
    assert not np.array_equal(one, other)
    assert np.array_equal(one, keras.ops.convert_to_numpy(second(ones, training=True)))
