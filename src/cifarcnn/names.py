"""File names from anywhere, as text that can be shown, and as parts of new file names."""

import re
from pathlib import PurePath

LONGEST_STEM = 50
"""Characters of up to four bytes each: with an ending, a name stays within the 255 of file systems."""


def printable(path: str) -> str:
    """Show a file name on one line of a terminal or log, whatever bytes it is made of."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text(path)
    )


def text(path: str) -> str:
    """Give a file name as valid Unicode: a byte that is not UTF-8 becomes ``\\udcff`` or the like."""
    return path.encode("utf-8", "backslashreplace").decode()


def stem(path: str) -> str:
    """Make from a picture's name the beginning of the name of a file about it.

    Args:
        path: any path, or ``-`` for standard input.

    Returns:
        1 to 50 characters that every file system and shell bears: no directory, no control characters, no
        leading dash or dot.
    """
    if path == "-":
        return "standard-input"
    plain = re.sub(r"""[\\/:*?"'<>|]""", "_", printable(PurePath(path).stem)).strip(" .")
    return plain.lstrip("-.")[:LONGEST_STEM].rstrip(" .") or "picture"


class Unique:
    """Makes names differ from each other, also where a file system takes capitals for small letters."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.numbers: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        """Return the name, or the first of ``name-2``, ``name-3``, ... that was not returned before."""
        free, number = name, self.numbers.get(name.casefold(), 1)
        while free.casefold() in self.taken:
            number += 1
            free = f"{name}-{number}"
        self.taken.add(free.casefold())
        self.numbers[name.casefold()] = number
        return free
