"""The network as it trains, and as it is saved.

The training model is the same network made fast: it holds the training images on the device, is fed crops as
small integers and gathers the pixels itself, computes in the chosen precision with faster layers where the
backend has them, and ends in logits. Its weights are copied into the export model, stock Keras layers in
float32, which alone is evaluated and saved.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
from keras import StatelessScope, ops

from cifarcnn import architectures
from cifarcnn.config import BACKBONE, RANDOM
from cifarcnn.errors import RunError, UsageError
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.formatting import count
from cifarcnn.machine import backend
from cifarcnn.training import init, optimizer
from cifarcnn.training.augment import BRIGHTEST, MIDDLE, UNIT
from cifarcnn.training.streams import Stream, generator

if TYPE_CHECKING:
    from cifarcnn.training.setup import Setup


class TrainingModel(keras.Model):  # type: ignore[misc]
    """A model that can divide a batch, and whose metrics go on where an interrupted epoch left them.

    Attributes:
        continues: whether the coming ``fit`` goes on with an epoch.
        accumulation_steps: into how many micro-batches a batch is divided.
    """

    continues = False
    accumulation_steps = 1

    def train_step(self, *given: Any) -> Any:
        """Make one step. What is given and returned depends on the backend."""
        if self.accumulation_steps == 1:
            return super().train_step(*given)
        if keras.backend.backend() == "tensorflow":
            return _accumulate_on_tensorflow(self, *given)
        return _accumulate_on_jax(self, *given)

    def reset_metrics(self) -> None:
        """Reset the metrics, unless within an epoch."""
        if not self.continues:
            super().reset_metrics()


@dataclass(frozen=True)
class Models:
    """The three views of one network.

    Attributes:
        export: float32, stock layers, pixels to probabilities: what is evaluated and saved.
        core: the layers that train, from pixels to logits.
        training: crops, or pixels where the devices gather them, to logits: what is fitted.
    """

    export: keras.Model
    core: keras.Model
    training: TrainingModel

    def set_resolution(self, side: int) -> None:
        """Train on images of this side from now on. The step is compiled anew if it changes."""
        downscale = self.training.get_layer("downscale")
        if downscale.side != side:
            downscale.side = side
            self.training.train_function = None

    def update_export(self) -> None:
        """Copy the trained weights, or their averages, into the export model."""
        weights = self.core.get_weights()
        averaged = optimizer.put_averages(self.training.optimizer, self.training.trainable_variables)
        self.export.set_weights(self.core.get_weights() if averaged else weights)
        if averaged:
            self.core.set_weights(weights)

    def state(self) -> list[Any]:
        """Return every variable on which the rest of the training depends, in a fixed order."""
        model = self.training
        everything = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        stores = {id(layer.store) for layer in model.layers if isinstance(layer, GatherCrops)}
        return list(
            {id(variable): variable for variable in everything if id(variable) not in stores}.values()
        )

    def restore(self, values: list[npt.NDArray[Any]]) -> None:
        """Put the values of ``state`` back.

        Raises:
            RunError: they are not those of this network and optimizer.
        """
        variables = self.state()
        if [tuple(variable.shape) for variable in variables] != [value.shape for value in values]:
            raise RunError(
                f"the checkpoint holds {len(values)} variables that do not fit the {len(variables)} of this"
                " network and optimizer; it was written by another version of cifarcnn: resume it with the"
                " one in its environment.json, or start a new run"
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def build(
    setup: "Setup", rates: npt.NDArray[np.float32], on_event: OnEvent = ignore, *, started: bool = False
) -> Models:
    """Make the network in its three views, and compile the training model.

    Args:
        setup: the settings, the training images and the devices.
        rates: the learning rate of each step.
        on_event: told what ``init`` and ``freeze`` do.
        started: the weights come from elsewhere, a checkpoint or the chief; ``init`` is not read.
    """
    settings, train, devices = setup.settings, setup.train, setup.devices
    backend.seed(settings.seed)
    keras.mixed_precision.set_dtype_policy("float32")
    row = architectures.find(settings.arch)
    variant = architectures.Variant(
        settings.normalize, settings.batch_norm_momentum, settings.dropout, len(train.classes)
    )
    export = row.build(variant)
    if row.whitened:
        init.initialise(export, train.images, train.labels, settings.seed)
    if settings.init != RANDOM and not started:
        on_event(Note(init.transfer(export, settings.init, train.images, train.classes)))
    frozen = frozen_layers(export, settings.freeze)
    if frozen:
        random = "; they are random: name a model with --init" if settings.init == RANDOM else ""
        on_event(Note(f"--freeze {settings.freeze}: {count(len(frozen), 'layer')} held fixed{random}"))
    with devices.scope():
        models = make(
            export,
            train.images,
            margin=settings.shift,
            precision=settings.precision,
            seed=settings.seed,
            jitter=settings.jitter > 0,
            any_resolution=row.any_resolution,
            gathered=devices.gathers,
            frozen=frozen,
        )
        models.training.accumulation_steps = settings.accumulation_steps
        update_rule = optimizer.make(settings, rates)
        # Keras makes these variables at the first step; a checkpoint must find them before.
        update_rule.build(models.training.trainable_variables)
    devices.hold(train.images, settings.shift)
    _compile(models.training, setup, update_rule, len(rates))
    return models


def _compile(
    model: TrainingModel, setup: "Setup", update_rule: keras.optimizers.Optimizer, steps: int
) -> None:
    """Compile the training model, and make its metrics' variables, which a checkpoint must find."""
    crossentropy = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(
        optimizer=update_rule,
        loss=weighted_crossentropy if setup.settings.balance else crossentropy,
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=setup.choice.jit_compile,
        steps_per_execution=min(setup.choice.steps_per_execution, steps),
    )
    nothing = np.zeros((1, len(setup.train.classes)), np.float32)
    model.compute_metrics(x=None, y=nothing, y_pred=nothing)
    model.reset_metrics()


