"""The model that comes with the package: a LiteRT file of float16 weights, made by ``benchmarks/box.py``.

Beside it lies its SHA-256: a file of that checksum is opened without a sandbox.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn.errors import ModelError

if TYPE_CHECKING:
    import keras

    from cifarcnn.metrics import Array

NAME = "pretrained"
"""What stands for the model on the command line."""

DIRECTORY = Path(__file__).with_name("pretrained_model")
PATH = DIRECTORY / "model.tflite"
CHECKSUM = DIRECTORY / "model.tflite.sha256"
LARGEST = 10 << 20
"""Bytes that the file may have, its metadata included."""


@cache
def sha256() -> str:
    """Return the checksum that the pretrained model was packaged with; empty if none was."""
    return CHECKSUM.read_text(encoding="ascii").split()[0] if CHECKSUM.exists() else ""


def is_pretrained(data: bytes) -> bool:
    """Say whether these are the bytes of the pretrained model."""
    return len(data) <= LARGEST and hashlib.sha256(data).hexdigest() == sha256()


def keras_model(path: Path = PATH, arch: str = "whiten6", images: "Array | None" = None) -> "keras.Model":
    """Return the pretrained model as a Keras network, with the weights read back from the LiteRT file.

    The converter merged batch normalisation into the kernels, so its moving means are lost: the network
    answers as the file does, but training needs ``images`` to find the means again.

    Args:
        path: a LiteRT file of a network of the family ``architectures.whitened``.
        arch: the network's name.
        images: uint8 (n, 32, 32, 3), some hundred of those that it was trained on.

    Raises:
        ModelError: the file holds other operations than this architecture.
    """
    from cifarcnn import architectures
    from cifarcnn.machine import backend

    backend.load()
    network = architectures.build(arch)
    kernels, affine = _constants(path)
    blocks = (len(kernels) - 2) // 2
    names = ["whiten", *(f"block{n}_conv{k}" for n in range(1, blocks + 1) for k in (1, 2)), "probabilities"]
    try:
        for name, (kernel, bias) in zip(names, kernels, strict=True):
            network.get_layer(name).kernel.assign(kernel)
            if name.endswith("conv2"):
                _set_norm(network.get_layer(name.replace("conv", "norm")), 1.0, bias)
        for block, (factor, offset) in zip(range(1, blocks + 1), affine, strict=True):
            _set_norm(network.get_layer(f"block{block}_norm1"), factor, offset)
    except ValueError as problem:
        raise ModelError(f"the weights of the model {path} do not fit the network {arch}") from problem
    if images is not None:
        _find_means(network, images)
    return network


def _constants(path: Path) -> tuple[list[tuple["Array", Any]], list[tuple["Array", "Array"]]]:
    """Read the kernels, outputs last, with their biases, and the factors and offsets that follow them."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    codes = schema.BuiltinOperator
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    types = {schema.TensorType.FLOAT32: "<f4", schema.TensorType.FLOAT16: "<f2"}
    values: dict[int, Any] = {}
    for number, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        if data is not None and tensor.type in types:
            array = np.frombuffer(data.tobytes(), types[tensor.type])
            values[number] = array.astype(np.float32).reshape(tensor.shape)
    kernels: list[tuple[Array, Any]] = []
    factors: list[Array] = []
    offsets: list[Array] = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        constants: list[Any] = [values.get(int(number)) for number in operator.inputs]
        if code == codes.DEQUANTIZE:
            values[int(operator.outputs[0])] = constants[0]
        elif code in (codes.CONV_2D, codes.FULLY_CONNECTED):
            kernels.append((np.moveaxis(constants[1], 0, -1), constants[2]))
        elif kernels and constants[-1] is not None and code in (codes.MUL, codes.ADD):
            (factors if code == codes.MUL else offsets).append(constants[-1])
    return kernels, list(zip(factors, offsets, strict=True))


def _set_norm(layer: "keras.layers.BatchNormalization", factor: "float | Array", offset: "Array") -> None:
    """Have a batch normalisation without a scale multiply by a factor and add an offset."""
    import numpy as np

    layer.moving_mean.assign(np.zeros(layer.moving_mean.shape, np.float32))
    layer.moving_variance.assign(np.broadcast_to(1 / np.square(factor) - layer.epsilon, offset.shape))
    layer.beta.assign(offset)


def _find_means(network: "keras.Model", images: "Array") -> None:
    """Move each normalisation's mean to that of these images; what it computes stays the same."""
    import keras
    import numpy as np

    x = images.astype(np.float32)
    for layer in network.layers[1:]:
        if isinstance(layer, keras.layers.BatchNormalization):
            mean = np.asarray(x, np.float32).mean(axis=(0, 1, 2))
            factor = 1 / np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
            layer.beta.assign(np.asarray(layer.beta) + mean * factor)
            layer.moving_mean.assign(mean)
        x = layer(x, training=False)
