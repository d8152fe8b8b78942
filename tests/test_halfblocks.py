"""Pictures in a terminal."""

import numpy as np
from rich.color import Color

from cifarcnn.cli import halfblocks


def test_upper_and_lower_pixels() -> None:
    """The upper half of a picture colours the upper lines; within a line the block stands on its ground."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = (255, 0, 0)
    pixels[16:, 16:] = (0, 0, 255)
    lines = halfblocks.lines(pixels)
    assert [line.plain for line in lines] == ["▀" * halfblocks.COLUMNS] * 6
    first, last = lines[0].spans[0].style, lines[-1].spans[-1].style
    assert Color.parse(str(first).split(" on ", maxsplit=1)[0]).triplet == (255, 0, 0)
    assert str(last) == "rgb(0,0,255) on rgb(0,0,255)"
    pixels[::2] = 255
    assert len({str(span.style) for line in halfblocks.lines(pixels) for span in line.spans}) > 1
