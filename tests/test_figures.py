"""The pictures hold what they promise: drawn data, the right images, unblurred pixels, whole files."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from cifarcnn import metrics
from cifarcnn.errors import FigureError
from cifarcnn.figures import charts, galleries
from cifarcnn.figures.style import DARK, LIGHT, figure
from cifarcnn.formatting import short_percent

Pixels = npt.NDArray[np.uint8]
CLASSES = tuple(f"class {letter}" for letter in "abcdefghij")
SCALE = galleries.BOX // 32
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
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda *call, **_: texts.append((call[2], call[3])), raising=True
    )
    return texts


def read(path: Path) -> Pixels:
    """Decode a PNG file, which fails if it is not whole."""
    with Image.open(path) as picture:
        picture.load()
        return np.asarray(picture.convert("RGB"))


def place(sheet: Pixels, image: Pixels, scale: int = SCALE) -> tuple[int, int] | None:
    """Where an image stands in a sheet, enlarged with its pixels repeated exactly, as (top, left)."""
    enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
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
    galleries.worst_mistakes(images, labels, probabilities, CLASSES, tmp_path / "worst.png")
    loss_of_truth = -np.log(probabilities[np.arange(200), labels])
    expected = np.argsort(-loss_of_truth)[:10]
    assert (probabilities[expected].argmax(axis=1) != labels[expected]).all()
    sheet = read(tmp_path / "worst.png")
    places = [place(sheet, images[index]) for index in expected]
    assert None not in places
    assert places == sorted(places)
    others = np.setdiff1d(np.arange(200), expected)
    assert all(place(sheet, images[index]) is None for index in others)
    captions = []
    for index in expected:
        captions.append((f"image {index}", LIGHT.soft))
        for label, color in ((probabilities[index].argmax(), LIGHT.orange), (labels[index], LIGHT.blue)):
            captions.append((CLASSES[label], color))
            captions.append((short_percent(probabilities[index, label]), LIGHT.ink))
    assert written[0][0] == "The 10 worst mistakes"
    assert written[2:] == captions


@pytest.mark.parametrize("count", [1, 3, 7, 1000])
def test_gallery_shows_as_many_mistakes_as_asked_for_or_as_there_are(answered, tmp_path, count) -> None:
    """``count`` bounds the gallery; right answers never fill it up."""
    images, labels, probabilities = answered
    galleries.worst_mistakes(images, labels, probabilities, CLASSES, tmp_path / "worst.png", count)
    sheet = read(tmp_path / "worst.png")
    shown = [index for index in range(200) if place(sheet, images[index])]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    assert len(shown) == min(count, len(wrong))
    assert set(shown) <= set(wrong.tolist())


def test_gallery_of_a_perfect_model_is_an_empty_sheet(answered, tmp_path, written) -> None:
    """Without mistakes there is a picture that says so, and no error."""
    images, labels, _ = answered
    galleries.worst_mistakes(images, labels, np.eye(10)[labels], CLASSES, tmp_path / "worst.png")
    assert written[0][0] == "No mistakes"
    assert read(tmp_path / "worst.png").shape[1] >= 400


def test_samples_are_taken_evenly_and_unblurred(answered, tmp_path, written) -> None:
    """The sample grid shows first and last image and as many as asked for, marked as right or wrong."""
    images, labels, probabilities = answered
    galleries.sample_predictions(images, labels, probabilities, CLASSES, tmp_path / "samples.png", count=12)
    sheet = read(tmp_path / "samples.png")
    shown = [index for index in range(200) if place(sheet, images[index])]
    assert len(shown) == 12
    assert (shown[0], shown[-1]) == (0, 199)
    assert set(np.diff(shown)) == {18, 19}
    captions = []
    for index in shown:
        prediction, label = probabilities[index].argmax(), labels[index]
        captions.append((f"image {index}", LIGHT.soft))
        if prediction != label:
            captions.append((CLASSES[prediction], LIGHT.orange))
            captions.append((short_percent(probabilities[index, prediction]), LIGHT.ink))
        captions.append((CLASSES[label], LIGHT.blue))
        captions.append((short_percent(probabilities[index, label]), LIGHT.ink))
    assert written[2:] == captions
    assert 3 * 12 < len(captions) < 5 * 12


def test_augmented_sheet_shows_every_form_unblurred(answered, tmp_path) -> None:
    """Rows and columns stand as they were given."""
    images = answered[0][:12].reshape(3, 4, 32, 32, 3)
    galleries.augmented_sheet(images, tmp_path / "augmented.png")
    sheet = read(tmp_path / "augmented.png")
    places = [place(sheet, image, 4) for image in images.reshape(12, 32, 32, 3)]
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
    assert read(tmp_path / "filters.png").shape[1] >= 400


def drawn(axes, label: str) -> tuple[list[float], list[float]]:
    """The data of the line with a label."""
    line = next(line for line in axes.get_lines() if line.get_label().startswith(label))
    return list(line.get_xdata()), list(line.get_ydata())


def test_curves_hold_the_rows_and_mark_the_best_epoch_that_they_are_told(tmp_path) -> None:
    """Loss and accuracy of both splits are drawn as they are; one and the same epoch is marked in both."""
    figure = charts.learning_curves(ROWS, tmp_path / "curves.png", 5)
    loss, accuracy, rate = figure.axes
    epochs = [row["epoch"] for row in ROWS]
    assert drawn(loss, "training") == (epochs, [row["loss"] for row in ROWS])
    assert drawn(loss, "validation") == (epochs, [row["val_loss"] for row in ROWS])
    assert drawn(loss, "best epoch 5: 1.7") == ([5], [1.7])
    assert drawn(accuracy, "training")[1] == [100 * row["accuracy"] for row in ROWS]
    assert drawn(accuracy, "best epoch 5: 69.00%") == ([5], pytest.approx([69.0]))
    assert list(rate.get_lines()[0].get_ydata()) == [row["learning_rate"] for row in ROWS]
    for axes in figure.axes:
        assert axes.get_title()
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert read(tmp_path / "curves.png").shape == (512, 1536, 3)


def test_curves_of_one_epoch_without_validation(tmp_path) -> None:
    """A training that holds nothing out has no validation curve, and one epoch is a visible point."""
    row = {**ROWS[0], "val_loss": None, "val_accuracy": None}
    figure = charts.learning_curves([row], tmp_path / "curves.png", 1)
    (line,) = figure.axes[0].get_lines()
    assert line.get_marker() == "."
    assert read(tmp_path / "curves.png").std() > 0


def test_a_diverged_loss_is_a_gap(tmp_path) -> None:
    """What is no number is not drawn, and keeps nothing else from being drawn."""
    rows = [*ROWS[:3], {**ROWS[3], "loss": float("nan"), "val_loss": float("inf")}]
    figure = charts.learning_curves(rows, tmp_path / "curves.png")
    assert figure.axes[0].get_ylim()[1] < 3


def test_confusion_figure_states_every_count_and_share(tmp_path) -> None:
    """Each cell shows its count and its share of the true class; an absent class divides by nothing."""
    confusion = np.diag(np.full(10, 90))
    confusion[3, 5] = 10
    confusion[7] = 0
    figure = charts.confusion_matrix(confusion, CLASSES, tmp_path / "confusion.png")
    axes = figure.axes[0]
    texts = {(*text.xy, text.get_text()) for text in axes.texts}
    assert {(5, 3, "10"), (5, 3, "10.0%"), (3, 3, "90"), (3, 3, "90.0%"), (0, 0, "100.0%")} <= texts
    assert len(axes.texts) == 2 * 10
    np.testing.assert_allclose(axes.images[0].get_array()[3, 5], 0.1)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASSES)
    assert "98.78% accuracy" in axes.get_title()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    read(tmp_path / "confusion.png")


@pytest.mark.parametrize(("count", "texts"), [(2, 6), (16, 17), (100, 0), (1000, 0)])
def test_confusion_figure_of_any_number_of_classes(tmp_path, count: int, texts: int) -> None:
    """Many classes have no numbers, few names at the axes, and the most confused pairs beside the matrix."""
    confusion = np.diag(np.full(count, 90))
    confusion[1, 0] = 10
    names = [f"class {number}" for number in range(count)]
    figure = charts.confusion_matrix(confusion, names, tmp_path / "confusion.png")
    matrix = figure.axes[0]
    assert len(matrix.texts) == texts
    labels = [label.get_text() for label in matrix.get_yticklabels()]
    assert labels == names[:: -(-count // charts.MOST_TICKS)]
    listed = [text.get_text() for axes in figure.axes for text in axes.texts if "→" in text.get_text()]
    expected = ["class 1 → class 0\n    10 images, 10.0% of its class"]
    assert listed == (expected if count > charts.SOME_CLASSES else [])
    assert max(read(tmp_path / "confusion.png").shape) < 2000


def test_names_of_classes_are_no_formulas(tmp_path) -> None:
    """Dollar signs, underscores, letters that the typeface lacks, and long names are drawn as text."""
    names = ["$x^{", "猫", "a name of very many letters"]
    figure = charts.confusion_matrix(np.eye(3, dtype=int), names, tmp_path / "confusion.png")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["$x^{", "\\u732b", "a name of very ma…"]


def test_reliability_figure_draws_filled_bins_only(tmp_path) -> None:
    """A bar and a point per bin with predictions, at its accuracy, and the calibration error in the title."""
    confidence = np.repeat([0.75, 0.95], 10)
    correct = np.concatenate([np.arange(10) % 2 == 0, np.ones(10, dtype=bool)])
    bins = metrics.reliability_bins(confidence, correct)
    figure = charts.reliability(bins, tmp_path / "reliability.png")
    upper, lower = figure.axes
    assert [bar.get_height() for bar in upper.patches] == [0.5, 1.0]
    assert [bar.get_height() for bar in lower.patches] == [10, 10]
    assert [bar.get_x() for bar in (*upper.patches, *lower.patches)] == pytest.approx([11 / 15, 14 / 15] * 2)
    points = drawn(upper, "accuracy at mean confidence")
    assert [*points[0], *points[1]] == pytest.approx([0.75, 0.95, 0.5, 1.0])
    assert drawn(upper, "perfect calibration") == ([0, 1], [0, 1])
    assert "15.00%" in upper.get_title()
    read(tmp_path / "reliability.png")


def test_a_chart_is_drawn_as_svg_in_either_theme(tmp_path) -> None:
    """As a file or into memory, with text that stays text, and the same bytes each time."""
    forms = []
    for theme in (LIGHT, DARK, DARK):
        buffer = io.BytesIO()
        charts.learning_curves(ROWS, buffer, 3, panels=["accuracy"], theme=theme)
        forms.append(buffer.getvalue())
    assert forms[0] != forms[1] == forms[2]
    assert theme.orange.encode() in forms[2]
    assert b"best epoch 3: 69.00%" in forms[0]
    charts.learning_curves(ROWS, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_bytes().startswith(b"<?xml")


def test_a_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path) -> None:
    """A failure is one error of ours; the former file stays whole, and nothing is left beside it."""
    path = tmp_path / "curves.png"
    charts.learning_curves(ROWS, path)
    before = path.read_bytes()
    with (
        pytest.raises(FigureError, match=r"cannot draw the figure: .*undefined"),
        figure(path, 4, 4) as drawn,
    ):
        drawn.text(0.5, 0.5, "$\\undefined$", parse_math=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["curves.png"]


DRAW = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("error")
{before}
from cifarcnn.figures import charts
assert "{loaded}" == str("matplotlib" in sys.modules), sys.modules.keys()
rows = {rows}
charts.learning_curves(rows, Path(sys.argv[1]), 3)
print(sorted({{"matplotlib.pyplot", "tensorflow", "keras"}} & set(sys.modules)))
{after}
"""


