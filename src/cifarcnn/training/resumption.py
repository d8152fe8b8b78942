"""Go on with a run that ended for any reason: the public function.

It finds out how far the run is and whether settings, data and hardware are still the same, and hands over to
``loop``; Keras is imported only there.
"""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cifarcnn import config
from cifarcnn.config import Settings
from cifarcnn.errors import UsageError
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.figures import presentation
from cifarcnn.models import modelfile
from cifarcnn.runs.progress import Progress
from cifarcnn.runs.run import Checkpoint, RunDirectory, saving
from cifarcnn.training import preflight, preparation, schedules
from cifarcnn.training.cluster import WAIT_SECONDS, Cluster
from cifarcnn.training.preparation import Company
from cifarcnn.training.training import TrainingResult, result_of, train_to_the_end, train_with_chief
from cifarcnn.wording import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cifarcnn.training.assembly import Setup

MAY_CHANGE = ("epochs", "device", "devices")
"""The settings of a run that may be others when it goes on."""


def resume(
    run_dir: str | Path,
    *,
    epochs: int | None = None,
    data: str | Path | None = None,
    alone: bool = False,
    wait: float = WAIT_SECONDS,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> TrainingResult:
    """Go on with a run that ended for any reason.

    On a CPU the end result equals, bit for bit, that of the run had it not been interrupted. In a cluster the
    chief reads the run directory, and hands to the others what they need.

    Args:
        run_dir: the run directory.
        epochs: a new number of epochs in all, to extend (or shorten) the run.
        data: where the data set is, if it is neither where it was nor found by itself.
        alone, wait: as for ``train``.
        on_event: told what happens.
        **settings: must equal the run's own, if given; but ``device`` and ``devices`` may change.

    Raises:
        UsageError: no such run, or a setting differs from the run's.
        RunError: the run's checkpoint is damaged, its data differ, or another process is at it.
        Interrupted: as for ``train``.
    """
    company = preparation.company(alone=alone, wait=wait, scale_batch=False)
    on_event = preparation.quieter(company, on_event)
    if company.cluster is not None and not company.chief:
        return _follow(data, company.cluster, company, on_event)
    with contextlib.ExitStack() as stack:
        with preparation.telling(company):
            directory = RunDirectory.open(Path(run_dir))
            stack.enter_context(directory.locked())
            checkpoint = directory.load_checkpoint(on_event)
            after = _resumed_settings(checkpoint, {**settings, "epochs": epochs})
            if data is None and checkpoint.data is not None and os.path.exists(checkpoint.data):
                data = checkpoint.data
            if checkpoint.progress.finished(after):
                return _finished(directory, checkpoint, after, data, company, on_event)
            found = preparation.find(data, company, on_event)
            preparation.compare(checkpoint, found, directory, on_event)
            setup = preparation.settle(found, after, company, on_event, resumed=True)
            _tell_devices(checkpoint.settings, setup.settings, on_event)
        return _go_on(directory, checkpoint, setup, on_event)


def _go_on(
    directory: RunDirectory, checkpoint: Checkpoint, setup: "Setup", on_event: OnEvent
) -> TrainingResult:
    """Train what is left of a run whose directory is locked."""
    progress, before, after = checkpoint.progress, checkpoint.settings, setup.settings
    on_event(Note(f"resuming {directory.path} in epoch {progress.epoch + 1} after step {progress.step}"))
    from cifarcnn.training.loop import Training

    with preparation.computing(setup) as joined:
        training = Training(joined, on_event, checkpoint)
        if after.epochs != before.epochs:
            done = progress.epoch * training.steps + progress.step
            on_event(Note(schedules.explain_extension(before, after, training.steps, done)))
        train_to_the_end(training, directory)
    return result_of(directory, after, progress)


def _finished(
    directory: RunDirectory,
    checkpoint: Checkpoint,
    settings: Settings,
    data: str | Path | None,
    company: Company,
    on_event: OnEvent,
) -> TrainingResult:
    """Tell how a run ended, and make what a process killed after its last checkpoint has not come to."""
    progress, epochs = checkpoint.progress, settings.epochs
    whole = progress.epoch >= epochs
    extend = "; --epochs extends it" if whole else ""
    on_event(Note(f"{directory.path} is finished: {_ending(settings, progress)}{extend}"))
    if whole and epochs != checkpoint.settings.epochs:
        checkpoint = dataclasses.replace(
            checkpoint, settings=dataclasses.replace(checkpoint.settings, epochs=epochs)
        )
        directory.save_checkpoint(checkpoint)
    with directory.remembering_failure():
        directory.describe(checkpoint.settings, checkpoint.facts, checkpoint.data)
        directory.write_tables(progress.rows)
        with saving(directory.path):
            modelfile.keep_best(directory, progress)
            presentation.redraw(directory, progress.rows, None, None)
        if not directory.report.exists():
            found = preparation.find(data, company, on_event)
            preparation.compare(checkpoint, found, directory, on_event)
            validation = preflight.divide(found.images, settings)[1]
            if validation is not None:
                answers = modelfile.load(directory.last).probabilities(validation.images)
                with saving(directory.path):
                    presentation.redraw(directory, progress.rows, answers, validation.labels)
            presentation.write_run_report(directory, validation, found.data)
    result = result_of(directory, checkpoint.settings, progress)
    if company.cluster is not None:
        greeting = {"resume": True, "result": result.as_document()}
        preparation.meet(company.cluster, greeting, company, on_event)
    return result


def _follow(data: str | Path | None, cluster: Cluster, company: Company, on_event: OnEvent) -> TrainingResult:
    """Go on with a run as a worker that is not the chief."""
    with preparation.telling(company):
        found = preparation.find(data, company, on_event)
        setup = preparation.follow(found, cluster, company, on_event)
    if isinstance(setup, dict):
        return TrainingResult.from_document(setup)
    from cifarcnn.training.loop import Training

    with preparation.computing(setup) as setup:
        return train_with_chief(Training(setup, on_event))


def _tell_devices(before: Settings, now: Settings, on_event: OnEvent) -> None:
    """Warn if a run goes on on another device than before, or on more or fewer."""
    changes = [("device", before.device, now.device), ("devices", before.devices or 1, now.devices or 1)]
    told = [f"{name} was {old}, is {new} now" for name, old, new in changes if old != new]
    if told:
        on_event(Note(f"warning: {', '.join(told)}: the result may differ in the last digits"))


def _ending(settings: Settings, progress: Progress) -> str:
    """Say why a run is finished."""
    if progress.epoch >= settings.epochs:
        return f"{progress.epoch} of {settings.epochs} epochs"
    best = progress.best_epoch
    return f"no better epoch in the {count(settings.patience, 'epoch')} after epoch {best}"


def _resumed_settings(checkpoint: Checkpoint, said: "Mapping[str, config.Value]") -> Settings:
    """Return the run's settings with another number of epochs or device; refuse any other change.

    Raises:
        UsageError: a setting differs, or more epochs than that are completed.
    """
    before, progress = checkpoint.settings, checkpoint.progress
    for name, value in said.items():
        if value is not None:
            config.check(name, value)
    # To leave to the machine what it chose when the run began is to say nothing.
    said = {name: value for name, value in said.items() if value is not None and value != "auto"}
    epochs = said.get("epochs")
    differing = [
        f"{name} is {getattr(before, name)!r} in the run, {value!r} now"
        for name, value in said.items()
        if name not in MAY_CHANGE and value != getattr(before, name)
    ]
    if differing:
        raise UsageError(
            f"a resumed run keeps its settings ({'; '.join(differing)}); leave these options out, or start a"
            " new run without --resume"
        )
    begun = progress.epoch + (progress.step > 0)
    if isinstance(epochs, int) and epochs < begun:
        raise UsageError(f"epochs is {epochs}, but {begun} are begun or completed; expected at least {begun}")
    return change(before, {name: value for name, value in said.items() if name in MAY_CHANGE})


def change(settings: Settings, said: "Mapping[str, config.Value]") -> Settings:
    """Return settings with what a run may change when it goes on.

    Args:
        settings: those of a run.
        said: of ``MAY_CHANGE``; None, and "auto" for the device, count as not said.

    Raises:
        UsageError: a value is wrong.
    """
    changed: dict[str, config.Value] = {
        name: value for name, value in said.items() if value is not None and value != "auto"
    }
    if changed.get("device", settings.device) != settings.device:
        changed.setdefault("devices", None)  # their number is that of the device before
    elif "devices" in changed and settings.device.startswith("gpu"):
        changed["device"] = "gpu"
    return config.resolve({**dataclasses.asdict(settings), **changed})
