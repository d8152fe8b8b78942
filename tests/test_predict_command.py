"""``cifarcnn predict`` as people and scripts run it."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.models import modelfile
from inprocess import Run, runner

STRANGE = os.fsdecode(b"[red]caf\xe9\nbold.png")


@pytest.fixture
def cifarcnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line, in this process."""
    return runner(tmp_path, monkeypatch, capsys)


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
    """Answers and failures stand in one document, and failure is code 1."""
    done = cifarcnn(
        "predict",
        "pictures",
        "--recursive",
        "--top-k",
        2,
        "--json",
        "--model",
        "runs/first",
        "--views",
        1,
        cwd=folder,
    )
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert list(document) == ["schema", "model", "classes", "predictions", "errors"]
    assert document["schema"] == 1
    assert document["model"] == "runs/first/best.keras"
    assert [answer["path"] for answer in document["predictions"]] == [f"pictures/{n}.png" for n in range(3)]
    for answer, row in zip(document["predictions"], expected, strict=True):
        best = np.argsort(-row)[:2]
        assert answer["prediction"] == CLASSES[best[0]]
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
        *("predict", f"pictures/{STRANGE}", "pictures/1.png", "no.png", "--threshold", 1),
        *("--model", "runs/first", "--views", 1),
        cwd=folder,
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
    done = cifarcnn(
        "predict", "pictures", "--recursive", "--csv", "--model", "runs/first", "--views", 1, cwd=folder
    )
    assert done.returncode == 1
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == [
        *("path", "error", "prediction", "probability", "prediction_2", "probability_2"),
        *("prediction_3", "probability_3"),
        *("ood_score", "is_ood"),
    ]
    assert [row["prediction"] for row in rows] == [*(CLASSES[row.argmax()] for row in expected), "", ""]
    assert float(rows[0]["probability_3"]) == pytest.approx(np.sort(expected[0])[-3], abs=1e-6)
    assert rows[3]["path"] == "pictures/[red]caf\\udce9\nbold.png"
    assert rows[4]["error"].startswith("not a picture")


