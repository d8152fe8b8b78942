"""How far a training is: its best epoch, its end, and the tables that its epochs are written to."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn.config import Settings
from cifarcnn.runs.progress import METRICS, TIMING, Progress, read_table, write_table

ROWS = [
    {"epoch": 1, "loss": 1.5, "accuracy": 0.1, "val_loss": 0.1 + 0.2, "val_accuracy": 0.25,
     "learning_rate": 0.01, "seconds": 2.0, "images_per_second": 100.0},
    {"epoch": 2, "loss": 1.25, "accuracy": 0.2, "val_loss": None, "val_accuracy": None,
     "learning_rate": 1e-300, "seconds": 1 / 3, "images_per_second": 0.0},
]  # fmt: skip


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


def test_of_equal_accuracies_the_lower_loss_is_better_then_the_first() -> None:
    """Validation decides; how well the training images are known does not matter."""
    progress = Progress(epoch_seconds=7.0, step=3)
    measured = [(0.5, 1.0), (0.5, 1.0), (0.5, 0.9), (0.4, 0.1), (0.6, 2.0)]
    better = [
        progress.complete({"val_accuracy": accuracy, "val_loss": loss}, 1000) for accuracy, loss in measured
    ]
    assert better == [True, False, True, False, True]
    assert (progress.epoch, progress.best_epoch) == (5, 5)
    assert (progress.best_accuracy, progress.best_loss) == (0.6, 2.0)
    assert (progress.step, progress.epoch_seconds) == (0, 0.0)


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([(0.926, 0.42), (0.923, 0.41)], 2),  # a standard error of 1,000 images is 0.0083 there
        ([(0.926, 0.42), (0.917, 0.41)], 1),
        ([(0.917, 0.41), (0.926, 0.42)], 2),
        ([(0.923, 0.41), (0.926, 0.42)], 1),
        # Each is within an error of the one before, but the fourth is not of the highest.
        ([(0.926, 0.42), (0.922, 0.41), (0.919, 0.40), (0.916, 0.39)], 3),
        # The best so far falls out of what cannot be told from the highest.
        ([(0.900, 0.30), (0.905, 0.35), (0.920, 0.50)], 3),
    ],
)
def test_accuracies_within_a_standard_error_are_told_apart_by_loss(
    measured: list[tuple[float, float]], best: int
) -> None:
    """A share of some thousand images is known to some tenths of a point, and no better."""
    progress = Progress()
    for accuracy, loss in measured:
        progress.complete({"val_accuracy": accuracy, "val_loss": loss}, 1000)
    assert progress.best_epoch == best
    exact = Progress()
    for accuracy, loss in measured:
        exact.complete({"val_accuracy": accuracy, "val_loss": loss}, 10**9)
    assert exact.best_accuracy == max(accuracy for accuracy, _ in measured)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 9)), min_size=1, max_size=12), st.integers(1, 9999))
def test_the_best_epoch_is_within_a_standard_error_of_the_highest(
    measured: list[tuple[float, float]], val_size: int
) -> None:
    """Whatever came in whatever order; and what is said of it is its own."""
    progress = Progress()
    for accuracy, loss in measured:
        progress.complete({"val_accuracy": accuracy, "val_loss": loss}, val_size)
    highest = max(accuracy for accuracy, _ in measured)
    accuracy, loss = measured[progress.best_epoch - 1]
    assert (progress.best_accuracy, progress.best_loss) == (accuracy, loss)
    assert accuracy >= highest - (highest * (1 - highest) / val_size) ** 0.5


@given(st.integers(1, 20))
def test_without_validation_images_the_last_epoch_is_the_best(epochs: int) -> None:
    """There is nothing to choose by."""
    progress = Progress()
    assert all(progress.complete({"val_accuracy": None, "val_loss": None}, 0) for _ in range(epochs))
    assert progress.best_epoch == progress.epoch == epochs


@pytest.mark.parametrize(
    ("epoch", "best", "changes", "finished"),
    [
        (11, 11, {}, False),
        (12, 3, {}, True),
        (5, 3, {"patience": 2}, True),
        (4, 3, {"patience": 2}, False),
        (5, 3, {"patience": 2, "val_size": 0}, False),
    ],
)
def test_a_run_is_finished_by_its_epochs_or_its_patience(
    epoch: int, best: int, changes: dict[str, int], finished: bool
) -> None:
    """Patience means nothing without validation images."""
    progress = Progress(epoch=epoch, best_epoch=best)
    assert progress.finished(Settings(epochs=12, **changes)) is finished  # type: ignore[arg-type]
