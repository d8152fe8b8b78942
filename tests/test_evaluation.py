"""Evaluation of a tiny network on the real images: the library function and the command on top of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sklearn_metrics

from cifarcnn import metrics
from cifarcnn.data import cifar10, sources
from cifarcnn.errors import CifarCNNError, ModelError, UsageError
from cifarcnn.evaluation import evaluate as evaluation
from cifarcnn.evaluation import ood
from cifarcnn.figures import presentation
from cifarcnn.models import modelfile
from inprocess import Run, runner
from test_figures import place, read

OURS = {"arch": "plain6", "recipe": "fast", "seed": 3, "val_size": 400, "temperature": 2.0}
# The published training images in batch order, with their labels.
PUBLISHED = "f912919bdea371136f1aa4feed6beeca728015a5f08b1899a29c932a7e30be2b"
OURS["facts"] = {"training_images_sha256": PUBLISHED, "keras": "3.15.1"}
SCHEMA = ["schema", "model", "split", "classes", "n", "accuracy", "loss", "per_class", "confusion_matrix"]


def save(path: Path, seed: int, metadata: dict[str, object] | None) -> Path:
    """Save a little convolutional network; without metadata as plain Keras does."""
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 64, offset=-2),
            keras.layers.Conv2D(8, 5, strides=4, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    path.parent.mkdir(exist_ok=True)
    if metadata is None:
        model.save(path)
    else:
        modelfile.save(model, path, metadata)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory ``run`` with a model of ours, and two further models."""
    folder = tmp_path_factory.mktemp("models")
    save(folder / "run" / "best.keras", 1, OURS)
    save(folder / "foreign.keras", 2, None)
    save(folder / "all-images.keras", 1, {**OURS, "val_size": 0})
    save(folder / "other-images.keras", 1, {**OURS, "facts": {"training_images_sha256": "another"}})
    return folder


@pytest.fixture(scope="module")
def test_images() -> cifar10.Images:
    """The real test images."""
    return sources.load("test")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``cifarcnn evaluate``."""
    return runner(tmp_path, monkeypatch, capsys, "evaluate")


@pytest.fixture(scope="module")
def measured(folder: Path) -> evaluation.Evaluation:
    """The run's model on the test images."""
    return evaluation.evaluate(folder / "run")


def plain_keras(path: Path, images: np.ndarray) -> np.ndarray:
    """What the network itself answers, asked without this package."""
    import keras

    return keras.models.load_model(path, compile=False).predict(images, batch_size=1000, verbose=0)


def test_figures_are_those_of_the_network_in_plain_keras(folder: Path, test_images: cifar10.Images) -> None:
    """A foreign model's accuracy, loss and confusion agree with Keras and scikit-learn on all images."""
    result = evaluation.evaluate(folder / "foreign.keras", batch_size=512)
    expected = plain_keras(folder / "foreign.keras", test_images.images)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
    answers = expected.argmax(axis=1)
    assert result.metrics.n == 10_000
    assert result.metrics.accuracy == sklearn_metrics.accuracy_score(test_images.labels, answers)
    exact = expected.astype(np.float64)
    loss = sklearn_metrics.log_loss(test_images.labels, exact / exact.sum(axis=1, keepdims=True))
    assert result.metrics.loss == pytest.approx(loss, rel=1e-4)
    assert (result.temperature, result.uncalibrated, result.averaged) == (None, None, {})
    assert result.seconds > 0


def test_temperature_changes_loss_and_calibration_but_no_answer(
    measured: evaluation.Evaluation, folder: Path
) -> None:
    """A run directory means its best model; both calibrated and raw figures are reported."""
    result = measured
    plain = plain_keras(folder / "run" / "best.keras", result.images.images)
    assert result.model == folder / "run" / "best.keras"
    assert result.uncalibrated is not None
    np.testing.assert_array_equal(result.metrics.confusion, result.uncalibrated.confusion)
    np.testing.assert_allclose(
        result.probabilities, metrics.softmax(np.log(plain.astype(np.float64)) / 2), atol=1e-5
    )
    assert result.uncalibrated.loss == pytest.approx(
        metrics.measure(plain, result.images.labels).loss, rel=1e-4
    )
    # An untrained network is overconfident, so halving its scores must help.
    assert result.metrics.loss < result.uncalibrated.loss
    assert result.metrics.ece < result.uncalibrated.ece


