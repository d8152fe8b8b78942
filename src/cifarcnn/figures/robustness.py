"""The chart of a model on corrupted images."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cifarcnn.errors import FigureError, reason
from cifarcnn.evaluation.corruptions import CORRUPTIONS
from cifarcnn.figures.style import LIGHT, figure
from cifarcnn.models.modelfile import display_name

if TYPE_CHECKING:
    from cifarcnn.evaluation.robustness import Robustness


def write(result: "Robustness", directory: Path) -> Path:
    """Draw ``corruptions.png`` into a directory: accuracy by corruption and severity as a heat map.

    Raises:
        FigureError: it cannot be drawn or written.
    """
    path = directory / "corruptions.png"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _draw(result, path)
    except OSError as problem:
        raise FigureError(
            f"cannot write {path}: {reason(problem)}; choose another directory with --figures"
        ) from problem
    return path


def _draw(result: "Robustness", path: Path) -> None:
    found = {(score.corruption, score.severity): score.accuracy for score in result.scores}
    cells = 100 * np.array(
        [[found[name, severity] for severity in result.severities] for name in CORRUPTIONS]
    )
    with figure(path, 3.6 + 0.8 * len(result.severities), 6) as drawn:
        axes = drawn.subplots()
        image = axes.imshow(cells, cmap="Blues_r", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(cells):
            colour = LIGHT.ink if value > 55 else LIGHT.ground
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
        axes.set_xticks(range(len(result.severities)), map(str, result.severities))
        axes.set_yticks(range(len(CORRUPTIONS)), [name.replace("_", " ") for name in CORRUPTIONS])
        accuracy, _ = result.mean()
        axes.set(xlabel="severity")
        axes.set_title(
            f"{display_name(result.model)}: {accuracy:.1%} on corrupted,\n{result.clean.accuracy:.1%} on "
            f"{result.n:,} clean images",
            fontsize=11,
        )
        drawn.colorbar(image, label="accuracy (%)")
