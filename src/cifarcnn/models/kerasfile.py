"""Opening a ``.keras`` archive from anywhere: checked, sized without being built, then read by Keras."""

import contextlib
import copy
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn.errors import ModelError, first_line
from cifarcnn.machine import backend
from cifarcnn.models import modelguard

if TYPE_CHECKING:
    import keras

    from cifarcnn.metrics import Array


def load(path: Path) -> "keras.Model":
    """Open a Keras archive, trusting nothing in it.

    Raises:
        ModelError: it is missing, damaged, unsafe, or does not map 32x32 images to probabilities.
    """
    # Keras would find the devices anyway; found this way, their drivers keep quiet and GPU memory is shared.
    backend.hardware()
    config, weights = read(path)
    network = build(path, modelguard.check_config(path, config), weights)
    modelguard.check_probabilities(path, trial_answers(path, network))
    return network


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return an archive's description, which is to be checked, and its HDF5 weights, or raise ModelError."""
    members = modelguard.read_members(path, modelguard.CONFIG, modelguard.WEIGHTS)
    config = modelguard.parse_json(path, modelguard.CONFIG, members[modelguard.CONFIG])
    return config, members[modelguard.WEIGHTS]


def build(path: Path, config: dict[str, Any], weights: bytes) -> "keras.Model":
    """Make the network of a checked description and of HDF5 weights as Keras 3 stores them.

    Raises:
        ModelError: the weights are unsafe, the network is none for 32x32 images, or they do not fit.
    """
    import keras

    modelguard.check_weights(path, weights)
    check_size(path, config)
    # Keras opens a copy of exactly what was checked, and no file that may have changed since.
    with modelguard.place_to_try(path) as directory, loading(path):
        checked = directory / "checked.keras"
        members = {modelguard.CONFIG: json.dumps(config).encode(), modelguard.WEIGHTS: weights}
        modelguard.write_archive(checked, {**members, modelguard.KERAS_METADATA: b"{}"})
        network: keras.Model = keras.models.load_model(checked, compile=False, safe_mode=True)
    return network


def check_size(path: Path, config: dict[str, Any]) -> None:
    """Build the network without its numbers, and refuse wrong shapes and sizes that memory may not hold.

    Keras lists the variables of a stateless scope per thread, so the scope gets a thread of its own.
    """
    import keras

    faults: list[ModelError] = []

    def check() -> None:
        try:
            with loading(path), keras.StatelessScope(initialize_variables=False):
                network = keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)
                _check_shapes(path, network)
        except ModelError as fault:
            faults.append(fault)

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]


def trial_answers(path: Path, network: "keras.Model", pixels: "Array | None" = None) -> "Array":
    """Ask a network about a few images, float32 (n, classes)."""
    import numpy as np

    images = modelguard.trial_images(modelguard.SMALLEST_BATCH) if pixels is None else pixels
    with loading(path):
        result = network(images, training=False)
        if isinstance(result, dict | list | tuple):
            raise ModelError(
                f"the model {path} returns a {type(result).__name__}; expected one tensor of probabilities"
            )
        return np.asarray(result, np.float32)


@contextlib.contextmanager
def loading(path: Path) -> Iterator[None]:
    """Turn whatever Keras raises about a foreign file, which may be any Exception, into one line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as problem:
        raise ModelError(f"Keras cannot load the model {path}: {first_line(problem)}") from problem


def _check_shapes(path: Path, network: "keras.Model") -> None:
    """Refuse a network of other input or output than ours, or too large."""
    if network.input_shape != (None, 32, 32, 3):
        raise ModelError(
            f"the model {path} takes input of shape {network.input_shape}; expected (None, 32, 32, 3)"
        )
    outputs = network.output_shape
    if not isinstance(outputs, tuple):
        raise ModelError(f"the model {path} returns a {type(outputs).__name__} of tensors; expected one")
    if len(outputs) != 2 or outputs[0] is not None or not 2 <= (outputs[1] or 0) <= modelguard.MOST_CLASSES:
        raise ModelError(
            f"the model {path} puts out shape {outputs}; expected (None, classes) of 2 classes or more"
        )
    parameters = sum(math.prod(variable.shape) for variable in network.variables)
    if parameters > modelguard.MOST_PARAMETERS:
        raise ModelError(
            f"the model {path} declares {parameters:,} parameters; at most {modelguard.MOST_PARAMETERS:,} "
            "are accepted"
        )
    for operation in operations(network):
        for node in operation._inbound_nodes:
            for output in node.output_tensors:
                lengths = output.shape[1:]
                if None in lengths or math.prod(lengths) > modelguard.LARGEST_ACTIVATION:
                    raise ModelError(
                        f"the model {path} has a layer {operation.name!r} that puts out {lengths} per image; "
                        f"at most {modelguard.LARGEST_ACTIVATION:,} numbers are accepted"
                    )


def operations(network: "keras.Model") -> Iterator["keras.Operation"]:
    """Walk the layers and operations of a network and of the networks in it."""
    for operation in network.operations if hasattr(network, "operations") else network.layers:
        yield operation
        if hasattr(operation, "layers"):
            yield from operations(operation)


NORMALISING = ("Rescaling", "Normalization", "BatchNormalization", "LayerNormalization", "GroupNormalization")
ARITHMETIC = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide")
FIRST = ("Conv2D", "SeparableConv2D", "DepthwiseConv2D", "Conv2DTranspose", "Dense")

CERTAIN = 1e-6
"""The probability of the second class below which an answer counts as saturated.

Networks that were trained on raw pixels are at 0.01 to 0.4 on noise, those that expect pixels / 255 at 1e-20.
"""


def seems_to_expect_prepared_pixels(path: Path, network: "keras.Model") -> bool:
    """Tell a network trained on prepared pixels: nothing normalises its input, and it is certain of noise."""
    import numpy as np

    for operation in operations(network):
        if type(operation).__name__ in (*NORMALISING, *ARITHMETIC):
            return False
        if type(operation).__name__ in FIRST:
            break
    rows = trial_answers(path, network, modelguard.trial_images(2 * modelguard.SMALLEST_BATCH)[1:])
    return bool(np.median(np.sort(rows, axis=1)[:, -2]) < CERTAIN)
