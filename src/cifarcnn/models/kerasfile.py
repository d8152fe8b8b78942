"""Opening a ``.keras`` archive from anywhere: checked, sized without being built, then read by Keras."""

import json
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cifarcnn.errors import ModelError, first_line
from cifarcnn.machine import backend
from cifarcnn.models import modelguard, trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras


def load(path: Path) -> "keras.Model":
    """Open a Keras archive, trusting nothing in it.

    Raises:
        ModelError: it is missing, damaged, unsafe, or does not map 32x32 images to ten probabilities.
    """
    # Keras would find the devices anyway; found this way, their drivers keep quiet and GPU memory is shared.
    backend.hardware()
    members = modelguard.read_members(path, modelguard.CONFIG, modelguard.WEIGHTS)
    config = json.dumps(modelguard.checked_config(path, members[modelguard.CONFIG]))
    modelguard.check_weights(path, members[modelguard.WEIGHTS])
    _check_size(path, config)
    # Keras opens a copy of exactly what was checked, and no file that may have changed since.
    with modelguard.place_to_try(path) as directory:
        checked = Path(directory, "checked.keras")
        modelguard.write_archive(checked, {**members, modelguard.CONFIG: config.encode()})
        return _read_with_keras(path, checked)


def _check_size(path: Path, config: str) -> None:
    """Build the network without its numbers, and refuse wrong shapes and sizes that memory may not hold.

    Variables made inside a stateless scope have a shape but no value. Keras lists them per thread for a later
    filling, so the scope gets a thread of its own, and the list dies with it.
    """
    import keras

    faults: list[ModelError] = []

    def build() -> None:
        try:
            with keras.StatelessScope(initialize_variables=False):
                network = keras.saving.deserialize_keras_object(json.loads(config), safe_mode=True)
                _check_shapes(path, network)
        except ModelError as fault:
            faults.append(fault)
        # Keras promises no set of errors for a description that does not fit together, and TensorFlow's own
        # derive from Exception alone.
        except Exception as problem:
            faults.append(_not_loadable(path, problem))

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]


def _check_shapes(path: Path, network: "keras.Model") -> None:
    """Refuse a network of other input or output than ours, or too large; nothing is allocated for this."""
    for what, found, expected in (
        ("takes input", network.input_shape, (None, 32, 32, 3)),
        ("puts out", network.output_shape, (None, 10)),
    ):
        if found != expected:
            raise ModelError(f"the model {path} {what} of shape {found}; expected {expected}")
    parameters = sum(math.prod(variable.shape) for variable in network.variables)
    if parameters > modelguard.MOST_PARAMETERS:
        raise ModelError(
            f"the model {path} declares {parameters:,} parameters; at most {modelguard.MOST_PARAMETERS:,} "
            "are accepted"
        )
    for part in _parts(network):
        for node in part._inbound_nodes:
            for output in node.output_tensors:
                lengths = output.shape[1:]
                if None in lengths or math.prod(lengths) > modelguard.LARGEST_ACTIVATION:
                    raise ModelError(
                        f"the model {path} has a layer {part.name!r} that puts out {lengths} per image; "
                        f"at most {modelguard.LARGEST_ACTIVATION:,} numbers are accepted"
                    )


def _parts(network: "keras.Model") -> "Iterator[keras.Operation]":
    """Walk the layers and operations of a network and of the networks in it."""
    parts = network.operations if hasattr(network, "operations") else network.layers
    for part in parts:
        yield part
        if hasattr(part, "layers"):
            yield from _parts(part)


def _read_with_keras(path: Path, checked: Path) -> "keras.Model":
    """Load an archive that passed the checks, and see that it answers with probabilities."""
    import keras
    import numpy as np

    try:
        network = keras.models.load_model(checked, compile=False, safe_mode=True)
        rows = np.asarray(network(trial.images(trial.SMALLEST_BATCH), training=False), np.float32)
    except Exception as problem:  # as above: whatever Keras makes of a foreign file
        raise _not_loadable(path, problem) from problem
    trial.check_probabilities(path, rows)
    return network


def _not_loadable(path: Path, problem: Exception) -> ModelError:
    """Say in one line that Keras could not load a file, and the beginning of why."""
    return ModelError(f"Keras cannot load the model {path}: {first_line(problem)}")
