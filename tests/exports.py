"""Networks to export, and exported models with something wrong in them, for the tests that open such."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

QUIET_CONVERTERS = pytest.mark.filterwarnings(
    # What the converters say of coming versions of NumPy, Keras and Python while they are imported.
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore::UserWarning",
)

IMAGES = (
    np.random.default_rng(5).integers(0, 256, (530, 4, 4, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
)
"""Images of coarse patches, which a network tells apart as it does not tell noise from noise."""

RANGES = {
    "bias": (-0.1, 0.1),
    "beta": (-0.3, 0.3),
    "gamma": (0.5, 1.5),
    "moving_mean": (-0.1, 0.1),
    "moving_variance": (0.02, 0.1),
}


def modern(seed: int = 1) -> keras.Model:
    """The layers that networks of this project use, with weights drawn so that its answers are sharp."""
    layers = keras.layers
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((32, 32, 3), name="pixels")
    x = layers.Rescaling([1 / 64, 1 / 60, 1 / 62], [-2.0, -2.1, -1.9], name="normalize")(pixels)
    x = layers.Activation("gelu", name="gelu1")(layers.Conv2D(8, 2, name="conv1")(x))
    for number, (width, activation) in enumerate(((12, "gelu"), (16, "silu"), (16, "relu")), 2):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.MaxPooling2D(name=f"pool{number}")(x) if number < 4 else x
        x = layers.BatchNormalization(scale=number > 2, name=f"norm{number}")(x)
        x = layers.Activation(activation, name=f"{activation}{number}")(x)
        x = layers.Dropout(0.1, name=f"dropout{number}")(x)
    flat = layers.Flatten(name="flatten")(x)
    x = layers.Concatenate(name="both")(
        [layers.GlobalMaxPooling2D(name="most")(x), layers.Dense(8, activation="relu", name="hidden")(flat)]
    )
    x = layers.Rescaling(1 / 3, name="shrink")(x)
    outputs = layers.Dense(10, activation="softmax", name="probabilities")(x)
    network = keras.Model(pixels, outputs, name="modern")
    generator = np.random.default_rng(seed)
    for weight in network.weights:
        if weight.name in RANGES:
            weight.assign(generator.uniform(*RANGES[weight.name], weight.shape).astype(np.float32))
    # So that the scores of images differ by a few units around zero, whatever was drawn above.
    last = network.get_layer("probabilities")
    scores = np.asarray(keras.Model(pixels, x)(IMAGES[:100])) @ np.asarray(last.kernel)
    factor = 3 / scores.std(axis=0)
    last.kernel.assign(np.asarray(last.kernel) * factor)
    last.bias.assign(-scores.mean(axis=0) * factor)
    return network


def litert(network: keras.Model, path: Path) -> Path:
    """Convert without any of our checks."""
    network.export(str(path), format="litert", verbose=False)
    return path


def plainly(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
