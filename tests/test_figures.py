"""The pictures hold what they promise: drawn data, the right images, unblurred pixels, whole files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cifarcnn import metrics
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.figures import charts, galleries
from cifarcnn.wording import short_percent

Pixels = npt.NDArray[np.uint8]
SCALE = 4
ROWS = [
    {
        "epoch": epoch,
        "loss": 2.0 / epoch,
        "accuracy": 1 - 0.5 / epoch,
        "val_loss": 1.5 + abs(epoch - 3) / 10,
        "val_accuracy": 0.7 - abs(epoch - 4) / 100,
        "learning_rate": 0.1 * epoch,
        "seconds": 9.0,
    }
    for epoch in range(1, 7)
]


@pytest.fixture(scope="module")
def answered() -> tuple[Pixels, npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """200 distinct noise images with labels and probabilities, about a third of them wrong."""
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 200).astype(np.uint8)
    scores = rng.normal(size=(200, 10))
    scores[np.arange(200), labels] += 2
    return images, labels, metrics.softmax(scores).astype(np.float32)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every text, with its colour, of the galleries that a test draws, in their order."""
    texts: list[tuple[str, str]] = []

    def save(figure: Any, path: Path) -> None:
        texts.extend((text.get_text(), text.get_color()) for text in figure.texts)
        charts.save(figure, path)

    monkeypatch.setattr(galleries, "save", save)
    return texts


def read(path: Path) -> Pixels:
    """Decode a PNG file, which fails if it is not whole."""
    with Image.open(path) as picture:
        picture.load()
        return np.asarray(picture.convert("RGB"))


def place(sheet: Pixels, image: Pixels) -> tuple[int, int] | None:
    """Where an image stands in a sheet, enlarged with its pixels repeated exactly, as (top, left)."""
    enlarged = image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    height, width, _ = enlarged.shape
    starts = np.ones(sheet.shape[:2], dtype=bool)
    for channel in range(3):
        starts &= sheet[..., channel] == image[0, 0, channel]
    for top, left in np.argwhere(starts).tolist():
        if np.array_equal(sheet[top : top + height, left : left + width], enlarged):
            return top, left
    return None


def test_gallery_shows_the_ten_largest_losses_in_order_and_pixel_by_pixel(
    answered, tmp_path, written
) -> None:
    """Read row by row, the gallery is the ten wrong answers of largest loss, each equal to its image."""
    images, labels, probabilities = answered
    galleries.worst_mistakes(images, labels, probabilities, tmp_path / "worst.png")
    loss_of_truth = -np.log(probabilities[np.arange(200), labels])
    expected = np.argsort(-loss_of_truth)[:10]
    assert (probabilities[expected].argmax(axis=1) != labels[expected]).all()
    sheet = read(tmp_path / "worst.png")
    places = [place(sheet, images[index]) for index in expected]
    assert None not in places
    assert places == sorted(places)
    others = np.setdiff1d(np.arange(200), expected)
    assert all(place(sheet, images[index]) is None for index in others)
    captions = [
        (f"{name}{CLASSES[label]} {short_percent(probabilities[index, label])}", colour)
        for index in expected
        for name, label, colour in (
            ("", probabilities[index].argmax(), charts.ORANGE),
            ("truth: ", labels[index], "black"),
        )
    ]
    assert written[0][0] == "The 10 worst mistakes"
    assert [text for text in written[2:] if not text[0].startswith("image ")] == captions
    assert [text for text, _ in written[4::3]] == [f"image {index}" for index in expected]


@pytest.mark.parametrize("count", [1, 3, 7, 1000])
def test_gallery_shows_as_many_mistakes_as_asked_for_or_as_there_are(answered, tmp_path, count) -> None:
    """``count`` bounds the gallery; right answers never fill it up."""
    images, labels, probabilities = answered
    galleries.worst_mistakes(images, labels, probabilities, tmp_path / "worst.png", count)
    sheet = read(tmp_path / "worst.png")
    shown = [index for index in range(200) if place(sheet, images[index])]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    assert len(shown) == min(count, len(wrong))
    assert set(shown) <= set(wrong.tolist())


