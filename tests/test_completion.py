"""Completion in bash, zsh and fish: the right words, found without importing a framework."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cifarcnn.architectures import ARCHITECTURES
from cifarcnn.config import FIELDS
from conftest import Run

COMPLETED = {
    "ev": ["plain,evaluate"],
    "data f": ["plain,fetch"],
    "train --learn": ["plain,--learning-rate"],
    "tu": ["plain,tune"],
    "train --arch vgg": ["plain,vgg2", "plain,vgg3"],
    "data show --arch ": [f"plain,{row.name}" for row in ARCHITECTURES],
    "train --recipe ": ["plain,fast", "plain,finetune", "plain,classic"],
    "train --schedule ": [f"plain,{choice}" for choice in FIELDS["schedule"].metadata["choices"]],
    "export best.keras --format on": ["plain,onnx"],
    "runs --sort val_": ["plain,val_accuracy", "plain,val_loss", "plain,val_size"],
    "summary vgg": ["plain,vgg2", "plain,vgg3"],
    "summary runs/": ["file,runs/"],
    "predict photos/c": ["file,photos/c"],
    "evaluate runs/": ["file,runs/"],
}
"""What is typed, and what bash is told: words to offer, or to look for files itself."""


@pytest.mark.parametrize("line", COMPLETED)
def test_a_word_is_completed(line: str, cifarcnn: Run) -> None:
    """Commands, options, choices and names of networks; files are left to the shell."""
    asked = {"COMP_WORDS": f"cifarcnn {line}", "COMP_CWORD": str(line.count(" ") + 1)}
    done = cifarcnn(env={"_CIFARCNN_COMPLETE": "bash_complete", **asked})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == COMPLETED[line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str, cifarcnn: Run) -> None:
    """The script asks the command back in the same shell's way."""
    done = cifarcnn(env={"_CIFARCNN_COMPLETE": f"{shell}_source", "PATH": os.environ["PATH"]})
    assert done.returncode == 0
    assert f"_CIFARCNN_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_completes() -> None:
    """The README's line, then the function that bash calls when the tabulator key is pressed."""
    script = (
        'eval "$(_CIFARCNN_COMPLETE=bash_source cifarcnn)"\n'
        "COMP_WORDS=(cifarcnn train --arch vgg) COMP_CWORD=3\n"
        '_cifarcnn_completion cifarcnn; echo "${COMPREPLY[@]}"\n'
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "vgg2 vgg3\n"


def test_completing_imports_nothing_heavy() -> None:
    """Names of networks come from their table, not from Keras."""
    script = (
        "import sys\n"
        "from cifarcnn.cli.main import cli\n"
        "try: cli.main([], prog_name='cifarcnn')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('tensorflow', 'keras', 'jax', 'matplotlib') if name in sys.modules])\n"
    )
    asked = {"COMP_WORDS": "cifarcnn train --arch vgg", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **asked, "_CIFARCNN_COMPLETE": "bash_complete"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "plain,vgg2\nplain,vgg3\n[]\n"
