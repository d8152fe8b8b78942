"""Model files: a stock Keras ``.keras`` archive with this project's facts about it in one more member.

The archive opens in plain Keras without this package. ``load`` opens files from anywhere: what one may hold
is decided in ``cifarcnn.modelguard`` before Keras sees it. ``Model.probabilities`` is the one way from pixels
to probabilities; evaluation and prediction both take it, so they agree.
"""

import difflib
import hashlib
import json
import math
import tempfile
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import backend, files, modelguard
from cifarcnn.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras
    import numpy as np

BATCH_SIZE = 500
"""Images per step of inference: a divisor of the test set, and large enough to keep the processor busy."""

SMALLEST_BATCH = 8
"""A batch of one takes another path through the convolutions, whose sums differ in the last digits."""

MOST_PARAMETERS = 100_000_000
LARGEST_ACTIVATION = 1 << 20
"""Numbers per image that one layer may put out; the widest published CIFAR-10 networks need two thirds."""

BEST = "best.keras"
"""The file in a run directory that the directory stands for."""


@dataclass(frozen=True)
class Model:
    """A network ready for inference.

    Args:
        path: the file it came from.
        metadata: what was stored with it; empty for a file that plain Keras wrote.
        network: the Keras model, from raw 0-255 pixels (n, 32, 32, 3) to probabilities (n, 10).
    """

    path: Path
    metadata: dict[str, Any]
    network: "keras.Model"

    def probabilities(self, images: "np.ndarray", batch_size: int = BATCH_SIZE) -> "np.ndarray":
        """Ask the network about images.

        Args:
            images: uint8 (n, 32, 32, 3), red green blue, 0-255.
            batch_size: images per step. The last, partial step is padded to a power of two, so that only a
                few sizes are ever compiled.

        Returns:
            float32 (n, 10), in the order of ``cifar10.CLASSES``.
        """
        import numpy as np

        answers = np.empty((len(images), 10), np.float32)
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            size = batch_size
            if len(batch) < batch_size:
                size = min(batch_size, max(SMALLEST_BATCH, 1 << (len(batch) - 1).bit_length()))
            padded = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
            answers[start : start + len(batch)] = self.network.predict_on_batch(padded)[: len(batch)]
        return answers


def save(model: "keras.Model", path: Path, metadata: dict[str, Any]) -> None:
    """Write a model and what is to be known about it, whole or not at all.

    Equal weights, layer names and metadata give equal bytes: times and memory addresses, which Keras writes
    into its files, are left out.

    Args:
        model: a stock Keras model, not compiled (its optimizer would be stored as well).
        path: where to; the name ends in ``.keras``.
        metadata: anything JSON can hold.

    Raises:
        OSError: the file cannot be written.
    """
    # On the same disk, so that there is one that can be full, and one place to tidy after a power cut.
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as directory:
        plain = Path(directory, "plain.keras")
        model.save(plain)
        with zipfile.ZipFile(plain) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members[modelguard.CONFIG])
    _renumber_shared_objects(config, {})
    version = json.loads(members[modelguard.KERAS_METADATA])["keras_version"]
    members[modelguard.CONFIG] = json.dumps(config).encode()
    members[modelguard.KERAS_METADATA] = json.dumps({"keras_version": version}).encode()
    ours = json.dumps(metadata, indent=1, sort_keys=True, allow_nan=False)
    members[modelguard.OUR_METADATA] = ours.encode()
    with files.replacing(path) as aside:
        _write_archive(aside, members)


def _renumber_shared_objects(item: Any, numbers: dict[int, int]) -> None:
    """Replace the memory addresses by which Keras marks shared objects by 1, 2, 3 in order of appearance."""
    if isinstance(item, dict):
        if "shared_object_id" in item:
            item["shared_object_id"] = numbers.setdefault(item["shared_object_id"], len(numbers) + 1)
        item = list(item.values())
    if isinstance(item, list):
        for value in item:
            _renumber_shared_objects(value, numbers)


