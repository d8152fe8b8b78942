"""The same training with several seeds: a run directory for each, mean and standard deviation over all."""

import dataclasses
import json
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarcnn import config
from cifarcnn.config import Settings
from cifarcnn.data import sources
from cifarcnn.errors import CifarCNNError, Interrupted, RunError, UsageError, reason
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.machine import files
from cifarcnn.runs import listing, run
from cifarcnn.runs.run import RunDirectory
from cifarcnn.training import setup, train
from cifarcnn.training.train import TrainingResult

FILE = "seeds.json"

MEASURED = ("val_accuracy", "val_loss", "images_per_second")
"""The fields of a training's result of which mean and standard deviation are reported."""


@dataclass(frozen=True)
class SeedsResult:
    """How the same training ended with several seeds.

    Attributes:
        directory: holds one run directory for each seed.
        runs: the finished ones, in the order of the seeds.
        mean, std: over these, for each name in ``MEASURED``; std is the sample standard deviation, None for
            a single run, and both are None without validation images.
        failures: the reasons why others failed, by the names of their directories.
    """

    directory: Path
    runs: tuple[TrainingResult, ...]
    mean: dict[str, float | None]
    std: dict[str, float | None]
    failures: dict[str, str]

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "schema": 1,
            "directory": str(self.directory),
            "runs": [result.as_document() for result in self.runs],
            "mean": self.mean,
            "std": self.std,
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
) -> SeedsResult:
    """Train once for each seed, one after the other.

    Args:
        seeds: different from each other.
        out: where the directory of the runs is made.
        data, settings_file, on_event, settings: as for ``cifarcnn.train``; ``seed`` is not among them.

    Raises:
        UsageError: a seed or a setting is wrong.
        CifarCNNError: as for ``cifarcnn.train``; but a run that fails does not stop the others.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds is {list(seeds)}; expected one or more, each once")
    shared = setup.with_arch(config.merged(settings_file, settings))
    planned = [config.resolve({**shared, "seed": seed}) for seed in seeds]
    directory = run.make_directory(Path(out), f"{planned[0].arch}-{planned[0].recipe}-{len(seeds)}seeds")
    plan = {
        "schema": 1,
        "seeds": list(seeds),
        "settings": dataclasses.asdict(planned[0]),
        "explicit": sorted(shared),
        "data": sources.absolute(data),
    }
    with run.saving(directory):
        files.write_text(directory / FILE, json.dumps(plan, indent=2) + "\n")
    return _train_all(directory, planned, shared, sources.absolute(data), {}, on_event)


def resume_seeds(
    directory: str | Path,
    *,
    data: str | Path | None = None,
    device: str | None = None,
    devices: int | None = None,
    on_event: OnEvent = ignore,
) -> SeedsResult:
    """Train what is missing of the runs that ``train_seeds`` began.

    Args:
        directory: the directory of the runs.
        data: where the data set is, if it is no more where it was.
        device, devices: train on these from now on.
        on_event: told what happens.

    Raises:
        RunError: the directory cannot be read, or its data are gone.
        CifarCNNError: as for ``train_seeds``.
    """
    directory = Path(directory)
    planned, explicit, known = _read_plan(directory / FILE)
    begun = [RunDirectory(directory / f"seed{settings.seed}").resumable() for settings in planned]
    if data is None and known is not None and not os.path.exists(known) and not all(begun):
        raise RunError(
            f"the images of {str(directory)!r} were in {known}, which is gone; say with --data where they are"
        )
    hardware = {"device": device, "devices": devices}
    planned = [setup.with_changes(settings, hardware) for settings in planned]
    return _train_all(directory, planned, explicit, sources.absolute(data) or known, hardware, on_event)


def is_seeds(directory: str | Path) -> bool:
    """Return whether this is a directory that ``train_seeds`` made."""
    # Where nobody may look, Path.is_file raises an error.
    return os.path.isfile(os.path.join(directory, FILE))


def train_in(
    path: Path,
    settings: Settings,
    explicit: Collection[str],
    data: str | Path | None,
    on_event: OnEvent,
    **hardware: Any,
) -> TrainingResult:
    """Train in a run directory of this name; go on with a run that is in it, or take it as finished.

    Args:
        path: the run directory.
        settings: resolved ones.
        explicit: the names of those that the user gave.
        data, on_event: as for ``cifarcnn.train``.
        **hardware: ``device`` and ``devices``, where a run that goes on shall have others.
    """
    # TensorFlow takes the networks of several runs for one that is compiled over and over, and warns.
    logging.getLogger("tensorflow").addFilter(_is_no_retracing)
    directory = RunDirectory(path)
    if directory.resumable():
        return train.resume(
            path, epochs=settings.epochs, data=data, alone=True, on_event=on_event, **hardware
        )

    def make_directory() -> RunDirectory:
        with run.saving(path.parent):
            path.mkdir(exist_ok=True)  # one that a kill left before its first checkpoint is taken up
        return directory

    return train.start(settings, make_directory, data, on_event, explicit=frozenset(explicit))


def _is_no_retracing(record: logging.LogRecord) -> bool:
    return "retracing" not in str(record.msg)


def _read_plan(path: Path) -> tuple[list[Settings], list[str], str | None]:
    """Return the settings of each run, which of them the user gave, and where the data set was said to be."""
    try:
        plan = json.loads(files.read_text(path))
        planned = [config.resolve({**plan["settings"], "seed": seed}) for seed in plan["seeds"]]
        explicit, data = [str(name) for name in plan["explicit"]], plan["data"]
        if not planned or not isinstance(data, str | None):
            raise ValueError("it is not as it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as problem:
        raise RunError(
            f"cannot read {str(path)!r}: {reason(problem)}; resume the runs beside it one by one"
        ) from problem
    return planned, explicit, data


def _train_all(
    directory: Path,
    planned: Sequence[Settings],
    explicit: Collection[str],
    data: str | None,
    hardware: dict[str, Any],
    on_event: OnEvent,
) -> SeedsResult:
    """Train what is missing, one run after the other."""
    results: list[TrainingResult] = []
    failures: dict[str, str] = {}
    for number, settings in enumerate(planned, 1):
        name = f"seed{settings.seed}"
        on_event(Note(f"{name}: run {number} of {len(planned)} in {directory}"))
        try:
            results.append(train_in(directory / name, settings, explicit, data, on_event, **hardware))
        except Interrupted as stop:
            raise Interrupted(
                f"stopped in {name}, saved; {len(results)} of {len(planned)} runs are finished;"
                f" go on with: {run.resume_command(directory)}",
                stop.exit_code,
            ) from stop
        except CifarCNNError as problem:
            # What refuses the first before it begins would refuse all.
            if _remove_if_unused(directory):
                raise
            failures[name] = str(problem)
            on_event(Note(f"failed: {name}: {problem}"))
    spreads = {key: listing.spread([getattr(result, key) for result in results]) for key in MEASURED}
    mean, std = ({key: pair[part] for key, pair in spreads.items()} for part in (0, 1))
    return SeedsResult(directory, tuple(results), mean, std, failures)


def _remove_if_unused(directory: Path) -> bool:
    """Remove a directory in which no run was begun; return whether it was such a one."""
    if os.listdir(directory) != [FILE]:
        return False
    (directory / FILE).unlink()
    directory.rmdir()
    return True
