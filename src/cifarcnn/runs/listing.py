"""Finished and unfinished runs in one table, from the small text files in their directories.

Neither models nor checkpoints nor images are opened, and a directory that is damaged or holds something else
is a row with a reason.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifarcnn import config
from cifarcnn.config import Settings, Value
from cifarcnn.errors import RunError, UsageError, reason
from cifarcnn.machine import files, locks
from cifarcnn.runs import sweep
from cifarcnn.runs.progress import METRICS, TIMING, Progress, images_per_second, read_table
from cifarcnn.runs.run import RunDirectory

FOREIGN = "no run: it holds no settings.json"

DEEPEST = 3
"""How many levels of directories are looked into for runs, the one that is named included."""

BY_HARDWARE = ("device", "precision", "devices")
"""Settings that a run has resolved once it is begun."""


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        name: the directory, as seen from where runs were looked for.
        state: finished; running: a process is at it; interrupted: it can be gone on with, if anything was
            saved; failed: its last sitting ended with an error; waiting: planned, not begun; damaged: not to
            be read, or no run.
        reason: why it failed or is damaged.
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

    def said(self, name: str) -> Value:
        """Return a setting, or ``images``; None if it is not known."""
        return self.images if name == "images" else self.settings.get(name)

    def figures(self) -> dict[str, Any]:
        """Everything but the settings, as JSON can hold it."""
        figures = {name: value for name, value in vars(self).items() if name != "settings"}
        return {**figures, "path": str(self.path), "epochs": self.settings.get("epochs")}


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
        """How many directories could not be read."""
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
        raise UsageError(f"there is no {sort!r} to sort by; expected one of {', '.join(SORT_KEYS)}")
    found: dict[str, Row] = {}
    for directory in map(Path, directories):
        if not os.path.isdir(directory):
            raise UsageError(
                f"no directory {str(directory)!r}; expected one in which `cifarcnn train` made runs"
            )
        prefix = "" if len(directories) == 1 else f"{directory}/"
        for row in _walk(directory, prefix, DEEPEST):
            found.setdefault(os.path.realpath(row.path), row)
    rows = sorted(found.values(), key=lambda row: row.name)
    values = {row.name: row.settings.get(key, row.figures().get(key)) for row in rows}
    known = [row for row in rows if values[row.name] is not None]
    known.sort(key=lambda row: values[row.name], reverse=key in ("val_accuracy", "images_per_second"))  # type: ignore[arg-type, return-value]
    rows = known + [row for row in rows if values[row.name] is None]
    whole = [row for row in rows if row.settings]
    # What a run that waits leaves to the hardware is known of one that was begun.
    begun = next((row.settings for row in whole if row.state != "waiting"), {})
    images = next((row.images for row in whole if row.images), None)
    said = [
        {
            name: begun.get(name, value) if name in BY_HARDWARE and value in ("auto", None) else value
            for name, value in row.settings.items()
        }
        | {"images": row.images or images}
        for row in whole
    ]
    groups = []
    for settings, places in sweep.group(said) if whole else []:
        members = [whole[place] for place in places]
        by_name = sorted(members, key=lambda row: row.name)
        finished = {row.settings["seed"]: row.val_accuracy for row in by_name if row.state == "finished"}
        mean, std = sweep.spread([*finished.values()])
        groups.append(Group(settings, tuple(row.name for row in members), len(finished), mean, std))
    return Listing(tuple(rows), tuple(sweep.differing(said) if said else ()), tuple(groups))


def _walk(directory: Path, prefix: str, depth: int) -> Iterator[Row]:
    """Give the runs in a directory; ``prefix`` stands before their names."""
    try:
        names = {
            entry.name: os.path.isdir(entry) for entry in os.scandir(directory) if not _leads_back(entry)
        }
    except OSError as problem:
        yield Row(prefix.rstrip("/") or str(directory), directory, "damaged", _reason(problem))
        return
    run = RunDirectory(directory)
    if not names.keys().isdisjoint((run.settings.name, run.metrics.name, run.checkpoint.name, locks.NAME)):
        yield read(directory, prefix.rstrip("/") or directory.name or str(directory))
        return
    planned: dict[str, Settings] = {}
    if sweep.FILE in names:
        try:
            planned = {task.name: task.settings for task in sweep.load(directory).tasks}
        except RunError as problem:
            yield Row(f"{prefix}{sweep.FILE}", directory / sweep.FILE, "damaged", str(problem))
    inside = {name for name, is_directory in names.items() if is_directory and not name.startswith(".")}
    for name in sorted(inside | planned.keys()):
        path = directory / name
        if name in planned and not (name in inside and _holds_anything(path)):
            yield Row(f"{prefix}{name}", path, "waiting", settings=dict(vars(planned[name])), epochs_done=0)
            continue
        rows = list(_walk(path, f"{prefix}{name}/", depth - 1)) if depth > 1 else []
        if all(row.reason == FOREIGN for row in rows):
            yield Row(f"{prefix}{name}", path, "damaged", FOREIGN)
        else:
            yield from rows


def _leads_back(entry: os.DirEntry[str]) -> bool:
    """Return whether this is a link to a directory that it is in."""
    # A link to itself has a real path, but Path.resolve refuses it.
    here = Path(os.path.realpath(Path(entry).parent))
    return entry.is_symlink() and here.is_relative_to(os.path.realpath(entry))


def _holds_anything(path: Path) -> bool:
    """Return whether a directory is not empty; what cannot be looked at may hold something."""
    try:
        with os.scandir(path) as entries:
            return any(True for _ in entries)
    except OSError:
        return True


def read(path: Path, name: str) -> Row:
    """Read one run directory, whatever is in it."""
    run, progress = RunDirectory(path), Progress()
    try:
        used, resumable = locks.in_use(path), run.resumable()
        if used and not run.settings.exists():
            return Row(name, path, "running", epochs_done=0)
        if not resumable and not run.settings.exists():
            return Row(name, path, "interrupted", "stopped before anything was saved", epochs_done=0)
        settings = _settings(run.settings)
        for row in read_table(run.metrics, METRICS):
            progress.complete(row)
        times = read_table(run.timing, TIMING)
    except (OSError, ValueError, RecursionError, UsageError) as problem:
        return Row(name, path, "damaged", _reason(problem))
    state, why = "interrupted", None
    if progress.finished(settings):
        state = "finished"
        if not run.best.exists():
            state, why = "damaged", f"{run.best.name} is missing"
    elif used:
        state = "running"
    elif run.failure.exists():
        state, why = "failed", _failure(run.failure) or None
    elif not resumable:
        state, why = "damaged", f"no {run.checkpoint.name} to go on from"
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
        images=_images(run.environment),
    )


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


def _images(path: Path) -> str | None:
    """Return by what ``environment.json`` tells the training images from others, None if it does not."""
    try:
        return str(json.loads(files.read_text(path))["training_images_sha256"])[:8]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _failure(path: Path) -> str:
    """Return why a run failed, as far as it says."""
    try:
        return " ".join(str(json.loads(files.read_text(path))["error"]).split())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "for a reason that cannot be read"


def _reason(problem: Exception) -> str:
    """Say in one line why a directory cannot be read."""
    if isinstance(problem, OSError) and problem.filename:
        return f"{Path(str(problem.filename)).name}: {problem.strerror}"
    return reason(problem)
