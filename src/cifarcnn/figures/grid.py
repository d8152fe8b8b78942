"""Pictures in rows, with lines of text and bars below them, drawn with Pillow."""

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn.figures.style import LIGHT
from cifarcnn.formatting import short_percent
from cifarcnn.machine import files

if TYPE_CHECKING:
    from PIL import Image, ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

PALE, PINK, RED = "#e2e2e2", "#faf4f4", "#b2181c"
GAP, LINE, TEXT, TITLE = 20, 19, 13, 20
HEADER = 70
NARROWEST = 460
"""Pixels; below this width a title would be dots."""

NONCHARACTER = "\uffff"
"""What no typeface has a shape for."""


@dataclass(frozen=True)
class Line:
    """A line below a picture; with a probability, a class with a bar as long as that, and the percentage."""

    text: str
    color: str = LIGHT.ink
    bold: bool = False
    probability: float | None = None


@dataclass(frozen=True)
class Tile:
    """A picture, or an error in its place, and the lines below it."""

    picture: "Image.Image | str | None"
    lines: Sequence[Line] = ()


def draw(
    tiles: Sequence[Tile], title: str, subtitle: str = "", *, columns: int, box: int, lines: int = 0
) -> "Image.Image":
    """Draw tiles in rows below a title.

    Args:
        tiles: what to draw.
        title: above the tiles, in bold.
        subtitle: below the title.
        columns: tiles in a row at most.
        box: pixels of a side of the square that a picture is fitted into.
        lines: lines that every tile has room for, at least as many as the longest has.
    """
    from PIL import Image, ImageDraw

    columns = max(1, min(columns, len(tiles)))
    lines = max([lines, *(len(tile.lines) for tile in tiles)])
    gap = GAP if lines else GAP // 2
    height = box + lines * LINE + (GAP + 14 if lines else gap)
    size = (max(gap + columns * (box + gap), NARROWEST), HEADER + math.ceil(len(tiles) / columns) * height)
    page = Image.new("RGB", size, LIGHT.ground)
    pen = ImageDraw.Draw(page)
    write(pen, (gap, 12), title, page.width - 2 * gap, size=TITLE, bold=True)
    write(pen, (gap, 42), subtitle, page.width - 2 * gap, LIGHT.soft)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        _draw_tile(page, pen, tile, gap + column * (box + gap), HEADER + row * height, box)
    return page


def _draw_tile(
    page: "Image.Image", pen: "ImageDraw.ImageDraw", tile: Tile, left: int, top: int, box: int
) -> None:
    if isinstance(tile.picture, str):
        pen.rectangle((left, top, left + box - 1, top + box - 1), fill=PINK, outline=PALE)
        error = wrapped(drawable(tile.picture), box - 24, 8, TEXT)
        for number, text in enumerate(error):
            y = top + (box - len(error) * LINE) // 2 + number * LINE
            write(pen, (left + 12, y), text, box - 24, RED)
    elif tile.picture is not None:
        picture = fitted(tile.picture, box)
        page.paste(picture, (left + (box - picture.width) // 2, top + (box - picture.height) // 2))
    for number, line in enumerate(tile.lines):
        y = top + box + 6 + number * LINE
        if line.probability is None:
            write(pen, (left, y), line.text, box, line.color, bold=line.bold)
            continue
        start, end = left + 82, left + box - 54
        write(pen, (left, y), line.text, 78, line.color)
        pen.rectangle((start, y + 4, end, y + 13), fill=PALE)
        if filled := round(line.probability * (end - start)):
            pen.rectangle((start, y + 4, start + filled, y + 13), fill=line.color)
        write(pen, (left + box, y), short_percent(line.probability), 52, anchor="ra")


def write(
    pen: "ImageDraw.ImageDraw",
    place: tuple[int, int],
    text: str,
    width: int,
    color: str = LIGHT.ink,
    *,
    size: int = TEXT,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    """Write as much of a text as fits into ``width`` pixels."""
    text = shortened(drawable(text), width, size, bold)
    pen.text(place, text, color, font(size, bold), anchor=anchor)


def fitted(picture: "Image.Image", side: int) -> "Image.Image":
    """Scale a picture down into a square, or a small one up by a whole factor, its pixels repeated."""
    from PIL import Image

    longer = max(picture.size)
    if longer > side:
        picture = picture.copy()
        picture.thumbnail((side, side), Image.Resampling.BICUBIC)
        return picture
    factor = side // longer
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def save(picture: "Image.Image", path: Path, **settings: Any) -> None:
    """Write a picture whole or not at all; settings are Pillow's.

    Raises:
        OSError: it cannot be written.
    """
    with files.replacing(path) as aside:
        picture.save(aside, **settings)


@functools.cache
def font(size: int, bold: bool = False) -> "FreeTypeFont | ImageFont":
    """Return DejaVu Sans in a size in pixels; without Matplotlib's copy, Pillow's own Latin typeface."""
    from PIL import ImageFont

    # Found without importing Matplotlib, which takes longer than drawing the text.
    found = find_spec("matplotlib")
    for folder in (found.submodule_search_locations or ()) if found else ():
        file = Path(folder, "mpl-data", "fonts", "ttf", f"DejaVuSans{'-Bold' if bold else ''}.ttf")
        if file.is_file():
            return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """Escape what the typeface would draw as an empty box, so that different names look different."""
    return text if text.isascii() else "".join(map(_drawable, text))


@functools.cache
def _drawable(character: str) -> str:
    mask = font(16).getmask
    missing = bytes(mask(character)) == bytes(mask(NONCHARACTER))
    return character.encode("unicode_escape").decode() if missing else character


def shortened(text: str, width: int, size: int, bold: bool = False) -> str:
    """Leave out the middle of a text that is wider than ``width`` pixels; names differ at their ends."""
    measure = font(size, bold).getlength
    # Nothing that long fits, and measuring it would take long.
    text = text if len(text) <= 2 * width else f"{text[:width]}{text[-width:]}"
    if measure(text) <= width:
        return text

    def without_middle(kept: int) -> str:
        return f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"

    fits = bisect.bisect(range(len(text)), width, key=lambda kept: math.ceil(measure(without_middle(kept))))
    return without_middle(max(0, fits - 1))


def wrapped(text: str, width: int, lines: int, size: int) -> list[str]:
    """Break a text into at most so many lines of at most ``width`` pixels."""
    measure = font(size).getlength
    broken: list[str] = []
    for word in text.split():
        if broken and measure(f"{broken[-1]} {word}") <= width:
            broken[-1] += f" {word}"
        else:
            broken.append(shortened(word, width, size))
    if len(broken) > lines:
        broken[lines - 1 :] = [shortened(" ".join(broken[lines - 1 :]), width, size)]
    return broken
