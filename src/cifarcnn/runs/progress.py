"""How far a training is: its epochs, which of them is the best, and the tables that they are written to.

Everything that is said of a run's epochs is worked out here, so that a training, a list of runs and a report
agree. Where the tables stand is the business of ``run``.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifarcnn.config import Settings
from cifarcnn.machine import files

METRICS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
TIMING = ("epoch", "seconds", "images_per_second")
"""The columns of ``metrics.csv``, which are the same for the same seed, and of ``timing.csv``."""

Row = Mapping[str, Any]
"""An epoch's figures by column."""

OF_VALIDATION = ("val_loss", "val_accuracy")
"""What is None, in a table an empty cell, without validation images."""


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the row of the best epoch: the one rule, wherever an epoch is called the best.

    It is that of the highest validation accuracy, the earlier one on ties; without validation images the
    last. It does not depend on the order in which it is asked, nor on any file but the table of epochs.
    """
    validated = [row for row in rows if row["val_accuracy"] is not None]
    if not validated:
        return rows[-1] if rows else None
    return max(validated, key=lambda row: (row["val_accuracy"], -row["epoch"]))


@dataclass
class Progress:
    """How far a training is, as it stands in a checkpoint.

    Attributes:
        epoch: epochs completed.
        step: steps completed in the epoch under way.
        rows: for each completed epoch, the columns of ``METRICS`` and ``TIMING``.
        seconds: time of the steps, of validation, and of saving each epoch's model, over all sittings.
        epoch_seconds: time spent on the steps of the epoch under way.
    """

    epoch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: float = 0.0

    def complete(self, row: dict[str, Any]) -> None:
        """Add a completed epoch."""
        self.rows.append(row)
        self.epoch, self.step, self.epoch_seconds = self.epoch + 1, 0, 0.0

    @property
    def best(self) -> Row | None:
        """The row of the best epoch; see ``best_row``. None before the first is completed."""
        return best_row(self.rows)

    @property
    def best_epoch(self) -> int:
        """The best epoch's number; 0 before the first is completed."""
        return self.best["epoch"] if self.best else 0

    def finished(self, settings: Settings) -> bool:
        """Return whether the last epoch is done, or patience is at its end."""
        if self.epoch >= settings.epochs:
            return True
        patient = not settings.patience or self.best is None or self.best["val_accuracy"] is None
        return not patient and self.epoch - self.best_epoch >= settings.patience


def images_per_second(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the mean over epochs of the steps' throughput; None where none was measured."""
    speeds = [row["images_per_second"] for row in rows if row["images_per_second"]]
    return round(sum(speeds) / len(speeds), 1) if speeds else None


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write some columns of the epochs, whole or not at all, so that the numbers read back exactly."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, table.getvalue())


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Read what ``write_table`` has written: a row for each epoch, from the first.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such table.
    """
    reader = csv.DictReader(io.StringIO(files.read_text(path)), strict=True)
    try:
        if list(reader.fieldnames or ()) != list(columns):
            raise ValueError(f"{path.name} has not the columns {', '.join(columns)}")
        cells = list(reader)
    except csv.Error as problem:
        raise ValueError(f"{path.name} is damaged: {problem}") from None
    rows = []
    for number, row in enumerate(cells, 1):
        try:
            rows.append({**_numbers(row, columns, number), "epoch": number})
        except (TypeError, ValueError):
            raise ValueError(f"{path.name} is damaged in row {number}") from None
    return rows


def _numbers(row: Mapping[str, str], columns: Sequence[str], epoch: int) -> dict[str, float | None]:
    """Read the cells of an epoch, or raise TypeError or ValueError."""
    numbers = {
        name: None if name in OF_VALIDATION and not row[name] else float(row[name]) for name in columns
    }
    whole = len(row) == len(columns) and None not in row.values()
    known = [number for number in numbers.values() if number is not None]
    if not whole or numbers["epoch"] != epoch or not all(map(math.isfinite, known)):
        raise ValueError
    return numbers