def test_validation_images_are_those_that_the_training_held_out(folder: Path) -> None:
    """Size and seed of the split come from the model; the images are training images."""
    notes: list[object] = []
    result = evaluation.evaluate(folder / "run", split="validation", on_event=notes.append)
    train = sources.load("train")
    _, held_out = cifar10.stratified_split(train.labels, 400, seed=3)
    np.testing.assert_array_equal(result.images.images, train.images[held_out])
    np.testing.assert_array_equal(result.images.labels, train.labels[held_out])
    assert result.metrics.n == 400
    assert "calibrated on these images" in repr(notes)


def test_false_alarms_are_the_share_above_the_limit(
    command: Run, measured: evaluation.Evaluation, folder: Path
) -> None:
    """Every image shows one of the ten, so each that ``predict`` would mark is a false alarm."""
    unlimited = measured
    assert unlimited.as_document()["ood_false_positive_rate"] is None
    scores = ood.scores(unlimited.probabilities)
    limit = float(np.quantile(scores, 0.9))
    path = save(folder / "limited.keras", 1, {**OURS, "none_threshold": limit})
    share = evaluation.evaluate(path).as_document()["ood_false_positive_rate"]
    assert share == (scores > limit).mean() == pytest.approx(0.1, abs=0.001)
    shown = command(path).stdout
    assert f"{share:.2%} marked as out of distribution" in shown


@pytest.mark.slow
def test_augmented_views_average_log_probabilities(folder: Path, test_images: cifar10.Images) -> None:
    """Flip, and flip with shifts, stand beside the plain figure, which they leave alone."""
    path = folder / "run" / "best.keras"
    result = evaluation.evaluate(path, tta=True)
    images = test_images.images

    def log_mean(*views: np.ndarray) -> np.ndarray:
        return np.mean([np.log(plain_keras(path, view)) for view in views], axis=0)

    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    down, up = padded[:, :32, :32], padded[:, 2:, 2:]
    flip = log_mean(images, images[:, :, ::-1])
    both = flip / 2 + log_mean(down, down[:, :, ::-1], up, up[:, :, ::-1]) / 2
    for name, scores in (("flip", flip), ("flip_shift", both)):
        expected = metrics.measure(metrics.softmax(scores / 2), test_images.labels)
        assert result.averaged[name].accuracy == pytest.approx(expected.accuracy, abs=2e-4)
        assert result.averaged[name].loss == pytest.approx(expected.loss, rel=1e-4)
    plain = metrics.measure(metrics.softmax(log_mean(images) / 2), test_images.labels)
    assert result.metrics.accuracy == pytest.approx(plain.accuracy, abs=2e-4)


def test_a_network_of_infinities_is_refused(folder: Path) -> None:
    """Probabilities that are not numbers give an error, not figures."""
    import keras

    path = save(folder / "broken.keras", 4, None)
    model = keras.models.load_model(path)
    model.layers[1].set_weights([np.full(shape, np.nan) for shape in ((5, 5, 3, 8), (8,))])
    model.save(path)
    with pytest.raises(ModelError, match=r"broken\.keras"):
        evaluation.evaluate(path)


def test_impossible_requests_are_refused(measured: evaluation.Evaluation, folder: Path) -> None:
    """Unknown split, batch of nothing, and different images to compare: each says what was wrong."""
    with pytest.raises(UsageError, match="no split 'train'; expected one of: test, validation"):
        evaluation.evaluate(folder / "run", split="train")
    with pytest.raises(UsageError, match="--batch-size is 0"):
        evaluation.evaluate(folder / "run", batch_size=0)
    first = evaluation.evaluate(folder / "run", split="validation")
    second = measured
    with pytest.raises(UsageError, match="different"):
        evaluation.compare(first, second)
    with pytest.raises(UsageError, match="cannot show 0 mistakes"):
        presentation.write_figures(first, folder / "never", worst=0)
    (folder / "a-file").touch()
    with pytest.raises(
        CifarCNNError, match=r"cannot write the figures to .*; choose another directory with --figures"
    ):
        presentation.write_figures(first, folder / "a-file" / "below")
    with pytest.raises(
        CifarCNNError, match=r"cannot write the report to .*; choose another directory with --report"
    ):
        presentation.write_report(first, folder / "a-file" / "below")


