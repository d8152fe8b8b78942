"""Model files: what is written opens anywhere, and answers the same however it is asked."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import models
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.errors import ModelError
from cifarcnn.models import modelfile, pretrained
from cifarcnn.runs.progress import Progress
from cifarcnn.runs.run import RunDirectory


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of ours."""
    return models.save_tiny(
        tmp_path_factory.mktemp("good") / "good.keras", {"arch": "tiny", "temperature": 1.5}
    )


@pytest.fixture(scope="module")
def opened(good: Path) -> modelfile.Model:
    """The same, loaded."""
    return modelfile.load(good)


@pytest.mark.slow
def test_saved_models_open_in_plain_keras(good: Path, opened: modelfile.Model) -> None:
    """A process that never imports cifarcnn gets the same answers from our file."""
    answers, knows_us = json.loads(models.plain_keras(good).stdout)
    assert not knows_us
    np.testing.assert_allclose(answers, opened.probabilities(models.pixels(3)), atol=1e-6)


def test_weights_and_metadata_survive(good: Path, opened: modelfile.Model) -> None:
    """What was saved is what is loaded."""
    assert models.weights_digest(opened.network) == models.weights_digest(models.tiny())
    assert models.weights_digest(opened.network) != models.weights_digest(models.tiny(seed=2))
    assert opened.metadata == modelfile.read_metadata(good) == {"arch": "tiny", "temperature": 1.5}


def test_equal_models_make_equal_files(good: Path, tmp_path: Path) -> None:
    """No clock and no memory address gets into a file."""
    again = models.save_tiny(tmp_path / "again.keras", {"temperature": 1.5, "arch": "tiny"})
    assert again.read_bytes() == good.read_bytes()
    other = models.save_tiny(tmp_path / "other.keras", {"arch": "other"})
    assert other.read_bytes() != good.read_bytes()


def test_a_failed_save_leaves_the_old_file(good: Path, tmp_path: Path) -> None:
    """Metadata that JSON cannot hold spoils nothing."""
    path = tmp_path / "kept.keras"
    path.write_bytes(good.read_bytes())
    with pytest.raises(ValueError, match="JSON"):
        modelfile.save(models.tiny(), path, {"loss": math.nan})
    assert path.read_bytes() == good.read_bytes()
    assert os.listdir(tmp_path) == ["kept.keras"]


