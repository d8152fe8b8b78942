"""The networks: one table, and the four families that its rows are instances of.

Every network takes raw pixels (0-255) of shape (n, 32, 32, 3), carries its own normalisation as a stock
``Rescaling`` layer and ends in a softmax over the classes. Only stock Keras layers are used, so what is
saved opens without this package; each has a name, so that equal networks are saved as equal files. How a
network is made fast for training is the business of ``training.model``; the settings it is trained with stand
in ``cifarcnn.recipes``; weights that depend on the training images are worked out in ``training.init``.

To add a network, write a builder that takes a ``Variant`` and returns a ``keras.Model``, and add its row;
nothing else enumerates the networks. README.md shows a whole example.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifarcnn.data.cifar10 import CHANNEL_MEAN, CHANNEL_STD, CLASSES, IMAGE_SHAPE
from cifarcnn.errors import UsageError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Variant:
    """What a recipe may vary in a network without changing its layers."""

    normalize: str = "standard"
    """"unit" divides pixels by 255; "standard" also subtracts each channel's mean and divides by its std."""

    batch_norm_momentum: float = 0.99
    """How slowly the moving statistics of batch normalisation follow; 0.99 is Keras's default."""

    dropout: float = 1.0
    """A factor on every dropout rate of the network; 1 is as published, 0 turns dropout off."""

    classes: int = len(CLASSES)
    """How many classes the network tells apart."""


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        name: what ``--arch`` takes.
        build: makes the network.
        params: its number of parameters for ten classes, batch normalisation's moving statistics included.
        summary: its layers in one line.
        published: the result its author published, and how the training went; empty for our own networks.
        whitened: its first convolution is computed from the training images, and its filters begin as
            identities; see ``training.init``.
        any_resolution: it pools over the whole image at its end, and so can be trained on smaller ones.
    """

    name: str
    build: "Callable[[Variant], keras.Model]"
    params: int
    summary: str
    published: str = ""
    whitened: bool = False
    any_resolution: bool = False


def _pixels(variant: Variant) -> tuple["keras.KerasTensor", "keras.KerasTensor"]:
    """Return the input and the normalised images."""
    import keras

    pixels = keras.Input(IMAGE_SHAPE, name="pixels")
    if variant.normalize == "unit":
        return pixels, keras.layers.Rescaling(1 / 255, name="normalize")(pixels)
    scale = [1 / (255 * std) for std in CHANNEL_STD]
    offset = [-mean / std for mean, std in zip(CHANNEL_MEAN, CHANNEL_STD, strict=True)]
    return pixels, keras.layers.Rescaling(scale, offset, name="normalize")(pixels)


def _classifier(
    name: str, pixels: "keras.KerasTensor", features: "keras.KerasTensor", variant: Variant, **options: Any
) -> "keras.Model":
    """Close the network with a probability for each class."""
    import keras

    dense = keras.layers.Dense(variant.classes, activation="softmax", name="probabilities", **options)
    return keras.Model(pixels, dense(features), name=name)


def plain(
    name: str,
    filters: Sequence[int],
    paddings: tuple[str, str] = ("same", "valid"),
    block_dropout: float = 0.25,
) -> "Callable[[Variant], keras.Model]":
    """Blocks of two convolutions, pooling and dropout, then 512 hidden units: ``plain6`` and its kin."""

    def build(variant: Variant) -> "keras.Model":
        from keras import layers

        pixels, x = _pixels(variant)
        for block, width in enumerate(filters, 1):
            for number, padding in enumerate(paddings, 1):
                place = f"block{block}_conv{number}"
                x = layers.Conv2D(width, 3, padding=padding, activation="relu", name=place)(x)
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
            if block_dropout:
                x = layers.Dropout(block_dropout * variant.dropout, name=f"block{block}_dropout")(x)
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(512, activation="relu", name="hidden")(x)
        x = layers.Dropout(0.5 * variant.dropout, name="hidden_dropout")(x)
        return _classifier(name, pixels, x, variant)

    return build


def regularised(
    name: str, blocks: Sequence[tuple[int, float]], l2: float
) -> "Callable[[Variant], keras.Model]":
    """Blocks of two convolutions with an L2 penalty, and no hidden dense layer: ``rmsprop6``.

    Args:
        name: the network's name.
        blocks: the filters and the dropout rate of each block.
        l2: the factor of the penalty on every convolution's weights.
    """

    def build(variant: Variant) -> "keras.Model":
        import keras
        from keras import layers

        pixels, x = _pixels(variant)
        for block, (width, dropout) in enumerate(blocks, 1):
            for number in (1, 2):
                place, penalty = f"block{block}_conv{number}", keras.regularizers.L2(l2)
                x = layers.Conv2D(
                    width, 3, padding="same", activation="relu", kernel_regularizer=penalty, name=place
                )(x)
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
            x = layers.Dropout(dropout * variant.dropout, name=f"block{block}_dropout")(x)
        return _classifier(name, pixels, layers.Flatten(name="flatten")(x), variant)

    return build


def vgg(
    name: str, blocks: Sequence[tuple[int, float]], norms_per_block: int, head_dropout: float | None
) -> "Callable[[Variant], keras.Model]":
    """VGG blocks with batch normalisation and 128 hidden units: ``vgg2`` and ``vgg3``.

    Args:
        name: the network's name.
        blocks: the filters and the dropout rate of each block.
        norms_per_block: 1 normalises after the block's second convolution, 2 after each.
        head_dropout: None for a bare hidden layer, else it is normalised and dropped out at this rate.
    """

    def build(variant: Variant) -> "keras.Model":
        from keras import layers

        he: dict[str, Any] = {"activation": "relu", "kernel_initializer": "he_uniform"}
        momentum = variant.batch_norm_momentum
        pixels, x = _pixels(variant)
        for block, (width, dropout) in enumerate(blocks, 1):
            for number in (1, 2):
                x = layers.Conv2D(width, 3, padding="same", name=f"block{block}_conv{number}", **he)(x)
                if number > 2 - norms_per_block:
                    x = layers.BatchNormalization(momentum=momentum, name=f"block{block}_norm{number}")(x)
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
            x = layers.Dropout(dropout * variant.dropout, name=f"block{block}_dropout")(x)
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(128, name="hidden", **he)(x)
        if head_dropout is not None:
            x = layers.BatchNormalization(momentum=momentum, name="hidden_norm")(x)
            x = layers.Dropout(head_dropout * variant.dropout, name="hidden_dropout")(x)
        return _classifier(name, pixels, x, variant)

    return build


def whitened(name: str, widths: Sequence[int]) -> "Callable[[Variant], keras.Model]":
    """A fixed whitening convolution, then blocks of two convolutions: ``whiten6`` and its kin.

    The layout is that of airbench94 (Keller Jordan, 2024, https://arxiv.org/abs/2404.00498): a convolution
    that decorrelates the colours of neighbouring pixels; each block pools after its first convolution, and
    normalises without a scale. Ours differs where a CPU does: the whitening has no bias, so nothing is
    propagated back to its full-size output, ReLU follows it, and SiLU, cheaper than GELU, the others; and it
    ends in a maximum over the whole image, so that smaller images fit as well.

    Args:
        name: the network's name.
        widths: the filters of each block.
    """

    def build(variant: Variant) -> "keras.Model":
        from keras import layers

        norm: dict[str, Any] = {"momentum": variant.batch_norm_momentum, "epsilon": 1e-5, "scale": False}
        pixels, x = _pixels(variant)
        x = layers.Conv2D(24, 2, activation="relu", use_bias=False, trainable=False, name="whiten")(x)
        for block, width in enumerate(widths, 1):
            for number in (1, 2):
                place = f"block{block}_"
                x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{place}conv{number}")(x)
                if number == 1:
                    x = layers.MaxPooling2D(name=f"{place}pool")(x)
                x = layers.BatchNormalization(name=f"{place}norm{number}", **norm)(x)
                x = layers.Activation("silu", name=f"{place}silu{number}")(x)
        x = layers.GlobalMaxPooling2D(name="pool")(x)
        return _classifier(name, pixels, x, variant, use_bias=False)

    return build


def _whiten6(name: str, widths: tuple[int, int, int], params: int) -> Architecture:
    """Return the row of a ``whitened`` network of three blocks."""
    pairs = " ".join(f"{width}-{width}" for width in widths)
    return Architecture(
        name,
        whitened(name, widths),
        params,
        f"fixed whitening, six convolutions {pairs} with batch norm and SiLU",
        whitened=True,
        any_resolution=True,
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        "plain6",
        plain("plain6", (32, 64, 64)),
        276_138,
        "six convolutions 32-32 64-64 64-64 with dropout, 512 hidden units",
        "curves only, 50 epochs of RMSprop",
    ),
    Architecture(
        "plain6-small",
        plain("plain6-small", (16, 32, 64)),
        208_794,
        "plain6 with 16-16 32-32 64-64 filters",
        "curves only",
    ),
    Architecture(
        "rmsprop6",
        regularised("rmsprop6", ((32, 0.25), (64, 0.35), (128, 0.5)), l2=1e-4),
        307_498,
        "six L2-regularised convolutions 32-32 64-64 128-128 with dropout, no hidden units",
        "81.94% test accuracy after 60 epochs of RMSprop",
    ),
    Architecture(
        "vgg2",
        vgg("vgg2", ((32, 0.25), (64, 0.35)), norms_per_block=1, head_dropout=None),
        591_658,
        "two VGG blocks 32-32 64-64, one batch norm each, 128 hidden units",
        "76% test accuracy after 20 epochs of SGD",
    ),
    Architecture(
        "vgg3",
        vgg("vgg3", ((32, 0.2), (64, 0.3), (128, 0.4)), norms_per_block=2, head_dropout=0.5),
        552_874,
        "three VGG blocks 32-32 64-64 128-128, batch norm throughout, 128 hidden units",
        "76-77% test accuracy after more than 600 epochs of SGD",
    ),
    Architecture(
        # Its author's table names no padding; "same" is our choice.
        "shallow2",
        plain("shallow2", (32,), paddings=("same", "same"), block_dropout=0),
        4_210_090,
        "two convolutions of 32 filters, 512 hidden units",
        "68.0% validation accuracy after 10 epochs",
    ),
    _whiten6("whiten6-tiny", (32, 64, 96), 212_064),
    _whiten6("whiten6-small", (32, 64, 128), 295_520),
    _whiten6("whiten6-medium", (48, 128, 192), 791_232),
    _whiten6("whiten6", (64, 256, 256), 1_973_920),
    _whiten6("whiten6-large", (128, 384, 512), 6_084_896),
)


def find(name: str) -> Architecture:
    """Return the architecture of that name.

    Raises:
        UsageError: there is none; the message suggests the nearest.
    """
    rows = {row.name: row for row in ARCHITECTURES}
    if name in rows:
        return rows[name]
    near = difflib.get_close_matches(name.lower(), rows, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"unknown architecture {name!r}: {hint}known are {', '.join(rows)}")


def build(name: str, variant: Variant | None = None) -> "keras.Model":
    """Make a network with fresh weights, drawn from Keras's global seed.

    Args:
        name: a name from ``ARCHITECTURES``.
        variant: normalisation, classes and the like; Keras's defaults and ten classes without it.

    Returns:
        A stock float32 Keras model from pixels (n, 32, 32, 3), 0-255, to probabilities (n, classes).
    """
    return find(name).build(variant or Variant())