def test_command_writes_one_json_document_figures_and_a_report(
    command: Run, folder: Path, tmp_path: Path
) -> None:
    """The document has the promised keys in order; pictures and page are whole."""
    done = command(folder / "run", "--json", "--figures", tmp_path / "new" / "dir", "--report", tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert list(document)[: len(SCHEMA)] == SCHEMA
    assert (document["schema"], document["split"], document["n"]) == (1, "test", 10_000)
    assert [row["class"] for row in document["per_class"]] == list(cifar10.CLASSES)
    assert set(document["per_class"][0]) == {"class", "precision", "recall", "f1", "support"}
    confusion = np.array(document["confusion_matrix"])
    assert confusion.sum(axis=1).tolist() == [1000] * 10
    assert document["accuracy"] == np.trace(confusion) / 10_000
    assert document["uncalibrated"]["ece"] != document["ece"]
    assert document["source"]
    pictures = sorted((tmp_path / "new" / "dir").iterdir())
    assert [path.stem for path in pictures] == ["confusion", "filters", "mistakes", "reliability", "samples"]
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
    page = (tmp_path / "report.html").read_text("utf-8")
    assert f"{document['accuracy']:.2%}" in page
    assert "plain6" in page
    assert "3.15.1" in page
    assert "without temperature" in page


@pytest.mark.slow
def test_worst_mistakes_of_a_real_evaluation_are_the_largest_losses(
    measured: evaluation.Evaluation, tmp_path: Path
) -> None:
    """Of all 10,000 images the ten of largest loss are shown, in order, pixel by pixel, and no other."""
    result = measured
    presentation.write_figures(result, tmp_path)
    labels = result.images.labels
    losses = -np.log(result.probabilities[np.arange(10_000), labels])
    worst = np.argsort(-losses, kind="stable")[:10]
    assert (result.probabilities[worst].argmax(axis=1) != labels[worst]).all()
    sheet = read(tmp_path / "mistakes.png")
    places = [place(sheet, result.images.images[index]) for index in worst]
    assert None not in places
    assert places == sorted(places)
    next_ones = np.argsort(-losses, kind="stable")[10:20]
    assert all(place(sheet, result.images.images[index]) is None for index in next_ones)


@pytest.mark.slow
def test_command_prints_tables_that_fit_80_columns(command: Run, folder: Path) -> None:
    """Piped, there is no colour and no animation; every row of the matrix is there whole."""
    done = command(folder / "run", "--tta")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout + done.stderr
    assert max(len(line) for line in lines[1:]) <= 80
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == ["airpl"])
    for name, line in zip(cifar10.CLASSES, lines[start + 2 :], strict=False):
        truth, *counts = line.split()
        assert truth == name
        assert sum(int(count.replace("·", "0")) for count in counts) == 1000
    for word in ("accuracy", "precision", "calibration error", "with flip and shift", "taken for"):
        assert word in done.stdout


def test_neither_a_narrow_terminal_nor_a_lack_of_room_costs_a_figure(command: Run, folder: Path) -> None:
    """The matrix keeps its columns; what was measured is printed before anything is drawn."""
    done = command(folder / "run", "--figures", "/dev/null/figures", columns=40)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: cannot write the figures to /dev/null/figures")
    lines = [line.split() for line in done.stdout.splitlines()]
    heading = [name[:5] for name in cifar10.CLASSES]
    start = lines.index(heading)
    for name, (truth, *counts) in zip(cifar10.CLASSES, lines[start + 2 :], strict=False):
        assert (truth, len(counts)) == (name, 10)


def test_command_compares_models_on_the_same_images(command: Run, folder: Path) -> None:
    """Several models give a table, and as JSON every document and the paired comparison."""
    done = command(folder / "run", folder / "foreign.keras", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    first, second = document["models"]
    (comparison,) = document["comparisons"]
    assert comparison["difference"] == pytest.approx(second["accuracy"] - first["accuracy"])
    assert comparison["only_second"] - comparison["only_first"] == round(comparison["difference"] * 10_000)
    assert comparison["interval"][0] < comparison["difference"] < comparison["interval"][1]
    text = command(folder / "run", folder / "foreign.keras").stdout
    assert "2 against 1" in text
    assert "McNemar" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["foreign.keras", "--split", "validation"], 2, "does not say which images"),
        (["all-images.keras", "--split", "validation"], 2, "none was held out"),
        (["other-images.keras", "--split", "validation"], 2, "was trained on other images"),
        (["absent.keras"], 1, "absent.keras"),
        ([], 2, "MODEL"),
        (["run", "--split", "train"], 2, "train"),
        (["run", "--worst", "0"], 2, "worst"),
        (["run", "foreign.keras", "--figures", "figures"], 2, "show one model"),
        (["run", "--data", "nowhere"], 1, "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(
    command: Run, folder: Path, arguments: list[str], code: int, message: str
) -> None:
    """A wrong request names what was wrong on stderr, writes nothing to stdout and never a traceback."""
    done = command(*arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if not line.startswith("train images: ")]
    assert len(errors) == 1
