"""A training shown on stderr: a moving bar on a terminal, and one plain line per epoch everywhere."""

from rich import progress

from cifarcnn.cli import console
from cifarcnn.events import EpochDone, Event, StepsDone


class TrainingDisplay(console.Display):
    """Shows the events of a training: give an object of this class as ``on_event``."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[figures]}", markup=False),
            console=console.stderr,
            transient=True,
            disable=not console.stderr.is_terminal,
        )
        self.whole: progress.TaskID | None = None
        self.done = self.total = 0
        self.accuracies: list[float] = []

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, StepsDone):
            self._show_step(event)
        elif isinstance(event, EpochDone):
            self.accuracies.append(event.accuracy if event.val_accuracy is None else event.val_accuracy)
            console.note(epoch_line(event))
        else:
            super().__call__(event)

    def _show_step(self, event: StepsDone) -> None:
        done = (event.epoch - 1) * event.steps + event.step
        total = event.epochs * event.steps
        if self.whole is not None and (done <= self.done or total != self.total):
            # The next of several runs.
            self.steps.remove_task(self.whole)
            self.whole = None
            self.accuracies.clear()
        self.done, self.total = done, total
        if self.whole is None:
            # A terminal shows one set of bars at a time.
            for others in self.bars.values():
                others.stop()
            self.bars[StepsDone] = self.steps
            self.steps.start()
            self.whole = self.steps.add_task("", total=total, completed=done, figures="")
        self.steps.update(
            self.whole,
            completed=done,
            description=f"epoch {event.epoch}/{event.epochs}",
            figures=f"{event.images_per_second:,.0f} images/s  loss {event.loss:.3f}"
            f"  accuracy {event.accuracy:.2%}  {small_curve(self.accuracies)}",
        )


def small_curve(values: list[float]) -> str:
    """Draw values as a row of bars, one letter each, from the least to the greatest; at most the last 20."""
    shown = values[-20:]
    if len(shown) < 2:
        return ""
    least, span = min(shown), (max(shown) - min(shown)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - least) / span)] for value in shown)


def epoch_line(event: EpochDone) -> str:
    """Return the line of one epoch, for a terminal and for a log alike."""
    parts = [
        f"epoch {event.epoch:>{len(str(event.epochs))}}/{event.epochs}",
        f"loss {event.loss:.4f}",
        f"accuracy {event.accuracy:.2%}",
    ]
    if event.val_loss is not None and event.val_accuracy is not None:
        best = " (best)" if event.best else ""
        parts.append(f"validation loss {event.val_loss:.4f} accuracy {event.val_accuracy:.2%}{best}")
    if event.images_per_second:
        parts.append(f"{event.images_per_second:,.0f} images/s")
    return "  ".join([*parts, f"{event.seconds:.1f} s"])
