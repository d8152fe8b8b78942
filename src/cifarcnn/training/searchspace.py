"""What a search tries: settings shared by all trials, and the table ``[search]`` of choices and ranges.

A list is a choice between values, ``{ low = 0.01, high = 0.3, log = true }`` a range. Nothing is trained
here, and Optuna is not needed.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cifarcnn import config
from cifarcnn.config import Settings, Value
from cifarcnn.errors import UsageError
from cifarcnn.training import setup

FIXED = ("device", "devices", "deterministic")
"""Settings of the process, which trains many trials, and of its hardware."""

LARGEST_GRID = 1000


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, both included.

    Attributes:
        whole: whether only whole numbers are meant.
        log: sample the logarithm evenly.
        step: distance of the values tried; None is any number.
    """

    low: float
    high: float
    whole: bool
    log: bool = False
    step: float | None = None

    def __contains__(self, value: object) -> bool:
        """Return whether a value may be tried."""
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-9)


Choices = tuple[Value, ...]


@dataclass(frozen=True)
class Search:
    """Shared settings, and for each searched setting its choices or range."""

    shared: dict[str, Value]
    space: dict[str, Choices | Range]

    @property
    def grid(self) -> list[dict[str, Value]] | None:
        """Every combination of the choices, the last setting varying fastest; None if there is a range."""
        lists = [values for values in self.space.values() if not isinstance(values, Range)]
        if len(lists) < len(self.space):
            return None
        return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*lists)]

    @property
    def baseline(self) -> dict[str, Value] | None:
        """The values that the recipe has for the searched settings; None if one of them is not searched."""
        settings = vars(config.resolve(self.shared))
        values = {name: settings[name] for name in self.space}
        return values if all(value in self.space[name] for name, value in values.items()) else None

    def resolve(self, values: Mapping[str, Value]) -> Settings:
        """Return the settings of a trial.

        Raises:
            UsageError: the values do not suit each other.
        """
        settings = config.resolve({**self.shared, **values})
        if settings.val_size == 0:
            raise UsageError(
                "--val-size is 0, but trials are compared on validation images; expected 1 or more"
            )
        return settings

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it, without the settings of the hardware."""
        return {
            "settings": {name: value for name, value in self.shared.items() if name not in FIXED},
            "search": {
                name: asdict(values) if isinstance(values, Range) else list(values)
                for name, values in self.space.items()
            },
        }


def read(
    settings_file: str | Path | None,
    search: Mapping[str, Any] | None = None,
    settings: Mapping[str, Value] | None = None,
) -> Search:
    """Read what is to be searched.

    Args:
        settings_file: a TOML file of settings with a table ``[search]``.
        search: more of that table, which wins over the file's.
        settings: shared by all trials; they win over the file's. None counts as not given.

    Raises:
        UsageError: the file, a setting or a range is wrong, or a grid has too many combinations.
    """
    where = "search" if settings_file is None else f"--config {str(settings_file)!r}"
    table = {} if settings_file is None else config.read_table(settings_file)
    searched = table.pop(config.SEARCH, {})
    if not isinstance(searched, dict) or not (searched := {**searched, **(search or {})}):
        raise UsageError(f"{where}: nothing to search; expected a table [search] of lists and ranges")
    space: dict[str, Choices | Range] = {}
    for written, values in searched.items():
        name = written.replace("-", "_")
        if name in space:
            raise UsageError(f"{where}: [search] has {name} twice, with a dash and without; expected it once")
        space[name] = _values(name, values, f"{where}: [search]")
    shared = config.check_table(table, where)
    explicit = {name: value for name, value in (settings or {}).items() if value is not None}
    for name in space:
        if name in shared or name in explicit:
            place = "beside it" if name in shared else f"is given as {config.option(name)}"
            raise UsageError(f"{where}: {name} stands in [search] and {place}; expected it in one place")
    found = Search(setup.with_arch({**shared, **explicit}), space)
    _check_combinations(found, where)
    return found


def _values(name: str, values: Any, where: str) -> Choices | Range:
    """Check the choices or the range of one setting."""
    if name in FIXED:
        raise UsageError(f"{where} {name} cannot be searched; give it as an option or beside the table")
    if isinstance(values, dict):
        return _range(name, values, where)
    if not isinstance(values, list | tuple) or not values:
        raise UsageError(f"{where} {name} is {values!r}; expected a list or {{ low = …, high = … }}")
    for place, value in enumerate(values):
        _check(name, value, where)
        if value in values[:place]:
            raise UsageError(f"{where} {name} has {value!r} twice; expected each value once")
    return tuple(values)


def _range(name: str, table: dict[str, Any], where: str) -> Range:
    """Check one range."""
    where = f"{where} {name}"
    if not {"low", "high"} <= table.keys() <= {"low", "high", "log", "step"}:
        raise UsageError(f"{where} has {', '.join(table)}; expected low and high, and perhaps log or step")
    low, high, log, step = table["low"], table["high"], table.get("log", False), table.get("step")
    for value in (low, high):
        _check(name, value, where)
        if isinstance(value, str | bool):
            raise UsageError(f"{where} is not a number; expected a list of values")
    whole = config.FIELDS[name].type is not float
    if not low < high:
        raise UsageError(f"{where}: low is {low}, high is {high}; expected low below high")
    if not isinstance(log, bool) or (log and (step is not None or low <= 0)):
        raise UsageError(f"{where}: log is {log!r}; expected true only with low above 0 and without step")
    number = isinstance(step, int if whole else int | float) and not isinstance(step, bool)
    if step is not None and not (number and 0 < step <= high - low):
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{where}: step is {step!r}; expected {kind} above 0 and at most {high - low:g}")
    return Range(low, high, whole, log, step)


def _check(name: str, value: object, where: str) -> None:
    """Check one value, an architecture's name included."""
    from cifarcnn import architectures

    try:
        config.check(name, value)
        if name == "arch":
            architectures.find(str(value))
    except UsageError as problem:
        raise UsageError(f"{where} {problem}") from None


def _check_combinations(search: Search, where: str) -> None:
    """Refuse what no trial could train: every combination of a grid is looked at, and the ends of ranges."""
    sizes = [1 if isinstance(values, Range) else len(values) for values in search.space.values()]
    if (count := math.prod(sizes)) > LARGEST_GRID:
        raise UsageError(f"{where} spans {count:,} combinations; expected at most {LARGEST_GRID:,}")
    ends: list[dict[str, Value]] = [
        {
            name: getattr(values, end) if isinstance(values, Range) else values[place]
            for name, values in search.space.items()
        }
        for end, place in (("low", 0), ("high", -1))
    ]
    for values in search.grid or ends:
        try:
            search.resolve(values)
        except UsageError as problem:
            named = ", ".join(f"{name} {value}" for name, value in values.items())
            raise UsageError(f"{where}: with {named}: {problem}") from None
