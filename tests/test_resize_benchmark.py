"""The benchmark of the ways to make pictures square: which pictures it takes, and how it fails."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "resize.py"


def resize(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the script."""
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_takes_the_folders_that_the_commands_take(tmp_path: Path) -> None:
    """Capitals, plurals and synonyms name classes, and pictures may lie deeper."""
    for name in ("Ship", "cats/mine", "car"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (60, 40), (90, 120, 150)).save(tmp_path / name / "1.png")
    (tmp_path / "car" / "broken.png").write_text("x")
    done = resize("pretrained", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" of 3 | ") == 9
    assert f"{tmp_path / 'car' / 'broken.png'}: not a picture" in done.stdout


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    """A wrong model, and a folder that names no class."""
    (tmp_path / "kitten").mkdir()
    for model, reason in (
        (tmp_path / "no.keras", "no.keras"),
        ("pretrained", "'kitten' is not among the 10 classes"),
    ):
        done = resize(model, tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
