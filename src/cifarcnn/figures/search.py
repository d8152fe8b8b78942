"""The picture of a search: how good its trials were, in their order and by each searched setting."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn.figures import style
from cifarcnn.figures.style import LIGHT

if TYPE_CHECKING:
    from cifarcnn.training.tune import Trial

COLUMNS = 3


def draw(trials: "Sequence[Trial]", names: Sequence[str], logs: Collection[str], path: Path) -> None:
    """Draw a search.

    Args:
        trials: those with an accuracy, by number.
        names: the searched settings.
        logs: those of them whose axis is logarithmic.
        path: the PNG file to write.
    """
    from matplotlib.ticker import MaxNLocator

    rows = -(-(1 + len(names)) // COLUMNS)
    columns = min(COLUMNS, 1 + len(names))
    with style.figure(path, 4 * columns, 3.6 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).flat
        history = next(panels)
        _points(history, [trial.number for trial in trials], trials)
        best, course = 0.0, []
        for trial in trials:
            best = max(best, 100 * (trial.val_accuracy or 0.0))
            course.append(best)
        numbers = [trial.number for trial in trials]
        history.step(numbers, course, where="post", color=LIGHT.soft, label="best so far")
        history.set(xlabel="trial", ylabel="validation accuracy (%)")
        history.xaxis.set_major_locator(MaxNLocator(integer=True))
        history.legend(frameon=False)
        for name, axes in zip(names, panels, strict=False):
            if name in logs:
                axes.set_xscale("log")
            values = [trial.settings[name] for trial in trials]
            # Words and switches stand side by side, in the order of the trials.
            numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            _points(axes, values if numeric else [str(value) for value in values], trials)
            axes.set(xlabel=name, ylabel="validation accuracy (%)")
        for axes in panels:
            axes.set_visible(False)


def _points(axes: Any, places: Sequence[Any], trials: "Sequence[Trial]") -> None:
    """Plot a point for each trial; those that were not finished are hollow."""
    for label, finished in (("finished", True), ("pruned or stopped", False)):
        chosen = [number for number, trial in enumerate(trials) if (trial.state == "finished") == finished]
        if chosen:
            axes.plot(
                [places[number] for number in chosen],
                [100 * (trials[number].val_accuracy or 0.0) for number in chosen],
                "o",
                color=LIGHT.orange if finished else LIGHT.blue,
                markerfacecolor=None if finished else "none",
                label=label,
            )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