def draw_elsewhere(
    directory: Path, before: str = "", after: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Draw in a process of its own, in a directory, under an environment of its user."""
    code = DRAW.format(before=before, after=after, rows=repr(ROWS), loaded="import matplotlib" in before)
    return subprocess.run(
        [sys.executable, "-c", code, directory / "curves.png"],
        cwd=directory,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


UGLY = """
text.usetex: True
font.family: No Such Typeface
font.size: 31
axes.facecolor: red
lines.linewidth: 9
figure.dpi: 20
savefig.dpi: 20
path.effects: nonsense
no.such.key: 3
"""


@pytest.mark.parametrize(
    "surrounding",
    [
        "backend",
        "unknown backend",
        "rc here",
        "rc named",
        "rc of the user",
        "rc of bytes",
        "rc of bytes here",
        "rc is a directory",
    ],
)
def test_no_setting_of_the_user_changes_a_chart(tmp_path: Path, surrounding: str) -> None:
    """Neither a backend nor a file of settings, wherever it lies and whatever is in it; nothing is said."""
    expected = tmp_path / "expected.png"
    charts.learning_curves(ROWS, expected, 3)
    here, elsewhere = tmp_path / "here", tmp_path / "config"
    here.mkdir()
    elsewhere.mkdir()
    (elsewhere / "matplotlibrc").write_text(UGLY)
    variables = {"MPLCONFIGDIR": str(tmp_path / "none"), "PYTHONWARNINGS": "error"}
    if surrounding == "backend":
        variables["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    elif surrounding == "unknown backend":
        variables["MPLBACKEND"] = "no such backend"
    elif surrounding == "rc here":
        (here / "matplotlibrc").write_text(UGLY)
    elif surrounding == "rc named":
        variables["MATPLOTLIBRC"] = str(elsewhere / "matplotlibrc")
    elif surrounding == "rc of the user":
        variables["MPLCONFIGDIR"] = str(elsewhere)
    elif surrounding == "rc of bytes":
        (elsewhere / "matplotlibrc").write_bytes(b"\xff\xfe\x00")
        variables["MATPLOTLIBRC"] = str(elsewhere)
    elif surrounding == "rc of bytes here":
        (here / "matplotlibrc").write_bytes(b"\xff\xfe\x00")
    else:
        variables["MATPLOTLIBRC"] = str(tmp_path)
    done = draw_elsewhere(here, **variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    np.testing.assert_array_equal(read(here / "curves.png"), read(expected))


def test_the_settings_of_a_caller_stay_theirs(tmp_path: Path) -> None:
    """Matplotlib, the environment and the directory are after a chart what they were before."""
    before = (
        "import matplotlib, os, logging; matplotlib.rcParams['font.size'] = 31; "
        "matplotlib.rcParams['axes.facecolor'] = 'red'; was = dict(matplotlib.rcParams), dict(os.environ)"
    )
    after = (
        "assert was == (dict(matplotlib.rcParams), dict(os.environ)); "
        "assert logging.getLogger('matplotlib').level == 0"
    )
    done = draw_elsewhere(tmp_path, before, after)
    assert (done.returncode, done.stderr) == (0, "")
    charts.learning_curves(ROWS, tmp_path / "expected.png", 3)
    np.testing.assert_array_equal(read(tmp_path / "curves.png"), read(tmp_path / "expected.png"))


def test_who_imports_matplotlib_later_finds_their_settings(tmp_path: Path) -> None:
    """Although Matplotlib was imported without them."""
    (tmp_path / "matplotlibrc").write_text("font.size: 31")
    after = (
        "import matplotlib, os; "
        "assert (matplotlib.rcParams['font.size'], matplotlib.rcParams['backend']) == (31, 'svg'); "
        "assert (os.environ['MPLBACKEND'], 'MATPLOTLIBRC' in os.environ) == ('svg', False); "
        "assert os.path.exists('matplotlibrc')"
    )
    done = draw_elsewhere(tmp_path, after=after, MPLBACKEND="svg")
    assert (done.returncode, done.stderr) == (0, "")
