"""The charts of the report as SVG, which follows the page's colours in light, dark and print."""

import math
from collections.abc import Sequence
from typing import Any

from cifarcnn.metrics import ReliabilityBin
from cifarcnn.wording import percent

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 350, 24, 204


def curve(epochs: Sequence[dict[str, Any]], key: str, title: str, scale: float) -> str:
    """Draw one figure of a training and of its validation over the epochs.

    Args:
        epochs: rows with ``epoch``, the key, and ``val_`` with the key, which may be None. Values that are
            not finite are left out.
        key: "loss" or "accuracy".
        title: the heading, with the unit.
        scale: what the values are multiplied by for display.
    """
    series = []
    for name, style, column in (("training", "first", key), ("validation", "second", f"val_{key}")):
        points = [
            (row["epoch"], row[column] * scale)
            for row in epochs
            if row[column] is not None and math.isfinite(row[column])
        ]
        if points:
            series.append((name, style, points))
    values = [value for _, _, points in series for _, value in points]
    first, last = epochs[0]["epoch"], epochs[-1]["epoch"]
    low, high = min(values, default=0.0), max(values, default=0.0)
    parts = [_frame(title, "epoch", (f"{first}", f"{last}"), (_short(low, key), _short(high, key)))]
    for number, (name, style, points) in enumerate(series):
        places = [
            (_scaled(epoch, first, last, LEFT, RIGHT), _scaled(value, low, high, BOTTOM, TOP))
            for epoch, value in points
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{style}" points="{line}"/>')
        parts.append(f'<circle class="{style}" cx="{places[-1][0]:.1f}" cy="{places[-1][1]:.1f}" r="3"/>')
        end = points[-1][1]
        what = f"{name}: {f'{end:.2f}' if key == 'accuracy' else f'{end:.3g}'} at the end"
        # Losses fall and accuracies rise, so this corner stays free.
        first_line = TOP + 12 if key == "loss" else BOTTOM - 24
        parts.append(f'<text class="{style}" x="{WIDTH / 2}" y="{first_line + 15 * number}">{what}</text>')
    return _figure(title, parts)


def reliability(bins: Sequence[ReliabilityBin]) -> str:
    """Draw how often answers of each confidence are right."""
    parts = [_frame("Share of right answers by confidence", "confidence", ("0", "1"), ("0", "1"))]
    for part in bins:
        if part.accuracy is None:
            continue
        left, right = (_scaled(edge, 0, 1, LEFT, RIGHT) for edge in (part.low, part.high))
        top = _scaled(part.accuracy, 0, 1, BOTTOM, TOP)
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left - 1:.1f}" '
            f'height="{BOTTOM - top:.1f}"><title>{part.count:,} images of confidence {part.low:.2f} to '
            f"{part.high:.2f}: {percent(part.accuracy, 1)} right</title></rect>"
        )
    parts.append(f'<line class="second" x1="{LEFT}" y1="{BOTTOM}" x2="{RIGHT}" y2="{TOP}"/>')
    parts.append(f'<text class="second" x="{LEFT + 12}" y="{TOP + 16}">line: perfect calibration</text>')
    return _figure("Reliability diagram", parts)


def _short(value: float, key: str) -> str:
    """Write a value in the 39 units beside the axis, some six letters: an accuracy in percent, or a loss."""
    if key == "accuracy":
        return f"{value:.1f}"
    return f"{value:.3g}" if value == 0 or 0.01 <= value < 1000 else f"{value:.0e}"


def _scaled(value: float, low: float, high: float, start: float, end: float) -> float:
    """Map low..high to start..end; a range of no width lies in the middle."""
    share = (value - low) / (high - low) if high > low else 0.5
    return start + share * (end - start)


def _frame(title: str, below: str, x_ends: tuple[str, str], y_ends: tuple[str, str]) -> str:
    """Axes with the title above, a label below, and the values at their ends."""
    return (
        f'<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>'
        f'<text x="{LEFT}" y="14" font-weight="600">{title}</text>'
        f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{below}</text>'
        f'<text x="{LEFT}" y="{BOTTOM + 15}" text-anchor="middle">{x_ends[0]}</text>'
        f'<text x="{RIGHT}" y="{BOTTOM + 15}" text-anchor="end">{x_ends[1]}</text>'
        f'<text x="{LEFT - 5}" y="{BOTTOM}" text-anchor="end">{y_ends[0]}</text>'
        f'<text x="{LEFT - 5}" y="{TOP + 9}" text-anchor="end">{y_ends[1]}</text>'
    )


def _figure(label: str, parts: Sequence[str]) -> str:
    content = "".join(parts)
    box = f"0 0 {WIDTH} {HEIGHT}"
    return f'<figure><svg viewBox="{box}" role="img" aria-label="{label}">{content}</svg></figure>'
