"""The training model: the same function and gradients as the export model, pixels gathered on the device."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifarcnn import architectures
from cifarcnn.config import Settings, resolve
from cifarcnn.errors import UsageError
from cifarcnn.training import augment, model
from cifarcnn.training import train as trainer
from cifarcnn.training.setup import smaller_batch
from cifarcnn.training.tf_layers import (
    ByteDropout,
    FusedBatchNormalization,
    FusedSilu,
    SmallImageConv2D,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)


def sample(count: int, epoch: int = 0, **settings: Any) -> np.ndarray:
    """The crops of an epoch."""
    return augment.sample_epoch(Settings(seed=1, **settings), count, epoch)


def make(name: str, precision: str = "float32", margin: int = 4) -> model.Models:
    """Models without dropout, so that their training is a function of the images alone."""
    keras.utils.set_random_seed(1)
    export = architectures.build(name, architectures.Variant(dropout=0.0))
    return model.make(export, IMAGES, margin=margin, precision=precision, seed=3)


def test_crops_are_shifts_and_flips_of_the_images() -> None:
    """Each is the image moved by whole pixels, its border repeated, and mirrored if asked."""
    layer = model.GatherCrops(IMAGES, 4, dtype="uint8")
    crops = sample(len(IMAGES), epoch=0, augment="standard", shift=4)
    pixels = keras.ops.convert_to_numpy(layer(crops))
    padded = np.pad(IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="edge")
    for found, (image, top, left, flip) in zip(pixels, crops, strict=True):
        expected = padded[image, top : top + 32, left : left + 32]
        assert np.array_equal(found, expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("jitter", [0.14, 0.9])
def test_jittered_crops_are_those_that_people_are_shown(jitter: float) -> None:
    """What is gathered on the device and what is drawn on a sheet agree in every byte."""
    layer = model.GatherCrops(IMAGES, 4, dtype="uint8")
    for epoch in range(10):
        crops = sample(len(IMAGES), epoch=epoch, augment="standard", shift=4, jitter=jitter)
        pixels = keras.ops.convert_to_numpy(layer(crops))
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, augment.cut(IMAGES, crops, 4))


def test_without_augmentation_crops_are_the_images() -> None:
    """The centre of the padded image, untouched."""
    layer = model.GatherCrops(IMAGES, 3, dtype="uint8")
    crops = sample(len(IMAGES), epoch=0, augment="none", shift=3)
    assert np.array_equal(keras.ops.convert_to_numpy(layer(crops)), IMAGES[crops[:, 0]])


@pytest.mark.parametrize("name", [row.name for row in architectures.ARCHITECTURES])
def test_the_training_model_answers_as_the_export_model_does(name: str) -> None:
    """The softmax of its logits is the export model's answer to the same images."""
    models = make(name)
    crops = sample(len(IMAGES), epoch=0, augment="none", shift=4)
    answers = keras.ops.convert_to_numpy(keras.ops.softmax(models.training(crops, training=False)))
    assert np.allclose(answers, models.export.predict_on_batch(IMAGES[crops[:, 0]]), atol=1e-5)


@pytest.mark.parametrize("name", ["vgg2", "vgg3", "whiten6-tiny"])
def test_a_fused_step_changes_weights_as_a_stock_step_does(name: str) -> None:
    """In float32, a step of the training model and one of stock layers agree, moving statistics included."""
    models = make(name)
    reference = keras.models.clone_model(models.export)
    reference.set_weights(models.export.get_weights())
    crops = sample(len(IMAGES), epoch=0, augment="none", shift=4)
    targets = np.eye(10, dtype=np.float32)[np.arange(20) % 10]
    for network, inputs, from_logits in (
        (models.training, crops, True),
        (reference, IMAGES[crops[:, 0]].astype(np.float32), False),
    ):
        loss = keras.losses.CategoricalCrossentropy(from_logits=from_logits)
        network.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
        network.train_on_batch(inputs, targets)
    before = models.export.get_weights()
    models.update_export()
    for ours, theirs, old in zip(models.export.weights, reference.weights, before, strict=True):
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
    layer = model.Downscale(32, dtype="float32")
    layer.side = side
    plain = np.full((1, 32, 32, 3), 77, np.uint8)
    assert np.allclose(layer(plain), 77, atol=1e-3)
    ramp = np.broadcast_to(8 * np.arange(32, dtype=np.uint8)[:, None], (1, 32, 32, 3))
    reduced = np.asarray(layer(ramp))[0, 0, :, 0]
    assert reduced.shape == (side,)
    places = (np.arange(side) + 0.5) * 32 / side - 0.5
    assert np.allclose(reduced[2:-2], 8 * places[2:-2], atol=0.5)