@pytest.mark.slow
def test_json_lines_and_standard_input(folder: Path, expected: np.ndarray) -> None:
    """A piped picture gets its line, and the model may come from the environment."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("cifarcnn"),
            *["predict", "-", "--jsonl", "--views", "1", "--top-k", "1", "--threshold", "0"],
        ],
        input=(folder / "pictures" / "2.png").read_bytes(),
        env={**os.environ, "CIFARCNN_MODEL": str(folder / "runs" / "first")},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert list(answer) == ["path", "prediction", "probability", "top", "unsure", "ood_score"]
    assert answer["path"] == "-"
    assert answer["prediction"] == CLASSES[expected[2].argmax()]
    assert answer["unsure"] is False
    assert b"named by CIFARCNN_MODEL" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, "Missing argument 'IMAGE...'"),
        (["x.png", "--top-k", "0"], 2, "top-k"),
        (["x.png", "--resize", "zoom"], 2, "'zoom' is not one of 'crop', 'fit', 'squash'"),
        (["x.png", "--threshold", "2"], 2, "threshold"),
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


def test_marks_sheet_and_explanations(cifarcnn: Run, folder: Path, tmp_path: Path) -> None:
    """All drawings come from one run, names of any bytes included, and stdout is the document alone."""
    models.save_tiny(tmp_path / "sure.keras", {"none_threshold": 0.0})
    arguments = ("--recursive", "--model", tmp_path / "sure.keras", "--output", tmp_path / "sheet.png")
    done = cifarcnn("predict", "pictures", *arguments, "--explain", tmp_path / "why", "--json", cwd=folder)
    assert done.returncode == 1
    assert f"wrote {tmp_path / 'sheet.png'}" in done.stderr
    document = json.loads(done.stdout)
    assert [Path(one["explained"]).name for one in document["predictions"]] == [
        f"{number}-explained.png" for number in range(3)
    ]
    assert all(one["is_ood"] is True for one in document["predictions"])
    assert len(document["errors"]) == 2
    assert sorted(os.listdir(tmp_path / "why")) == [f"{number}-explained.png" for number in range(3)]
    with Image.open(tmp_path / "sheet.png") as page:
        assert page.width > 5 * 200
    done = cifarcnn("predict", "pictures/0.png", "--model", tmp_path / "sure.keras", cwd=folder)
    assert done.stdout.rstrip().endswith("probably none of the classes")
    done = cifarcnn("predict", "pictures/0.png", "--model", tmp_path / "sure.keras", "--csv", cwd=folder)
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert row["is_ood"] == "1"
    assert 0 < float(row["ood_score"]) <= 1


def on_a_terminal(folder: Path, *arguments: str, **environment: str) -> str:
    """What the command writes to a terminal of 100 columns that shows all colours."""
    if not hasattr(os, "openpty"):
        pytest.skip("this system has no pseudo-terminals")
    keeper, terminal = os.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    settings = {"COLUMNS": "100", "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("cifarcnn"), "predict", *arguments],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env={**kept, "PYTHONUTF8": "1", **settings, **environment},
    )
    os.close(terminal)
    written = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal that nobody holds with an error
        while piece := os.read(keeper, 65536):
            written += piece
    os.close(keeper)
    process.wait(timeout=60)
    return written.decode()


@pytest.mark.slow
def test_thumbnails_on_a_terminal(folder: Path) -> None:
    """A terminal that shows colours gets small pictures; none without colour, or when they are unwanted."""
    shown = on_a_terminal(folder, "pictures/1.png")
    assert shown.count("▀") == 72
    assert "\x1b[38;2;" in shown
    assert "pictures/1.png" in shown
    for arguments, environment in (((), {"NO_COLOR": "1"}), (("--no-thumbnails",), {}), (("--csv",), {})):
        assert "▀" not in on_a_terminal(folder, "pictures/1.png", *arguments, **environment)
    many = on_a_terminal(folder, *["pictures/1.png"] * 25)
    assert "▀" not in many
    assert many.count("pictures/1.png") == 25


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--output", "sheet.gif"], 2, "expected one of .png, .jpg, .jpeg, .webp, .pdf"),
        (["--output", "absent/sheet.png"], 2, "there is no directory absent; make it first"),
        (["--explain", "0.png"], 2, "is a file"),
    ],
)
def test_drawings_that_cannot_be_written(
    arguments: list[str], code: int, reason: str, cifarcnn: Run, folder: Path
) -> None:
    """Places that cannot be written to are told in one line before anything is predicted."""
    done = cifarcnn(
        "predict", "0.png", *arguments, "--model", folder / "runs" / "first", cwd=folder / "pictures"
    )
    assert done.returncode == code
    assert done.stdout == ""
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_ten_thousand_files(cifarcnn: Run, folder: Path, tmp_path: Path) -> None:
    """Thousands of pictures, among them what is none, are answered and drawn up to the sheet's limit."""
    source = folder / "pictures" / "0.png"
    (tmp_path / "many").mkdir()
    for number in range(10_000):
        os.link(source, tmp_path / "many" / f"{number}.png")
    os.mkfifo(tmp_path / "many" / "fifo.png")
    done = cifarcnn(
        *(
            "predict",
            "many",
            "--recursive",
            "--model",
            folder / "runs" / "first",
            "--jsonl",
            "--output",
            "s.png",
        ),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert done.stdout.count("\n") == 10_001
    assert "the sheet shows the first 1,000 images; 9,001 are left out" in done.stderr
    assert len(list(tmp_path.glob("s*.png"))) == 25


@pytest.mark.slow
def test_ctrl_c_ends_the_wait_for_standard_input(folder: Path) -> None:
    """A picture that never comes can be waited for no longer."""
    command = Path(sys.executable).with_name("cifarcnn")
    with subprocess.Popen(
        [command, "predict", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        # A shell starts background jobs with Ctrl-C ignored, which their children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # More than a pipe holds: this returns once the other end is reading.
        process.stdin.write("x" * (1 << 20))
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 130
        finally:
            process.kill()
        said = process.stderr.read()
    assert said.endswith("error: stopped by Ctrl-C\n")
    assert "Traceback" not in said


def test_a_threshold_must_be_a_number(cifarcnn: Run) -> None:
    """Nothing is below ``nan``, so no answer would ever be marked."""
    done = cifarcnn("predict", "cat.png", "--threshold", "nan")
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected a number from 0 to 1" in done.stderr


def test_an_explanation_does_not_replace_a_picture(cifarcnn: Run, folder: Path, tmp_path: Path) -> None:
    """The command asks before anything is drawn."""
    for name in ("a.png", "a-explained.png"):
        (tmp_path / name).write_bytes((folder / "pictures" / "0.png").read_bytes())
    done = cifarcnn("predict", "a.png", "a-explained.png", "--explain", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: a-explained.png is one of the pictures; give another directory" in done.stderr
    assert (tmp_path / "a-explained.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_a_sheet_does_not_replace_an_explanation(cifarcnn: Run, folder: Path, tmp_path: Path) -> None:
    """The command refuses it, and draws nothing."""
    (tmp_path / "a.png").write_bytes((folder / "pictures" / "0.png").read_bytes())
    done = cifarcnn("predict", "a.png", "--explain", ".", "--output", "a-explained.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: a-explained.png would also be an explanation; give" in done.stderr
    assert not (tmp_path / "a-explained.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cät.png", "b\\"])
def test_any_name_is_shown_on_any_terminal(name: str, folder: Path) -> None:
    """Letters that the encoding lacks are escaped, no columns and FORCE_COLOR change nothing in a pipe."""
    (folder / name).write_bytes((folder / "pictures" / "0.png").read_bytes())
    done = subprocess.run(
        [Path(sys.executable).with_name("cifarcnn"), "predict", name],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "0", "FORCE_COLOR": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(name.replace("ä", "\\xe4") + "  ")
    assert "\x1b" not in done.stdout