def test_metadata_is_read_without_keras(good: Path) -> None:
    """Looking at a model costs no import of Keras or TensorFlow."""
    script = (
        "import sys, pathlib; from cifarcnn.models import modelfile\n"
        f"print(modelfile.read_metadata(pathlib.Path({str(good)!r})))\n"
        "print({'keras', 'tensorflow', 'h5py'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "{'arch': 'tiny', 'temperature': 1.5}\nset()\n"


def test_answers_do_not_depend_on_the_batch(opened: modelfile.Model) -> None:
    """Alone, in a part of a batch and in several, but for how a processor rounds batches of other sizes."""
    images = models.pixels(530)
    answers = opened.probabilities(images)
    assert answers.shape == (530, 10)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)
    for part in (slice(0, 1), slice(3, 20), slice(499, 501), slice(0, 0)):
        np.testing.assert_allclose(opened.probabilities(images[part]), answers[part], rtol=0, atol=1e-6)
    np.testing.assert_allclose(opened.probabilities(images, batch_size=64), answers, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(opened.probabilities(images), answers)


def test_a_run_directory_stands_for_its_best_model(good: Path, tmp_path: Path) -> None:
    """A directory is resolved to best.keras, or refused."""
    with pytest.raises(ModelError, match=r"holds no best\.keras"):
        modelfile.resolve(tmp_path)
    (tmp_path / "best.keras").write_bytes(good.read_bytes())
    assert modelfile.resolve(tmp_path) == tmp_path / "best.keras"
    assert modelfile.read_metadata(tmp_path)["arch"] == "tiny"


def test_a_missing_model_suggests_the_nearest_name(good: Path, tmp_path: Path) -> None:
    """A slip in the name is answered with the right one; where nothing is near, with how to get a model."""
    with pytest.raises(ModelError, match=r"did you mean .*good\.keras"):
        modelfile.load(good.parent / "god.keras")
    with pytest.raises(ModelError, match="cifarcnn train"):
        modelfile.load(tmp_path / "absent" / "x.keras")


def test_plain_keras_models_are_welcome(tmp_path: Path) -> None:
    """A functional model with arithmetic, saved by Keras alone, opens with empty metadata."""
    inputs = keras.Input((32, 32, 3))
    scaled = keras.layers.RandomFlip()(inputs / 255.0)
    filtered = keras.layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(1e-4))(scaled)
    shortcut = keras.layers.Conv2D(4, 3)(scaled) + keras.layers.BatchNormalization()(filtered)
    flat = keras.layers.Flatten()(keras.layers.Dropout(0.2)(shortcut))
    model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Dense(10)(flat)))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.save(tmp_path / "plain.keras")
    loaded = modelfile.load(tmp_path / "plain.keras")
    assert loaded.metadata == {}
    np.testing.assert_allclose(
        loaded.probabilities(models.pixels(8)), model.predict_on_batch(models.pixels(8)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("temperature", [0, "1", None, 1e400, 5e-324])
def test_impossible_temperatures_are_refused(temperature: object, good: Path, tmp_path: Path) -> None:
    """Metadata of others is checked like the rest."""
    content = {**models.members(good), "cifarcnn.json": json.dumps({"temperature": temperature}).encode()}
    with pytest.raises(ModelError, match="temperature"):
        modelfile.read_metadata(models.write(tmp_path / "m.keras", content))


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    """Other input, another number of classes, or scores that are no probabilities are named."""
    cases = {
        "side": (models.tiny(side=28), r"input of shape \(None, 28, 28, 3\); expected \(None, 32, 32, 3\)"),
        "outputs": (models.tiny(keras.layers.Dense(1, activation="sigmoid")), r"\(None, 1\); expected"),
        "logits": (models.tiny(keras.layers.Dense(10)), "not probabilities"),
        "sigmoid": (models.tiny(keras.layers.Dense(10, activation="sigmoid")), "not probabilities"),
    }
    for name, (model, reason) in cases.items():
        model.save(tmp_path / f"{name}.keras")
        with pytest.raises(ModelError, match=reason):
            modelfile.load(tmp_path / f"{name}.keras")


def test_exports_to_other_runtimes_are_no_models_here(tmp_path: Path) -> None:
    """One line says what is accepted; of Keras 2's SavedModel, how to get one."""
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    for name, reason in (("m.onnx", "ONNX model"), ("saved", "SavedModel")):
        with pytest.raises(
            ModelError, match=rf"{reason}, which is not opened; expected a \.keras file, a Lite"
        ):
            modelfile.load(tmp_path / name)
    (tmp_path / "saved" / "keras_metadata.pb").touch()
    with pytest.raises(ModelError, match=r"of Keras 2.*save it with model\.save\('model\.h5'\)"):
        modelfile.load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("outputs", "metadata", "classes"),
    [
        (10, {}, CLASSES),
        (3, {}, ("class 0", "class 1", "class 2")),
        (3, {"classes": ["Ölbild", "船", "a b"]}, ("Ölbild", "船", "a b")),
    ],
)
def test_a_model_knows_its_classes(
    outputs: int, metadata: dict[str, object], classes: tuple[str, ...], tmp_path: Path
) -> None:
    """From its metadata; else those of CIFAR-10 for ten outputs, and numbers for others."""
    network = models.tiny(keras.layers.Dense(outputs, activation="softmax", name="classes"))
    modelfile.save(network, tmp_path / "m.keras", metadata)
    model = modelfile.load(str(tmp_path / "m.keras"))
    assert model.classes == classes
    for images in (models.pixels(3), models.pixels(0)):
        assert model.probabilities(images).shape == (len(images), outputs)


@pytest.mark.parametrize("classes", [["a", "b"], ["a"], ["a", "a"], "ab", [1, 2], None])
def test_classes_that_cannot_be_are_refused(classes: object, tmp_path: Path) -> None:
    """Another number than there are outputs, names twice, and what is no list of names."""
    modelfile.save(models.tiny(), tmp_path / "m.keras", {"classes": classes})
    with pytest.raises(ModelError, match=r"names 2 classes, but has 10 outputs|has the classes .*; expected"):
        modelfile.load(tmp_path / "m.keras")


def test_prepared_pixels_are_noticed(tmp_path: Path) -> None:
    """A network without normalisation that is certain of noise comes with a warning; no other does."""
    outer = keras.Sequential([keras.Input((32, 32, 3)), *models.tiny().layers[1:]])
    outer.layers[0].kernel.assign(np.asarray(outer.layers[0].kernel) * 30)
    outer.save(tmp_path / "prepared.keras")
    (warning,) = modelfile.load(tmp_path / "prepared.keras").warnings
    assert re.search(r"cifarcnn import .*prepared\.keras --pixels 0-1 --output NEW\.keras", warning)
    modelfile.save(outer, tmp_path / "ours.keras", {"arch": "tiny"})
    outer.layers[0].kernel.assign(np.asarray(outer.layers[0].kernel) / 3000)
    outer.save(tmp_path / "raw.keras")
    models.tiny().save(tmp_path / "normalised.keras")
    for name in ("ours", "raw", "normalised"):
        assert modelfile.load(tmp_path / f"{name}.keras").warnings == ()


def ends(network: keras.Model) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The input and output of a network."""
    return network.inputs[0], network.outputs[0]


def test_the_output_is_called_what_it_is(tmp_path: Path) -> None:
    """Numbers that are not finite are no missing softmax; a dict is no number."""
    broken = models.tiny()
    broken.layers[-1].bias.assign(np.full(10, np.nan, np.float32))
    inputs, outputs = ends(models.tiny())
    for name, network, reason in (
        ("nan", broken, "not finite numbers"),
        ("dict", keras.Model(inputs, {"probabilities": outputs}), "returns a dict"),
        ("list", keras.Model(inputs, [outputs, outputs]), "returns a list"),
    ):
        network.save(tmp_path / f"{name}.keras")
        with pytest.raises(ModelError, match=reason):
            modelfile.load(tmp_path / f"{name}.keras")


def test_arrays_and_casts_within_a_network_are_harmless(tmp_path: Path) -> None:
    """A z-score by NumPy arrays, and a cast, open and answer as in plain Keras."""
    inputs = keras.Input((32, 32, 3))
    scored = (keras.ops.cast(inputs, "float32") - np.float32([125, 122, 113])) / np.float32([63, 62, 66])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(scored))
    network = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    network.save(tmp_path / "m.keras")
    found = modelfile.load(tmp_path / "m.keras").probabilities(models.pixels(8))
    np.testing.assert_allclose(found, network.predict_on_batch(models.pixels(8)), atol=1e-6)


def test_models_of_keras_3_6_answer_without_a_remark(good: Path, tmp_path: Path) -> None:
    """It wrote one input into a list, at which later versions warn whenever the network is asked."""

    def listed(config: dict[str, Any]) -> None:
        for name in ("input_layers", "output_layers"):
            config["config"][name] = [config["config"][name]]

    inputs, outputs = ends(models.tiny())
    keras.Model(inputs, outputs).save(tmp_path / "functional.keras")
    path = models.edited(tmp_path / "old.keras", tmp_path / "functional.keras", listed)
    expected = modelfile.load(good).probabilities(models.pixels(3))
    np.testing.assert_array_equal(modelfile.load(path).probabilities(models.pixels(3)), expected)


def test_mixed_precision_is_for_training(tmp_path: Path) -> None:
    """A network that was trained in float16 answers in float32."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        models.tiny().save(tmp_path / "m.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    network = modelfile.load(tmp_path / "m.keras").keras
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}


