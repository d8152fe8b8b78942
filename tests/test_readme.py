"""README.md and the documentation name commands, options, files and variables that there are."""

import contextlib
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

import cifarcnn
import readme
from cifarcnn.cli.main import cli

SOURCE = Path(cifarcnn.__file__).parent


def leaves(group: click.Group, path: str = "") -> dict[str, click.Command]:
    """Every command that does something, by its words."""
    found: dict[str, click.Command] = {}
    for name in group.commands:
        command = group.commands[name]
        if isinstance(command, click.Group):
            found |= leaves(command, f"{path}{name} ")
        else:
            found[path + name] = command
    return found


@pytest.mark.parametrize("invocation", readme.invocations())
def test_a_command_line_is_one_that_the_program_takes(invocation: str) -> None:
    """Its command exists, takes its options and their values, and misses none."""
    command: click.Command = cli
    words = readme.words(invocation)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command, *words = command.commands[words[0]], *words[1:]
    if not words:  # a sentence names the command
        return
    # --help and --version end what is asked at once.
    with contextlib.suppress(click.exceptions.Exit):
        command.make_context(invocation, words)


@pytest.mark.parametrize("words", leaves(cli))
def test_every_command_is_shown(words: str) -> None:
    """A command that the pages do not show does not exist for their readers."""
    assert any(f"{invocation} ".startswith(f"{words} ") for invocation in readme.invocations())


def test_options_in_sentences_exist() -> None:
    """Also those that no command line shows."""
    known = {name for command in leaves(cli).values() for option in command.params for name in option.opts}
    named = {
        word
        for page in readme.PAGES
        if page != "docs/benchmarks.md"
        for span in readme.spans(page)
        if span.startswith("--")
        for word in span.split()
        if word.startswith("--")
    }
    assert len(named) > 10
    assert named - known <= {"--help", "--gpus-per-task"}  # of every command; of srun


@pytest.mark.parametrize("page", readme.PAGES)
def test_a_benchmark_has_the_options_that_are_given(page: str) -> None:
    """Its program is there and names each of them."""
    lines = [
        line
        for kind in ("console", "sh")
        for block in readme.blocks(kind, page)
        for line in block.splitlines()
    ]
    for line in [*lines, *readme.spans(page)]:
        if found := re.search(r"python ((benchmarks|tests)/\w+\.py[^|#]*)", line):
            program, *options = shlex.split(found[1].replace("[", "").replace("]", ""))
            text = (readme.REPOSITORY / program).read_text(encoding="utf-8")
            assert [name for name in options if name.startswith("--") and f'"{name}"' not in text] == []


def test_the_networks_are_all_there() -> None:
    """In the table's order, with their parameters."""
    section = readme.PAGES["README.md"].partition("## Networks")[2]
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d,]+) \|", section, re.MULTILINE)
    assert rows == [(row.name, f"{row.params:,}") for row in cifarcnn.ARCHITECTURES]


@pytest.mark.parametrize("page", readme.PAGES)
def test_files_that_are_pointed_to_exist(page: str) -> None:
    """Links within the repository, and paths in sentences."""
    place = (readme.REPOSITORY / page).parent
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", readme.prose(page))
    assert [target for target in targets if not (place / target).exists()] == []
    paths = [
        span
        for span in readme.spans(page)
        if re.fullmatch(r"(src|tests|benchmarks|docs|\.ci)/[\w./-]+", span)
    ]
    assert [path for path in paths if not (readme.REPOSITORY / path).exists()] == []


def test_variables_exist() -> None:
    """What the environment may hold."""
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    variables = {name for text in readme.PAGES.values() for name in re.findall(r"(?<!\w)CIFARCNN_\w+", text)}
    assert variables
    assert [name for name in variables if f'"{name}"' not in code] == []


def test_the_picture_needs_no_other_file_and_no_host() -> None:
    """A code host shows it as it is; its only address is the name of the format."""
    (name,) = re.findall(r"!\[[^\]]+\]\((.+?)\)", readme.PAGES["README.md"])
    picture = (readme.REPOSITORY / name).read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s\"'<>)]+", picture)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|image|use|foreignObject)|@import|@font-face|url\((?!#)", picture)
    assert len(picture) < 150_000


def test_the_package_index_is_asked_for_what_there_is() -> None:
    """Nothing advises an extra of a package that is not published; the version stands in one place."""
    pages = "".join(readme.PAGES.values())
    assert "cifarcnn[" not in pages
    project = tomllib.loads((readme.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cifarcnn.__version__ == project["version"]
