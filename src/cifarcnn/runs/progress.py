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

OF_VALIDATION = ("val_loss", "val_accuracy")
"""What is None, in a table an empty cell, without validation images."""


@dataclass
class Progress:
    """How far a training is, as it stands in a checkpoint.

    Attributes:
        epoch: epochs completed.
        step: steps completed in the epoch under way.
        rows: for each completed epoch, the columns of ``METRICS`` and ``TIMING``.
        best_epoch, best_accuracy, best_loss: of the best epoch so far, on the validation images.
        seconds: time of the steps, of validation, and of saving each epoch's model, over all sittings.
        epoch_seconds: time spent on the steps of the epoch under way.
    """

    epoch: int = 0
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float | None = None
    best_loss: float | None = None
    seconds: float = 0.0
    epoch_seconds: float = 0.0

    def complete(self, row: dict[str, Any], val_size: int) -> bool:
        """Add a completed epoch; return whether it is the best so far.

        A validation accuracy less than a standard error below the highest cannot be told from it. An epoch
        that has such a one takes the best's place if its validation loss is lower, or if the best's accuracy
        is no such one any more. Without validation images the last epoch is the best.

        Args:
            row: the epoch's measurements.
            val_size: the number of validation images.
        """
        self.epoch, self.step, self.epoch_seconds = self.epoch + 1, 0, 0.0
        self.rows.append(row)
        accuracy, loss = row["val_accuracy"], row["val_loss"]
        best = self._is_best(accuracy, loss, val_size)
        if best:
            self.best_epoch, self.best_accuracy, self.best_loss = self.epoch, accuracy, loss
        return best

    def _is_best(self, accuracy: float | None, loss: float | None, val_size: int) -> bool:
        """Return whether the last row, of this validation accuracy and loss, is better than the best."""
        if accuracy is None or loss is None or self.best_accuracy is None or self.best_loss is None:
            return True
        highest = max(row["val_accuracy"] or 0.0 for row in self.rows)
        enough = highest - math.sqrt(highest * (1 - highest) / max(val_size, 1))
        return accuracy >= enough and (self.best_accuracy < enough or loss < self.best_loss)

    def finished(self, settings: Settings) -> bool:
        """Return whether the last epoch is done, or patience is at its end."""
        impatient = settings.patience > 0 and settings.val_size > 0
        return self.epoch >= settings.epochs or (
            impatient and self.epoch - self.best_epoch >= settings.patience
        )


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