def _write_archive(path: Path, members: dict[str, bytes]) -> None:
    """Write a zip whose bytes depend on its members alone."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])


def weights_digest(model: "keras.Model") -> str:
    """SHA-256 over type, shape and bytes of all weights in order, whatever the layers are called.

    Dropout's random states are left out: Keras does not store them.
    """
    import numpy as np

    digest = hashlib.sha256()
    for weight in model.weights:
        value = np.asarray(weight)
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def resolve(path: Path) -> Path:
    """Find the model file that a path stands for: the file itself, or the best one of a run directory.

    Raises:
        ModelError: there is none.
    """
    if path.is_dir():
        if (path / BEST).is_file():
            return path / BEST
        if (path / "saved_model.pb").exists():
            raise ModelError(f"{path} is a TensorFlow SavedModel; expected a .keras file or a run directory")
        raise ModelError(f"the directory {path} holds no {BEST}; expected a .keras file or a run directory")
    if not path.exists():
        near = []
        if path.parent.is_dir():
            near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], 1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "train one with `cifarcnn train`"
        raise ModelError(f"there is no model {path}; {hint}")
    return path


def read_metadata(path: Path) -> dict[str, Any]:
    """Read what was stored with a model, without importing Keras; empty for a file that plain Keras wrote.

    Raises:
        ModelError: there is no such model, or it is not a sound archive.
    """
    path = resolve(path)
    members = modelguard.read_members(path, modelguard.OUR_METADATA)
    if modelguard.OUR_METADATA not in members:
        return {}
    metadata = modelguard.parse_json(path, modelguard.OUR_METADATA, members[modelguard.OUR_METADATA])
    temperature = metadata.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not (math.isfinite(temperature) and temperature > 0):
        raise ModelError(f"the model {path} has the temperature {temperature!r}; expected a number above 0")
    return metadata


def load(path: Path) -> Model:
    """Open a model file or a run directory's best model, trusting nothing in it.

    Raises:
        ModelError: it is missing, damaged, unsafe, or does not map 32x32 images to ten probabilities.
    """
    path = resolve(path)
    metadata = read_metadata(path)
    # Keras would find the devices anyway; found this way, their drivers keep quiet and GPU memory is shared.
    backend.hardware()
    members = modelguard.read_members(path, modelguard.CONFIG, modelguard.WEIGHTS)
    config = json.dumps(modelguard.checked_config(path, members[modelguard.CONFIG]))
    modelguard.check_weights(path, members[modelguard.WEIGHTS])
    _check_size(path, config)
    # Keras opens a copy of exactly what was checked, and no file that may have changed since.
    with tempfile.TemporaryDirectory() as directory:
        checked = Path(directory, "checked.keras")
        _write_archive(checked, {**members, modelguard.CONFIG: config.encode()})
        network = _read_with_keras(path, checked)
    return Model(path, metadata, network)


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
    if parameters > MOST_PARAMETERS:
        raise ModelError(
            f"the model {path} declares {parameters:,} parameters; at most {MOST_PARAMETERS:,} are accepted"
        )
    for part in _parts(network):
        for node in part._inbound_nodes:
            for output in node.output_tensors:
                lengths = output.shape[1:]
                if None in lengths or math.prod(lengths) > LARGEST_ACTIVATION:
                    raise ModelError(
                        f"the model {path} has a layer {part.name!r} that puts out {lengths} per image; "
                        f"at most {LARGEST_ACTIVATION:,} numbers are accepted"
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

    probe = np.zeros((SMALLEST_BATCH, 32, 32, 3), np.uint8)
    probe[1:] = np.random.default_rng(0).integers(0, 256, probe[1:].shape, np.uint8)
    try:
        network = keras.models.load_model(checked, compile=False, safe_mode=True)
        rows = np.asarray(network(probe, training=False), np.float32)
    except Exception as problem:  # as above: whatever Keras makes of a foreign file
        raise _not_loadable(path, problem) from problem
    # bfloat16 outputs have three digits, and their ten roundings add up.
    if not np.allclose(rows.sum(axis=1), 1, atol=0.02) or not (rows >= 0).all():
        raise ModelError(
            f"the output of the model {path} is not probabilities; expected a softmax at its end"
        )
    return network


def _not_loadable(path: Path, problem: Exception) -> ModelError:
    """Say in one line that Keras could not load a file, and the beginning of why."""
    reason = (str(problem) or type(problem).__name__).strip().splitlines()[0][:200]
    return ModelError(f"Keras cannot load the model {path}: {reason}")
