"""The training twin: the same network, made fast for training.

A twin takes the place of a stock network while it trains. It holds the training images once, on the device,
padded; it is fed small integers and makes each crop by one gather; it computes in the chosen precision, with
faster layers where the backend has them, and ends in logits. Its weights are copied into the stock network,
which alone is evaluated and saved.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from cifarcnn.training import microbatches, optimizer
from cifarcnn.training.pipeline import BRIGHTEST, MIDDLE, UNIT


class CropFromStore(keras.layers.Layer):  # type: ignore[misc]
    """Turns picks into images, from a store of all images.

    Args:
        images: uint8, (n, 32, 32, 3).
        margin: pixels by which a crop may be moved; the border is repeated outwards that far.
    """

    def __init__(self, images: npt.NDArray[np.uint8], margin: int, **options: Any) -> None:
        super().__init__(trainable=False, **options)
        self.size, self.margin = images.shape[1], margin
        pixels = stored(images, margin)
        # A weight rather than a constant: JAX would compile a constant of 240 MB into the program.
        self.store = self.add_weight(
            shape=pixels.shape, dtype="uint8", initializer="zeros", trainable=False, name="store"
        )
        self.store.assign(pixels)

    def call(self, picks: Any) -> Any:
        """Gather crops; see ``gather``."""
        return gather(self.store, picks, self.size, self.margin)


def stored(images: npt.NDArray[np.uint8], margin: int) -> npt.NDArray[np.uint8]:
    """Return the pixels of images with a border, uint8, (n * (32 + 2 * margin) ** 2, 3)."""
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    return padded.reshape(-1, 3)


def gather(store: Any, picks: Any, size: int, margin: int) -> Any:
    """Gather crops.

    Args:
        store: what ``stored`` returns, on the device.
        picks: int32 or int64, (batch, 4) or (batch, 6), as ``pipeline.draw_epoch`` returns them.
        size: the side of an image.
        margin: the border with which the images are stored.

    Returns:
        In the store's dtype, (batch, size, size, 3).
    """
    stride = size + 2 * margin
    image, top, left, flip = (picks[:, column] for column in range(4))
    line = ops.arange(size, dtype=keras.backend.standardize_dtype(picks.dtype))
    rows = top[:, None] + line
    columns = left[:, None] + ops.where(flip[:, None] == 1, size - 1 - line, line)
    positions = (image[:, None, None] * stride + rows[:, :, None]) * stride + columns[:, None, :]
    crops = ops.take(store, positions, axis=0)
    if picks.shape[1] == 4:
        return crops
    # All numbers are whole and below 2 ** 24, which float32 holds exactly, as ``pipeline.crop`` does.
    contrast, brightness = (ops.cast(picks[:, column, None, None, None], "float32") for column in (4, 5))
    changed = (ops.cast(crops, "float32") - MIDDLE) * (UNIT + contrast) + BRIGHTEST * brightness
    changed = ops.floor((changed + UNIT // 2) / UNIT) + MIDDLE
    return ops.cast(ops.clip(changed, 0, 255), crops.dtype)


class Reduce(keras.layers.Layer):  # type: ignore[misc]
    """Makes images smaller, with antialiasing. ``side`` may change between two compilations of a model."""

    def __init__(self, side: int, **options: Any) -> None:
        super().__init__(trainable=False, **options)
        self.full = self.side = side

    def call(self, crops: Any) -> Any:
        """Reduce images.

        Args:
            crops: uint8, (batch, full, full, 3).

        Returns:
            In the layer's compute dtype, 0-255, (batch, side, side, 3).
        """
        images = ops.cast(crops, self.compute_dtype)
        if self.side == self.full:
            return images
        weights = ops.cast(reduction(self.full, self.side), self.compute_dtype)
        rows = ops.einsum("oh,bhwc->bowc", weights, images)
        return ops.einsum("pw,bowc->bopc", weights, rows)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return a shape of open side, so that the network after it is built for any."""
        return (shape[0], None, None, shape[3])


def reduction(full: int, side: int) -> npt.NDArray[np.float32]:
    """Return the matrix (side, full) that shrinks a line of pixels: triangles as wide as the reduction."""
    ratio = full / side
    centres = (np.arange(side)[:, None] + 0.5) * ratio
    weights = np.maximum(0, 1 - np.abs(np.arange(full) + 0.5 - centres) / ratio)
    shares: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


