"""What stands in README.md and docs/, for the tests that hold it against the program."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
}

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str, page: str = "README.md") -> list[str]:
    """The fenced blocks of a language, in order."""
    return [content for language, content in _FENCED.findall(PAGES[page]) if language == kind]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCED.sub("", PAGES[page])


def spans(page: str) -> list[str]:
    """What is set as code within sentences and tables."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def invocations() -> list[str]:
    """Everything that follows the word ``cifarcnn`` where the command is run: in blocks, and in sentences."""
    lines = [
        line
        for page in PAGES
        for line in [
            *(
                line
                for kind in ("console", "sh")
                for block in blocks(kind, page)
                for line in block.splitlines()
            ),
            *spans(page),
        ]
    ]
    found = [
        match[1] for line in lines if (match := re.search(r"(?:^|[ =])cifarcnn ([a-z-][^|&;#>]*)", line))
    ]
    return list(dict.fromkeys(text.strip() for text in found))


def words(invocation: str) -> list[str]:
    """Its words, as a shell hands them on; a word in capitals stands for the name of a network."""
    return ["vgg2" if word in ("NETWORK", "NAME") else word for word in shlex.split(invocation)]


@dataclass(frozen=True)
class Example:
    """A command after a prompt, and the lines shown below it."""

    command: str
    shown: tuple[str, ...]


def examples() -> list[Example]:
    """Every command of README.md that stands after a prompt, in order."""
    return [
        Example(command, tuple(shown))
        for block in blocks("console")
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        for command, *shown in [part.rstrip("\n").split("\n")]
    ]
