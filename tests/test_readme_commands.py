"""README.md shows below each command what it prints: the same words in the same order; figures may differ."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import readme
from conftest import isolated_environment

pytestmark = pytest.mark.slow

SMALL = "--train-size 300 --val-size 100 --batch-size 25"
"""What makes a training as short as a test; it changes no word of what is printed."""

MASKS = [
    (r"\d{8}-\d{6}-[\w-]+(-seed\d+|…)", "RUN"),
    (r"(?i)^((nvidia )?[cg]pu: ).*", r"\1HARDWARE"),
    (r"float32|mixed_\w+", "PRECISION"),
    (r"(\d+ core)s?\b", r"\1s"),
    (r" \(best\)", ""),
    (r"─+", "─"),
    (r"(?<![\w.-])([-+]?\d[\d.,]*(e[-+]\d+)?%?|nan|·)(?!\w)", "0"),
    (r" +", " "),
]
"""What may differ from machine to machine and from run to run, and what stands for it."""


def form(line: str) -> str:
    """A printed line without its figures."""
    for pattern, mask in MASKS:
        line = re.sub(pattern, mask, line)
    return line.strip()


def assert_shown(example: readme.Example, printed: str) -> None:
    """Where a line of dots says that lines are left out, the others stand in the same order."""
    # Only a recipe as it stands has an expectation, not one made small.
    shown, lines = (
        [form(line) for line in every if not line.startswith("expect ")]
        for every in (example.shown, printed.splitlines())
    )
    rest = iter(lines)
    if "..." not in shown:
        assert lines == shown
    for line in shown:
        assert line == "..." or line in rest, f"{line!r} is not printed there:\n{printed}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, data_directory: Path) -> Path:
    """A directory with an empty home, the images, and the repository's examples."""
    place = tmp_path_factory.mktemp("readme")
    (place / "home" / ".cache").mkdir(parents=True)
    (place / "home" / ".cache" / "cifarcnn").symlink_to(data_directory)
    shutil.copytree(readme.REPOSITORY / "examples", place / "examples")
    return place


def run(command: str, place: Path) -> str:
    """Run a line as a reader would, and return all that it prints."""
    environment = {
        **isolated_environment(place),
        "CIFARCNN_CACHE": str(place / "home" / ".cache" / "cifarcnn"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment |= {name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run(
        ["sh", "-c", command],
        env=environment,
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.replace(str(place / "home"), "~")


def test_commands_print_what_is_shown(place: Path) -> None:
    """From top to bottom, with a training of few images, whose run then stands for the README's."""
    for example in readme.examples():
        command = example.command
        if command.startswith("cifarcnn train"):
            command = f"{command} {SMALL}"
        for name in (path.name for path in (place / "runs").glob("*")):
            command = re.sub(r"runs/\d{8}-[\w-]+", f"runs/{name}", command)
        assert_shown(example, run(command, place))


def test_python_prints_what_it_says(place: Path) -> None:
    """The snippet, with fewer images, prints two accuracies and a prediction."""
    (snippet,) = (block for block in readme.blocks("python") if "cifarcnn.train(" in block)
    smaller = snippet.replace("seed=1", "train_size=300, val_size=100, batch_size=25")
    assert smaller != snippet
    (place / "snippet.py").write_text(smaller, encoding="utf-8")
    printed = run("python snippet.py", place)
    assert re.fullmatch(r"0\.\d+ 0\.\d+\nexamples/cat\.png \w+ [01]\.\d+\n", printed)
