"""What stands in README.md, for the tests that hold it against the program."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = _FENCED.sub("", TEXT)
SPANS = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", PROSE)]
"""What is set as code within sentences and tables."""

STAND_INS = {"N": "1", "$SLURM_ARRAY_TASK_ID": "1"}
"""What the reader or another program puts in place of a word."""


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [content for language, content in _FENCED.findall(TEXT) if language == kind]


def python(words: str) -> str:
    """The block of Python in which these words stand."""
    (found,) = [block for block in blocks("python") if words in block]
    return found


def invocations() -> list[str]:
    """Everything that follows the word ``cifarcnn`` where the command is run: in blocks, and in sentences."""
    lines = [line for kind in ("console", "sh") for block in blocks(kind) for line in block.splitlines()]
    found = [
        match[1]
        for line in [*lines, *SPANS]
        if (match := re.search(r"(?:^|[ =])cifarcnn ([a-z-][^|&;#>]*)", line))
    ]
    return list(dict.fromkeys(text.strip() for text in found))


def words(invocation: str) -> list[str]:
    """Its words, as a shell hands them on."""
    return [STAND_INS.get(word, word) for word in shlex.split(invocation)]


@dataclass(frozen=True)
class Example:
    """A command after a prompt, and the lines shown below it."""

    command: str
    shown: tuple[str, ...]


def examples() -> list[Example]:
    """Every command that stands after a prompt, in order."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            found.append(Example(command, tuple(shown)))
    return found


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose headings begin so, each a list of its cells."""
    lines = TEXT[TEXT.index(f"\n| {heading} |") :].strip().split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