def make(
    export: keras.Model,
    images: npt.NDArray[np.uint8],
    *,
    margin: int,
    precision: str,
    seed: int,
    jitter: bool = False,
    any_resolution: bool = False,
    gathered: bool = False,
    frozen: Set[str] = frozenset(),
) -> Models:
    """Make the training model of a network, with the same weights.

    Args:
        export: a network that ends in a layer named "probabilities".
        images: the training images, uint8, (n, 32, 32, 3).
        margin: the most pixels by which augmentation moves an image.
        precision: a Keras dtype policy for all but the logits.
        seed: fixes dropout.
        jitter: the crops have columns of contrast and brightness.
        any_resolution: build it for images of any side.
        gathered: it is fed pixels as ``gather`` returns them, not crops.
        frozen: the layers that do not train; their batch normalisation is as in inference.
    """
    inputs = keras.Input((None, None, 3), name="pixels") if any_resolution else None
    core = keras.models.clone_model(
        export, input_tensors=inputs, clone_function=_training_layers(precision, seed, frozen)
    )
    core.set_weights(export.get_weights())
    fed = pixels = keras.Input(images.shape[1:], dtype="uint8", name="images")
    if not gathered:
        fed = keras.Input((6 if jitter else 4,), dtype="int32", name="crops")
        pixels = GatherCrops(images, margin, name="gather", dtype="uint8")(fed)
    if any_resolution:
        pixels = Downscale(images.shape[1], name="downscale", dtype=precision)(pixels)
    return Models(export, core, TrainingModel(fed, core(pixels), name="training"))


def _training_layers(precision: str, seed: int, frozen: Set[str]) -> Callable[[Any], Any]:
    """Return the function that makes a layer as it trains out of one as it is saved."""
    faster: dict[type, Any] = {}
    if keras.backend.backend() == "tensorflow":  # JAX's compiler fuses Keras's own layers
        from cifarcnn.training import tf_layers

        faster = tf_layers.REPLACEMENTS
    dropouts = 0

    def training_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        nonlocal dropouts
        config = {**layer.get_config(), "dtype": precision}
        if layer.name in frozen:
            config["trainable"] = False
        if layer.name == "probabilities":
            # Logits in float32: a softmax in low precision loses the small probabilities and their gradients.
            config |= {"dtype": "float32", "activation": "linear"}
        if isinstance(layer, keras.layers.Dropout):
            config["seed"] = int(generator(seed, Stream.DROPOUT, dropouts).integers(2**31))
            dropouts += 1
        return faster.get(type(layer), type(layer)).from_config(config)

    return training_layer


def weighted_crossentropy(targets: Any, logits: Any) -> Any:
    """Return the cross-entropy of each image, for targets that need not add up to 1.

    The gradient of Keras's, on TensorFlow, is right for those that do only.
    """
    return -ops.sum(targets * ops.log_softmax(logits), axis=-1)


