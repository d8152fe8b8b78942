"""Small stock Keras models, and archives built by hand, for the tests that open models."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from cifarcnn.models import modelfile


def tiny(*end: keras.layers.Layer, side: int = 32, seed: int = 1) -> keras.Model:
    """A network that tells images apart; ``end`` replaces its softmax layer."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((side, side, 3), name="pixels"),
            keras.layers.Rescaling(1 / 32, offset=-4, name="rescaling"),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="convolution"),
            keras.layers.GlobalAveragePooling2D(name="pooling"),
            *(end or (keras.layers.Dense(10, activation="softmax", name="classes"),)),
        ],
        name="tiny",
    )


def save_tiny(path: Path, metadata: dict[str, Any] | None = None) -> Path:
    """Save a tiny model as this package does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    modelfile.save(tiny(), path, metadata or {})
    return path


def weights_digest(model: keras.Model) -> str:
    """SHA-256 over type, shape and bytes of all weights in order, whatever the layers are called.

    Dropout's random states are left out: Keras does not store them.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        value = np.asarray(weight)
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def members(path: Path) -> dict[str, bytes]:
    """Everything in an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive with exactly these members."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def edited(path: Path, source: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a model file with its description changed in place by ``edit``."""
    content = members(source)
    config = json.loads(content["config.json"])
    edit(config)
    content["config.json"] = json.dumps(config).encode()
    return write(path, content)


def pixels(number: int) -> np.ndarray:
    """Random images."""
    return np.random.default_rng(7).integers(0, 256, (number, 32, 32, 3), np.uint8)


def plain_keras(path: Path, *, safe: bool = True) -> subprocess.CompletedProcess[str]:
    """Load a model and ask it about ``pixels(3)`` in a process that has never heard of this package."""
    script = (
        "import sys, json, keras, numpy as np\n"
        f"model = keras.models.load_model({str(path)!r}, safe_mode={safe})\n"
        "images = np.random.default_rng(7).integers(0, 256, (3, 32, 32, 3), np.uint8)\n"
        "print(json.dumps([model.predict_on_batch(images).tolist(), 'cifarcnn' in sys.modules]))\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def old_config(network: keras.Model, *, channels_first: bool = False) -> dict[str, Any]:
    """Describe a sequential network as Keras 2 did: without modules, the shape in the first layer.

    With ``channels_first``, the layers between the input and Flatten say so; Flatten itself does not, as in
    the first versions of Keras 2.
    """
    layers = []
    for layer in network.layers:
        config: dict[str, Any] = {}
        for name, value in layer.get_config().items():
            old = value
            if isinstance(value, dict):  # initial values and the like; the data type, which was one word
                old = "float32" if name == "dtype" else {"class_name": "Zeros", "config": {}}
            config[name] = list(old) if isinstance(old, tuple) else old
        if channels_first and "data_format" in config and type(layer).__name__ != "Flatten":
            config["data_format"] = "channels_first"
        if channels_first and "axis" in config and len(layer.output.shape) == 4:
            config["axis"] = [1]
        layers.append({"class_name": type(layer).__name__, "config": config})
    shape = [None, 3, 32, 32] if channels_first else [None, 32, 32, 3]
    layers[0]["config"]["batch_input_shape"] = shape
    return {"class_name": "Sequential", "config": {"name": network.name, "layers": layers}}


def old_weights(group: h5py.Group, network: keras.Model, *, channels_first: bool = False) -> None:
    """Write a network's weights as Keras 2 did; the dense kernel after Flatten in the order of the pixels."""
    group.attrs["layer_names"] = [layer.name.encode() for layer in network.layers]
    group.attrs["keras_version"] = b"2.3.1"
    shape: tuple[int, ...] = ()
    for layer in network.layers:
        place = group.create_group(layer.name)
        arrays = {f"{layer.name}/{weight.name}:0": np.asarray(weight) for weight in layer.weights}
        if channels_first and type(layer).__name__ == "Dense" and shape:
            name = f"{layer.name}/kernel:0"
            kernel = arrays[name].reshape(*shape, -1)
            arrays[name] = kernel.transpose(2, 0, 1, 3).reshape(arrays[name].shape)
            shape = ()
        if type(layer).__name__ == "Flatten":
            shape = layer.input.shape[1:]
        place.attrs["weight_names"] = [name.encode() for name in arrays]
        for name, array in arrays.items():
            place[name] = array
