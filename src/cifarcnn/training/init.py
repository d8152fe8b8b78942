"""Initial weights: those of another model, and those that the ``whitened`` networks take from the images.

Of these, the first convolution decorrelates the colours of neighbouring pixels; every other filter passes its
input on as far as there are as many outputs as inputs (an identity, or Dirac, kernel). Both are those of
airbench94 (Keller Jordan, 2024, https://arxiv.org/abs/2404.00498), the first after Tysam Balsam's
hlb-CIFAR10.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cifarcnn.errors import UsageError
from cifarcnn.models import modelfile, pretrained
from cifarcnn.training.streams import Stream, generator

if TYPE_CHECKING:
    import keras

    from cifarcnn.data.cifar10 import Bytes

PRETRAINED_IMAGES = 500
"""How many images tell the pretrained model's means; see ``pretrained.keras_model``."""

IMAGES = 5000
"""Their 4.8 million patches are many more than the 78 numbers of a covariance need."""

EPSILON = 5e-4
"""Added to the variances: the least are about as small, and are noise that need not be amplified."""


def initialise(network: "keras.Model", images: "Bytes", labels: "Bytes", seed: int) -> None:
    """Give a ``whitened`` network its initial weights.

    Args:
        network: it has layers "normalize" and "whiten", block convolutions and "probabilities".
        images: the training images, uint8 (n, side, side, 3); 5,000 are used.
        labels: their classes, (n,).
        seed: fixes what is drawn.
    """
    random = generator(seed, Stream.INIT)
    sample = images[_sample(labels)].astype(np.float32)
    standardised = np.asarray(network.get_layer("normalize")(sample))
    network.get_layer("whiten").set_weights([whitening_kernel(standardised)])
    for layer in network.layers:
        if layer.name.startswith("block") and "conv" in layer.name:
            layer.set_weights([identity_kernel(layer.kernel.shape, random)])
    last = network.get_layer("probabilities")
    last.set_weights([random.normal(0, 1 / last.kernel.shape[0], last.kernel.shape)])


def transfer(network: "keras.Model", init: str, images: "Bytes", classes: tuple[str, ...]) -> str:
    """Give a network the weights of another wherever a layer of the same name has the same shapes.

    The last layer is left out if the classes are others.

    Args:
        network: what is about to be trained.
        init: a model as ``--init`` names it.
        images: training images, uint8 (n, 32, 32, 3).
        classes: what the outputs of ``network`` stand for.

    Returns:
        What was done, in one line.

    Raises:
        ModelError: the model cannot be read.
        UsageError: no layer fits.
    """
    path = modelfile.resolve(Path(init))
    if path == pretrained.PATH:
        metadata = modelfile.read_metadata(path)
        few = images[:: len(images) // PRETRAINED_IMAGES + 1]
        source, known = pretrained.keras_model(path, metadata["arch"], few), tuple(metadata["classes"])
    else:
        model = modelfile.load(path)
        source, known = model.keras, model.classes
    weights = {layer.name: layer.get_weights() for layer in source.layers}
    scales = [layer.scale for net in (network, source) for layer in net.layers if layer.name == "normalize"]
    if not np.allclose(scales[0], scales[-1]):
        raise UsageError(f"--init {init!r} normalises pixels otherwise; give the --normalize of its training")
    if known != classes:
        del weights[source.layers[-1].name]
    layers = [layer for layer in network.layers if layer.weights]
    others = []
    for layer in layers:
        given = weights.get(layer.name, [])
        if [array.shape for array in given] == [tuple(weight.shape) for weight in layer.weights]:
            layer.set_weights(given)
        else:
            others.append(layer.name)
    if len(others) == len(layers):
        raise UsageError(
            f"--init {init!r} has no layer of the same name and shapes as {network.name}; give another model,"
            " or with --arch its own network"
        )
    text = f"--init {init}: {len(layers) - len(others)} of {len(layers)} layers begin with its weights"
    return f"{text}, but not {', '.join(others)}" if others else text


def _sample(labels: "Bytes") -> "slice | npt.NDArray[np.int64]":
    """Return the places of 5,000 images of all classes: the first, unless they stand class by class."""
    if (labels[1:] < labels[:-1]).any():
        return slice(IMAGES)
    return np.linspace(0, len(labels) - 1, min(len(labels), IMAGES)).astype(np.int64)


def whitening_kernel(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the kernel whose outputs over these images are uncorrelated and of like variance.

    Args:
        images: float32 (n, side, side, 3), normalised.

    Returns:
        float32 (2, 2, 3, 24): the principal components of 2x2 patches, each divided by its standard
        deviation, the largest first, and then their negatives: a ReLU that follows loses no sign.
    """
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    flat = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)
    variances, components = np.linalg.eigh(flat.T @ flat / len(flat))
    # A component's sign is arbitrary; the same images shall give the same kernel on any machine.
    components = components * np.sign(components[np.abs(components).argmax(axis=0), np.arange(12)])
    kernel = (components / np.sqrt(variances + EPSILON))[:, ::-1].reshape(2, 2, 3, 12)
    return np.concatenate([kernel, -kernel], axis=-1).astype(np.float32)


def identity_kernel(shape: tuple[int, int, int, int], random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw a kernel (height, width, in, out) whose first ``in`` filters each pass one input channel on."""
    height, width, inputs, outputs = shape
    bound = (height * width * inputs) ** -0.5
    kernel = random.uniform(-bound, bound, shape)
    passed = np.arange(min(inputs, outputs))
    kernel[..., passed] = 0
    kernel[height // 2, width // 2, passed, passed] = 1
    return kernel.astype(np.float32)
