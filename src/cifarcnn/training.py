"""Train a network, or go on with a run: the public functions, and what they return.

They resolve settings, data and hardware and hand over to ``cifarcnn.loop``; Keras is imported only there.
"""

import contextlib
import dataclasses
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import config, devices, expectations, preflight, presentation, schedules, sources
from cifarcnn.config import Settings
from cifarcnn.errors import RunError, UsageError
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.run import Checkpoint, Progress, RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cifarcnn.loop import Task, Training


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
    return start(resolved, lambda: RunDirectory.create(Path(out), resolved), data, on_event)


def start(
    settings: Settings,
    make_directory: "Callable[[], RunDirectory]",
    data: str | Path | None,
    on_event: OnEvent,
) -> TrainingResult:
    """Train from the beginning, in a directory that is made as soon as there is something to save."""
    task = _prepare(settings, data, on_event)
    from cifarcnn.loop import Training

    with _computing(task):
        training = Training(task, on_event)
        directory = make_directory()
        on_event(Note(f"run directory: {directory.path}"))
        with directory.locked():
            if directory.resumable():
                raise RunError(f"another process has begun {str(directory.path)!r}; start this one again")
            _train(training, directory)
    return _result(directory, task.settings, training.progress)


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
        data: where the data set is, if it is neither where it was nor found by itself.
        on_event: told what happens.
        **settings: must equal the run's own, if given.

    Raises:
        UsageError: no such run, or a setting differs from the run's.
        RunError: the run's checkpoint is damaged, its data differ, or another process is at it.
        Interrupted: as for ``train``.
    """
    directory = RunDirectory.open(Path(run_dir))
    with directory.locked():
        checkpoint = directory.load_checkpoint(on_event)
        after = _resumed_settings(checkpoint, {**settings, "epochs": epochs})
        progress = checkpoint.progress
        if progress.finished(after):
            on_event(Note(f"{directory.path} is finished: {_ending(after, progress)}; --epochs extends it"))
            # A process killed after its last checkpoint has not come to these.
            directory.write_tables(progress.rows)
            directory.draw_curves(progress.rows)
            return _result(directory, after, progress)
        if data is None and checkpoint.data is not None and Path(checkpoint.data).exists():
            data = checkpoint.data
        task = _prepare(after, data, on_event)
        _compare(checkpoint, task, directory, on_event)
        on_event(Note(f"resuming {directory.path} in epoch {progress.epoch + 1} after step {progress.step}"))
        from cifarcnn.loop import Training

        with _computing(task):
            training = Training(task, on_event, checkpoint)
            if after.epochs != checkpoint.settings.epochs:
                done = progress.epoch * training.steps + progress.step
                on_event(Note(schedules.explain_extension(checkpoint.settings, after, training.steps, done)))
            _train(training, directory)
    return _result(directory, task.settings, progress)


def _train(training: "Training", directory: RunDirectory) -> None:
    with directory.remembering_failure():
        training.run(directory)
        presentation.write_run_report(directory.path, training.task.validation, training.task.data)


@contextlib.contextmanager
def _computing(task: "Task") -> "Iterator[None]":
    """Compute on the task's device within the block, and turn running out of memory into advice.

    Raises:
        RunError: memory ran out.
    """
    from cifarcnn import backend

    batch_size = task.settings.batch_size
    try:
        with backend.running_on(task.choice, task.cpus):
            yield
    except backend.memory_errors() as problem:
        if not isinstance(problem, MemoryError) and "RESOURCE_EXHAUSTED" not in str(problem):
            raise
        raise RunError(
            f"out of memory with batches of {batch_size} images; try a new run with --batch-size"
            f" {max(1, batch_size // 2)}"
        ) from problem


def _ending(settings: Settings, progress: Progress) -> str:
    """Say why a run is finished."""
    if progress.epoch >= settings.epochs:
        return f"{progress.epoch} of {settings.epochs} epochs"
    best = progress.best_epoch
    return f"no better validation accuracy in the {settings.patience} epochs after epoch {best}"


def _resumed_settings(checkpoint: Checkpoint, said: "Mapping[str, config.Value]") -> Settings:
    """Return the run's settings with the new number of epochs; refuse any other change.

    Raises:
        UsageError: a setting differs, or more epochs than that are completed.
    """
    before, progress = checkpoint.settings, checkpoint.progress
    epochs = said["epochs"]
    differing = [
        f"{name} is {getattr(before, name)!r} in the run, {value!r} now"
        for name, value in said.items()
        if name != "epochs" and value is not None and value != getattr(before, name)
    ]
    if differing:
        raise UsageError(
            f"a resumed run keeps its settings ({'; '.join(differing)}); leave these options out, or start a"
            " new run without --resume"
        )
    begun = progress.epoch + (progress.step > 0)
    if isinstance(epochs, int) and epochs < begun:
        raise UsageError(f"epochs is {epochs}, but {begun} are begun or completed; expected at least as many")
    changed = {} if epochs is None else {"epochs": epochs}
    return config.resolve({**dataclasses.asdict(before), **changed})


def _prepare(settings: Settings, data: str | Path | None, on_event: OnEvent) -> "Task":
    """Get images and hardware, and say what was chosen."""
    images = sources.load("train", data, on_event)
    train, validation = preflight.divide(images, settings)
    from cifarcnn import backend

    hardware = backend.hardware()
    choice = devices.choose(hardware, settings.device, settings.precision)
    if choice.warning:
        on_event(Note(f"warning: {choice.warning}"))
    on_event(Note(f"{choice.device}: {choice.reason}"))
    if expected := expectations.of(settings):
        on_event(Note(expected.sentence()))
    if settings.deterministic:
        _make_deterministic(choice, on_event)
    from cifarcnn.loop import Task

    facts = {
        "cifarcnn": version("cifarcnn"),
        **backend.versions(),
        "backend": hardware.backend,
        "cpu": hardware.cpu,
        "cpus": hardware.cpus,
        "training_images_sha256": images.sha256(),
    }
    resolved = dataclasses.replace(settings, device=choice.device, precision=choice.precision)
    place = None if data is None else str(Path(data).absolute())
    return Task(resolved, choice, hardware.cpus, train, validation, facts, place)


def _make_deterministic(choice: devices.Choice, on_event: OnEvent) -> None:
    """Fix the order of a GPU's sums; say what it costs and what is not promised."""
    from cifarcnn import backend

    if choice.device == "cpu":
        on_event(Note("deterministic: no change, on a CPU the same seed gives the same result anyway"))
        return
    backend.make_deterministic()
    text = "the same seed gives the same result on the same model of GPU with the same driver and versions"
    on_event(Note(f"deterministic: slower operations, without the XLA compiler; {text}, not on another"))


def _result(directory: RunDirectory, settings: Settings, progress: Progress) -> TrainingResult:
    """Sum a finished run up."""
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