class Twin(keras.Model):  # type: ignore[misc]
    """A model whose metrics can go on where an interrupted epoch left them, and that divides batches.

    Attributes:
        within_epoch: whether the coming ``fit`` continues an epoch.
        parts: into how many micro-batches a batch is divided.
    """

    within_epoch = False
    parts = 1

    def train_step(self, *given: Any) -> Any:
        """Make one step. What is given and returned depends on the backend."""
        if self.parts == 1:
            return super().train_step(*given)
        if keras.backend.backend() == "tensorflow":
            return microbatches.step_on_tensorflow(self, *given)
        return microbatches.step_on_jax(self, *given)

    def reset_metrics(self) -> None:
        """Reset the metrics, unless within an epoch."""
        if not self.within_epoch:
            super().reset_metrics()


@dataclasses.dataclass(frozen=True)
class Pair:
    """A stock network and its training twin.

    Attributes:
        stock: float32, stock layers, pixels to probabilities: what is evaluated and saved.
        fast: the same layers as the twin trains them, without the crop.
        twin: picks, or crops, to logits: what ``fit`` is called on.
    """

    stock: keras.Model
    fast: keras.Model
    twin: Twin

    def train_at(self, side: int) -> None:
        """Train on images of this side from now on. The step is compiled anew if it changes."""
        reduce = self.twin.get_layer("reduce")
        if reduce.side != side:
            reduce.side = side
            self.twin.train_function = None

    def update_stock(self) -> None:
        """Copy the trained weights into the stock network."""
        weights = self.fast.get_weights()
        averaged = optimizer.put_averages(self.twin.optimizer, self.twin.trainable_variables)
        self.stock.set_weights(self.fast.get_weights() if averaged else weights)
        if averaged:
            self.fast.set_weights(weights)

    def state(self) -> list[Any]:
        """Return every variable on which the rest of the training depends, in a fixed order."""
        everything = [*self.twin.variables, *self.twin.optimizer.variables, *self.twin.metrics_variables]
        stores = [layer.store for layer in self.twin.layers if isinstance(layer, CropFromStore)]
        kept = {id(variable): variable for variable in everything}
        return [variable for variable in kept.values() if not any(variable is store for store in stores)]


def make(
    stock: keras.Model,
    images: npt.NDArray[np.uint8],
    *,
    margin: int,
    precision: str,
    seed: int,
    jitter: bool = False,
    any_side: bool = False,
    crops_given: bool = False,
) -> Pair:
    """Make the training twin of a network, with the same weights.

    Args:
        stock: a network that ends in a layer named "probabilities".
        images: the training images, uint8, (n, 32, 32, 3).
        margin: the most pixels by which augmentation moves an image.
        precision: a Keras dtype policy for all but the logits.
        seed: fixes dropout.
        jitter: the picks have columns of contrast and brightness.
        any_side: build it for images of any side; the network must allow it.
        crops_given: the twin takes crops, uint8, (batch, 32, 32, 3), as ``gather`` returns them, not picks.
    """
    replacements = _replacements()
    dropouts = 0

    def training_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        nonlocal dropouts
        config = {**layer.get_config(), "dtype": precision}
        if layer.name == "probabilities":
            # Logits in float32: a softmax in low precision loses the small probabilities and their gradients.
            config |= {"dtype": "float32", "activation": "linear"}
        if isinstance(layer, keras.layers.Dropout):
            dropouts += 1
            config["seed"] = int(np.random.default_rng([seed, dropouts]).integers(2**31))
        return replacements.get(type(layer), type(layer)).from_config(config)

    inputs = keras.Input((None, None, 3), name="pixels") if any_side else None
    fast = keras.models.clone_model(stock, input_tensors=inputs, clone_function=training_layer)
    fast.set_weights(stock.get_weights())
    if crops_given:
        fed = crops = keras.Input(images.shape[1:], dtype="uint8", name="crops")
    else:
        fed = keras.Input((6 if jitter else 4,), dtype="int32", name="picks")
        crops = CropFromStore(images, margin, name="crop", dtype="uint8")(fed)
    if any_side:
        crops = Reduce(images.shape[1], name="reduce", dtype=precision)(crops)
    return Pair(stock, fast, Twin(fed, fast(crops), name="twin"))


def _replacements() -> dict[type, Any]:
    """Return the faster layers that the backend has. JAX's compiler fuses Keras's own."""
    if keras.backend.backend() != "tensorflow":
        return {}
    from cifarcnn.training.tensorflow_layers import REPLACEMENTS

    return REPLACEMENTS
