"""Model files: a stock Keras archive with this project's facts about it in one more member.

``Model.probabilities`` is the one way from pixels to probabilities, ``Model.calibrated`` to those shown.
"""

import difflib
import json
import os
import shlex
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn.data.cifar10 import CLASSES, Images, stratified_split
from cifarcnn.errors import ModelError
from cifarcnn.machine import backend, files
from cifarcnn.models import kerasfile, litert, modelguard, pretrained
from cifarcnn.runs.progress import Progress
from cifarcnn.runs.run import RunDirectory

if TYPE_CHECKING:
    import keras
    import numpy as np

BATCH_SIZE = 500
"""Images per step of inference: a divisor of the test set, and large enough to keep the processor busy."""


EXPECTED = "expected a .keras file, a LiteRT file (.tflite) or a run directory"
SAVED_MODEL = "saved_model.pb"
"""The file by which a SavedModel directory is known."""

TRAINED_ON = "training_images_sha256"
"""The fact in a model's metadata that identifies all images its training was given, held out or not."""


def display_name(path: Path) -> str:
    """Return what to call a model: its path, or the word that stands for the one of the package."""
    return pretrained.NAME if path == pretrained.PATH else str(path)


@dataclass(frozen=True)
class Model:
    """A network ready for inference.

    Args:
        path: the file it came from.
        metadata: what was stored with it; empty for a file that plain Keras wrote.
        network: the Keras or LiteRT model, from raw 0-255 pixels (n, 32, 32, 3) to probabilities
            (n, classes).
        format: None for a Keras model, else "litert".
        classes: what its outputs stand for, in their order.
        warnings: what a user should know before believing in its figures.
    """

    path: Path
    metadata: dict[str, Any]
    network: "keras.Model | litert.LiteRT"
    format: str | None = None
    classes: tuple[str, ...] = CLASSES
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What messages call it."""
        return display_name(self.path)

    @property
    def keras(self) -> "keras.Model":
        """The network with its layers; ModelError if it is a LiteRT model."""
        if self.format is not None:
            raise ModelError(
                f"{self.name} is a LiteRT model, which has no Keras layers; give the .keras file or the run "
                "directory that it was made from"
            )
        return self.network

    @property
    def temperature(self) -> float | None:
        """What its probabilities are calibrated by; None where it was trained without validation images."""
        return self.metadata.get("temperature")

    def inference(self) -> str:
        """Say on what and in which arithmetic it answers."""
        return backend.inference() if self.format is None else self.network.inference()

    @backend.keras_settings()
    def probabilities(self, images: "np.ndarray", batch_size: int = BATCH_SIZE) -> "np.ndarray":
        """Return the network's outputs, float32 (n, classes), for images, uint8 (n, 32, 32, 3) in RGB.

        The last, partial batch is padded to a power of two, so that only a few sizes are ever compiled.
        """
        import numpy as np

        answers = np.empty((len(images), len(self.classes)), np.float32)
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            size = batch_size
            if len(batch) < batch_size:
                size = min(batch_size, max(modelguard.SMALLEST_BATCH, 1 << (len(batch) - 1).bit_length()))
            padded = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
            answers[start : start + len(batch)] = self.network.predict_on_batch(padded)[: len(batch)]
        return answers

    def checked(self, answers: "np.ndarray") -> "np.ndarray":
        """Return outputs of this model, or raise ModelError if one is not finite."""
        import numpy as np

        if not np.isfinite(answers).all():
            raise ModelError(
                f"the model {self.path} answers with numbers that are not finite; train it again"
            )
        return answers

    def calibrated(self, probabilities: "np.ndarray") -> "np.ndarray":
        """Make its probabilities (n, classes) mean what they say, where it knows how; the ranking stays."""
        from cifarcnn import metrics

        if self.temperature is None:
            return probabilities
        return metrics.apply_temperature(probabilities, self.temperature)


def save(model: "keras.Model", path: Path, metadata: dict[str, Any]) -> None:
    """Write a stock Keras model, not compiled, and its metadata, whole or not at all.

    Equal weights, layer names and metadata give equal bytes: times and memory addresses are left out.

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
        modelguard.write_archive(aside, members)


def _renumber_shared_objects(item: Any, numbers: dict[int, int]) -> None:
    """Replace the memory addresses by which Keras marks shared objects by 1, 2, 3 in order of appearance."""
    if isinstance(item, dict):
        if "shared_object_id" in item:
            item["shared_object_id"] = numbers.setdefault(item["shared_object_id"], len(numbers) + 1)
        item = list(item.values())
    if isinstance(item, list):
        for value in item:
            _renumber_shared_objects(value, numbers)


def resolve(path: Path) -> Path:
    """Find the model that a path stands for: the file itself, a run's best model, or the pretrained one.

    Raises:
        ModelError: there is none, or it is of a kind that is not opened.
    """
    try:
        return _resolved(path)
    except OSError as problem:
        raise ModelError(f"cannot read the model {path}: {problem.strerror}") from problem