def test_pretrained_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands for the model that comes with the package, unless something here is called so."""
    monkeypatch.chdir(tmp_path)
    assert modelfile.resolve(Path("pretrained")) == pretrained.PATH
    (tmp_path / "pretrained").write_text("mine")
    assert modelfile.resolve(Path("pretrained")) == Path("pretrained")


def test_paths_that_cannot_be_looked_at_are_one_line(tmp_path: Path) -> None:
    """A name that is too long, and a link to nothing, which is no reason to suggest itself."""
    (tmp_path / "best.keras").symlink_to("gone.keras")
    for name, reason in (("a" * 300, "File name too long"), ("best.keras", "is a link to gone.keras, which")):
        with pytest.raises(ModelError, match=reason):
            modelfile.resolve(tmp_path / name)


def test_the_last_model_becomes_the_best_when_a_checkpoint_says_so(tmp_path: Path) -> None:
    """Also where a kill prevented it; but not the model of an epoch that no checkpoint knows."""

    def after(*accuracies: float) -> Progress:
        rows = [{"epoch": n, "val_accuracy": accuracy} for n, accuracy in enumerate(accuracies, 1)]
        return Progress(epoch=len(rows), rows=rows)

    run = RunDirectory(tmp_path)
    modelfile.save(models.tiny(), run.last, {"epoch": 2})
    modelfile.keep_best(run, after(0.5))
    modelfile.keep_best(run, after(0.5, 0.4))
    assert not run.best.exists()
    modelfile.keep_best(run, after(0.5, 0.6))
    good = run.last.read_bytes()
    assert run.best.read_bytes() == good
    run.last.write_bytes(good[:1000])
    modelfile.keep_best(run, after(0.5, 0.6))
    assert run.best.read_bytes() == good


def test_lazy_answers_are_computed_with_our_settings(opened: modelfile.Model) -> None:
    """Whatever float type the caller has set in Keras, which is theirs again afterwards."""
    expected = opened.probabilities(models.pixels(3))
    keras.config.set_floatx("float64")
    try:
        np.testing.assert_array_equal(opened.probabilities(models.pixels(3)), expected)
        assert keras.config.floatx() == "float64"
    finally:
        keras.config.set_floatx("float32")
