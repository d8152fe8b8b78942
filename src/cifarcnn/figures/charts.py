"""The charts. Each function draws one figure, as a file or as SVG for the report, and returns it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cifarcnn import metrics
from cifarcnn.figures.grid import drawable
from cifarcnn.figures.style import LIGHT, Theme, figure
from cifarcnn.formatting import count as counted
from cifarcnn.formatting import percent
from cifarcnn.metrics import Array, ReliabilityBin
from cifarcnn.models.modelfile import display_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cifarcnn.evaluation.robustness import Robustness

Target = Path | BinaryIO
PANELS = {
    "loss": ("Loss", "mean loss (nats)"),
    "accuracy": ("Accuracy", "accuracy (%)"),
    "learning_rate": ("Learning rate", "learning rate"),
}
FEW_CLASSES, SOME_CLASSES = 12, 20
"""Up to so many classes a confusion matrix has counts and percentages, or counts, in its cells."""

MOST_TICKS = 40
LONGEST_NAME = 18


def learning_curves(
    rows: Sequence[dict[str, Any]],
    target: Target,
    best_epoch: int | None = None,
    *,
    panels: Sequence[str] = tuple(PANELS),
    theme: Theme = LIGHT,
) -> "Figure":
    """Draw loss, accuracy and learning rate over the epochs of a training.

    Args:
        rows: the epochs in order, each with ``epoch``, ``loss``, ``accuracy``, ``val_loss``,
            ``val_accuracy`` (None without a validation split) and ``learning_rate``.
        target: where to.
        best_epoch: the epoch whose model was kept, which is marked; None marks none.
        panels: which of the three.
        theme: the colours.
    """
    with figure(target, 4 * len(panels), 4 if len(panels) > 1 else 3, theme) as drawn:
        from matplotlib.ticker import MaxNLocator

        for axes, key in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            title, unit = PANELS[key]
            axes.set(title=title, ylabel=unit, xlabel="epoch")
            axes.set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid()
            if key == "learning_rate":
                _line(axes, rows, key, color=theme.soft)
                continue
            _line(axes, rows, key, color=theme.blue, linestyle="--", label="training")
            _line(axes, rows, f"val_{key}", color=theme.orange, label="validation")
            _mark(axes, rows, f"val_{key}", best_epoch, theme)
            axes.legend()
    return drawn


def _scaled(row: dict[str, Any], key: str) -> float:
    return float(row[key] * (100 if key.endswith("accuracy") else 1))


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, **style: Any) -> None:
    """Plot one column. A lone epoch would be an invisible line, so few points get markers."""
    known = [row for row in rows if row[key] is not None]
    if known:
        epochs, values = [row["epoch"] for row in known], [_scaled(row, key) for row in known]
        axes.plot(epochs, values, marker="." if len(rows) <= 30 else "", **style)


def _mark(axes: Any, rows: Sequence[dict[str, Any]], key: str, best_epoch: int | None, theme: Theme) -> None:
    """Mark the best epoch on the line of the validation images."""
    for row in rows:
        if row["epoch"] == best_epoch and row[key] is not None:
            value = _scaled(row, key)
            shown = f"{value:.2f}%" if key == "val_accuracy" else f"{value:.4g}"
            label = f"best epoch {best_epoch}: {shown}"
            axes.plot(best_epoch, value, "o", color=theme.orange, markeredgecolor=theme.ink, label=label)


def confusion_matrix(
    confusion: Array, classes: Sequence[str], target: Target, *, listed: bool = True, theme: Theme = LIGHT
) -> "Figure":
    """Draw a confusion matrix, coloured by the share of the true class.

    Up to twenty classes have their counts in the cells; more have a list of the most confused pairs beside.

    Args:
        confusion: int (n, n), [true class][predicted class].
        classes: the names of the classes.
        target: where to.
        listed: whether to list the pairs.
        theme: the colours.
    """
    numbered = len(classes) <= SOME_CLASSES
    side = np.clip(3.5 + 0.5 * len(classes), 6, 8.5)
    total = int(confusion.sum())
    accuracy = percent(int(np.trace(confusion)) / max(total, 1))
    ratios = (1,) if numbered or not listed else (4, 1)
    with figure(target, side + 1 + 2.5 * (len(ratios) - 1), side + (0 if numbered else 0.8), theme) as drawn:
        axes, *others = drawn.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
        axes.set_title(f"Confusion matrix: {accuracy} accuracy on {total:,} images", pad=12)
        axes.set(xlabel="predicted class", ylabel="true class")
        shares = _draw_matrix(drawn, axes, confusion, theme)
        _label_matrix(axes, classes, numbered)
        if numbered:
            _number_cells(axes, confusion, shares, theme)
        for beside in others:
            _list_confused(beside, confusion, classes)
    return drawn


def _draw_matrix(drawn: "Figure", axes: Any, confusion: Array, theme: Theme) -> Array:
    """Colour the cells, and return each one's share of its true class."""
    from matplotlib.colors import PowerNorm

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # The square root makes mistakes of a few percent visible beside the full diagonal.
    scale = PowerNorm(0.5, vmin=0, vmax=1)
    picture = axes.imshow(shares, cmap="Blues" if theme is LIGHT else "Blues_r", norm=scale)
    bar = drawn.colorbar(picture, ax=axes, shrink=0.6, pad=0.02, ticks=(0, 0.01, 0.05, 0.2, 0.5, 1))
    bar.ax.set_yticklabels(("0%", "1%", "5%", "20%", "50%", "100%"))
    bar.set_label("share of the true class (square-root scale)")
    for part in (bar.outline, *axes.spines.values()):
        part.set_visible(False)
    return np.asarray(shares)


