"""What a network is made of: its layers, parameters and floating-point operations."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import architectures, config, modelfile
from cifarcnn.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras


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


def summarise(name: str | Path) -> Summary:
    """Describe an architecture or a model file.

    Args:
        name: an architecture's name, or the path of a ``.keras`` file or run directory.

    Raises:
        UsageError: it is neither.
        ModelError: the file is not a model of ours.
    """
    names = [row.name for row in architectures.ARCHITECTURES]
    if str(name) in names:
        from cifarcnn import backend

        backend.load()
        return describe(architectures.build(str(name)), str(name))
    path = Path(name)
    if not path.exists() and path.suffix != ".keras" and path.name == str(name):
        architectures.find(str(name))
        raise UsageError(f"no model file {str(name)!r}")
    return describe(modelfile.load(path).network, str(name))


def describe(network: "keras.Model", name: str) -> Summary:
    """Describe a Keras model."""
    layers = [_layer(layer) for layer in network.layers]
    trainable = sum(math.prod(weight.shape) for weight in network.trainable_weights)
    return Summary(name, network.count_params(), trainable, sum(layer.flops for layer in layers), layers)


def overview() -> list[dict[str, Any]]:
    """Describe every architecture: name, params, flops, summary, published."""
    from cifarcnn import backend

    backend.load()
    rows = []
    for row in architectures.ARCHITECTURES:
        flops = describe(architectures.build(row.name), row.name).flops
        facts = {"name": row.name, "params": row.params, "flops": flops}
        rows.append({**facts, "summary": row.summary, "published": row.published})
    return rows


def recipes(arch: str) -> dict[str, dict[str, config.Value]]:
    """Return the settings of every recipe for an architecture."""
    return {
        recipe: dataclasses.asdict(config.resolve({"arch": arch, "recipe": recipe}))
        for recipe in config.RECIPES
    }


def _layer(layer: "keras.layers.Layer") -> Layer:
    kind = type(layer).__name__
    shape: Sequence[int | None] = layer.output.shape
    output = [int(size or 0) for size in shape[1:]]
    flops = 0
    kernel = getattr(layer, "kernel", None)
    if kernel is not None and kind in ("Conv2D", "Dense"):
        # Every number of a convolution's kernel is used once at each place of its output.
        places = math.prod(output[:-1])
        flops = 2 * math.prod(kernel.shape) * places
    return Layer(layer.name, kind, output, layer.count_params(), flops)
