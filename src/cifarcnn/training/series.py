"""Several runs in one directory: the same training with several seeds, or all that a settings file spans.

Each is a run of its own, in a directory with ``sweep.json``, which says what is to be trained (see
``runs.sweep``). Runs that are finished are taken as they are, so a series goes on where it was stopped,
as a run does. The directory of a settings file has that file's name, so that processes which train one of
its runs each find each other (see ``seriesdirectory``).
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarcnn import config
from cifarcnn.data import sources
from cifarcnn.errors import CifarCNNError, Interrupted, UsageError
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.runs import listing, run, sweep
from cifarcnn.runs.run import RunDirectory
from cifarcnn.runs.sweep import Plan, Task
from cifarcnn.training import preflight, seriesdirectory
from cifarcnn.training.train import TrainingResult, resume, start
from cifarcnn.wording import count

MEASURED = ("val_accuracy", "val_loss", "images_per_second")
"""The fields of a training's result of which mean and standard deviation are reported."""


@dataclass(frozen=True)
class GroupFigures:
    """What the finished runs of a group came to, which differ in nothing but the seed.

    Attributes:
        settings: those in which the groups of a series differ.
        n: how many runs were finished.
        mean, std: over them, for each name in ``MEASURED``; std is the sample standard deviation, None
            for a single run, and both are None without validation images.
    """

    settings: dict[str, config.Value]
    n: int
    mean: dict[str, float | None]
    std: dict[str, float | None]