def frozen_layers(network: keras.Model, freeze: str) -> frozenset[str]:
    """Return the names of the layers with weights that ``freeze`` holds fixed.

    Raises:
        UsageError: there are fewer convolutions.
    """
    layers = [layer for layer in network.layers if layer.weights]
    if freeze == BACKBONE:
        return frozenset(layer.name for layer in layers[:-1])
    places = [place for place, layer in enumerate(layers) if isinstance(layer, keras.layers.Conv2D)]
    if int(freeze) > len(places):
        raise UsageError(
            f"--freeze is {freeze}, but {network.name} has {len(places)} convolutions; expected at most that"
            f" many, or {BACKBONE}"
        )
    # Up to the next convolution, or the first dense layer.
    dense = [place for place, layer in enumerate(layers) if isinstance(layer, keras.layers.Dense)]
    end = min(*places[int(freeze) :], dense[0], len(layers))
    return frozenset(layer.name for layer in layers[:end])


class GatherCrops(keras.layers.Layer):  # type: ignore[misc]
    """Turns crops, as ``augment.sample_epoch`` draws them, into pixels, from a store of all images.

    Args:
        images: uint8, (n, 32, 32, 3).
        margin: pixels by which a crop may be moved; the border is repeated outwards that far.
    """

    def __init__(self, images: npt.NDArray[np.uint8], margin: int, **options: Any) -> None:
        super().__init__(trainable=False, **options)
        self.size, self.margin = images.shape[1], margin
        pixels = pad(images, margin)
        # A weight rather than a constant: JAX would compile a constant of 240 MB into the program.
        self.store = self.add_weight(
            shape=pixels.shape, dtype="uint8", initializer="zeros", trainable=False, name="store"
        )
        self.store.assign(pixels)

    def call(self, crops: Any) -> Any:
        """Gather pixels; see ``gather``."""
        return gather(self.store, crops, self.size, self.margin)


def pad(images: npt.NDArray[np.uint8], margin: int) -> npt.NDArray[np.uint8]:
    """Return the pixels of images with a border, uint8, (n * (32 + 2 * margin) ** 2, 3)."""
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    return padded.reshape(-1, 3)


