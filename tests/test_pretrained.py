"""The model that comes with the package: there, whole, accounted for, and answering without a framework."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import exports
from cifarcnn.evaluation import evaluate as evaluation
from cifarcnn.figures import presentation
from cifarcnn.models import modelfile, pretrained
from cifarcnn.prediction import predict as prediction
from conftest import Run


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


def test_its_origin_is_told(cifarcnn: Run) -> None:
    """The command that trained it, its seed, versions, date, and what it was measured at."""
    found = modelfile.read_metadata(pretrained.PATH)["provenance"]
    assert found["command"].startswith("cifarcnn train --arch ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert {"keras", "tensorflow"} <= set(found["versions"])
    assert 0.5 < found["test_accuracy"] < found["test_accuracy_views"] < 1
    shown = json.loads(cifarcnn("summary", "pretrained", "--json").stdout)
    assert shown["sha256"] == pretrained.sha256()
    assert shown["metadata"]["provenance"] == found
    assert found["command"] in cifarcnn("summary", "pretrained").stdout


def test_it_is_as_accurate_as_it_says(measured: evaluation.Evaluation) -> None:
    """Its evaluation gives the recorded figure, of which one image in 500 may differ."""
    told = modelfile.read_metadata(pretrained.PATH)["provenance"]["test_accuracy"]
    assert abs(measured.metrics.accuracy - told) <= 0.002


def test_it_has_one_name_everywhere(measured: evaluation.Evaluation, tmp_path: Path) -> None:
    """In a document's list, in its comparisons, and on the page."""
    compared = evaluation.comparison_document([measured] * 2, [evaluation.compare(measured, measured)])
    assert compared["models"][0]["model"] == compared["comparisons"][0]["first"] == "pretrained"
    page = presentation.write_report(measured, tmp_path).read_text("utf-8")
    assert "<h1>pretrained on " in page
    assert "cifarcnn evaluate pretrained --split test" in page


def test_it_is_the_model_where_none_is_named(cifarcnn: Run, tmp_path: Path) -> None:
    """Without training anything, pictures are answered; a run lying about changes nothing."""
    Image.fromarray(exports.IMAGES[0]).save(tmp_path / "p.png")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "best.keras").write_text("not looked at")
    done = cifarcnn("predict", "p.png", "--json")
    assert done.returncode == 0, done.stderr
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