def test_gallery_of_a_perfect_model_is_an_empty_sheet(answered, tmp_path, written) -> None:
    """Without mistakes there is a picture that says so, and no error."""
    images, labels, _ = answered
    galleries.worst_mistakes(images, labels, np.eye(10)[labels], tmp_path / "worst.png")
    assert written[0][0] == "No mistakes"
    assert read(tmp_path / "worst.png").min() < 50


def test_samples_are_taken_evenly_and_unblurred(answered, tmp_path, written) -> None:
    """The sample grid shows first and last image and as many as asked for, marked as right or wrong."""
    images, labels, probabilities = answered
    galleries.sample_predictions(images, labels, probabilities, tmp_path / "samples.png", count=12)
    sheet = read(tmp_path / "samples.png")
    shown = [index for index in range(200) if place(sheet, images[index])]
    assert len(shown) == 12
    assert (shown[0], shown[-1]) == (0, 199)
    assert set(np.diff(shown)) == {18, 19}
    captions = []
    for index in shown:
        answer, truth = probabilities[index].argmax(), labels[index]
        line = f"{CLASSES[answer]} {short_percent(probabilities[index, answer])}"
        if answer == truth:
            captions.append((f"✓ {line}", charts.BLUE))
        else:
            captions += [(f"✗ {line}", charts.ORANGE), (f"truth: {CLASSES[truth]}", "black")]
    assert written[2:] == captions
    assert 12 < len(captions) < 24


def test_augmented_sheet_shows_every_form_unblurred(answered, tmp_path) -> None:
    """Rows and columns stand as they were given."""
    images = answered[0][:12].reshape(3, 4, 32, 32, 3)
    galleries.augmented_sheet(images, tmp_path / "augmented.png")
    sheet = read(tmp_path / "augmented.png")
    places = [place(sheet, image) for image in images.reshape(12, 32, 32, 3)]
    assert None not in places
    assert places == sorted(places)
    assert len({left for _, left in places}) == 4


def test_filters_show_zero_as_mid_grey_and_the_largest_weight_as_full(tmp_path) -> None:
    """All filters share a scale symmetric about zero."""
    kernel = np.zeros((3, 3, 3, 8), dtype=np.float32)
    kernel[1, 1, :, 0] = (0.5, -0.5, 0)
    galleries.first_layer_filters(kernel, tmp_path / "filters.png")
    colours = {tuple(pixel) for pixel in read(tmp_path / "filters.png").reshape(-1, 3).tolist()}
    assert {(255, 0, 128), (128, 128, 128)} <= colours


@pytest.mark.parametrize("shape", [(1, 1, 3, 1), (11, 11, 3, 96), (3, 3, 3, 128)])
def test_filters_of_any_size_can_be_drawn(tmp_path, shape) -> None:
    """From a single point to large kernels, also all-zero ones."""
    galleries.first_layer_filters(np.zeros(shape), tmp_path / "filters.png")
    assert read(tmp_path / "filters.png").shape[1] >= 500


def drawn(axes, label: str) -> tuple[list[float], list[float]]:
    """The data of the line with a label."""
    line = next(line for line in axes.get_lines() if line.get_label().startswith(label))
    return list(line.get_xdata()), list(line.get_ydata())


def test_curves_hold_the_rows_and_mark_the_best_validation(tmp_path) -> None:
    """Loss and accuracy of both splits are drawn as they are; the best epoch of each is marked."""
    figure = charts.learning_curves(ROWS, tmp_path / "curves.png")
    loss, accuracy, rate = figure.axes
    epochs = [row["epoch"] for row in ROWS]
    assert drawn(loss, "training") == (epochs, [row["loss"] for row in ROWS])
    assert drawn(loss, "validation") == (epochs, [row["val_loss"] for row in ROWS])
    assert drawn(loss, "best validation") == ([3], [1.5])
    assert drawn(accuracy, "training")[1] == [100 * row["accuracy"] for row in ROWS]
    assert drawn(accuracy, "best validation") == ([4], [70.0])
    assert list(rate.get_lines()[0].get_ydata()) == [row["learning_rate"] for row in ROWS]
    for axes in figure.axes:
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert read(tmp_path / "curves.png").shape == (512, 1536, 3)


