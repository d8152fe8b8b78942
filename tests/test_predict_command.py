"""``cifarcnn predict`` as people and scripts run it."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models
from cifarcnn import modelfile
from cifarcnn.cifar10 import CLASSES

Run = Callable[..., subprocess.CompletedProcess[str]]
STRANGE = os.fsdecode(b"[red]caf\xe9\nbold.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model, three pictures, and two files that are none."""
    folder = tmp_path_factory.mktemp("predict")
    models.save_tiny(folder / "runs" / "first" / "best.keras")
    (folder / "pictures").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
    (folder / "pictures" / "text.png").write_text("hello")
    (folder / "pictures" / STRANGE).write_text("hello")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """The probabilities of the three pictures."""
    pixels = [np.asarray(Image.open(folder / "pictures" / f"{number}.png")) for number in range(3)]
    return modelfile.load(folder / "runs" / "first").probabilities(np.stack(pixels))


def test_json_is_one_document(cifarcnn: Run, folder: Path, expected: np.ndarray) -> None:
    """Answers and failures stand in one document; the model chosen is told on stderr, failure is code 1."""
    done = cifarcnn("predict", "pictures", "--recursive", "--top-k", 2, "--json", cwd=folder)
    assert done.returncode == 1
    assert "model: runs/first/best.keras (the newest run here)" in done.stderr
    document = json.loads(done.stdout)
    assert list(document) == ["schema", "model", "predictions", "errors"]
    assert document["schema"] == 1
    assert document["model"] == "runs/first/best.keras"
    assert [answer["path"] for answer in document["predictions"]] == [f"pictures/{n}.png" for n in range(3)]
    for answer, row in zip(document["predictions"], expected, strict=True):
        best = np.argsort(-row)[:2]
        assert answer["class"] == CLASSES[best[0]]
        assert answer["probability"] == pytest.approx(row[best[0]], abs=1e-6)
        assert answer["top"] == [
            {"class": CLASSES[label], "probability": pytest.approx(row[label], abs=1e-6)} for label in best
        ]
    assert [error["path"] for error in document["errors"]] == [
        "pictures/[red]caf\\udce9\nbold.png",
        "pictures/text.png",
    ]
    assert all(error["error"].startswith("not a picture") for error in document["errors"])


def test_table_for_people(cifarcnn: Run, folder: Path, expected: np.ndarray) -> None:
    """Each picture has its line, names are shown as they are, and bad files in their place."""
    done = cifarcnn(
        "predict", f"pictures/{STRANGE}", "pictures/1.png", "no.png", "--threshold", 1, cwd=folder
    )
    assert done.returncode == 1
    first, second, third = done.stdout.splitlines()
    assert first.startswith(r"pictures/[red]caf\udce9\nbold.png  cannot be read: not a picture")
    best = CLASSES[expected[1].argmax()]
    assert second.split()[:3] == ["pictures/1.png", best, f"{expected[1].max():.1%}"]
    assert second.endswith("  unsure")
    assert third.split(maxsplit=1) == ["no.png", "cannot be read: no such file or directory"]
    assert "2 of 3 images could not be read" in done.stderr


def test_csv_has_a_row_per_picture(cifarcnn: Run, folder: Path, expected: np.ndarray) -> None:
    """Rows have the same columns whether there is an answer or not."""
    done = cifarcnn("predict", "pictures", "--recursive", "--csv", "--model", "runs/first", cwd=folder)
    assert done.returncode == 1
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == [
        *("path", "error", "class", "probability", "class_2", "probability_2", "class_3", "probability_3")
    ]
    assert [row["class"] for row in rows] == [*(CLASSES[row.argmax()] for row in expected), "", ""]
    assert float(rows[0]["probability_3"]) == pytest.approx(np.sort(expected[0])[-3], abs=1e-6)
    assert rows[3]["path"] == "pictures/[red]caf\\udce9\nbold.png"
    assert rows[4]["error"].startswith("not a picture")


def test_json_lines_and_standard_input(folder: Path, expected: np.ndarray) -> None:
    """A piped picture gets its line, and the model may come from the environment."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("cifarcnn"),
            *["predict", "-", "--jsonl", "--top-k", "1", "--threshold", "0"],
        ],
        input=(folder / "pictures" / "2.png").read_bytes(),
        env={**os.environ, "CIFARCNN_MODEL": str(folder / "runs" / "first")},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert list(answer) == ["path", "class", "probability", "top", "unsure"]
    assert answer["path"] == "-"
    assert answer["class"] == CLASSES[expected[2].argmax()]
    assert answer["unsure"] is False
    assert b"named by CIFARCNN_MODEL" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, "Missing argument 'IMAGE...'"),
        (["x.png", "--top-k", "11"], 2, "top-k"),
        (["x.png", "--resize", "zoom"], 2, "'zoom' is not one of 'crop', 'fit', 'squash'"),
        (["x.png", "--threshold", "2"], 2, "threshold"),
        (["x.png"], 1, "no model to predict with: train one"),
        (["x.png", "--model", "absent.keras"], 1, "there is no model absent.keras"),
        (["x.png", "--model", "text.keras"], 1, "text.keras is a text file; expected a .keras file"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], code: int, reason: str, cifarcnn: Run, tmp_path: Path
) -> None:
    """Mistakes end in one line on stderr and nothing on stdout."""
    (tmp_path / "text.keras").write_text("hello")
    done = cifarcnn("predict", *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert reason in line
