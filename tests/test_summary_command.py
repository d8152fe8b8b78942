"""``cifarcnn summary``: the table of all networks, and the layers of one."""

import json
from pathlib import Path

import pytest

import models
from cifarcnn.architectures import ARCHITECTURES
from cifarcnn.models import pretrained
from conftest import Run


def test_without_a_name_all_architectures_are_listed(cifarcnn: Run) -> None:
    """Names, parameters and FLOPs of the whole table, in order."""
    document = json.loads(cifarcnn("summary", "--json").stdout)
    assert document["schema"] == 1
    listed = [(row["name"], row["params"]) for row in document["architectures"]]
    assert listed == [(row.name, row.params) for row in ARCHITECTURES]
    assert all(row["flops"] > 0 and row["summary"] for row in document["architectures"])


def test_the_layers_of_an_architecture(cifarcnn: Run) -> None:
    """vgg2's table, layer by layer; its sums are the totals."""
    document = json.loads(cifarcnn("summary", "vgg2", "--json").stdout)
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert layers["block1_conv1"] == {
        "name": "block1_conv1", "type": "Conv2D", "output_shape": [32, 32, 32], "params": 896,
        "flops": 2 * 27 * 32 * 1024,
    }  # fmt: skip
    assert sum(layer["params"] for layer in document["layers"]) == document["params"] == 591_658
    assert sum(layer["flops"] for layer in document["layers"]) == document["flops"]
    # Two moving statistics for each of the 32 + 64 normalised channels are not trained.
    assert document["params"] - document["trainable_params"] == 2 * (32 + 64)


def test_for_people_layers_and_both_recipes_are_shown(cifarcnn: Run) -> None:
    """Two tables: the layers, and the settings of the two recipes side by side."""
    shown = cifarcnn("summary", "vgg2").stdout
    assert "591,658 parameters" in shown
    line = next(line for line in shown.splitlines() if line.startswith("optimizer"))
    assert line.split() == ["optimizer", "muon", "sgd"]
    line = next(line for line in shown.splitlines() if line.startswith("learning_rate"))
    assert line.split() == ["learning_rate", "0.06", "0.001"]


def test_a_model_file_is_summarised_too(cifarcnn: Run, tmp_path: Path) -> None:
    """A file's layers are shown as an architecture's are."""
    path = models.save_tiny(tmp_path / "model.keras")
    document = json.loads(cifarcnn("summary", path, "--json").stdout)
    assert document["name"] == str(path)
    assert [layer["type"] for layer in document["layers"]][:2] == ["Rescaling", "Conv2D"]


def test_a_missing_model_file_is_one_line(cifarcnn: Run) -> None:
    """Exit code 1, and the name that was looked for."""
    done = cifarcnn("summary", "nowhere/model.keras")
    assert done.returncode == 1
    assert "nowhere/model.keras" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_name_too_long_for_a_file_is_unknown(cifarcnn: Run) -> None:
    """It can be no model, so it is an architecture that is not there."""
    done = cifarcnn("summary", "a" * 300)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: unknown architecture")


@pytest.mark.parametrize("share", [0.03, 0.5, 0.99])
def test_what_is_left_of_an_exported_model_is_refused(share: float, cifarcnn: Run, tmp_path: Path) -> None:
    """A file that is cut short is no model, to the summary as to the evaluation, and in the same words."""
    whole = pretrained.PATH.read_bytes()
    (tmp_path / "cut.tflite").write_bytes(whole[: round(share * len(whole))])
    done = cifarcnn("summary", "cut.tflite")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: the model cut.tflite is damaged")
    assert cifarcnn("evaluate", "cut.tflite").stderr == done.stderr
