"""Train a network, or go on with a run: the public functions, and what they return.

They resolve settings, data and hardware and hand over to ``cifarcnn.loop``; Keras is imported only there.
"""

import dataclasses
import hashlib
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import cifar10, config, devices, sources
from cifarcnn.cifar10 import Images
from cifarcnn.config import Settings
from cifarcnn.errors import RunError, UsageError
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.run import Checkpoint, RunDirectory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cifarcnn.loop import Task


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        run_dir: the run directory.
        model: the best model's file in it.
        best_epoch: the epoch of that model, counted from 1.
        epochs: how many were completed.
        val_accuracy, val_loss: of the best model on the validation images; None with ``val_size`` 0.
        train_seconds: time in the training loop, validation and saving included.
        images_per_second: training images per second of the steps, compilation excluded.
        device, precision: what was computed on, and in which arithmetic.
    """

    run_dir: Path
    model: Path
    arch: str
    recipe: str
    seed: int
    epochs: int
    best_epoch: int
    val_accuracy: float | None
    val_loss: float | None
    train_seconds: float
    images_per_second: float
    device: str
    precision: str

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        paths = {"run_dir": str(self.run_dir), "model": str(self.model)}
        return {"schema": 1, **dataclasses.asdict(self), **paths}


def train(
    *,
    out: str | Path = "runs",
    data: str | Path | None = None,
    settings_file: str | Path | None = None,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> TrainingResult:
    """Train a network on the training images, and keep the best model by the validation images.

    The test images are not read.

    Args:
        out: where the run directory is made.
        data: the data set's directory or archive; else it is looked for and, if need be, fetched.
        settings_file: a TOML file of settings.
        on_event: told what happens; see ``cifarcnn.events``.
        **settings: fields of ``cifarcnn.Settings``; they win over the file.

    Raises:
        UsageError: a setting is wrong.
        DataError: the data set cannot be had.
        RunError: the training failed; what was saved is kept.
        Interrupted: Ctrl-C or SIGTERM; the training can be resumed.

    Example:
        >>> result = cifarcnn.train(arch="vgg2", epochs=1)
        >>> result.model
        PosixPath('runs/20261121-101500-vgg2-fast-seed0/best.keras')
    """
    from_file = config.read_toml(settings_file) if settings_file is not None else {}
    said = {name: value for name, value in settings.items() if value is not None}
    resolved = config.resolve({**from_file, **said})
    task = _prepare(resolved, data, on_event)
    directory = RunDirectory.create(Path(out), task.settings)
    on_event(Note(f"run directory: {directory.path}"))
    return _run(task, directory, None, on_event)


def resume(
    run_dir: str | Path,
    *,
    epochs: int | None = None,
    data: str | Path | None = None,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> TrainingResult:
    """Go on with a run that ended for any reason.

    On a CPU the end result equals, bit for bit, that of the run had it not been interrupted.

    Args:
        run_dir: the run directory.
        epochs: a new number of epochs in all, to extend (or shorten) the run.
        data: where the data set is, if it is not found by itself.
        on_event: told what happens.
        **settings: must equal the run's own, if given.

    Raises:
        UsageError: no such run, or a setting differs from the run's.
        RunError: the run's checkpoint is damaged, its data differ, or another process is at it.
        Interrupted: as for ``train``.
    """
    directory = RunDirectory.open(Path(run_dir))
    with directory.locked():
        checkpoint = directory.load_checkpoint()
    before, progress = checkpoint.settings, checkpoint.progress
    differing = [
        f"{name} is {getattr(before, name)!r} in the run, {value!r} now"
        for name, value in settings.items()
        if value is not None and value != getattr(before, name)
    ]
    if differing:
        raise UsageError(
            f"a resumed run keeps its settings ({'; '.join(differing)}); leave these options out, or start a"
            " new run without --resume"
        )
    if epochs is not None and epochs < progress.epoch + (progress.step > 0):
        raise UsageError(f"epochs is {epochs}, but {progress.epoch} are completed; expected more")
    after = config.resolve({**dataclasses.asdict(before), "epochs": epochs or before.epochs})
    task = _prepare(after, data, on_event)
    _compare(checkpoint, task, directory, on_event)
    on_event(Note(f"resuming {directory.path} in epoch {progress.epoch + 1} after step {progress.step}"))
    return _run(task, directory, checkpoint, on_event)


def _prepare(settings: Settings, data: str | Path | None, on_event: OnEvent) -> "Task":
    """Get images and hardware, and say what was chosen."""
    images = sources.load("train", data, on_event)
    train, validation = _split(images, settings)
    if settings.batch_size > len(train):
        raise UsageError(
            f"batch_size is {settings.batch_size}, but there are {len(train)} training images;"
            " expected at most as many"
        )
    from cifarcnn import backend

    hardware = backend.hardware()
    choice = devices.choose(hardware, settings.device, settings.precision)
    if choice.warning:
        on_event(Note(f"warning: {choice.warning}"))
    on_event(Note(f"{choice.device}: {choice.reason}"))
    from cifarcnn.loop import Task

    facts = {
        "cifarcnn": version("cifarcnn"),
        **backend.versions(),
        "backend": hardware.backend,
        "cpu": hardware.cpu,
        "cpus": hardware.cpus,
        "training_images_sha256": hashlib.sha256(
            images.images.tobytes() + images.labels.tobytes()
        ).hexdigest(),
    }
    resolved = dataclasses.replace(settings, device=choice.device, precision=choice.precision)
    return Task(resolved, choice, hardware.cpus, train, validation, facts)


def _split(images: Images, settings: Settings) -> tuple[Images, Images | None]:
    """Hold the validation images out, then reduce the rest to ``train_size``."""
    rest, held_out = cifar10.stratified_split(images.labels, settings.val_size, settings.seed)
    if settings.train_size is not None:
        rest = cifar10.stratified_subset(images.labels, rest, settings.train_size, settings.seed)
    train = Images(images.images[rest], images.labels[rest], images.source)
    if not settings.val_size:
        return train, None
    return train, Images(images.images[held_out], images.labels[held_out], images.source)


def _run(
    task: "Task", directory: RunDirectory, checkpoint: Checkpoint | None, on_event: OnEvent
) -> TrainingResult:
    """Train in the run directory, alone."""
    from cifarcnn import backend
    from cifarcnn.loop import Training
    from cifarcnn.signals import StopRequest

    settings = task.settings
    with directory.locked(), StopRequest() as stop, backend.running_on(task.choice, task.cpus):
        directory.write_json("settings", dataclasses.asdict(settings))
        directory.write_json("environment", {**task.facts, "platform": platform.platform()})
        training = Training(task, directory, checkpoint, on_event)
        training.run(stop)
    progress = training.progress
    speeds = [row["images_per_second"] for row in progress.rows if row["images_per_second"]]
    return TrainingResult(
        run_dir=directory.path,
        model=directory.best,
        arch=settings.arch,
        recipe=settings.recipe,
        seed=settings.seed,
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        val_accuracy=progress.best_accuracy,
        val_loss=progress.best_loss,
        train_seconds=round(progress.seconds, 3),
        images_per_second=round(sum(speeds) / len(speeds), 1) if speeds else 0.0,
        device=settings.device,
        precision=settings.precision,
    )


def _compare(checkpoint: Checkpoint, task: "Task", directory: RunDirectory, on_event: OnEvent) -> None:
    """Refuse other data or another backend; say where versions or hardware differ."""
    before: Mapping[str, Any] = checkpoint.facts
    differing = {
        name: (before.get(name), value) for name, value in task.facts.items() if before.get(name) != value
    }
    for name in ("training_images_sha256", "backend"):
        if name in differing:
            old, new = differing[name]
            raise RunError(f"cannot resume {str(directory.path)!r}: its {name} was {old}, and is {new} now")
    for name, (old, new) in differing.items():
        on_event(Note(f"warning: {name} was {old}, is {new} now: the result may differ in the last digits"))
