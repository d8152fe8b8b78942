"""Finished and unfinished runs in one table, from the small text files in their directories.

Neither models nor checkpoints nor images are opened. A run that is damaged is a row with a reason; a
directory that is no run is none.
"""

import itertools
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifarcnn import config
from cifarcnn.config import Settings, Value
from cifarcnn.errors import UsageError, reason
from cifarcnn.machine import files, locks
from cifarcnn.runs.progress import METRICS, TIMING, Progress, images_per_second, read_table
from cifarcnn.runs.run import RunDirectory

DEEPEST = 3
"""How many levels of directories are looked into for runs, the one that is named included."""

GREATEST_FIRST = ("val_accuracy", "images_per_second")


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        name: the directory, as seen from where runs were looked for.
        state: finished; running: a process is at it; interrupted: it can be resumed, if anything was saved;
            pruned: by ``cifarcnn tune``; failed: its last sitting ended with an error; damaged: unreadable.
        reason: why it was pruned, failed or is damaged.
        settings: all settings, empty for a damaged one.
        epochs_done, best_epoch: counted from 1; None where nothing is known.
        val_accuracy, val_loss: of the best epoch on the validation images.
        seconds: time spent on the steps of the completed epochs.
        images_per_second: mean over the epochs of the steps' throughput.
        images: the first digits of the training images' checksum.
    """

    name: str
    path: Path
    state: str
    reason: str | None = None
    settings: dict[str, Value] = field(default_factory=dict)
    epochs_done: int | None = None
    best_epoch: int | None = None
    val_accuracy: float | None = None
    val_loss: float | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    images: str | None = None

    def figures(self) -> dict[str, Any]:
        """Everything but the settings, as JSON can hold it."""
        figures = {name: value for name, value in vars(self).items() if name != "settings"}
        return {**figures, "path": str(self.path), "epochs": self.settings.get("epochs")}

    def conditions(self) -> dict[str, Any]:
        """The settings and the images, by which runs differ."""
        return {**self.settings, "images": self.images}


SORT_KEYS = tuple(dict.fromkeys([*Row("", Path(), "").figures(), *config.FIELDS]))


@dataclass(frozen=True)
class Group:
    """Runs on the same images that differ in nothing but the seed.

    ``settings`` are those in which the groups differ, ``images`` among them if these do. ``n`` is the number
    of seeds whose runs are finished, ``mean`` and ``std`` are those of their ``val_accuracy``; std is the
    sample standard deviation, None for a single one. Of two runs with one seed, the later by name counts.
    """

    settings: dict[str, Value]
    runs: tuple[str, ...]
    n: int
    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Listing:
    """All runs, the settings in which they differ, and what those that differ in the seed alone come to."""

    rows: tuple[Row, ...]
    differing: tuple[str, ...]
    groups: tuple[Group, ...]

    @property
    def damaged(self) -> int:
        """How many runs could not be read."""
        return sum(row.state == "damaged" for row in self.rows)

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "schema": 1,
            "runs": [{**row.figures(), "settings": row.settings} for row in self.rows],
            "differing": list(self.differing),
            "groups": [vars(group) for group in self.groups],
        }


def gather(directories: Sequence[str | Path], *, sort: str = "name") -> Listing:
    """Read all runs in some directories.

    Args:
        directories: run directories, or directories with runs in them or up to two levels below.
        sort: "name", "state", a figure of ``Row`` or a setting. Accuracies and throughput begin with the
            greatest, all else with the least; runs that lack it come last.

    Raises:
        UsageError: there is no such directory, or nothing such to sort by.
    """
    key = {"accuracy": "val_accuracy"}.get(sort, sort).replace("-", "_")
    if key not in SORT_KEYS:
        raise UsageError(f"--sort is {sort!r}; expected one of {', '.join(SORT_KEYS)}")
    found: dict[str, Row] = {}
    for directory in map(Path, directories):
        if not os.path.isdir(directory):
            raise UsageError(
                f"no directory {str(directory)!r}; expected one in which `cifarcnn train` made runs"
            )
        prefix = "" if len(directories) == 1 else f"{directory}/"
        for row in _walk(directory, prefix, DEEPEST):
            found.setdefault(os.path.realpath(row.path), row)
    rows = _sorted(list(found.values()), key)
    whole = [row for row in rows if row.settings]
    return Listing(tuple(rows), tuple(differing([row.conditions() for row in whole])), tuple(_groups(whole)))


def _sorted(rows: list[Row], key: str) -> list[Row]:
    """Sort by name, then by the key; rows without it come last."""
    rows = sorted(rows, key=lambda row: row.name)

    def value(row: Row) -> Any:
        return row.settings.get(key, row.figures().get(key))

    known = [row for row in rows if value(row) is not None]
    known.sort(key=value, reverse=key in GREATEST_FIRST)
    return known + [row for row in rows if value(row) is None]


def differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names whose values are not the same in all rows, in the order of ``Settings``."""
    names = dict.fromkeys([*config.FIELDS, *itertools.chain.from_iterable(rows)])
    return [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation; None for what cannot be computed."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def _groups(rows: Sequence[Row]) -> Iterator[Group]:
    """Put runs together that differ in nothing but the seed."""
    conditions = [row.conditions() for row in rows]
    names = [name for name in differing(conditions) if name != "seed"]
    members: dict[tuple[Any, ...], list[Row]] = {}
    for row, known in zip(rows, conditions, strict=True):
        members.setdefault(tuple(known.get(name) for name in names), []).append(row)
    for values, group in members.items():
        by_name = sorted(group, key=lambda row: row.name)
        finished = {row.settings["seed"]: row.val_accuracy for row in by_name if row.state == "finished"}
        mean, std = spread([*finished.values()])
        settings = dict(zip(names, values, strict=True))
        yield Group(settings, tuple(row.name for row in group), len(finished), mean, std)


def _walk(directory: Path, prefix: str, depth: int) -> Iterator[Row]:
    """Give the runs in a directory; ``prefix`` stands before their names."""
    run, name = RunDirectory(directory), prefix.rstrip("/") or directory.name or str(directory)
    try:
        inside = {
            entry.name: os.path.isdir(entry) for entry in os.scandir(directory) if not _leads_back(entry)
        }
    except OSError as problem:
        yield Row(name, directory, "damaged", _reason(problem))
        return
    if not inside.keys().isdisjoint((run.settings.name, run.metrics.name, run.checkpoint.name, locks.NAME)):
        yield read(directory, name)
    elif depth > 1:
        for below in sorted(below for below, is_directory in inside.items() if is_directory):
            if not below.startswith("."):
                yield from _walk(directory / below, f"{prefix}{below}/", depth - 1)


def _leads_back(entry: os.DirEntry[str]) -> bool:
    """Return whether this is a link to a directory that it is in."""
    # A link to itself has a real path, but Path.resolve refuses it.
    here = Path(os.path.realpath(Path(entry).parent))
    return entry.is_symlink() and here.is_relative_to(os.path.realpath(entry))


def read(path: Path, name: str) -> Row:
    """Read one run directory, whatever is in it."""
    run, progress = RunDirectory(path), Progress()
    try:
        used, resumable = locks.in_use(path), run.resumable()
        if not run.settings.exists() and (used or not resumable):
            why = None if used else "stopped before anything was saved"
            return Row(name, path, "running" if used else "interrupted", why, epochs_done=0)
        settings = _settings(run.settings)
        for row in read_table(run.metrics, METRICS):
            progress.complete(row)
        times = read_table(run.timing, TIMING)
    except (OSError, ValueError, RecursionError, UsageError) as problem:
        return Row(name, path, "damaged", _reason(problem))
    state, why = _state(run, progress, settings, used=used, resumable=resumable)
    environment = _document(run.environment) or {}
    return Row(
        name,
        path,
        state,
        why,
        settings=dict(vars(settings)),
        epochs_done=progress.epoch,
        best_epoch=progress.best_epoch or None,
        val_accuracy=(progress.best or {}).get("val_accuracy"),
        val_loss=(progress.best or {}).get("val_loss"),
        seconds=round(sum(time["seconds"] for time in times), 3),
        images_per_second=images_per_second(times),
        images=str(environment.get("training_images_sha256", ""))[:8] or None,
    )


def _state(
    run: RunDirectory, progress: Progress, settings: Settings, *, used: bool, resumable: bool
) -> tuple[str, str | None]:
    """Return the state of a run whose files could be read, and the reason for it."""
    if progress.finished(settings):
        return ("finished", None) if run.best.exists() else ("damaged", f"{run.best.name} is missing")
    if used:
        return "running", None
    if run.failure.exists():
        failure = _document(run.failure) or {"error": "for a reason that cannot be read"}
        why = " ".join(str(failure.get("error", "")).split())
        return "pruned" if failure.get("pruned") is True else "failed", why or None
    if not resumable:
        return "damaged", f"no {run.checkpoint.name} to resume from"
    return "interrupted", None


def _settings(path: Path) -> Settings:
    """Read ``settings.json``. Settings of a newer version, which this one does not know, are passed over."""
    try:
        document = json.loads(files.read_text(path))
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path.name} is no JSON: {problem}") from problem
    if not isinstance(document, dict) or "arch" not in document:
        raise ValueError(f"{path.name} holds no settings")
    try:
        return config.resolve({name: value for name, value in document.items() if name in config.FIELDS})
    except UsageError as problem:
        raise ValueError(f"{path.name}: {problem}") from problem


def _document(path: Path) -> dict[str, Any] | None:
    """Read a JSON file that is of use but not needed; None if it cannot be read."""
    try:
        document = json.loads(files.read_text(path))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _reason(problem: Exception) -> str:
    """Say in one line why a directory cannot be read."""
    if isinstance(problem, OSError) and problem.filename:
        return f"{Path(str(problem.filename)).name}: {problem.strerror}"
    return reason(problem)