@dataclass(frozen=True)
class SeriesResult:
    """How several trainings ended.

    Attributes:
        directory: holds one directory for each run.
        runs: the finished ones, in their order.
        groups: what they come to over the seeds.
        failures: the reasons why others failed, by the names of their directories.
    """

    directory: Path
    runs: tuple[TrainingResult, ...]
    groups: tuple[GroupFigures, ...]
    failures: dict[str, str]

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it; ``mean`` and ``std`` where the runs differ in the seed alone."""
        whole = self.groups[0] if len(self.groups) == 1 else None
        return {
            "schema": 1,
            "directory": str(self.directory),
            "runs": [result.as_document() for result in self.runs],
            "mean": whole and whole.mean,
            "std": whole and whole.std,
            "groups": [dataclasses.asdict(group) for group in self.groups],
            "failures": self.failures,
        }


def train_seeds(
    seeds: Sequence[int],
    *,
    out: str | Path = config.RUNS,
    data: str | Path | None = None,
    settings_file: str | Path | None = None,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> SeriesResult:
    """Train once for each seed, one after the other.

    Args:
        seeds: different from each other.
        out: where the directory of the series is made.
        data, settings_file, on_event, **settings: as for ``cifarcnn.train``; ``seed`` is not among them.

    Raises:
        UsageError: a seed or a setting is wrong.
        CifarCNNError: as for ``cifarcnn.train``, but that a run which fails does not stop the others.
    """
    plan = sweep.repeat(config.merged(settings_file, settings), seeds, data)
    # Nothing is made for what will be refused.
    _check(plan, plan.tasks, on_event)
    first = plan.tasks[0].settings
    directory = run.make_directory(Path(out), f"{first.arch}-{first.recipe}-{len(seeds)}seeds")
    plan.save(directory)
    return _train_all(directory, plan, on_event)


def train_sweep(
    settings_file: str | Path,
    *,
    seeds: Sequence[int] = (),
    out: str | Path = config.RUNS,
    data: str | Path | None = None,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> SeriesResult:
    """Train all that a file with a ``[grid]`` or ``[[run]]`` spans, one run after the other.

    Args:
        settings_file: a TOML file; see ``runs.sweep``.
        seeds: train each combination with each of these.
        out: where the directory of the runs is, or is made; it has the file's name, without ``.toml``.
        data, on_event, **settings: as for ``cifarcnn.train``.

    Raises:
        UsageError: the file, a seed or a setting is wrong, or the directory holds other runs.
        CifarCNNError: as for ``cifarcnn.train``, but that a run which fails does not stop the others.
    """
    plan = sweep.read(settings_file, settings, seeds, data)
    directory = seriesdirectory.sweep_directory(settings_file, out)
    with seriesdirectory.taken_up(directory, plan) as taken:
        _check(taken, seriesdirectory.missing(directory, taken), on_event)
        return _train_all(directory, taken, on_event, _said(settings, plan.data))


def train_task(
    settings_file: str | Path,
    number: int,
    *,
    seeds: Sequence[int] = (),
    out: str | Path = config.RUNS,
    data: str | Path | None = None,
    on_event: OnEvent = ignore,
    **settings: config.Value,
) -> TrainingResult:
    """Train one of the runs that ``train_sweep`` would, or go on with it; take it as it is if it is finished.

    Other processes may train other runs of the same file at the same time.

    Args:
        settings_file, seeds, out, data, on_event, **settings: as for ``train_sweep``.
        number: which one, counted from 1.

    Raises:
        UsageError: as for ``train_sweep``, or there is no such run.
        RunError: the training failed, or another process is at this run.
        CifarCNNError: as for ``cifarcnn.train``.
    """
    plan = sweep.read(settings_file, settings, seeds, data)
    if not 1 <= number <= len(plan.tasks):
        raise UsageError(
            f"there is no task {number}: {str(settings_file)!r} spans {count(len(plan.tasks), 'run')};"
            f" expected a number from 1 to {len(plan.tasks)}"
        )
    directory = seriesdirectory.sweep_directory(settings_file, out)
    with seriesdirectory.taken_up(directory, plan) as taken:
        task = taken.tasks[number - 1]
        on_event(Note(f"{task.name}: task {number} of {len(taken.tasks)} in {directory}"))
        return _train_one(directory / task.name, task, taken.data, on_event, _said(settings, plan.data))


def resume_series(
    directory: str | Path,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    devices: int | None = None,
    on_event: OnEvent = ignore,
) -> SeriesResult:
    """Train what is missing of a series.

    Args:
        directory: what ``train_seeds``, ``train_sweep`` or ``train_task`` has made.
        data: where the data set is, if it is no more where it was.
        device, devices: train on these from now on.
        on_event: told what happens.

    Raises:
        UsageError: there is no such device.
        RunError: the series cannot be read, or its data are gone.
        CifarCNNError: as for ``cifarcnn.train``, but that a run which fails does not stop the others.
    """
    directory = Path(directory)
    said = _said({"device": device, "devices": devices}, sources.absolute(data))
    with seriesdirectory.gone_on_with(directory, **said) as plan:
        _check(plan, seriesdirectory.missing(directory, plan), on_event)
        return _train_all(directory, plan, on_event, said)


def _said(settings: Mapping[str, config.Value], data: str | None) -> dict[str, Any]:
    """Return what a user says now of where to train and of where the data are; None is not said."""
    return {"data": data, **{name: settings.get(name) for name in seriesdirectory.DEVICES}}


def _check(plan: Plan, new: Sequence[Task], on_event: OnEvent) -> None:
    """Refuse, before the first of several new runs is trained, what one of them would be refused for."""
    if len(new) > 1:
        preflight.check({task.name: task.settings for task in new}, plan.data, on_event)


def _train_all(
    directory: Path, plan: Plan, on_event: OnEvent, said: Mapping[str, Any] | None = None
) -> SeriesResult:
    """Train what is missing of a plan, one run after the other."""
    # TensorFlow takes the networks of several runs for one that is compiled over and over, and warns.
    logging.getLogger("tensorflow").addFilter(_is_no_retracing)
    results: dict[int, TrainingResult] = {}
    failures: dict[str, str] = {}
    for place, task in enumerate(plan.tasks):
        on_event(Note(f"{task.name}: run {place + 1} of {len(plan.tasks)} in {directory}"))
        try:
            results[place] = _train_one(directory / task.name, task, plan.data, on_event, said)
        except Interrupted as stop:
            raise Interrupted(
                f"stopped in {task.name}, saved; {len(results)} of {len(plan.tasks)} runs are finished;"
                f" go on with: {run.resume_command(directory)}",
                stop.exit_code,
            ) from stop
        except CifarCNNError as problem:
            # A rate at which the loss diverges must not keep the others from being tried.
            failures[task.name] = str(problem)
            on_event(Note(f"failed: {task.name}: {problem}"))
    groups = sweep.group([_settings_now(directory / task.name, task) for task in plan.tasks])
    return SeriesResult(
        directory,
        tuple(results.values()),
        tuple(
            _group(settings, [results[place] for place in places if place in results])
            for settings, places in groups
        ),
        failures,
    )


def _settings_now(path: Path, task: Task) -> dict[str, config.Value]:
    """Return the settings of a run, which may have been extended by itself."""
    epochs = listing.read(path, task.name).settings.get("epochs", task.settings.epochs)
    return {**vars(task.settings), "epochs": epochs}


def _is_no_retracing(record: logging.LogRecord) -> bool:
    return "retracing" not in str(record.msg)


def _group(settings: dict[str, config.Value], results: Sequence[TrainingResult]) -> GroupFigures:
    """Sum up the finished runs of a group."""
    spreads = {name: sweep.spread([getattr(result, name) for result in results]) for name in MEASURED}
    means, deviations = ({name: pair[part] for name, pair in spreads.items()} for part in (0, 1))
    return GroupFigures(settings, len(results), means, deviations)


def _train_one(
    path: Path, task: Task, data: str | None, on_event: OnEvent, said: Mapping[str, Any] | None = None
) -> TrainingResult:
    """Train, resume or take as finished one run; ``said`` is what the user says now, for one that goes on."""
    directory = RunDirectory(path)
    if directory.resumable():
        return resume(path, alone=True, on_event=on_event, **(said or {}))

    def make_directory() -> RunDirectory:
        with run.saving(path.parent):
            path.mkdir(exist_ok=True)  # one that a kill left before its first checkpoint is taken up
        return directory

    return start(task.settings, make_directory, data, on_event)
