"""The directory of several runs: made or found with the same plan in it, and held for as long as they train.

Other processes may be at other runs in the same directory. Whoever comes first writes the plan; until all
have left, nobody can put another in its place.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cifarcnn import config
from cifarcnn.errors import RunError, UsageError
from cifarcnn.machine import locks
from cifarcnn.runs import run, sweep
from cifarcnn.runs.run import RunDirectory
from cifarcnn.runs.sweep import Plan, Task
from cifarcnn.training.setup import with_changes

DEVICES = ("device", "devices")
"""The settings of several runs that may be others when they go on."""

LOCK = ".sweep.lock"
"""Held while a directory is taken up."""

IN_USE = ".sweep.use"
"""Held by each process that trains runs of a directory."""


def sweep_directory(settings_file: str | Path, out: str | Path) -> Path:
    """Return where the runs of a settings file are."""
    stem = re.sub(r"[^A-Za-z0-9._+-]", "_", Path(settings_file).stem).lstrip(".-")
    return Path(out) / (stem or "sweep")


def is_series(directory: str | Path) -> bool:
    """Return whether this is a directory of several runs with a plan."""
    # Where nobody may look, Path.is_file raises an error.
    return os.path.isfile(os.path.join(directory, sweep.FILE))


def missing(directory: Path, plan: Plan) -> list[Task]:
    """Return the runs of a plan that are not begun."""
    return [task for task in plan.tasks if not RunDirectory(directory / task.name).resumable()]


@contextlib.contextmanager
def taken_up(directory: Path, plan: Plan) -> Iterator[Plan]:
    """Make the directory of the runs, or find the same plan in it, whatever other processes do meanwhile.

    Yields:
        the plan, with the devices and the place of the data that were planned with, if none are given now.
        Until the block ends, no process can put another in its place.

    Raises:
        UsageError: it holds other runs, or something else.
        RunError: it cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise RunError(
            f"cannot make {str(directory)!r}: {problem.strerror}; choose another place with --out"
        ) from problem
    mend = "choose another --out, or another name for the file"
    with contextlib.ExitStack() as stack:
        with run.saving(directory), locks.alone(directory / LOCK):
            there = {name for name in os.listdir(directory) if not name.startswith(".")}
            if there and sweep.FILE not in there:
                raise UsageError(f"{str(directory)!r} exists and holds no {sweep.FILE}; {mend}")
            # Another process may have planned, and not come to begin a run.
            if there <= {sweep.FILE} and not _is_shared(directory / IN_USE):
                plan.save(directory)
            found = sweep.load(directory)
            stack.enter_context(_shared(directory / IN_USE))
        difference = _difference(found, plan)
        if difference:
            raise UsageError(f"{str(directory)!r} holds other runs: {difference}; {mend}")
        tasks = (
            _on_devices(old, vars(new.settings)) for old, new in zip(found.tasks, plan.tasks, strict=True)
        )
        yield Plan(tuple(tasks), plan.data or found.data)


@contextlib.contextmanager
def gone_on_with(
    directory: Path, *, data: str | None, device: str | None, devices: int | None
) -> Iterator[Plan]:
    """Find the plan of a directory, to train what is missing of it.

    Args:
        directory: one with a plan; see ``is_series``.
        data: where the data set is now; None is where it was.
        device, devices: what to train on from now on; None is as before.

    Yields:
        the plan with these in it. Until the block ends, no process can put another in its place.

    Raises:
        UsageError: there is no such device.
        RunError: the plan cannot be read, or its data are gone.
    """
    with contextlib.ExitStack() as stack:
        with run.saving(directory), locks.alone(directory / LOCK):
            plan = sweep.load(directory)
            stack.enter_context(_shared(directory / IN_USE))
        gone = data is None and plan.data is not None and not os.path.exists(plan.data)
        if gone and missing(directory, plan):
            raise RunError(
                f"the images of {str(directory)!r} were in {plan.data}, which is gone; say with --data where"
                " they are now"
            )
        now = {"device": device, "devices": devices}
        yield Plan(tuple(_on_devices(task, now) for task in plan.tasks), data or plan.data)


def _on_devices(task: Task, settings: Mapping[str, Any]) -> Task:
    """Return a run of a plan on the devices that are given now, if any are."""
    return Task(task.name, with_changes(task.settings, {name: settings[name] for name in DEVICES}))


def _difference(there: Plan, now: Plan) -> str:
    """Say in what two plans differ, but for devices; nothing if they do not."""
    if len(there.tasks) != len(now.tasks):
        return f"{len(there.tasks)} were planned there, {len(now.tasks)} now"
    for number, (old, new) in enumerate(zip(there.tasks, now.tasks, strict=True), 1):
        for name in config.FIELDS:
            before, after = getattr(old.settings, name), getattr(new.settings, name)
            if before != after and name not in DEVICES:
                return f"{name} of task {number} is {before!r} there, {after!r} now"
        if old.name != new.name:
            return f"task {number} is named {old.name!r} there, {new.name!r} now"
    return ""


@contextlib.contextmanager
def _shared(path: Path) -> Iterator[None]:
    """Hold, for the length of the block and with any number of processes, a file, which is made."""
    with open(path, "a", encoding="ascii") as lock:
        while not locks.acquire(lock, shared=True):
            time.sleep(0.01)
        yield


def _is_shared(path: Path) -> bool:
    """Return whether another process is in a ``_shared`` block with this file."""
    with open(path, "a", encoding="ascii") as lock:
        return not locks.acquire(lock)
