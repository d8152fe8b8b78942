"""Train a network: the public function, and what it returns.

It resolves settings, data and hardware and hands over to ``loop``; Keras is imported only there.
Going on with a run stands in ``resumption``.
"""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import config
from cifarcnn.config import Settings
from cifarcnn.errors import RunError
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.figures import presentation
from cifarcnn.runs.progress import Progress, images_per_second
from cifarcnn.runs.run import RunDirectory
from cifarcnn.training import preparation
from cifarcnn.training.cluster import WAIT_SECONDS
from cifarcnn.training.preparation import ALONE, Company

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cifarcnn.training.loop import Training


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        run_dir: the run directory.
        model: the best model's file in it.
        best_epoch: the epoch of that model, counted from 1.
        epochs: how many were completed.
        val_accuracy, val_loss: of the best model on the validation images; None with ``val_size`` 0.
        train_seconds: time of the steps, of validation, and of saving each epoch's model; not of starting,
            checkpoints and pictures.
        images_per_second: training images per second of the steps, compilation excluded; None of a training
            of so few steps that there is nothing left.
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
    images_per_second: float | None
    device: str
    precision: str

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        paths = {"run_dir": str(self.run_dir), "model": str(self.model)}
        return {"schema": 1, **dataclasses.asdict(self), **paths}

    @classmethod
    def from_document(cls, document: "Mapping[str, Any]") -> "TrainingResult":
        """Return what ``as_document`` was made of."""
        fields = {name: value for name, value in document.items() if name != "schema"}
        return cls(**{**fields, "run_dir": Path(fields["run_dir"]), "model": Path(fields["model"])})


def train(
    *,
    out: str | Path = config.RUNS,
    data: str | Path | None = None,
    settings_file: str | Path | None = None,
    alone: bool = False,
    wait: float = WAIT_SECONDS,
    scale_batch: bool = False,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> TrainingResult:
    """Train a network on the training images, and keep the best model by the validation images.

    The test images are not read. Where ``TF_CONFIG`` or SLURM says that this process is one of several, they
    train in step; the first writes the run directory.

    Args:
        out: where the run directory is made.
        data: the data set's directory or archive; else it is looked for and, if need be, fetched.
        settings_file: a TOML file of settings.
        alone: train in this process alone whatever the environment says.
        wait: seconds to wait for the other processes.
        scale_batch: multiply batch size and learning rate by the number of devices.
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
    company = preparation.company(alone=alone, wait=wait, scale_batch=scale_batch)
    with preparation.telling(company):
        resolved = config.resolve(config.merged(settings_file, settings))
    return start(resolved, lambda: RunDirectory.create(Path(out), resolved), data, on_event, company)


def start(
    settings: Settings,
    make_directory: "Callable[[], RunDirectory]",
    data: str | Path | None,
    on_event: OnEvent,
    company: Company = ALONE,
) -> TrainingResult:
    """Train from the beginning, in a directory that is made as soon as there is something to save."""
    on_event = preparation.quieter(company, on_event)
    with preparation.telling(company):
        found = preparation.find(data, company, on_event)
        setup = preparation.settle(found, settings, company, on_event, resumed=False)
    from cifarcnn.training.loop import Training

    with preparation.computing(setup) as setup, contextlib.ExitStack() as stack:
        training = Training(setup, on_event)
        if not company.chief:
            return train_with_chief(training)
        directory = make_directory()
        on_event(Note(f"run directory: {directory.path}"))
        stack.enter_context(directory.locked())
        if directory.resumable():
            raise RunError(f"another process has begun {str(directory.path)!r}; start this one again")
        train_to_the_end(training, directory)
    return result_of(directory, setup.settings, training.progress)


def train_with_chief(training: "Training") -> TrainingResult:
    """Train as a worker that is not the chief, in whose directory everything is written."""
    training.run(None)
    if (cluster := training.setup.cluster) is not None:
        training.on_event(Note(f"run directory: {training.directory.path}, at {cluster.name(0)}"))
    return result_of(training.directory, training.setup.settings, training.progress)


def train_to_the_end(training: "Training", directory: RunDirectory) -> None:
    """Train, and write the report; a failure is remembered in the run directory."""
    # Advising here as well as around it all, so that what is remembered is the advice.
    with directory.remembering_failure(), preparation.advising(training.setup):
        training.run(directory)
        presentation.write_run_report(directory, training.setup.validation, training.setup.data)


def result_of(directory: RunDirectory, settings: Settings, progress: Progress) -> TrainingResult:
    """Sum a finished run up."""
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
        images_per_second=images_per_second(progress.rows),
        device=settings.device,
        precision=settings.precision,
    )
