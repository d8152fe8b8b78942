"""The charts: learning curves, confusion matrix, reliability diagram.

Each function draws one figure, writes it whole as a PNG file and returns matplotlib's ``Figure``. Pictures
made of 32x32 images stand in ``galleries``. Matplotlib is used through its objects only: no pyplot, no
global state, no window. The colours (after Okabe and Ito) differ for colour-blind readers and in grey.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.machine.files import replacing
from cifarcnn.metrics import Array, ReliabilityBin, calibration_error
from cifarcnn.wording import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE = "#0072b2"
ORANGE = "#d55e00"
GREY = "#6b6b6b"
# Sizes in inches times this are whole pixels: a power of two keeps the product exact.
DOTS_PER_INCH = 128


def learning_curves(rows: Sequence[dict[str, Any]], path: Path) -> "Figure":
    """Draw loss, accuracy and learning rate over the epochs of a training.

    Args:
        rows: the epochs in order, each with ``epoch``, ``loss``, ``accuracy``, ``val_loss``,
            ``val_accuracy`` (None without a validation split) and ``learning_rate``.
        path: the PNG file to write.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(12, 4)
    loss, accuracy, rate = figure.subplots(1, 3, width_ratios=(4, 4, 3))
    _training_and_validation(loss, rows, "loss", 1)
    _training_and_validation(accuracy, rows, "accuracy", 100)
    loss.set(title="Loss", ylabel="mean loss (nats)")
    accuracy.set(title="Accuracy", ylabel="right answers (%)")
    _line(rate, rows, "learning_rate", 1, color=GREY, linestyle="-")
    rate.set(title="Learning rate", ylabel="learning rate")
    for axes in (loss, accuracy, rate):
        axes.set(xlabel="epoch", xlim=(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
    return figure


def _training_and_validation(axes: Any, rows: Sequence[dict[str, Any]], key: str, scale: float) -> None:
    _line(axes, rows, key, scale, color=BLUE, linestyle="--", label="training")
    validated = [row for row in rows if row[f"val_{key}"] is not None]
    if not validated:
        axes.legend(frameon=False)
        return
    _line(axes, validated, f"val_{key}", scale, color=ORANGE, linestyle="-", label="validation")
    values = [row[f"val_{key}"] for row in validated]
    best = values.index(min(values) if key == "loss" else max(values))
    what = f"best validation: {values[best] * scale:.4g}{' %' if scale == 100 else ''}"
    axes.plot(validated[best]["epoch"], values[best] * scale, "o", color=ORANGE, label=what)
    axes.legend(frameon=False)


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, scale: float, **style: Any) -> None:
    """Plot one column. A lone epoch would be an invisible line, so few points get markers."""
    marker = "." if len(rows) <= 30 else ""
    axes.plot(
        [row["epoch"] for row in rows], [row[key] * scale for row in rows], marker=marker, lw=1.8, **style
    )


def confusion_matrix(confusion: Array, path: Path) -> "Figure":
    """Draw a confusion matrix: counts, below them the share of the true class, which sets the colour.

    Args:
        confusion: int (10, 10), [truth][answer].
        path: the PNG file to write.
    """
    from matplotlib.colors import PowerNorm

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure = _figure(9.5, 8.5)
    axes = figure.subplots()
    # The square root makes mistakes of a few percent visible beside the full diagonal.
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    for (truth, answer), count in np.ndenumerate(confusion):
        share = shares[truth, answer]
        # The numbers lie within the axes; to measure them for the layout takes a quarter of all the time.
        colour = "white" if share > 0.35 else "black"
        style: dict[str, Any] = {"ha": "center", "color": colour, "in_layout": False}
        if count:
            axes.text(answer, truth - 0.02, f"{count:,}", va="bottom", fontsize=10, **style)
            axes.text(answer, truth + 0.06, percent(share, 1), va="top", fontsize=7.5, **style)
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    total = int(confusion.sum())
    accuracy = np.trace(confusion) / max(total, 1)
    axes.set(
        title=f"Confusion matrix: {percent(accuracy)} of {total:,} images right",
        xlabel="answer of the network",
        ylabel="true class",
    )
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.02, ticks=(0, 0.01, 0.05, 0.2, 0.5, 1))
    bar.ax.set_yticklabels(("0 %", "1 %", "5 %", "20 %", "50 %", "100 %"))
    bar.set_label("share of the true class (square-root scale)")
    save(figure, path)
    return figure


def reliability(bins: Sequence[ReliabilityBin], path: Path) -> "Figure":
    """Draw a reliability diagram: how often answers of each confidence are right, and how many there are.

    Args:
        bins: as ``Metrics.bins``.
        path: the PNG file to write.
    """
    figure = _figure(6.5, 7.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [part for part in bins if part.confidence is not None and part.accuracy is not None]
    width = [part.high - part.low for part in filled]
    left = [part.low for part in filled]
    upper.bar(
        left,
        [part.accuracy for part in filled],
        width,
        align="edge",
        color=BLUE,
        alpha=0.55,
        edgecolor="white",
        label="accuracy in the bin",
    )
    upper.plot((0, 1), (0, 1), "--", color="black", label="perfect calibration")
    upper.plot(
        [part.confidence for part in filled],
        [part.accuracy for part in filled],
        "o",
        color=ORANGE,
        label="accuracy at mean confidence",
    )
    error = calibration_error(tuple(bins))
    upper.set(
        title=f"Reliability: expected calibration error {percent(error)}",
        ylabel="share of right answers",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    upper.legend(frameon=False, loc="upper left")
    lower.bar(left, [part.count for part in filled], width, align="edge", color=GREY, edgecolor="white")
    lower.set(xlabel="confidence: probability of the answer", ylabel="images")
    for axes in (upper, lower):
        axes.grid(alpha=0.3, axis="y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG file that appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with replacing(path) as aside:
        # `savefig` would draw twice: once to lay the parts out, once more to write them.
        FigureCanvasAgg(figure).print_png(aside)


def _figure(width: float, height: float) -> "Figure":
    """An empty figure of the given size in inches, whose parts arrange themselves."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.05)
    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout, facecolor="white")
