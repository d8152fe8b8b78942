"""What a training looks like on stderr."""

import io

import pytest
from rich.console import Console

from cifarcnn.cli import console
from cifarcnn.cli.training_display import TrainingDisplay, epoch_line, small_curve
from cifarcnn.events import EpochDone, StepsDone, Transfer

DONE = EpochDone(
    epoch=3, epochs=12, loss=1.25, accuracy=0.5, val_loss=1.1, val_accuracy=0.625, learning_rate=0.1,
    images_per_second=3456.7, seconds=12.34, best=True,
)  # fmt: skip


def test_an_epoch_is_one_line() -> None:
    """Every figure, the same on a terminal and in a log."""
    assert epoch_line(DONE) == (
        "epoch  3/12  loss 1.2500  accuracy 50.00%  validation loss 1.1000 accuracy 62.50% (best)"
        "  3,457 images/s  12.3 s"
    )


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        ([], ""),
        ([0.5], ""),
        ([0, 1], "▁█"),
        ([1, 0, 0.5], "█▁▅"),
        ([3, 3, 3], "▁▁▁"),
        (list(range(25)), None),
    ],
)
def test_small_curves_go_from_the_least_to_the_greatest(values: list[float], curve: str | None) -> None:
    """Eight heights; only the last twenty values."""
    drawn = small_curve(values)
    assert len(drawn) == 20 if curve is None else drawn == curve


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_gets_a_moving_bar(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log gets the epoch's line alone; a terminal speed, loss, accuracy and a curve as well."""
    written = io.StringIO()
    monkeypatch.setattr(
        console, "stderr", Console(file=written, force_terminal=terminal, width=150, highlight=False)
    )
    with TrainingDisplay() as display:
        for epoch in (1, 2):
            display(StepsDone(epoch, 12, 40, 40, 1.5, 0.4, 1234.0))
            display(DONE)
        display(StepsDone(3, 12, 40, 40, 1.5, 0.4, 1234.0))
        display.steps.refresh()
    shown = written.getvalue()
    assert shown.count(epoch_line(DONE)) == 2
    assert ("1,234 images/s  loss 1.500  accuracy 40.00%  ▁▁" in shown) == terminal
    if not terminal:
        assert len(shown.splitlines()) == 2


def test_a_training_after_a_download_and_another_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal shows one set of bars; the next run begins its bar and its curve anew."""
    written = io.StringIO()
    monkeypatch.setattr(
        console, "stderr", Console(file=written, force_terminal=True, width=150, highlight=False)
    )
    with TrainingDisplay() as display:
        display(Transfer("archive", 10, 10))
        # The second fails in its first call; the third is a short one.
        for epochs, steps in ((10, 40), (3, 40), (3, 40), (1, 2), (10, 40)):
            first = min(20, steps)
            display(StepsDone(1, epochs, first, steps, 1.5, 0.4, 0.0))
            assert [bars.live.is_started for bars in display.bars.values()] == [False, True]
            (task,) = display.steps.tasks
            assert (task.total, task.completed, display.accuracies) == (steps * epochs, first, [])
            display(DONE)
            if epochs == 10:
                display(StepsDone(epochs, epochs, steps, steps, 1.5, 0.4, 1234.0))
