"""The README's example of a network of one's own, appended to a copy of the package and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cifarcnn

README = Path(__file__).parents[1] / "README.md"


def example() -> str:
    """The code block of the README's section."""
    (section,) = re.findall(r"^## Add a network$(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.mark.slow
def test_the_example_makes_a_network_that_trains(tmp_path: Path, data_directory: Path) -> None:
    """Nothing but architectures.py is changed; the network is trained by default settings, and shown."""
    package = tmp_path / "source" / "cifarcnn"
    original = Path(cifarcnn.__file__).parent
    shutil.copytree(original, package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(package / "architectures.py", "a", encoding="utf-8") as file:
        file.write(f"\n\n{example()}")
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def command(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cifarcnn", *map(str, words)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    name, params = re.search(r'Architecture\("([^"]+)", \w+, ([\d_]+)', example()).groups()  # type: ignore[union-attr]
    images = ("--train-size", 300, "--val-size", 100)
    trained = command("train", "--arch", name, "--epochs", 1, *images, "--data", data_directory)
    assert trained.startswith(f"{name}, fast recipe: 1 epoch in ")
    assert f"{name}: {int(params):,} parameters" in command("summary", name)
