"""Pictures in a terminal: two pixels to a character, the upper one in its colour, the lower as its ground."""

from typing import TYPE_CHECKING

import numpy as np

from cifarcnn.data.cifar10 import Bytes

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = 12


def lines(pixels: Bytes) -> "list[Text]":
    """Draw what the network saw of a picture, in characters that are twice as high as wide.

    Args:
        pixels: uint8 (32, 32, 3).

    Returns:
        6 lines of 12 characters.
    """
    from PIL import Image
    from rich.text import Text

    small = np.asarray(Image.fromarray(pixels).resize((COLUMNS, COLUMNS), Image.Resampling.BOX))
    colours = [[f"rgb({red},{green},{blue})" for red, green, blue in row] for row in small.tolist()]
    return [
        Text.assemble(*(("▀", f"{upper} on {lower}") for upper, lower in zip(*pair, strict=True)))
        for pair in zip(colours[::2], colours[1::2], strict=True)
    ]