def _label_matrix(axes: Any, classes: Sequence[str], numbered: bool) -> None:
    """Name the classes, of very many every so many."""
    ticks = range(0, len(classes), -(-len(classes) // MOST_TICKS))
    names = [_short(classes[tick]) for tick in ticks]
    size = 10 if numbered else 7
    axes.set_xticks(ticks, names, fontsize=size, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names, fontsize=size)


def _short(name: str) -> str:
    name = drawable(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _number_cells(axes: Any, confusion: Array, shares: Array, theme: Theme) -> None:
    """Write each cell's count and, where there is room, its percentage."""
    roomy = len(confusion) <= FEW_CLASSES
    for (label, prediction), count in np.ndenumerate(confusion):
        if not count:
            continue
        share = shares[label, prediction]
        # The numbers lie within the axes; to measure them for the layout takes a quarter of all the time.
        style = {"ha": "center", "in_layout": False, "textcoords": "offset points"}
        style["color"] = theme.ground if share > 0.35 else theme.ink
        cell = (prediction, label)
        axes.annotate(
            f"{count:,}", cell, (0, 3 if roomy else 0), va="center", fontsize=10 if roomy else 7, **style
        )
        if roomy:
            axes.annotate(percent(float(share), 1), cell, (0, -9), va="center", fontsize=7.5, **style)


def _list_confused(axes: Any, confusion: Array, classes: Sequence[str]) -> None:
    """List the most confused pairs of classes."""
    pairs = [
        f"{_short(classes[pair.label])} → {_short(classes[pair.prediction])}\n"
        f"    {counted(pair.count, 'image')}, {percent(pair.share, 1)} of its class"
        for pair in metrics.confused_pairs(confusion)
    ]
    axes.set_axis_off()
    axes.set_title("Most confused", loc="left", fontsize=10)
    axes.text(0, 0.98, "\n".join(pairs) or "none", va="top", fontsize=8, linespacing=1.6)


def reliability(bins: Sequence[ReliabilityBin], target: Target, *, theme: Theme = LIGHT) -> "Figure":
    """Draw a reliability diagram: the accuracy of predictions of each confidence, and how many there are.

    Args:
        bins: as ``Metrics.bins``.
        target: where to.
        theme: the colours.
    """
    filled = [part for part in bins if part.confidence is not None and part.accuracy is not None]
    width = [part.high - part.low for part in filled]
    left = [part.low for part in filled]
    accuracy = [part.accuracy for part in filled]
    with figure(target, 6.5, 7, theme) as drawn:
        upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        bars = {"align": "edge", "edgecolor": theme.ground}
        upper.bar(left, accuracy, width, color=theme.blue, alpha=0.55, label="accuracy in the bin", **bars)
        upper.plot((0, 1), (0, 1), "--", color=theme.ink, label="perfect calibration")
        confidence = [part.confidence for part in filled]
        upper.plot(confidence, accuracy, "o", color=theme.orange, label="accuracy at mean confidence")
        error = percent(metrics.calibration_error(tuple(bins)))
        upper.set(title=f"Reliability: expected calibration error {error}", ylabel="accuracy")
        upper.set(xlim=(0, 1), ylim=(0, 1.02))
        upper.legend(loc="upper left")
        lower.bar(left, [part.count for part in filled], width, color=theme.soft, **bars)
        lower.set(xlabel="confidence: probability of the predicted class", ylabel="images")
        lower.yaxis.set_major_formatter("{x:,.0f}")
        for axes in (upper, lower):
            axes.grid(axis="y")
    return drawn


def corruptions(result: "Robustness", target: Target) -> "Figure":
    """Draw accuracy by corruption and severity as a heat map."""
    rows: dict[str, list[float]] = {}
    for score in result.scores:
        rows.setdefault(score.corruption.replace("_", " "), []).append(100 * score.accuracy)
    with figure(target, 3.6 + 0.8 * len(result.severities), 6) as drawn:
        axes = drawn.subplots()
        cells = np.array(list(rows.values()), float)
        image = axes.imshow(cells, cmap="Blues_r", vmin=0, vmax=100, aspect="auto")
        for (row, column), value in np.ndenumerate(cells):
            color = LIGHT.ink if float(value) > 55 else LIGHT.ground
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
        axes.set_xticks(range(len(result.severities)), map(str, result.severities))
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set(xlabel="severity")
        title = f"{display_name(result.model)}: {result.mean()[0]:.1%} on corrupted,\n"
        axes.set_title(f"{title}{result.clean.accuracy:.1%} on {result.n:,} clean images", fontsize=11)
        drawn.colorbar(image, label="accuracy (%)")
    return drawn
