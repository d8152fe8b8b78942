"""Small stock Keras models, and archives built by hand, for the tests that open models."""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
