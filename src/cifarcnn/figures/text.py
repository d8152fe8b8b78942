"""Text drawn into pictures with Pillow, in the typeface that comes with Matplotlib."""

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

NONCHARACTER = "\uffff"
"""What no typeface has a shape for."""


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
    low, high = 0, len(text)
    while low < high:
        kept = (low + high + 1) // 2
        low, high = (kept, high) if measure(_without_middle(text, kept)) <= width else (low, kept - 1)
    return _without_middle(text, low)


def _without_middle(text: str, kept: int) -> str:
    """Keep so many characters, the larger half of them at the end."""
    return f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"


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
