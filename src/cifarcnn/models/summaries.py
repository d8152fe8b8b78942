"""What a network is made of, layer by layer, in parameters and operations, and what training it costs."""

import dataclasses
import hashlib
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import architectures, config, expectations
from cifarcnn.data.cifar10 import RECORDS_PER_FILE, TRAIN_FILES
from cifarcnn.models import litert, modelfile, pretrained
from cifarcnn.recipes import recipes_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras


FILE_SUFFIXES = (".keras", ".tflite", ".h5", ".hdf5", ".onnx")
"""Endings of names that stand for files, also where there is none."""


@dataclass(frozen=True)
class Layer:
    """One layer: its name, its Keras class, the shape it puts out without the batch, its parameters."""

    name: str
    type: str
    output_shape: list[int]
    params: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """A network. ``flops`` are per image: two per multiply-accumulate of convolutions and dense layers."""

    name: str
    params: int
    trainable_params: int
    flops: int
    layers: list[Layer]

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"schema": 1, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class ExportSummary:
    """A LiteRT model, which has no Keras layers to list: its bytes, checksum and metadata."""

    name: str
    format: str
    size: int
    sha256: str
    metadata: dict[str, Any]

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"schema": 1, **dataclasses.asdict(self), "layers": None}


def summarise(name: str | Path) -> Summary | ExportSummary:
    """Describe an architecture or a model.

    Args:
        name: an architecture's name, the path of a ``.keras`` file, run directory or LiteRT
            file, or ``pretrained``.

    Raises:
        UsageError: it is a word that names no architecture.
        ModelError: there is no such file, or it is not a model of ours.
    """
    path, word = Path(name), str(name)
    of_a_file = path.suffix.lower() in FILE_SUFFIXES or path.name != word
    if word in {row.name for row in architectures.ARCHITECTURES} or not (
        word == pretrained.NAME or os.path.exists(path) or of_a_file
    ):
        row = architectures.find(word)
        from cifarcnn.machine import backend

        backend.load()
        return describe(architectures.build(row.name), row.name)
    found = modelfile.resolve(path)
    if not litert.is_litert(found):
        return describe(modelfile.load(found).keras, word)
    metadata = modelfile.read_metadata(found)
    data = litert.checked(found)
    return ExportSummary(word, "litert", len(data), hashlib.sha256(data).hexdigest(), metadata)


def describe(network: "keras.Model", name: str) -> Summary:
    """Describe a Keras model."""
    layers = [_layer(layer) for layer in network.layers]
    trainable = sum(math.prod(weight.shape) for weight in network.trainable_weights)
    return Summary(name, network.count_params(), trainable, sum(layer.flops for layer in layers), layers)


def overview() -> list[dict[str, Any]]:
    """Describe every architecture: name, params, flops, summary, published, and what its recipes reach."""
    from cifarcnn.machine import backend

    backend.load()
    return [
        {
            "name": row.name,
            "params": row.params,
            "flops": describe(architectures.build(row.name), row.name).flops,
            "summary": row.summary,
            "published": row.published,
            "expected": {
                recipe: dataclasses.asdict(found)
                for (arch, recipe), found in expectations.table().items()
                if arch == row.name
            },
        }
        for row in architectures.ARCHITECTURES
    ]


@dataclass(frozen=True)
class Recipe:
    """A recipe of an architecture: its settings, its cost, and what it reached where it was measured."""

    settings: config.Settings
    training_flops: int
    expected: expectations.Expectation | None


def recipes(arch: str) -> dict[str, Recipe]:
    """Return every recipe of an architecture by its name."""
    chosen = {recipe: config.resolve({"arch": arch, "recipe": recipe}) for recipe in recipes_for(arch)}
    return {
        recipe: Recipe(settings, training_flops(settings), expectations.expected_for(settings))
        for recipe, settings in chosen.items()
    }


def training_flops(settings: config.Settings) -> int:
    """Return the floating-point operations of a whole training on CIFAR-10, validation not included.

    Counted are the convolutions and dense layers of each step: the outputs, the gradient of each layer's
    weights, and that of each layer's input where a trainable layer comes before.

    Args:
        settings: those of the training.
    """
    from cifarcnn.machine import backend

    backend.load()
    import keras

    network = architectures.build(settings.arch)
    images = len(TRAIN_FILES) * RECORDS_PER_FILE
    count = min(settings.train_size or images, images - settings.val_size)
    count -= count % settings.batch_size
    epochs = Counter(config.resolution_of_epoch(settings))
    return count * sum(
        number * _step_flops(keras.models.clone_model(network, keras.Input((side, side, 3))))
        for side, number in epochs.items()
    )


def _step_flops(network: "keras.Model") -> int:
    """Return the operations by which one image trains a network whose layers form a line."""
    total, trainable_before = 0, False
    for layer in network.layers:
        flops = _layer(layer).flops
        trainable = bool(layer.trainable_weights)
        total += flops * (1 + trainable + trainable_before)
        trainable_before = trainable_before or trainable
    return total


def _layer(layer: "keras.layers.Layer") -> Layer:
    kind = type(layer).__name__
    shape: Sequence[int | None] = layer.output.shape
    output = [int(size or 0) for size in shape[1:]]
    return Layer(layer.name, kind, output, layer.count_params(), _flops(layer))


def _flops(layer: "keras.layers.Layer") -> int:
    """Count the operations of a convolution or dense layer, or of a model within the model."""
    if inner := getattr(layer, "layers", None):
        return sum(map(_flops, inner))
    kernels = [
        getattr(layer, name).shape
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel")
        if getattr(layer, name, None) is not None
    ]
    # Every number of a convolution's kernel is used once at each place of its output; of a transposed one's,
    # at each place of its input.
    places = layer.input if type(layer).__name__ == "Conv2DTranspose" else layer.output
    return 2 * sum(map(math.prod, kernels)) * math.prod(int(size or 0) for size in places.shape[1:-1])
