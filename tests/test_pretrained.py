"""The model that comes with the package: there, whole, accounted for, and answering without a framework."""

import hashlib
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import exports
import models
from cifarcnn import architectures
from cifarcnn.cli.main import cli
from cifarcnn.data import sources
from cifarcnn.errors import ModelError
from cifarcnn.evaluation import evaluate as evaluation
from cifarcnn.figures import presentation
from cifarcnn.models import exporting, modelfile, pretrained
from cifarcnn.prediction import predict as prediction

pytestmark = exports.QUIET_CONVERTERS


@pytest.fixture(scope="module")
def measured(data_directory: Path) -> evaluation.Evaluation:
    """The file as it is installed, on the real test images."""
    return evaluation.evaluate("pretrained", data=data_directory)


def test_the_file_is_what_was_packaged() -> None:
    """Its checksum is the recorded one, it is small enough to carry about, and in half precision."""
    data = pretrained.PATH.read_bytes()
    assert hashlib.sha256(data).hexdigest() == pretrained.sha256()
    assert pretrained.is_pretrained(data)
    assert not pretrained.is_pretrained(data[:-1])
    assert len(data) <= 10 << 20
    assert modelfile.read_metadata(pretrained.PATH)["weights"] == "float16"


def test_its_origin_is_told() -> None:
    """The command that trained it, its seed, versions, date, and what it was measured at."""
    found = modelfile.read_metadata(pretrained.PATH)["provenance"]
    assert found["command"].startswith("cifarcnn train --arch ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert {"keras", "tensorflow"} <= set(found["versions"])
    assert 0.5 < found["test_accuracy"] < found["test_accuracy_views"] < 1
    shown = json.loads(CliRunner().invoke(cli, ["summary", "pretrained", "--json"]).stdout)
    assert shown["sha256"] == pretrained.sha256()
    assert shown["metadata"]["provenance"] == found
    assert found["command"] in CliRunner().invoke(cli, ["summary", "pretrained"]).stdout


@pytest.mark.slow
def test_it_is_as_accurate_as_it_says(measured: evaluation.Evaluation) -> None:
    """Its evaluation gives the recorded figure, of which one image in 500 may differ."""
    told = modelfile.read_metadata(pretrained.PATH)["provenance"]["test_accuracy"]
    assert abs(measured.metrics.accuracy - told) <= 0.002


@pytest.mark.slow
def test_its_weights_are_read_back(data_directory: Path) -> None:
    """As a Keras network it answers as the file does; told of images, it trains on as if it never stopped."""
    train = sources.load("train", data=data_directory)
    expected = modelfile.load("pretrained").probabilities(train.images[:500])
    for images in (None, train.images[500:1000]):
        network = pretrained.keras_model(images=images)
        np.testing.assert_allclose(network.predict_on_batch(train.images[:500]), expected, atol=1e-4)
    as_trained = np.asarray(network(train.images[:500], training=True))
    assert (as_trained.argmax(1) == expected.argmax(1)).mean() > 0.95
    with pytest.raises(ModelError, match="do not fit the network whiten6-small"):
        pretrained.keras_model(arch="whiten6-small")


@pytest.mark.slow
def test_weights_of_either_precision_are_read_back(tmp_path: Path) -> None:
    """The converter's own float16 as well, which rounds more than the kernels, and float32."""
    keras.utils.set_random_seed(1)
    network = architectures.build("whiten6-tiny")
    generator = np.random.default_rng(0)
    for weight in network.weights:
        if weight.name in exports.RANGES:
            weight.assign(generator.uniform(*exports.RANGES[weight.name], weight.shape).astype(np.float32))
    for half in (False, True):
        exporting.convert(network, "litert", tmp_path / "m.tflite", half=half)
        expected = modelfile.load(tmp_path / "m.tflite").probabilities(exports.IMAGES[:20])
        found = pretrained.keras_model(tmp_path / "m.tflite", "whiten6-tiny")
        np.testing.assert_allclose(found.predict_on_batch(exports.IMAGES[:20]), expected, atol=1e-4)
    exports.litert(models.tiny(), tmp_path / "other.tflite")
    with pytest.raises(ModelError, match="do not fit the network whiten6-tiny"):
        pretrained.keras_model(tmp_path / "other.tflite", "whiten6-tiny")


@pytest.mark.slow
def test_it_has_one_name_everywhere(measured: evaluation.Evaluation, tmp_path: Path) -> None:
    """In a document's list, in its comparisons, and on the page."""
    compared = evaluation.comparison_document([measured] * 2, [evaluation.compare(measured, measured)])
    assert compared["models"][0]["model"] == compared["comparisons"][0]["first"] == "pretrained"
    page = presentation.write_report(measured, tmp_path).read_text("utf-8")
    assert "<h1>pretrained on " in page
    assert "cifarcnn evaluate pretrained --split test" in page


def test_it_is_the_model_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without training anything, pictures are answered; a run lying about changes nothing."""
    Image.fromarray(exports.IMAGES[0]).save(tmp_path / "p.png")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "best.keras").write_text("not looked at")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CIFARCNN_MODEL", raising=False)
    done = CliRunner().invoke(cli, ["predict", "p.png", "--json"])
    assert done.exit_code == 0, done.stderr
    assert "model: pretrained" in done.stderr
    assert "LiteRT, " in done.stderr
    (answer,) = json.loads(done.stdout)["predictions"]
    named = next(iter(prediction.predict([tmp_path / "p.png"], model="pretrained")))
    assert isinstance(named, prediction.Prediction)
    assert answer["probability"] == np.float64(named.top[0].probability)


def test_answering_imports_no_framework(tmp_path: Path) -> None:
    """Neither Keras nor TensorFlow, and of the other commands nothing."""
    Image.fromarray(exports.IMAGES[0]).save(tmp_path / "p.png")
    done = exports.plainly(
        "import sys; from cifarcnn.cli.main import cli\n"
        f"cli.main(['predict', {str(tmp_path / 'p.png')!r}], standalone_mode=False)\n"
        "heavy = ('keras', 'tensorflow', 'jax', 'h5py', 'onnx', 'matplotlib', 'http.client', 'rich.table')\n"
        "print('loaded:', [name for name in heavy if name in sys.modules])\n"
    )
    assert done.stdout.endswith("loaded: []\n"), done.stderr