def test_one_set_of_weights_trains_at_any_resolution() -> None:
    """After a change, the step sees images of the new side; the export model still gets its weights."""
    keras.utils.set_random_seed(1)
    export = architectures.build("whiten6-tiny")
    models = model.make(export, IMAGES, margin=2, precision="float32", seed=3, any_resolution=True)
    models.training.compile(
        keras.optimizers.SGD(0.01), keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    crops = sample(len(IMAGES), epoch=0, augment="none", shift=2)
    targets = np.eye(10, dtype=np.float32)[np.arange(20) % 10]
    seen = []
    for side in (20, 32):
        models.set_resolution(side)
        models.training.fit(crops, targets, batch_size=20, verbose=0)
        seen.append(
            models.training.get_layer("downscale")(models.training.get_layer("gather")(crops)).shape[1]
        )
    assert seen == [20, 32]
    models.update_export()
    answers = keras.ops.convert_to_numpy(keras.ops.softmax(models.training(crops, training=False)))
    assert np.allclose(answers, models.export.predict_on_batch(IMAGES[crops[:, 0]]), atol=1e-5)


def test_the_training_model_alone_uses_the_fast_layers() -> None:
    """What is saved never holds a layer of ours."""
    for name, own in (("vgg2", ByteDropout), ("whiten6-tiny", FusedSilu)):
        models = make(name, "mixed_bfloat16")
        fast = {type(layer) for layer in models.core.layers}
        assert {FusedBatchNormalization, own} <= fast
        assert all(type(layer).__module__.startswith("keras.") for layer in models.export.layers)
        assert {weight.dtype for weight in models.export.weights} == {"float32"}


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


BATCH = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
TARGETS = np.eye(10, dtype=np.float32)[np.arange(24) % 10]
CROPS = sample(24, epoch=0, augment="standard", shift=2)


def compiled(arch: str, parts: int) -> model.Models:
    """Make models, the same whenever they are asked for."""
    keras.utils.set_random_seed(1)
    export = architectures.build(arch, architectures.Variant(dropout=0))
    models = model.make(export, BATCH, margin=2, precision="float32", seed=3)
    models.training.accumulation_steps = parts
    models.training.compile(
        keras.optimizers.SGD(0.05),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    return models


def change(models: model.Models) -> list[Any]:
    """Make one step on all images; return by how much each trainable variable changed."""
    before = [variable.numpy() for variable in models.training.trainable_variables]
    models.training.fit(CROPS, TARGETS, batch_size=24, shuffle=False, verbose=0)
    after = [variable.numpy() for variable in models.training.trainable_variables]
    return [new - old for new, old in zip(after, before, strict=True)]


@pytest.mark.parametrize("arch", ["plain6-small", "rmsprop6"])
@pytest.mark.parametrize("parts", [2, 3, 24])
def test_the_step_and_its_figures_are_those_of_the_whole_batch(arch: str, parts: int) -> None:
    """Penalties count once, not once for each part."""
    whole, divided = compiled(arch, 1), compiled(arch, parts)
    for one, other in zip(change(whole), change(divided), strict=True):
        assert np.allclose(one, other, atol=1e-6 + 1e-4 * np.abs(one).max())
    figures = [models.training.get_metrics_result() for models in (whole, divided)]
    assert figures[0]["accuracy"] == figures[1]["accuracy"]
    assert float(figures[0]["loss"]) == pytest.approx(float(figures[1]["loss"]), rel=1e-5)


def test_batch_norm_sees_each_part_by_itself() -> None:
    """The step is the mean of the parts' steps, which is not the whole batch's."""
    whole, divided = change(compiled("vgg2", 1)), change(compiled("vgg2", 2))
    halves = []
    for half in (slice(0, 12), slice(12, 24)):
        models = compiled("vgg2", 1)
        before = [variable.numpy() for variable in models.training.trainable_variables]
        models.training.fit(CROPS[half], TARGETS[half], batch_size=12, shuffle=False, verbose=0)
        after = [variable.numpy() for variable in models.training.trainable_variables]
        halves.append([new - old for new, old in zip(after, before, strict=True)])
    for of_whole, of_parts, *of_halves in zip(whole, divided, *halves, strict=True):
        largest = np.abs(of_parts).max()
        assert np.allclose(of_parts, sum(of_halves) / 2, atol=1e-6 + 1e-3 * largest)
        assert not np.allclose(of_parts, of_whole, atol=1e-2 * largest)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "expected"),
    [
        (50, 0, "batches of 50 images; try a new run with --batch-size 25"),
        (2000, 500, "batches of 500 images; try a new run with --micro-batch 250"),
        (2000, 125, "batches of 125 images; try a new run with --micro-batch 50"),
        (3, 1, "one image at a time; free some, or try a smaller network, fewer images or fewer epochs"),
    ],
)
def test_what_to_try_when_memory_is_short(batch_size: int, micro_batch: int, expected: str) -> None:
    """The advice is a smaller number that the command takes, as long as there is one."""
    settings = resolve({"batch_size": batch_size, "micro_batch": micro_batch})
    assert smaller_batch(settings) == expected


