"""The command line as a whole: quick help, documented commands, exit codes."""

import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from cifarcnn.cli.main import cli
from conftest import Run

HEAVY = ("tensorflow", "keras", "jax", "matplotlib")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command's words, groups included."""
    found: list[tuple[str, ...]] = [path]
    for name, command in group.commands.items():
        inner = commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
        found += inner
    return found


@pytest.mark.parametrize("words", commands(cli), ids=" ".join)
def test_help_is_quick_because_nothing_heavy_is_imported(words: tuple[str, ...]) -> None:
    """Each command's help imports neither a framework nor a plotting library."""
    shown = said_without_heavy_modules(*words, "--help")
    assert shown.startswith("Usage: cifarcnn")


def test_version_is_quick_because_nothing_heavy_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names TensorFlow's version without importing TensorFlow."""
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert f"TensorFlow {version('tensorflow')}" in said_without_heavy_modules("--version")


def said_without_heavy_modules(*words: str) -> str:
    """What a command prints, which must not import a framework for it."""
    script = (
        "import sys\n"
        "from cifarcnn.cli.main import cli\n"
        f"try: cli.main({list(words)!r}, prog_name='cifarcnn')\n"
        "except SystemExit: pass\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")
    return done.stdout


def test_a_command_does_not_wait_for_what_it_has_no_use_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras and TensorFlow import scikit-learn, pyplot and JAX where they are installed."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    script = (
        "import sys\n"
        "from cifarcnn.cli.main import main\n"
        "sys.argv = ['cifarcnn', 'summary', 'plain6']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('keras' in sys.modules, *map(sys.modules.get, ('sklearn', 'jax', 'matplotlib.pyplot')))\n"
        "print([name for name in ('scipy.stats', 'jaxlib', 'matplotlib.figure') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nTrue None None None\n[]\n")


def test_importing_the_package_imports_nothing_heavy() -> None:
    """The public names are there, and cost nothing until one is used."""
    script = (
        "import sys, cifarcnn\n"
        "names = dir(cifarcnn)\n"
        "cifarcnn.train, cifarcnn.evaluate, cifarcnn.predict, cifarcnn.resume\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], 'train' in names)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


def test_version_is_that_of_the_package_and_what_it_runs_on_follows(cifarcnn: Run, tmp_path: Path) -> None:
    """It is written once, in pyproject.toml; versions of others are those installed, the GPU nvidia-smi's."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho NVIDIA Imaginary 9000\n")
    smi.chmod(0o755)
    ours, software, processor, gpu = cifarcnn("--version", env={"KERAS_BACKEND": "jax"}).stdout.splitlines()
    assert ours == f"cifarcnn, version {version('cifarcnn')}"
    assert software == f"Python {platform.python_version()}, Keras {version('keras')}, JAX {version('jax')}"
    assert re.fullmatch(r"CPU: .+, \d+ cores?, (no native bfloat16|native bfloat16 \(.+\))", processor)
    assert gpu == "NVIDIA GPU: NVIDIA Imaginary 9000"


def test_python_m_is_the_command() -> None:
    """``python -m cifarcnn`` does what ``cifarcnn`` does."""
    done = subprocess.run(
        [sys.executable, "-m", "cifarcnn", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cifarcnn, version ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["train", "--epochs"], "requires an argument"),
        (["summary", "vgg9"], "unknown architecture 'vgg9': did you mean"),
        (["predict"], "Missing argument"),
        (["evaluate"], "Missing argument"),
        (["predict", "cat.png", "--csv", "--json"], "--json cannot be given with --csv; choose one"),
        (["predict", "cat.png", "--jsonl", "--csv"], "--csv cannot be given with --jsonl; choose one"),
        (["runs", "--json", "--csv"], "--csv cannot be given with --json; choose one"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], message: str, cifarcnn: Run) -> None:
    """The message says what is wrong; there is no traceback."""
    done = cifarcnn(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_a_backend_that_is_none_is_one_line(cifarcnn: Run) -> None:
    """It says who asks for it, before anything is imported."""
    done = cifarcnn("summary", "plain6", env={"KERAS_BACKEND": "JAX"})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: KERAS_BACKEND asks for Keras's backend 'JAX'; expected tensorflow or jax")


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">/dev/full", 1, "error: cannot write the output: No space left on device"),
        (">&-", 0, ""),
        ("<&-", 0, ""),
        ("2>&-", 0, ""),
        ("| true", 1, ""),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_streams_that_are_full_closed_or_left_end_in_no_traceback(
    redirection: str, code: int, said: str, form: tuple[str, ...], tmp_path: Path
) -> None:
    """Whatever the shell does with stdin, stdout and stderr costs one line at most."""
    command = Path(sys.executable).with_name("cifarcnn")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"$@" {redirection}', "bash", command, "runs", tmp_path, *form],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, bool(said))
    assert done.stderr.startswith(said)


@pytest.mark.parametrize("words", [(), ("data",)], ids=" ".join)
def test_a_group_without_a_command_shows_its_help(words: tuple[str, ...], cifarcnn: Run) -> None:
    """As it is laid out, and as an error."""
    done = cifarcnn(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == cifarcnn(*words, "--help").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--resume", "a" * 300),
        ("train", "--config", "a" * 300),
        ("export", "a" * 300, "--format", "onnx"),
        ("export", "loop.keras", "--format", "onnx"),
        ("evaluate", "loop.keras"),
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_paths_that_cannot_be_followed_are_one_line(
    words: tuple[str, ...], cifarcnn: Run, tmp_path: Path
) -> None:
    """A name that no file system takes, and a link to itself."""
    (tmp_path / "loop.keras").symlink_to("loop.keras")
    done = cifarcnn(*words)
    assert done.returncode in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
