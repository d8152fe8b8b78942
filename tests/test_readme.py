"""README.md names commands, options, files and variables that there are."""

import contextlib
import re
import shlex
import subprocess
import sys
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
    found = {}
    for name, command in group.commands.items():
        inner = (
            leaves(command, f"{path}{name} ") if isinstance(command, click.Group) else {path + name: command}
        )
        found |= inner
    return found


@pytest.mark.parametrize("invocation", readme.invocations())
def test_a_command_line_is_one_that_the_program_takes(invocation: str) -> None:
    """Its command exists, takes its options and their values, and misses none."""
    command: click.Command = cli
    words = readme.words(invocation)
    while isinstance(command, click.Group) and not words[0].startswith("-"):
        command, *words = command.commands[words[0]], *words[1:]
    # --help and --version end what is asked at once.
    with contextlib.suppress(click.exceptions.Exit):
        command.make_context(invocation, words)


@pytest.mark.parametrize("words", leaves(cli))
def test_every_command_is_shown(words: str) -> None:
    """A command that the README does not show does not exist for its readers."""
    assert any(f"{invocation} ".startswith(f"{words} ") for invocation in readme.invocations())


def test_options_in_sentences_exist() -> None:
    """Also those that no command line shows."""
    known = {name for command in leaves(cli).values() for option in command.params for name in option.opts}
    named = {word for span in readme.SPANS if span.startswith("--") for word in span.split() if "--" in word}
    assert len(named) > 10
    assert named - known == {"--help", "--gpus-per-task"}  # of every command; of srun


def scripts() -> list[str]:
    """The command lines that run a program of the repository."""
    lines = [line for block in readme.blocks("console") for line in block.splitlines()]
    return [
        found[0]
        for line in [*lines, *readme.SPANS]
        if (found := re.search(r"python ((benchmarks|tests)/.*)", line))
    ]


@pytest.mark.parametrize("line", scripts())
def test_a_benchmark_has_the_options_that_are_given(line: str) -> None:
    """Its program is there and names each of them."""
    _, program, *options = shlex.split(line)
    text = (readme.REPOSITORY / program).read_text(encoding="utf-8")
    assert [option for option in options if option.startswith("--") and f'"{option}"' not in text] == []


def test_what_several_machines_gain_is_what_the_model_says() -> None:
    """Of eight machines, at both speeds of the network, from the runs as they are recorded."""
    line = next(one for one in readme.SPANS if one.startswith("python benchmarks/parallel.py"))
    _, *words = shlex.split(line)
    done = subprocess.run(
        [sys.executable, *words], cwd=readme.REPOSITORY, capture_output=True, text=True, check=True
    )
    rows = [re.split(r"\s*\|\s*", row)[1:-1] for row in done.stdout.splitlines()[2:]]
    (small, small_fast), (large, large_fast) = (
        [row[-1] for row in rows if row[0] == f"`{name}`"] for name in ("whiten6-small", "whiten6")
    )
    told = (
        f"at 1 Gbit/s would train `whiten6-small` {small} times and `whiten6` {large} times as fast as one,"
        f" at 10 Gbit/s {small_fast} and {large_fast} times"
    )
    assert told in " ".join(readme.TEXT.split())


def test_the_networks_are_all_there() -> None:
    """In the table's order, with their parameters."""
    shown = [(name, parameters) for name, parameters, *_ in readme.table("network | parameters")]
    assert shown == [(f"`{row.name}`", f"{row.params:,}") for row in cifarcnn.ARCHITECTURES]


def test_files_and_places_that_are_pointed_to_exist() -> None:
    """Links within the repository and within the page, and paths in sentences."""
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", readme.PROSE)
    paths = [span for span in readme.SPANS if re.fullmatch(r"(src|tests|benchmarks|\.ci)/[\w./-]+", span)]
    headings = re.findall(r"^#+ (.+)$", readme.PROSE, re.MULTILINE)
    anchors = {f"#{re.sub(r'[^a-z0-9 -]', '', heading.lower()).replace(' ', '-')}" for heading in headings}
    assert targets
    assert paths
    for target in [*targets, *paths]:
        assert target in anchors or (readme.REPOSITORY / target).exists(), target


def test_extras_and_variables_exist() -> None:
    """What pip installs in brackets, and what the environment may hold."""
    project = tomllib.loads((readme.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name for names in re.findall(r"'\.\[(.+?)\]'", readme.TEXT) for name in names.split(",")}
    assert extras
    assert extras <= set(project["optional-dependencies"])
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    variables = set(re.findall(r"(?<!\w)CIFARCNN_\w+", readme.TEXT))
    assert variables
    assert [name for name in variables if f'"{name}"' not in code] == []


def test_the_picture_needs_no_other_file_and_no_host() -> None:
    """A code host shows it as it is; its only address is the name of the format."""
    (name,) = re.findall(r"!\[[^\]]+\]\((.+?)\)", readme.TEXT)
    picture = (readme.REPOSITORY / name).read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s\"'<>)]+", picture)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|image|use|foreignObject)|@import|@font-face|url\((?!#)", picture)
    assert len(picture) < 150_000
