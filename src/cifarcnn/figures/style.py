"""The look of every chart: our own, drawn without a window, whatever the user has set for Matplotlib."""

import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cifarcnn.errors import FigureError, first_line
from cifarcnn.machine import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours on a ground; blue and orange (Okabe and Ito) differ for the colour-blind and in grey."""

    ground: str
    ink: str
    soft: str
    line: str
    blue: str
    orange: str


LIGHT = Theme("#ffffff", "#1b1b1b", "#666666", "#d0d0d0", "#0072b2", "#d55e00")
DARK = Theme("#16181b", "#e8e8e8", "#a5a5a5", "#44484d", "#56b4e9", "#e69f00")

# Sizes in inches times this are whole pixels: a power of two keeps the product exact.
DOTS_PER_INCH = 128


@contextlib.contextmanager
def figure(target: Path | BinaryIO, width: float, height: float, theme: Theme = LIGHT) -> Iterator["Figure"]:
    """Give an empty figure to draw on, and write it when the block ends.

    Args:
        target: a PNG or SVG file, which appears whole or not at all, or an open binary file, which gets SVG.
        width: in inches.
        height: in inches.
        theme: the colours of text, axes and ground.

    Raises:
        FigureError: Matplotlib cannot draw it.
        OSError: the file cannot be written.
    """
    # Matplotlib logs its remarks on fonts and settings by the thousand; none of them is of use to our users.
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matplotlib = _matplotlib()
            with matplotlib.rc_context(_settings(theme)):
                from matplotlib.figure import Figure

                drawn = Figure((width, height), DOTS_PER_INCH, layout="constrained")
                yield drawn
                _write(drawn, target)
    except OSError:
        raise
    except Exception as problem:
        raise FigureError(f"Matplotlib cannot draw the figure: {first_line(problem)}") from problem
    finally:
        log.setLevel(level)


def _write(drawn: "Figure", target: Path | BinaryIO) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    if isinstance(target, Path) and target.suffix == ".png":
        with files.replacing(target) as aside:
            # `savefig` would draw twice: once to lay the parts out, once more to write them.
            FigureCanvasAgg(drawn).print_png(aside)
    elif isinstance(target, Path):
        with files.replacing(target) as aside:
            FigureCanvasSVG(drawn).print_svg(aside, metadata={"Date": None})
    else:
        FigureCanvasSVG(drawn).print_svg(target, metadata={"Date": None})


@functools.cache
def _matplotlib() -> Any:
    """Import Matplotlib, which would read its user's settings meanwhile and fail where it dislikes them."""
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    with contextlib.ExitStack() as restored:
        restored.callback(os.environ.update, os.environ.copy())
        restored.callback(os.environ.pop, "MATPLOTLIBRC")
        os.environ.pop("MPLBACKEND", None)
        # This empty file comes before all others, but for one in the current directory.
        os.environ["MATPLOTLIBRC"] = os.devnull
        if os.path.exists("matplotlibrc"):
            restored.enter_context(contextlib.chdir(Path(__file__).parent))
        import matplotlib
    # A caller who draws something else finds it as it would be without us.
    with contextlib.suppress(Exception):
        theirs = matplotlib.rc_params()
        matplotlib.rcParams.update({name: theirs[name] for name in theirs if name != "backend"})
        if backend := os.environ.get("MPLBACKEND"):
            matplotlib.rcParams["backend"] = backend
    return matplotlib


def _settings(theme: Theme) -> dict[str, Any]:
    """Matplotlib's defaults and ours over them; the choice of a window system is the caller's own."""
    from matplotlib import rcParamsDefault

    defaults = {name: rcParamsDefault[name] for name in rcParamsDefault if not name.startswith("backend")}
    text = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    return (
        defaults
        | dict.fromkeys(text, theme.ink)
        | {
            "figure.facecolor": theme.ground,
            "figure.constrained_layout.w_pad": 0.08,
            "figure.constrained_layout.h_pad": 0.08,
            "figure.constrained_layout.wspace": 0.05,
            "font.family": ["DejaVu Sans"],
            "axes.facecolor": theme.ground,
            "axes.edgecolor": theme.soft,
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": theme.line,
            "grid.alpha": 0.6,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            # Names of classes may hold dollar signs.
            "text.parse_math": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "cifarcnn",
        }
    )