def gather(store: Any, crops: Any, size: int, margin: int) -> Any:
    """Gather the pixels of crops.

    Args:
        store: what ``pad`` returns, on the device.
        crops: int32 or int64, (batch, 4) or (batch, 6), as ``augment.sample_epoch`` returns them.
        size: the side of an image.
        margin: the border with which the images are stored.

    Returns:
        In the store's dtype, (batch, size, size, 3).
    """
    stride = size + 2 * margin
    image, top, left, flip = (crops[:, column] for column in range(4))
    line = ops.arange(size, dtype=keras.backend.standardize_dtype(crops.dtype))
    rows = top[:, None] + line
    columns = left[:, None] + ops.where(flip[:, None] == 1, size - 1 - line, line)
    positions = (image[:, None, None] * stride + rows[:, :, None]) * stride + columns[:, None, :]
    pixels = ops.take(store, positions, axis=0)
    if crops.shape[1] == 4:
        return pixels
    # All numbers are whole and below 2 ** 24, which float32 holds exactly, as ``augment.cut`` does.
    contrast, brightness = (ops.cast(crops[:, column, None, None, None], "float32") for column in (4, 5))
    changed = (ops.cast(pixels, "float32") - MIDDLE) * (UNIT + contrast) + BRIGHTEST * brightness
    changed = ops.floor((changed + UNIT // 2) / UNIT) + MIDDLE
    return ops.cast(ops.clip(changed, 0, 255), pixels.dtype)


class Downscale(keras.layers.Layer):  # type: ignore[misc]
    """Makes images smaller, with antialiasing. ``side`` may change between two compilations of a model."""

    def __init__(self, side: int, **options: Any) -> None:
        super().__init__(trainable=False, **options)
        self.full = self.side = side

    def call(self, pixels: Any) -> Any:
        """Downscale images.

        Args:
            pixels: uint8, (batch, full, full, 3).

        Returns:
            In the layer's compute dtype, 0-255, (batch, side, side, 3).
        """
        images = ops.cast(pixels, self.compute_dtype)
        if self.side == self.full:
            return images
        weights = ops.cast(_downscaling(self.full, self.side), self.compute_dtype)
        rows = ops.einsum("oh,bhwc->bowc", weights, images)
        return ops.einsum("pw,bowc->bopc", weights, rows)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return a shape of open side, so that the network after it is built for any."""
        return (shape[0], None, None, shape[3])


def _downscaling(full: int, side: int) -> npt.NDArray[np.float32]:
    """Return the matrix (side, full) that shrinks a line of pixels: triangles as wide as the ratio."""
    ratio = full / side
    centres = (np.arange(side)[:, None] + 0.5) * ratio
    weights = np.maximum(0, 1 - np.abs(np.arange(full) + 0.5 - centres) / ratio)
    shares: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


# Gradient accumulation within a step. A processor's caches hold the activations of some hundred images, but
# not of the thousands that Muon wants: a batch of 2,000 trains a fifth faster in parts of 500. Keras's own
# `gradient_accumulation_steps` averages the weights (`ema`) once for each part, lets float16 skip parts where
# it must skip steps, and cannot be used under `tf.distribute`.


def gradients(model: TrainingModel, inputs: Any, targets: Any, parts: int) -> tuple[list[Any], Any, Any]:
    """Return what one of a batch's parts adds to its step, on TensorFlow. Batch norm sees the part alone.

    Args:
        model: compiled, from inputs to logits.
        inputs: those of the part.
        targets: float32, (images of the part, classes).
        parts: how many there are.

    Returns:
        Its share of the gradients of the trainable variables, scaled as the optimizer wants them; its share
        of the loss; its logits, float32, (images of the part, classes).
    """
    import tensorflow as tf

    with tf.GradientTape() as tape:
        logits = model(inputs, training=True)
        loss = model.compute_loss(x=inputs, y=targets, y_pred=logits, training=True) / parts
        scaled = model.optimizer.scale_loss(loss)
    return tape.gradient(scaled, [variable.value for variable in model.trainable_variables]), loss, logits


def _accumulate_on_tensorflow(model: TrainingModel, data: Any) -> Any:
    """Make one step, as ``keras.Model.train_step`` on TensorFlow; return the metrics."""
    import tensorflow as tf

    inputs, targets = data
    steps = model.accumulation_steps
    divided_inputs, divided_targets = (_divide(array, steps) for array in data)

    def add(part: Any, sums: Any, loss: Any, logits: Any) -> Any:
        found, more, outputs = gradients(model, divided_inputs[part], divided_targets[part], steps)
        sums = [total + share for total, share in zip(sums, found, strict=True)]
        return part + 1, sums, loss + more, logits.write(part, outputs)

    nothing = [tf.zeros_like(variable.value) for variable in model.trainable_variables]
    _, found, loss, logits = tf.while_loop(
        lambda part, *_: part < steps,
        add,
        (0, nothing, 0.0, tf.TensorArray(tf.float32, steps)),
        parallel_iterations=1,
    )
    model.optimizer.apply_gradients(zip(found, model.trainable_variables, strict=True))
    return _measure(model, inputs, targets, loss, logits.concat())


def _accumulate_on_jax(model: TrainingModel, state: Any, data: Any) -> Any:
    """Make one step, as ``keras.Model.train_step`` on JAX; return the metrics and the new state."""
    import jax

    trainable, others, of_optimizer, of_metrics = state
    inputs, targets = data
    steps = model.accumulation_steps
    differentiate = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)

    def add(carried: Any, part: Any) -> Any:
        sums, before = carried
        (_, (loss, logits, after, _)), found = differentiate(
            trainable, before, of_metrics, *part, None, training=True, optimizer_variables=of_optimizer
        )
        sums = [total + share / steps for total, share in zip(sums, found, strict=True)]
        return (sums, after), (loss, logits)

    start = ([ops.zeros_like(value) for value in trainable], others)
    divided = tuple(_divide(array, steps) for array in (inputs, targets))
    (found, others), (losses, logits) = jax.lax.scan(add, start, divided)
    trainable, of_optimizer = model.optimizer.stateless_apply(of_optimizer, found, trainable)
    with StatelessScope(state_mapping=zip(model.metrics_variables, of_metrics, strict=True)) as scope:
        logs = _measure(model, inputs, targets, ops.mean(losses), ops.reshape(logits, targets.shape))
    of_metrics = [scope.get_current_value(variable) for variable in model.metrics_variables]
    return logs, (trainable, others, of_optimizer, of_metrics)


def _divide(array: Any, parts: int) -> Any:
    """Divide an array into equal parts, (parts, images of a part, ...)."""
    return ops.reshape(array, (parts, -1, *array.shape[1:]))


def _measure(model: TrainingModel, inputs: Any, targets: Any, loss: Any, logits: Any) -> Any:
    """Tell the metrics what a step found; return them."""
    (of_loss,) = (metric for metric in model.metrics if metric.name == "loss")
    of_loss.update_state(loss, sample_weight=ops.shape(inputs)[0])
    return model.compute_metrics(x=inputs, y=targets, y_pred=logits)
