"""What is written about a run: live pictures, their copies for TensorBoard, and its page."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarcnn import config, metrics
from cifarcnn.data import cifar10
from cifarcnn.errors import FigureError, RunError
from cifarcnn.figures import charts, presentation
from cifarcnn.runs.run import RunDirectory
from cifarcnn.training.tensorboard_log import TensorBoardLog
from models import save_tiny

LABELS = np.arange(60, dtype=np.uint8) % 10
IMAGES = np.random.default_rng(3).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
ROWS = [
    {"epoch": 1, "loss": 2.0, "accuracy": 0.3, "val_loss": None, "val_accuracy": None, "learning_rate": 0.1},
    {"epoch": 2, "loss": 1.0, "accuracy": 0.6, "val_loss": None, "val_accuracy": None, "learning_rate": 0.2},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with all that a page is made from."""
    settings = config.resolve({"arch": "vgg3", "epochs": 2, "learning_rate": 0.25, "deterministic": True})
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(vars(settings)))
    (folder / "environment.json").write_text('{"cpu": "abacus"}')
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    return folder


def test_pictures_of_a_training_are_redrawn_whole(tmp_path: Path) -> None:
    """Curves always; the confusion matrix where there are validation images; nothing else is left behind."""
    assert list(presentation.redraw(RunDirectory(tmp_path), ROWS, None, None)) == ["curves"]
    before = (tmp_path / "curves.png").read_bytes()
    written = presentation.redraw(RunDirectory(tmp_path), ROWS[:1], np.eye(10)[LABELS], LABELS)
    assert written == {"curves": tmp_path / "curves.png", "confusion": tmp_path / "confusion.png"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.png", "curves.png"]
    assert (tmp_path / "curves.png").read_bytes() != before
    for path in written.values():
        with Image.open(path) as picture:
            picture.load()


def test_a_figure_that_cannot_be_drawn_or_written_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever Matplotlib raises, and a directory that is gone: a training can go on without its pictures."""
    with pytest.raises(FigureError, match=r"cannot write the figures to .*gone: .*; the training goes on"):
        presentation.redraw(RunDirectory(tmp_path / "gone"), ROWS, None, None)

    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("latex was not found\nmore")

    monkeypatch.setattr("matplotlib.figure.Figure.subplots", failing)
    with pytest.raises(FigureError, match=r"^Matplotlib cannot draw the figure: latex was not found$"):
        presentation.redraw(RunDirectory(tmp_path), ROWS, None, None)
    assert list(tmp_path.iterdir()) == []


def test_classes_and_best_epoch_are_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training tells how its classes are called and which epoch it holds for the best."""
    told: list[object] = []
    monkeypatch.setattr(charts, "learning_curves", lambda *call: told.append(call[2]))
    monkeypatch.setattr(
        charts, "confusion_matrix", lambda confusion, classes, _: told.append((confusion.shape, classes))
    )
    labels = np.array([0, 1, 2])
    run, classes = RunDirectory(tmp_path), ("a", "b", "c")
    presentation.redraw(run, ROWS, np.eye(3)[labels], labels, classes=classes, best_epoch=1)
    assert told == [1, ((3, 3), classes)]


def test_tensorboard_reads_the_pictures_back(tmp_path: Path) -> None:
    """An event holds the very bytes of the file, its size, its name and the epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = presentation.redraw(RunDirectory(tmp_path), ROWS, None, None)
    log = TensorBoardLog(tmp_path / "tensorboard", ROWS[:1])
    png = written["curves"].read_bytes()
    log.add_image("curves", png, 1)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (image,) = events.Images("curves")
    assert (image.step, image.encoded_image_string) == (1, png)
    with Image.open(written["curves"]) as picture:
        assert (image.width, image.height) == picture.size


def test_the_page_of_a_run_tells_its_training(run: Path) -> None:
    """Settings, environment, curves and the commands stand there; no request is possible."""
    path = presentation.write_run_report(RunDirectory(run), None, "my data")
    assert path == run / "report.html"
    page = path.read_text("utf-8")
    command = "cifarcnn train --arch vgg3 --recipe fast --epochs 2 --learning-rate 0.25 --deterministic"
    assert f"{command} --data &#39;my data&#39;\n" in page
    assert re.search(r"cifarcnn evaluate .*best\.keras.* --data &#39;my data&#39;", page)
    assert "abacus" in page
    assert "Learning curves" in page
    assert "<h1>my run</h1>" in page
    assert "Worst mistakes" not in page
    # Where the images were when it was trained, if nothing else is said now.
    (run / "environment.json").write_text('{"cpu": "abacus", "data": "photos"}')
    assert f"{command} --data photos\n" in presentation.write_run_report(RunDirectory(run), None).read_text()


def test_the_page_of_a_run_shows_its_best_model_on_the_validation_images(run: Path) -> None:
    """The figures are those of the model's calibrated answers."""
    save_tiny(run / "best.keras", {"temperature": 3.0})
    images = cifar10.Images(IMAGES, LABELS)
    page = presentation.write_run_report(RunDirectory(run), images).read_text("utf-8")
    from cifarcnn.models import modelfile

    raw = modelfile.load(run / "best.keras").probabilities(IMAGES)
    figures = metrics.measure(metrics.apply_temperature(raw, 3.0), LABELS)
    assert "my run on 60 validation images" in page
    assert f"{figures.loss:.4f}" in page
    assert "Worst mistakes" in page


@pytest.mark.parametrize("name", ["settings.json", "environment.json", "metrics.csv"])
def test_damaged_files_of_a_run_are_named(run: Path, name: str) -> None:
    """Nonsense, or a missing file, is one line."""
    (run / name).write_text("epoch,loss\nnonsense,1\n")
    with pytest.raises(RunError, match="cannot be read"):
        presentation.write_run_report(RunDirectory(run), None)
    (run / name).unlink()
    with pytest.raises(RunError, match=r"settings\.json"):
        presentation.write_run_report(RunDirectory(run), None)


def test_a_page_that_cannot_be_written_is_one_line(run: Path) -> None:
    """A directory stands where the page should."""
    (run / "report.html").mkdir()
    with pytest.raises(
        FigureError,
        match=r"cannot write the report .*; the run is finished; make room, then: cifarcnn train --resume ",
    ):
        presentation.write_run_report(RunDirectory(run), None)