@pytest.mark.parametrize(
    ("arch", "freeze", "expected"),
    [
        ("vgg2", "0", 0),
        ("vgg2", "1", 1),
        ("vgg2", "2", 3),
        ("vgg2", "4", 6),
        ("vgg2", "backbone", 7),
        ("whiten6-tiny", "2", 3),
        ("whiten6-tiny", "backbone", 13),
    ],
)
def test_layers_are_frozen_with_what_follows_them(arch: str, freeze: str, expected: int) -> None:
    """A convolution's batch normalisation belongs to it; dense layers stay free of a number."""
    network = architectures.build(arch)
    weighted = [layer.name for layer in network.layers if layer.weights]
    assert model.frozen_layers(network, freeze) == set(weighted[:expected])


def test_more_convolutions_than_there_are_cannot_be_frozen() -> None:
    """The line tells how many there are."""
    with pytest.raises(UsageError, match="--freeze is 5, but vgg2 has 4 convolutions; expected at most"):
        model.frozen_layers(architectures.build("vgg2"), "5")


def test_frozen_layers_do_not_change_at_all() -> None:
    """Nor do the moving statistics of their batch normalisation, which normalises as in inference."""
    export = architectures.build("vgg2", architectures.Variant(dropout=0))
    frozen = model.frozen_layers(export, "backbone")
    models = model.make(export, BATCH, margin=2, precision="float32", seed=3, frozen=frozen)
    models.training.compile(
        keras.optimizers.SGD(0.05), keras.losses.CategoricalCrossentropy(from_logits=True)
    )
    before = models.core.get_weights()
    crops = keras.ops.convert_to_tensor(CROPS)
    assert np.array_equal(models.training(crops, training=True), models.training(crops, training=False))
    models.training.fit(CROPS, TARGETS, batch_size=24, shuffle=False, verbose=0)
    equal = [np.array_equal(*pair) for pair in zip(before, models.core.get_weights(), strict=True)]
    assert equal == [True] * (len(equal) - 2) + [False] * 2


def test_weighted_targets_weight_the_gradient() -> None:
    """An image of weight 3 counts like three of weight 1; Keras's own loss gives another gradient."""
    labels = np.array([0, 1, 1, 1])
    targets = trainer._targets(labels, 2, resolve({"balance": True, "label_smoothing": 0.1}))
    assert targets.sum(axis=1) == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])
    logits = tf.Variable(np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.weighted_crossentropy(tf.constant(targets), logits))
    softmax = tf.nn.softmax(logits).numpy()
    weights = targets.sum(axis=1, keepdims=True)
    assert tape.gradient(loss, logits).numpy() == pytest.approx(softmax * weights - targets, abs=1e-6)
