"""README.md shows below each command what it prints: the same words in the same order; figures may differ."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import readme
from conftest import isolated_environment

Shell = Callable[[str], str]

SMALL = "--train-size 120 --val-size 50 --batch-size 10"
"""What makes a training as short as a test; it changes no word of what is printed."""

MASKS = [
    (r"\d{8}-\d{6}-[\w-]+-seed\d+", "RUN"),
    (r"(?i)^((nvidia )?[cg]pu: ).*", r"\1HARDWARE"),
    (r"float32|mixed_\w+", "PRECISION"),
    (r"(\d+ core)s?\b", r"\1s"),
    (r"^  \w+ taken for \w+", "MISTAKE"),
    (r" \(best\)", ""),
    (r"─+", "─"),
    (r"(?<![\w.-])([-+]?\d[\d.,]*(e[-+]\d+)?|nan|·)(?!\w)", "0"),
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
    if "..." not in shown:
        assert lines == shown
        return
    rest = iter(lines)
    for line in shown:
        assert line == "..." or line in rest, f"{line!r} is not printed there:\n{printed}"


def small(command: str) -> str:
    """A training of a few images in place of one of all."""
    if "cifarcnn train --config" in command:
        return command.replace("lr.toml", f"lr.toml {SMALL}")
    return re.sub(r"^cifarcnn train --arch \S+", rf"\g<0> {SMALL} --epochs 5", command)


def takes_a_training(command: str) -> bool:
    """Whether a command trains, or needs a run."""
    return bool(re.search(r"train --arch|--task N|\bruns/", command))


QUICK = [one for one in readme.examples() if one.shown and not takes_a_training(one.command)]
SWEEP, SINGLE = (
    [
        one
        for one in readme.examples()
        if takes_a_training(one.command) and bool(re.search(r"\blr\b", one.command)) == sweep
    ]
    for sweep in (True, False)
)


@pytest.fixture
def shell(tmp_path: Path, data_directory: Path) -> Shell:
    """Run a line as a reader would who has the images, the settings file and the picture."""
    home = tmp_path / "home"
    (home / ".cache").mkdir(parents=True)
    (home / ".cache" / "cifarcnn").symlink_to(data_directory)
    (settings,) = readme.blocks("toml")
    (tmp_path / "lr.toml").write_text(settings, encoding="utf-8")
    environment = {
        **isolated_environment(tmp_path),
        "CIFARCNN_CACHE": str(home / ".cache" / "cifarcnn"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment |= {name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH") if name in os.environ}

    def run(command: str) -> str:
        done = subprocess.run(
            ["sh", "-c", command],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.replace(str(home), "~")

    return run


def make_the_picture(shell: Shell) -> None:
    """By the line that the README gives for it."""
    (command,) = [one.command for one in readme.examples() if one.command.startswith("python -c")]
    assert shell(command) == ""


@pytest.mark.parametrize("example", QUICK, ids=lambda example: example.command)
def test_a_command_prints_what_is_shown(example: readme.Example, shell: Shell) -> None:
    """Of commands that need no training."""
    if "cat.png" in example.command:
        make_the_picture(shell)
    assert_shown(example, shell(example.command))


def test_pictures_are_asked_about_from_python(shell: Shell, tmp_path: Path) -> None:
    """The snippet prints the picture, its class and how probable that is."""
    make_the_picture(shell)
    (tmp_path / "snippet.py").write_text(readme.python("cifarcnn.predict("), encoding="utf-8")
    assert re.fullmatch(r"cat\.png cat 0\.9\d+\n", shell("python snippet.py"))


@pytest.mark.slow
def test_a_training_and_what_follows_print_what_is_shown(shell: Shell, tmp_path: Path) -> None:
    """A small run in place of the README's; it has the files of the table, and opens in plain Keras."""
    training, *others = SINGLE
    assert_shown(training, shell(small(training.command)))
    (run,) = (tmp_path / "runs").iterdir()
    made = {path.name + "/" * path.is_dir() for path in run.iterdir() if not path.name.startswith(".")}
    assert made == {name for files, _ in readme.table("file") for name in re.findall(r"`(.+?)`", files)}

    def on_this_run(text: str) -> str:
        return re.sub(r"runs/\d{8}-[\w-]+", f"runs/{run.name}", text)

    assert len(others) > 1
    for example in others:
        assert_shown(example, shell(on_this_run(example.command)))
    (tmp_path / "snippet.py").write_text(
        "import numpy as np\nimages = np.zeros((2, 32, 32, 3), np.uint8)\n"
        f"{on_this_run(readme.python('load_model'))}print(probabilities.shape)\n",
        encoding="utf-8",
    )
    assert shell("python snippet.py").endswith("(2, 10)\n")


@pytest.mark.slow
def test_a_sweep_prints_what_is_shown(shell: Shell) -> None:
    """The settings file, with fewer images, by two processes."""
    assert len(SWEEP) > 1
    for example in SWEEP:
        assert_shown(example, shell(small(example.command)))


@pytest.mark.slow
def test_a_network_is_trained_and_evaluated_from_python(shell: Shell, tmp_path: Path) -> None:
    """The snippet, with fewer images, prints two accuracies."""
    snippet = readme.python("cifarcnn.train(")
    smaller = snippet.replace("epochs=12", "epochs=1, train_size=200, val_size=100, batch_size=50")
    assert smaller != snippet
    (tmp_path / "snippet.py").write_text(smaller, encoding="utf-8")
    assert re.fullmatch(r"0\.\d+ 0\.\d+\n", shell("python snippet.py"))