def _resolved(path: Path) -> Path:
    """Find the model, or raise ModelError or OSError."""
    if path.is_dir():
        best = RunDirectory(path).best
        if best.is_file():
            return best
        if (path / SAVED_MODEL).is_file() and (path / "keras_metadata.pb").is_file():
            raise ModelError(
                f"{path} is a SavedModel of Keras 2, which is not opened; where it was made, save it with "
                "model.save('model.h5'), then: cifarcnn import model.h5 --output NEW.keras"
            )
        if (path / SAVED_MODEL).is_file():
            raise ModelError(f"{path} is a SavedModel, which is not opened; {EXPECTED}")
        raise ModelError(
            f"the directory {path} holds no {best.name}; expected a model file or a run directory"
        )
    if str(path) == pretrained.NAME and not path.exists():
        return pretrained.PATH
    if path.is_symlink() and not path.exists():
        raise ModelError(f"the model {path} is a link to {path.readlink()}, which is not there")
    if not path.exists():
        near = []
        if path.parent.is_dir():
            near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], 1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "train one with `cifarcnn train`"
        raise ModelError(f"there is no model {path}; {hint}")
    if path.suffix.lower() == ".onnx":
        raise ModelError(f"{path} is an ONNX model, which is not opened; {EXPECTED}")
    return path


def read_metadata(path: Path) -> dict[str, Any]:
    """Read what was stored with a model, without importing Keras; empty for a file that plain Keras wrote.

    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    path = resolve(path)
    if litert.is_litert(path):
        data = litert.read_metadata(path)
    else:
        data = modelguard.read_members(path, modelguard.OUR_METADATA).get(modelguard.OUR_METADATA)
    metadata = {} if data is None else modelguard.parse_json(path, modelguard.OUR_METADATA, data)
    temperature = metadata.get("temperature", 1.0)
    # Ours are within 0.05 and 20; with far others the probabilities are no finite numbers.
    if not isinstance(temperature, int | float) or not 1e-3 <= temperature <= 1e3:
        shown = str(temperature)[:40]
        raise ModelError(
            f"the model {path} has the temperature {shown}; expected a number from 0.001 to 1,000; train it"
            " again"
        )
    classes = metadata.get("classes", ["", "x"])
    sound = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not sound or not 2 <= len(set(classes)) == len(classes):
        raise ModelError(
            f"the model {path} has the classes {str(classes)[:40]}; expected two or more different names"
        )
    return metadata


def keep_best(run: RunDirectory, progress: Progress) -> None:
    """Keep the model of a run's last completed epoch as the best, if its checkpoint says that it is.

    Raises:
        OSError: the directory cannot be written.
    """
    if not 0 < progress.best_epoch == progress.epoch or not os.path.exists(run.last):
        return
    try:
        epoch = read_metadata(run.last).get("epoch")
    except ModelError:
        return  # what is damaged is no better
    # A kill may also have left the model of an epoch that no checkpoint knows.
    if epoch == progress.epoch:
        content = run.last.read_bytes()
        if not os.path.exists(run.best) or run.best.read_bytes() != content:
            files.write_bytes(run.best, content)


def load(path: str | Path) -> Model:
    """Open a model file or a run directory's best model, trusting nothing in it.

    Raises:
        ModelError: it is missing, damaged, unsafe, or does not map 32x32 images to probabilities.
    """
    path = resolve(Path(path))
    metadata = read_metadata(path)
    if litert.is_litert(path):
        runtime = litert.load(path)
        return Model(path, metadata, runtime, "litert", _classes(path, metadata, runtime.outputs))
    network = kerasfile.load(path)
    classes = _classes(path, metadata, network.output_shape[-1])
    warnings: tuple[str, ...] = ()
    if not metadata and kerasfile.seems_to_expect_prepared_pixels(path, network):
        warnings = (
            f"the model {path} seems to expect prepared pixels: nothing in it normalises them, and given "
            "0 to 255 it is certain of everything; if it was trained on pixels / 255: "
            f"cifarcnn import {shlex.quote(str(path))} --pixels 0-1 --output NEW.keras",
        )
    return Model(path, metadata, network, None, classes, warnings)


def _classes(path: Path, metadata: dict[str, Any], outputs: int) -> tuple[str, ...]:
    """Name a model's outputs: as its metadata does, else as CIFAR-10 does ten, else by their numbers."""
    if "classes" in metadata:
        if len(metadata["classes"]) != outputs:
            raise ModelError(
                f"the model {path} names {len(metadata['classes'])} classes, but has {outputs} outputs; "
                "train or export it again"
            )
        return tuple(metadata["classes"])
    return CLASSES if outputs == len(CLASSES) else tuple(f"class {number}" for number in range(outputs))


@dataclass(frozen=True)
class HeldOut:
    """How many images a training held out, drawn by which seed, and the checksum of all it was given."""

    size: int
    seed: int
    sha256: str | None

    def among(self, images: Images) -> Images:
        """Return those held out of all that the training was given; UsageError if they are too few."""
        return images.at(stratified_split(images.labels, self.size, self.seed)[1])


def held_out(metadata: dict[str, Any]) -> HeldOut | None:
    """Read from a model's metadata what its training held out; None where it does not say."""
    size, seed = metadata.get("val_size"), metadata.get("seed")
    if not (isinstance(size, int) and isinstance(seed, int)):
        return None
    return HeldOut(size, seed, trained_on(metadata))


def trained_on(metadata: dict[str, Any]) -> str | None:
    """Return the checksum of the images that the training was given; None where it is not known."""
    facts = metadata.get("facts")
    return str(facts[TRAINED_ON]) if isinstance(facts, dict) and TRAINED_ON in facts else None