def test_curves_of_one_epoch_without_validation(tmp_path) -> None:
    """A training that holds nothing out has no validation curve, and one epoch is a visible point."""
    row = {**ROWS[0], "val_loss": None, "val_accuracy": None}
    figure = charts.learning_curves([row], tmp_path / "curves.png")
    (line,) = figure.axes[0].get_lines()
    assert line.get_marker() == "."
    assert read(tmp_path / "curves.png").std() > 0


def test_confusion_figure_states_every_count_and_share(tmp_path) -> None:
    """Each cell shows its count and its share of the true class; an absent class divides by nothing."""
    confusion = np.diag(np.full(10, 90))
    confusion[3, 5] = 10
    confusion[7] = 0
    figure = charts.confusion_matrix(confusion, tmp_path / "confusion.png")
    axes = figure.axes[0]
    texts = {(*np.round(text.get_position()).astype(int).tolist(), text.get_text()) for text in axes.texts}
    assert {(5, 3, "10"), (5, 3, "10.0 %"), (3, 3, "90"), (3, 3, "90.0 %"), (0, 0, "100.0 %")} <= texts
    assert len(axes.texts) == 2 * 10
    np.testing.assert_allclose(axes.images[0].get_array()[3, 5], 0.1)
    assert [label.get_text() for label in axes.get_yticklabels()][9] == "truck"
    assert "98.78 %" in axes.get_title()
    read(tmp_path / "confusion.png")


def test_reliability_figure_draws_filled_bins_only(tmp_path) -> None:
    """A bar and a point per bin that has answers, at its accuracy, and the calibration error in the title."""
    confidence = np.repeat([0.75, 0.95], 10)
    right = np.concatenate([np.arange(10) % 2 == 0, np.ones(10, dtype=bool)])
    bins = metrics.reliability_bins(confidence, right)
    figure = charts.reliability(bins, tmp_path / "reliability.png")
    upper, lower = figure.axes
    assert [bar.get_height() for bar in upper.patches] == [0.5, 1.0]
    assert [bar.get_height() for bar in lower.patches] == [10, 10]
    assert [bar.get_x() for bar in (*upper.patches, *lower.patches)] == pytest.approx([11 / 15, 14 / 15] * 2)
    points = drawn(upper, "accuracy at mean confidence")
    assert [*points[0], *points[1]] == pytest.approx([0.75, 0.95, 0.5, 1.0])
    assert drawn(upper, "perfect calibration") == ([0, 1], [0, 1])
    assert "15.00 %" in upper.get_title()
    read(tmp_path / "reliability.png")


def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path) -> None:
    """A failure while writing keeps the former file whole and leaves nothing beside it."""
    path = tmp_path / "curves.png"
    figure = charts.learning_curves(ROWS, path)
    before = path.read_bytes()
    figure.text(0.5, 0.5, "$\\undefined$")
    with pytest.raises(ValueError, match="undefined"):
        charts.save(figure, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["curves.png"]


def test_drawing_imports_no_pyplot_and_no_framework(tmp_path) -> None:
    """No window system, no global figure list, no TensorFlow: the modules draw in a bare process."""
    code = (
        "import sys, pathlib; from cifarcnn.figures import charts, galleries;"
        "assert 'matplotlib' not in sys.modules;"
        f"charts.learning_curves({ROWS!r}, pathlib.Path({str(tmp_path / 'c.png')!r}));"
        "print(sorted({'matplotlib.pyplot', 'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
