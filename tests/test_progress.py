"""How far a training is: its best epoch, its end, and the tables that its epochs are written to."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn.config import Settings
from cifarcnn.runs.progress import METRICS, TIMING, Progress, best_row, read_table, write_table

ROWS = [
    {"epoch": 1, "loss": 1.5, "accuracy": 0.1, "val_loss": 0.1 + 0.2, "val_accuracy": 0.25,
     "learning_rate": 0.01, "seconds": 2.0, "images_per_second": 100.0},
    {"epoch": 2, "loss": 1.25, "accuracy": 0.2, "val_loss": None, "val_accuracy": None,
     "learning_rate": 1e-300, "seconds": 1 / 3, "images_per_second": 0.0},
]  # fmt: skip


def rows(measured: list[tuple[float | None, float | None]]) -> list[dict[str, float | None]]:
    """The epochs of these validation accuracies and losses."""
    return [
        {"epoch": number, "val_accuracy": accuracy, "val_loss": loss}
        for number, (accuracy, loss) in enumerate(measured, 1)
    ]


def test_tables_read_back_exactly(tmp_path: Path) -> None:
    """A number in the table is the very number that was measured; what was not measured is an empty cell."""
    metrics, timing = tmp_path / "metrics.csv", tmp_path / "timing.csv"
    write_table(metrics, METRICS, ROWS)
    write_table(timing, TIMING, ROWS)
    header, row, _ = metrics.read_text().splitlines()
    assert header == "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate"
    assert [float(cell) for cell in row.split(",")] == [1, 1.5, 0.1, 0.1 + 0.2, 0.25, 0.01]
    assert timing.read_text().splitlines()[:2] == ["epoch,seconds,images_per_second", "1,2.0,100.0"]
    found = zip(read_table(metrics, METRICS), read_table(timing, TIMING), strict=True)
    assert [{**measured, **timed} for measured, timed in found] == ROWS


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([(0.800, 0.50), (0.804, 0.55), (0.8065, 0.70)], 3),  # the loss does not matter
        ([(0.5, 1.0), (0.6, 2.0), (0.6, 0.1), (0.4, 0.1)], 2),  # the earlier of equal ones
        ([(0.926, 0.42), (0.923, 0.41)], 1),
        ([(0.0, 9.0)], 1),
    ],
)
def test_the_best_epoch_is_the_first_of_the_highest_validation_accuracy(
    measured: list[tuple[float | None, float | None]], best: int
) -> None:
    """As the documentation says, and in whatever order the epochs are looked at."""
    for order in itertools.permutations(rows(measured)):
        found = best_row(order)
        assert found is not None
        assert found["epoch"] == best


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 9)), min_size=1, max_size=12))
def test_an_epoch_is_the_best_when_it_ends_if_it_is_better_than_all_before(
    measured: list[tuple[float | None, float | None]],
) -> None:
    """So the best model is always one that was saved when it was the last, and what is told of it its own."""
    progress = Progress(epoch_seconds=7.0, step=3)
    kept = None
    for row in rows(measured):
        progress.complete(row)
        if progress.best_epoch == progress.epoch:
            kept = row
        assert (progress.step, progress.epoch_seconds) == (0, 0.0)
        assert progress.best == kept


@given(st.integers(1, 20))
def test_without_validation_images_the_last_epoch_is_the_best(epochs: int) -> None:
    """There is nothing to choose by."""
    progress = Progress()
    assert progress.best is None
    assert progress.best_epoch == 0
    for row in rows([(None, None)] * epochs):
        progress.complete(row)
        assert progress.best_epoch == progress.epoch == row["epoch"]


@pytest.mark.parametrize(
    ("epoch", "changes", "validated", "finished"),
    [
        (11, {}, True, False),
        (12, {}, True, True),
        (5, {"patience": 2}, True, True),
        (4, {"patience": 2}, True, False),
        (5, {"patience": 2}, False, False),
        (0, {"patience": 2}, True, False),
    ],
)
def test_a_run_is_finished_by_its_epochs_or_its_patience(
    epoch: int, changes: dict[str, int], validated: bool, finished: bool
) -> None:
    """Patience means nothing without validation images. Here the third epoch is the best."""
    progress = Progress()
    for number in range(1, epoch + 1):
        progress.complete({"epoch": number, "val_accuracy": 0.5 + 0.1 * (number == 3) if validated else None})
    assert progress.finished(Settings(epochs=12, **changes)) is finished  # type: ignore[arg-type]
