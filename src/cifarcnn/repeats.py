"""The same training with several seeds, and how much its result varies.

Each seed is a run of its own, ``seed0``, ``seed1`` and so on, in one directory with ``seeds.json``, which
says what is to be trained. Runs that are finished are taken as they are, so a series goes on where it was
stopped, as a run does.
"""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarcnn import config, files, run, training
from cifarcnn.errors import Interrupted, RunError, UsageError
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.run import RunDirectory
from cifarcnn.training import TrainingResult

PLAN = "seeds.json"

MEASURED = ("val_accuracy", "val_loss", "images_per_second")
"""The fields of a training's result of which mean and standard deviation are reported."""


@dataclass(frozen=True)
class SeriesResult:
    """How several trainings ended.

    Attributes:
        directory: holds one run directory for each seed.
        runs: one for each seed, in their order.
        mean, std: over the runs, for each name in ``MEASURED``; std is the sample standard deviation, None
            for a single run, and both are None without validation images.
    """

    directory: Path
    runs: tuple[TrainingResult, ...]
    mean: dict[str, float | None]
    std: dict[str, float | None]

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "schema": 1,
            "directory": str(self.directory),
            "runs": [result.as_document() for result in self.runs],
            "mean": self.mean,
            "std": self.std,
        }


def train_seeds(
    seeds: Sequence[int],
    *,
    out: str | Path = "runs",
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
        CifarCNNError: as for ``cifarcnn.train``; the runs so far are kept.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds are {list(seeds)}; expected one or more, each once")
    from_file = config.read_toml(settings_file) if settings_file is not None else {}
    said = {name: value for name, value in settings.items() if value is not None}
    first, *_ = [config.resolve({**from_file, **said, "seed": seed}) for seed in seeds]
    directory = run.make_directory(Path(out), f"{first.arch}-{first.recipe}-{len(seeds)}seeds")
    place = None if data is None else str(Path(data).absolute())
    plan = {"seeds": list(seeds), "settings": dataclasses.asdict(first), "data": place}
    with run.saving(directory):
        files.write_text(directory / PLAN, json.dumps(plan, indent=2) + "\n")
    return resume_seeds(directory, on_event=on_event)


def is_series(directory: str | Path) -> bool:
    """Return whether this is a directory that ``train_seeds`` has made."""
    return Path(directory, PLAN).is_file()


def resume_seeds(directory: str | Path, *, on_event: OnEvent = ignore) -> SeriesResult:
    """Train what is missing of a series.

    Args:
        directory: what ``train_seeds`` has made.
        on_event: told what happens.

    Raises:
        RunError: the series cannot be read, or a run of it failed.
        CifarCNNError: as for ``cifarcnn.train``.
    """
    directory = Path(directory)
    try:
        plan = json.loads((directory / PLAN).read_bytes())
        seeds, settings, data = plan["seeds"], plan["settings"], plan["data"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise RunError(f"cannot read {str(directory / PLAN)!r}: {problem}; train the seeds anew") from problem
    results: list[TrainingResult] = []
    for seed in seeds:
        on_event(Note(f"seed {seed}: run {len(results) + 1} of {len(seeds)} in {directory}"))
        resolved = config.resolve({**settings, "seed": seed})
        try:
            results.append(_train_one(directory / f"seed{seed}", resolved, data, on_event))
        except Interrupted as stop:
            raise Interrupted(
                f"stopped at seed {seed}, saved; {len(results)} of {len(seeds)} runs are finished;"
                f" go on with: {run.resume_command(directory)}",
                stop.exit_code,
            ) from stop
    columns = {name: [getattr(result, name) for result in results] for name in MEASURED}
    return SeriesResult(
        directory,
        tuple(results),
        {name: None if None in values else statistics.fmean(values) for name, values in columns.items()},
        {
            name: None if None in values or len(values) < 2 else statistics.stdev(values)
            for name, values in columns.items()
        },
    )


def _train_one(path: Path, settings: config.Settings, data: str | None, on_event: OnEvent) -> TrainingResult:
    """Train, resume or take as finished the run of one seed."""
    directory = RunDirectory(path)
    if directory.resumable():
        return training.resume(path, on_event=on_event)

    def make_directory() -> RunDirectory:
        with run.saving(path.parent):
            path.mkdir(exist_ok=True)  # one that a kill left before its first checkpoint is taken up
        return directory

    return training.start(settings, make_directory, data, on_event)
