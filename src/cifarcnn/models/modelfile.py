"""Model files: a stock Keras ``.keras`` archive with this project's facts about it in one more member.

The archive opens in plain Keras without this package. ``load`` opens files from anywhere: what one may hold
is decided in ``modelguard`` before Keras sees it; exported models are left to ``exported``.
``Model.probabilities`` is the one way from pixels to probabilities, and ``Model.calibrated`` the one from
there to those that are told; evaluation and prediction both take them, so they agree.
"""

import difflib
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn.errors import ModelError
from cifarcnn.machine import backend, files
from cifarcnn.models import exported, kerasfile, modelguard, pretrained, trial
from cifarcnn.runs.progress import Progress
from cifarcnn.runs.run import RunDirectory

if TYPE_CHECKING:
    import keras
    import numpy as np

    from cifarcnn.models.runtimes import Runtime

BATCH_SIZE = 500
"""Images per step of inference: a divisor of the test set, and large enough to keep the processor busy."""


def display_name(path: Path) -> str:
    """Return what to call a model: its path, or the word that stands for the one of the package."""
    return pretrained.NAME if path == pretrained.PATH else str(path)


@dataclass(frozen=True)
class Model:
    """A network ready for inference.

    Args:
        path: the file it came from.
        metadata: what was stored with it; empty for a file that plain Keras wrote.
        network: the Keras model, or the runtime of an exported one, from raw 0-255 pixels (n, 32, 32, 3) to
            probabilities (n, 10).
        format: None for a Keras model, else a name from ``exportformats.FORMATS``.
    """

    path: Path
    metadata: dict[str, Any]
    network: "keras.Model | Runtime"
    format: str | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        return display_name(self.path)

    @property
    def keras(self) -> "keras.Model":
        """The network with its layers.

        Raises:
            ModelError: the model is an exported one.
        """
        if self.format is not None:
            raise ModelError(
                f"{self.path} is an exported model, which has no Keras layers; give the .keras file or the "
                "run directory that it was made from"
            )
        return self.network

    @property
    def temperature(self) -> float | None:
        """What its probabilities are calibrated by; None where it was trained without validation images."""
        return self.metadata.get("temperature")

    def inference(self) -> str:
        """Say on what and in which arithmetic it answers."""
        return backend.inference() if self.format is None else self.network.inference()

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
                size = min(batch_size, max(trial.SMALLEST_BATCH, 1 << (len(batch) - 1).bit_length()))
            padded = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
            answers[start : start + len(batch)] = self.network.predict_on_batch(padded)[: len(batch)]
        return answers

    def checked(self, answers: "np.ndarray") -> "np.ndarray":
        """Return answers of its own. (A training that diverges looks at them as they are.)

        Raises:
            ModelError: one is no finite number.
        """
        import numpy as np

        if not np.isfinite(answers).all():
            raise ModelError(
                f"the model {self.path} answers with numbers that are not finite; train it again"
            )
        return answers

    def calibrated(self, probabilities: "np.ndarray") -> "np.ndarray":
        """Make its probabilities (n, 10) mean what they say, where it knows how; the ranking stays."""
        from cifarcnn import metrics

        if self.temperature is None:
            return probabilities
        return metrics.apply_temperature(probabilities, self.temperature)


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
    """Find the model that a path stands for.

    That is the file itself, the best one of a run directory, a SavedModel directory itself, or, for the bare
    name ``pretrained``, the model that comes with the package, unless there is a file of that name.

    Raises:
        ModelError: there is none.
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
        if (path / exported.GRAPH).is_file():
            return path
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
    return path


def read_metadata(path: Path) -> dict[str, Any]:
    """Read what was stored with a model, without importing Keras; empty for a file that plain Keras wrote.

    Raises:
        ModelError: there is no such model, or it is damaged.
    """
    path = resolve(path)
    return _metadata(path, exported.form(path))


def _metadata(path: Path, kind: str | None) -> dict[str, Any]:
    """Read what was stored with the model in a file, and check what of it is computed with."""
    metadata = _archived_metadata(path) if kind is None else exported.read_metadata(path, kind)
    temperature = metadata.get("temperature", 1.0)
    # Ours are within 0.05 and 20; with far others the probabilities are no finite numbers.
    if not isinstance(temperature, int | float) or not 1e-3 <= temperature <= 1e3:
        shown = str(temperature)[:40]
        raise ModelError(
            f"the model {path} has the temperature {shown}; expected a number from 0.001 to 1,000; train it"
            " again"
        )
    return metadata


def _archived_metadata(path: Path) -> dict[str, Any]:
    """Read our member of a Keras archive; empty where there is none."""
    members = modelguard.read_members(path, modelguard.OUR_METADATA)
    if modelguard.OUR_METADATA not in members:
        return {}
    return modelguard.parse_json(path, modelguard.OUR_METADATA, members[modelguard.OUR_METADATA])


def keep_best(run: RunDirectory, progress: Progress) -> None:
    """Keep the model of a run's last completed epoch as the best, if it is.

    Called after the checkpoint that says so: were it before, a kill between them would leave as the best the
    model of an epoch that is trained again, perhaps otherwise. What a kill prevents is done on resuming.

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


def load(path: Path) -> Model:
    """Open a model file, an exported model or a run directory's best model, trusting nothing in it.

    Raises:
        ModelError: it is missing, damaged, unsafe, or does not map 32x32 images to ten probabilities.
    """
    path = resolve(path)
    kind = exported.form(path)
    metadata = _metadata(path, kind)
    return Model(path, metadata, kerasfile.load(path) if kind is None else exported.load(path, kind), kind)
