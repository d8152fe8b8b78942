"""Exported models: they answer as Keras does, carry its metadata, and appear whole or not at all."""

import errno
import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from click.testing import CliRunner

import exports
import models
from cifarcnn.cli.main import cli
from cifarcnn.data import sources
from cifarcnn.data.cifar10 import CLASSES, Images, stratified_split
from cifarcnn.errors import ModelError, UsageError
from cifarcnn.evaluation import evaluate as evaluation
from cifarcnn.events import Event, Note
from cifarcnn.models import exporting, modelfile
from cifarcnn.models.modelfile import SAVED_MODEL, TRAINED_ON, Model

METADATA = {
    "arch": "modern",
    "classes": list(reversed(CLASSES)),
    "seed": 3,
    "temperature": 1.5,
    "val_size": 5000,
}
FORMATS = {"litert": "m.tflite", "onnx": "m.onnx", "saved-model": "m_saved_model"}
pytestmark = exports.QUIET_CONVERTERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a network of every layer we use."""
    folder = tmp_path_factory.mktemp("exports")
    (folder / "run").mkdir()
    modelfile.save(exports.modern(), folder / "run" / "best.keras", METADATA)
    return folder


@pytest.fixture(scope="module")
def keras_answers(folder: Path) -> np.ndarray:
    """What Keras answers."""
    return modelfile.load(folder / "run").probabilities(exports.IMAGES)


@pytest.fixture(scope="module")
def exported(folder: Path, data_directory: Path) -> dict[str, exporting.Export]:
    """The run in every format."""
    return {
        name: exporting.export(folder / "run", name, output=folder / file, data=data_directory)
        for name, file in FORMATS.items()
    }


@pytest.mark.slow
def test_other_runtimes_run_what_is_written(
    exported: dict[str, exporting.Export], keras_answers: np.ndarray
) -> None:
    """ONNX Runtime and TensorFlow, without this package, on raw pixels of any number of images."""
    for result in exported.values():
        assert result.difference <= 1e-4
        assert result.images == 500
    images = exports.IMAGES[:7].astype(np.float32)
    session = onnxruntime.InferenceSession(exported["onnx"].path, providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {session.get_inputs()[0].name: images})
    np.testing.assert_allclose(rows, keras_answers[:7], atol=1e-4)
    loaded = tf.saved_model.load(str(exported["saved-model"].path))
    np.testing.assert_allclose(loaded.serve(images), keras_answers[:7], atol=1e-4)


@pytest.mark.slow
def test_litert_opens_as_a_model(exported: dict[str, exporting.Export], keras_answers: np.ndarray) -> None:
    """It agrees with Keras, and with itself in batches of any size."""
    model = modelfile.load(exported["litert"].path)
    answers = model.probabilities(exports.IMAGES)
    # Flat or equal answers would agree whatever the network.
    assert keras_answers.max(axis=1).mean() > 0.5
    assert len(set(keras_answers.argmax(axis=1))) > 4
    np.testing.assert_allclose(answers, keras_answers, atol=1e-4)
    for part in (slice(0, 1), slice(3, 20), slice(499, 530)):
        alone = model.probabilities(exports.IMAGES[part])
        np.testing.assert_allclose(alone, answers[part], rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.probabilities(exports.IMAGES, batch_size=64), answers, rtol=0, atol=1e-6)
    assert model.inference().endswith("float32")
    assert model.classes == tuple(METADATA["classes"])


@pytest.mark.slow
def test_metadata_travels(exported: dict[str, exporting.Export], folder: Path) -> None:
    """What was stored with the network is stored with its export, and which file that was."""
    digest = hashlib.sha256((folder / "run" / "best.keras").read_bytes()).hexdigest()
    expected = {**METADATA, "exported_from": digest, "weights": "float32"}
    assert modelfile.read_metadata(exported["litert"].path) == expected
    (entry,) = onnx.load(exported["onnx"].path).metadata_props
    extra = exported["saved-model"].path / "assets.extra" / "cifarcnn.json"
    assert json.loads(entry.value) == json.loads(extra.read_text()) == expected


@pytest.mark.slow
def test_litert_files_open_elsewhere(exported: dict[str, exporting.Export]) -> None:
    """The zip with our metadata disturbs neither an interpreter nor a program for zips."""
    path = exported["litert"].path
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["cifarcnn.json"]
        assert json.loads(archive.read("cifarcnn.json"))["temperature"] == 1.5
    done = exports.plainly(
        "from ai_edge_litert.interpreter import Interpreter\n"
        f"model = Interpreter({str(path)!r})\n"
        "model.allocate_tensors(); model.invoke()\n"
        "print(model.get_output_details()[0]['shape'].tolist())\n"
    )
    assert done.stdout == "[1, 10]\n"


@pytest.mark.slow
def test_no_framework_is_imported(exported: dict[str, exporting.Export]) -> None:
    """LiteRT models answer without Keras and TensorFlow."""
    done = exports.plainly(
        "import sys, numpy; from pathlib import Path; from cifarcnn.models import modelfile\n"
        f"model = modelfile.load(Path({str(exported['litert'].path)!r}))\n"
        "print(model.probabilities(numpy.zeros((3, 32, 32, 3), 'uint8')).shape)\n"
        "print([name for name in ('keras', 'tensorflow', 'jax') if name in sys.modules])\n"
    )
    assert done.stdout == "(3, 10)\n[]\n", done.stderr


@pytest.mark.slow
def test_half_precision(folder: Path, data_directory: Path, exported: dict[str, exporting.Export]) -> None:
    """Half the bytes, exact but for the rounding of the weights, which is reported."""
    result = exporting.export(
        folder / "run", "litert", output=folder / "half.tflite", half=True, data=data_directory
    )
    assert result.weights == modelfile.read_metadata(result.path)["weights"] == "float16"
    assert result.rounding_difference is not None
    assert result.difference <= 1e-4 < result.rounding_difference < 0.1
    assert result.changed is not None
    assert result.changed < 0.05
    assert exported["litert"].size - result.size > 0.4 * exported["litert"].size - 6000
    assert modelfile.load(result.path).probabilities(exports.IMAGES).shape == (530, 10)


def test_other_input_than_pixels_in_float32_is_named(tmp_path: Path, data_directory: Path) -> None:
    """The error is about the user's model and its input, not about a temporary file."""
    inputs = keras.Input((32, 32, 3), dtype="uint8", name="bytes")
    network = keras.Model(inputs, models.tiny()(keras.layers.Rescaling(1 / 255)(inputs)))
    network.save(tmp_path / "bytes.keras")
    with pytest.raises(ModelError, match=r"bytes\.keras takes uint8 images at its input 'bytes'"):
        exporting.export(tmp_path / "bytes.keras", "onnx", output=tmp_path / "m.onnx", data=data_directory)


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["whole", "half"])
def test_an_export_that_answers_otherwise_is_not_kept(
    half: bool, folder: Path, data_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter that gets the network wrong, at once or when it rounds, leaves an error and no file."""
    right = exporting.convert

    def wrong(network: keras.Model, kind: str, path: Path, *, half: bool = False) -> None:
        right(exports.modern(seed=2) if half is wanted else network, kind, path, half=half)

    wanted = half
    monkeypatch.setattr(exporting, "convert", wrong)
    said = "in half precision answers otherwise" if half else "as litert answers otherwise than Keras"
    with pytest.raises(ModelError, match=said):
        exporting.export(
            folder / "run", "litert", output=tmp_path / "m.tflite", half=half, data=data_directory
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("size", "known", "total", "held_out"),
    [
        (600, True, 2000, True),
        (50, True, 2000, False),  # too few
        (600, False, 2000, False),  # of another data set
        (1000, False, 1008, False),  # of which so many cannot be held out
        (0, True, 300, False),
    ],
)
def test_the_comparison_is_on_500_images(
    size: int, known: bool, total: int, held_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are held out ones where training held out enough of these very images; else, of all."""
    pixels = np.random.default_rng(0).integers(0, 256, (total, 32, 32, 3), np.uint8)
    train = Images(pixels, (np.arange(total) % 10).astype(np.uint8))
    monkeypatch.setattr(sources, "load", lambda *_, **__: train)
    facts = {TRAINED_ON: train.sha256() if known else "0" * 64}
    model = Model(Path("m.keras"), {"val_size": size, "seed": 3, "facts": facts}, None)  # type: ignore[arg-type]
    chosen = exporting._images(model, None, lambda _: None)
    assert len(chosen) == min(total, 500)
    among = stratified_split(train.labels, size, 3)[1] if held_out else np.arange(total)
    every = among[:: max(1, len(among) // 500)][:500]
    assert (chosen.images == train.images[every]).all()


@pytest.mark.slow
def test_nothing_is_overwritten_unless_asked(folder: Path, data_directory: Path, tmp_path: Path) -> None:
    """What is there is kept, a file and a directory alike, until --force says otherwise."""
    file, directory = tmp_path / "m.tflite", tmp_path / "m_saved_model"
    directory.mkdir()
    for name, target, mine in (("litert", file, file), ("saved-model", directory, directory / SAVED_MODEL)):
        mine.write_text("kept")
        with pytest.raises(UsageError, match="--force"):
            exporting.export(folder / "run", name, output=target, data=data_directory)
        assert mine.read_text() == "kept"
        exporting.export(folder / "run", name, output=target, data=data_directory, force=True)
        assert mine.read_bytes() != b"kept"
    assert sorted(os.listdir(tmp_path)) == ["m.tflite", "m_saved_model"]


@pytest.mark.parametrize("name", FORMATS)
def test_no_directory_but_a_saved_model_is_replaced(name: str, folder: Path, tmp_path: Path) -> None:
    """Not even --force deletes a directory of other things."""
    target = tmp_path / FORMATS[name]
    target.mkdir()
    (target / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="is a directory, but no SavedModel to replace"):
        exporting.export(folder / "run", name, output=target, force=True)
    assert (target / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("moved", "problem", "raised", "said"),
    [
        ("m_saved_model", OSError(errno.EIO, "Input/output error"), ModelError, "Input/output error; choose"),
        ("model_saved_model", KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=["disk", "ctrl-c"],
)
def test_what_cannot_be_replaced_is_back_in_its_place(
    moved: str,
    problem: BaseException,
    raised: type[BaseException],
    said: str | None,
    folder: Path,
    data_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that fails, or Ctrl-C, before the new one is moved or after the old one was."""
    target = tmp_path / "m_saved_model"
    target.mkdir()
    (target / SAVED_MODEL).write_text("kept")
    monkeypatch.setattr(exporting, "_write", lambda *arguments: arguments[3].mkdir())
    rename = Path.rename

    def failing(self: Path, other: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        if self.name == "m_saved_model":
            rename(self, other)
        raise problem

    def waiting(self: Path, other: Path) -> Path:
        return failing(self, other) if self.name == moved else rename(self, other)

    monkeypatch.setattr(Path, "rename", waiting)
    with pytest.raises(raised, match=said):
        exporting.export(folder / "run", "saved-model", output=target, data=data_directory, force=True)
    assert (target / SAVED_MODEL).read_text() == "kept"
    assert os.listdir(tmp_path) == ["m_saved_model"]


def test_impossible_wishes_are_refused_at_once(folder: Path, tmp_path: Path) -> None:
    """Formats and settings that do not go together, and places that are not there."""
    for wish, reason in (
        ({"format": "pb"}, "litert, onnx, saved-model"),
        ({"format": "onnx", "half": True}, "litert alone"),
        ({"format": "onnx", "output": tmp_path / "no" / "m.onnx"}, "no directory"),
        ({"format": "onnx", "output": tmp_path / "m"}, "ends in .onnx"),
        ({"format": "litert", "output": tmp_path / "m.onnx"}, "ends in .tflite"),
    ):
        with pytest.raises(UsageError, match=reason):
            exporting.export(folder / "run", **wish)  # type: ignore[arg-type]


def test_without_its_packages_onnx_says_how_to_get_them(
    folder: Path, data_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the command that installs what is missing."""
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ModelError, match="pip install onnx tf2onnx onnxruntime"):
        exporting.export(folder / "run", "onnx", output=tmp_path / "m.onnx", data=data_directory)


@pytest.mark.slow
def test_exported_models_are_evaluated(
    folder: Path, exported: dict[str, exporting.Export], data_directory: Path
) -> None:
    """Evaluation counts the same answers, and does without layers."""
    ours = evaluation.evaluate(folder / "run", data=data_directory)
    notes: list[Event] = []
    theirs = evaluation.evaluate(exported["litert"].path, data=data_directory, on_event=notes.append)
    assert theirs.metrics.accuracy == ours.metrics.accuracy
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-4)
    assert theirs.first_kernel is None
    assert any(isinstance(note, Note) and note.text.startswith("LiteRT, ") for note in notes)
    with pytest.raises(ModelError, match="has no Keras layers"):
        _ = modelfile.load(exported["litert"].path).keras
    with pytest.raises(ModelError, match="has no Keras layers"):
        exporting.export(exported["litert"].path, "onnx", output=folder / "again.onnx")
    with pytest.raises(UsageError, match="leave --half out"):
        exporting.export(exported["litert"].path, "litert", output=folder / "again.tflite", half=True)


def test_the_command(
    folder: Path, data_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One document on stdout; the file is named after the run and stands in the working directory."""
    monkeypatch.chdir(tmp_path)
    arguments = ["export", str(folder / "run"), "--format", "litert", "--data", str(data_directory)]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert document["path"] == "run.tflite"
    assert document["size"] == (tmp_path / "run.tflite").stat().st_size
    again = CliRunner().invoke(cli, arguments)
    assert again.stdout == ""
    assert isinstance(again.exception, UsageError)
    assert "run.tflite is there already" in str(again.exception)
    shown = CliRunner().invoke(cli, ["summary", "run.tflite"]).stdout
    assert "without Keras layers" in shown
    assert "exported_from" in shown
