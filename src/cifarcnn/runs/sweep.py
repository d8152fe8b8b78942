"""Which runs a file of settings spans, and the plan of them that stands in their directory.

A table ``[grid]`` gives lists of values, of which every combination is a run; each table ``[[run]]`` gives
one run more, and may put its own values in the place of shared ones. What stands beside them holds for all,
and several seeds multiply the runs. Nothing is trained here.
"""

import functools
import itertools
import json
import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarcnn import config
from cifarcnn.config import Settings, Value
from cifarcnn.data import sources
from cifarcnn.errors import RunError, UsageError
from cifarcnn.machine import files
from cifarcnn.runs import run

FILE = "sweep.json"

MOST = 10_000
"""The most runs of one file."""

LONGEST_NAME = 100


@dataclass(frozen=True)
class Task:
    """One run of a plan: the name of its directory, and its settings."""

    name: str
    settings: Settings


@dataclass(frozen=True)
class Plan:
    """The runs of one directory.

    Attributes:
        tasks: the runs in their order; task 1 is the first.
        data: where the user said the data set is, as an absolute path.
    """

    tasks: tuple[Task, ...]
    data: str | None

    @functools.cached_property
    def differing(self) -> list[str]:
        """The settings in which the runs differ."""
        return differing([vars(task.settings) for task in self.tasks])

    def said(self, task: Task) -> dict[str, Value]:
        """Return the settings of a task in which the runs differ."""
        return {name: getattr(task.settings, name) for name in self.differing}

    def save(self, directory: Path) -> None:
        """Write the plan into the directory of the runs."""
        settings = vars(self.tasks[0].settings)
        document = {
            "schema": 1,
            "settings": {name: value for name, value in settings.items() if name not in self.differing},
            "runs": [{"name": task.name, "settings": self.said(task)} for task in self.tasks],
            "data": self.data,
        }
        with run.saving(directory):
            files.write_text(directory / FILE, json.dumps(document, indent=2) + "\n")


def load(directory: Path) -> Plan:
    """Read the plan of a directory.

    Raises:
        RunError: there is none, or it is damaged.
    """
    path = directory / FILE
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        plan = json.loads(path.read_bytes())
        tasks = tuple(
            Task(str(row["name"]), config.resolve({**plan["settings"], **row["settings"]}))
            for row in plan["runs"]
        )
        data = plan["data"]
        names = {task.name for task in tasks}
        whole = tasks and len(names) == len(tasks) and all(_NAME.fullmatch(name) for name in names)
        if not whole or not isinstance(data, str | None):
            raise ValueError("it is not as it was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as problem:
        reason = getattr(problem, "strerror", None) or f"{type(problem).__name__}: {problem}"
        raise RunError(
            f"cannot read {str(path)!r}: {reason}; the runs in it can be gone on with one by one"
        ) from problem
    return Plan(tasks, data)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def is_sweep_file(path: str | Path) -> bool:
    """Return whether a settings file spans many runs.

    Raises:
        UsageError: it cannot be read.
    """
    # What is no file, a shell's <(...) for one, can be read but once, and gives the runs no directory's name.
    if os.path.exists(path) and not os.path.isfile(path):
        return False
    return not config.read_table(path).keys().isdisjoint(config.MANY)


def read(
    path: str | Path, said: Mapping[str, Value], seeds: Sequence[int] = (), data: str | Path | None = None
) -> Plan:
    """Plan the runs that a settings file spans.

    Args:
        path: the TOML file.
        said: settings from elsewhere, for all runs; None counts as not said. They win over those that the
            file gives for all runs, and may not be among those that vary.
        seeds: train each combination with each of these.
        data: where the data set is.

    Raises:
        UsageError: the file or a setting is wrong, or the runs are too many or not different.
    """
    where = f"--config {str(path)!r}"
    table = config.read_table(path)
    shared = config.check_table(
        {name: value for name, value in table.items() if name not in config.MANY}, where
    )
    grid, rows = _read_grid(table, where), _read_rows(table, where)
    if seeds:
        check_seeds(seeds)
    told = {name: value for name, value in said.items() if value is not None}
    for name in grid:
        if name in shared:
            raise UsageError(f"{where}: {name} stands in [grid] and beside it; expected it in one place")
    for place, names in (("[grid]", set(grid)), ("[[run]]", {name for row in rows for name in row})):
        if seeds and "seed" in names:
            raise UsageError(f"{where}: seed stands in {place}; --seeds and --repeat cannot be given with it")
        for name in sorted(names & set(told)):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{where}: {name} stands in {place}; {option} cannot be given with it")
    count = (math.prod(map(len, grid.values())) * bool(grid) + len(rows)) * max(1, len(seeds))
    if not 1 <= count <= MOST:
        raise UsageError(f"{where} spans {count:,} runs; expected at least 1 and at most {MOST:,}")
    products = itertools.product(*grid.values()) if grid else ()
    combinations = [dict(zip(grid, values, strict=True)) for values in products] + rows
    if seeds:
        combinations = [{**row, "seed": seed} for row in combinations for seed in seeds]
    return _plan([{**shared, **told, **row} for row in combinations], where, data)


def repeat(settings: Mapping[str, Value], seeds: Sequence[int], data: str | Path | None = None) -> Plan:
    """Plan the same training with several seeds, each once.

    Raises:
        UsageError: a seed or a setting is wrong.
    """
    check_seeds(seeds)
    tasks = tuple(Task(f"seed{seed}", config.resolve({**settings, "seed": seed})) for seed in seeds)
    return Plan(tasks, sources.absolute(data))


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse no seeds, or one that is there twice."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds are {list(seeds)}; expected one or more, each once")


def differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names whose values are not the same in all rows, in the order of ``Settings``."""
    names = dict.fromkeys([*config.FIELDS, *itertools.chain.from_iterable(rows)])
    return [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]


def group(rows: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, Any], list[int]]]:
    """Put runs together that differ in nothing but the seed.

    Args:
        rows: the settings of each run.

    Returns:
        for each group, the settings in which it differs from other groups, and the places of its runs.
    """
    names = [name for name in differing(rows) if name != "seed"]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(tuple(row.get(name) for name in names), []).append(place)
    return [(dict(zip(names, values, strict=True)), places) for values, places in groups.items()]


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation; None for what cannot be computed."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def _read_grid(table: Mapping[str, Any], where: str) -> dict[str, list[Value]]:
    """Return the lists of values of ``[grid]``, each value checked."""
    grid = table.get("grid", {})
    if not isinstance(grid, dict) or ("grid" in table and not grid):
        raise UsageError(f"{where}: grid is {grid!r}; expected a table [grid] of one or more lists of values")
    found: dict[str, list[Value]] = {}
    for written, values in grid.items():
        name = written.replace("-", "_")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{where}: [grid] {name} is {values!r}; expected a list of values")
        if name in found:
            raise UsageError(f"{where}: [grid] has {name} twice, with a dash and without; expected it once")
        seen: set[Value] = set()
        for value in values:
            _check(name, value, f"{where}: [grid]")
            if value in seen:
                raise UsageError(f"{where}: [grid] {name} has {value!r} twice; expected each value once")
            seen.add(value)
        found[name] = values
    return found


def _read_rows(table: Mapping[str, Any], where: str) -> list[dict[str, Value]]:
    """Return the tables ``[[run]]``, each value checked."""
    rows = table.get("run", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{where}: run is no list of tables; expected each run under a line [[run]]")
    found = []
    for number, row in enumerate(rows, 1):
        place = f"{where}: [[run]] number {number}"
        found.append(config.check_table(row, place))
        for name, value in found[-1].items():
            _check(name, value, f"{place}:")
    return found


def _check(name: str, value: object, where: str) -> None:
    """Check one value, an architecture's name included."""
    from cifarcnn import architectures

    try:
        config.check(name, value)
        if name == "arch":
            architectures.find(str(value))
    except UsageError as problem:
        raise UsageError(f"{where} {problem}") from None


def _plan(combinations: Sequence[Mapping[str, Value]], where: str, data: str | Path | None) -> Plan:
    """Resolve the settings of each run, and name its directory."""
    settings: dict[Settings, int] = {}
    for number, row in enumerate(combinations, 1):
        try:
            resolved = config.resolve(row)
        except UsageError as problem:
            raise UsageError(f"{where}: task {number}: {problem}") from None
        if resolved in settings:
            raise UsageError(
                f"{where}: tasks {settings[resolved]} and {number} are the same training; expected each once"
            )
        settings[resolved] = number
    # What the user let vary, not what a recipe makes of it, stands in the names.
    names = differing(combinations)
    width = len(str(len(settings)))
    tasks = tuple(
        Task("-".join([f"{number:0{width}}", *_words(names, row)])[:LONGEST_NAME].rstrip("-."), resolved)
        for row, (resolved, number) in zip(combinations, settings.items(), strict=True)
    )
    return Plan(tasks, sources.absolute(data))


def _words(names: Sequence[str], row: Mapping[str, Value]) -> Iterator[str]:
    """Name a run by its settings: text by itself, numbers behind the setting's name."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str):
            yield re.sub(r"[^A-Za-z0-9._+-]", "_", value)
        elif isinstance(value, bool):
            yield name if value else f"not_{name}"
        elif value is not None:
            yield f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}"
