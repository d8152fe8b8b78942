"""``cifarcnn summary``: the table of all networks, and the layers of one."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import models
from cifarcnn.architectures import ARCHITECTURES
from cifarcnn.cli.main import cli
from cifarcnn.errors import ModelError, UsageError
from cifarcnn.models import modelfile, pretrained


def run(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, ["summary", *map(str, arguments)])


def test_without_a_name_all_architectures_are_listed() -> None:
    """Names, parameters and FLOPs of the whole table, in order."""
    document = json.loads(run("--json").stdout)
    assert document["schema"] == 1
    listed = [(row["name"], row["params"]) for row in document["architectures"]]
    assert listed == [(row.name, row.params) for row in ARCHITECTURES]
    assert all(row["flops"] > 0 and row["summary"] for row in document["architectures"])


def test_the_layers_of_an_architecture() -> None:
    """vgg2's table, layer by layer; its sums are the totals."""
    document = json.loads(run("vgg2", "--json").stdout)
    layers = {layer["name"]: layer for layer in document["layers"]}
    assert layers["block1_conv1"] == {
        "name": "block1_conv1", "type": "Conv2D", "output_shape": [32, 32, 32], "params": 896,
        "flops": 2 * 27 * 32 * 1024,
    }  # fmt: skip
    assert sum(layer["params"] for layer in document["layers"]) == document["params"] == 591_658
    assert sum(layer["flops"] for layer in document["layers"]) == document["flops"]
    # Two moving statistics for each of the 32 + 64 normalised channels are not trained.
    assert document["params"] - document["trainable_params"] == 2 * (32 + 64)


def test_for_people_layers_and_recipes_are_shown() -> None:
    """Two tables: the layers, and the settings of the recipes side by side."""
    shown = run("vgg2").stdout
    assert "591,658 parameters" in shown
    line = next(line for line in shown.splitlines() if line.startswith("optimizer"))
    assert line.split() == ["optimizer", "muon", "sgd", "nesterov"]
    line = next(line for line in shown.splitlines() if line.startswith("learning_rate"))
    assert line.split() == ["learning_rate", "0.06", "0.001", "0.003"]


def test_a_model_file_is_summarised_too(tmp_path: Path) -> None:
    """A file's layers are shown as an architecture's are."""
    path = models.save_tiny(tmp_path / "model.keras")
    document = json.loads(run(path, "--json").stdout)
    assert document["name"] == str(path)
    assert [layer["type"] for layer in document["layers"]][:2] == ["Rescaling", "Conv2D"]


@pytest.mark.parametrize("name", ["nowhere/model.keras", "missing.tflite"])
def test_a_missing_model_file_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name that was looked for is no architecture's, whatever its ending."""
    monkeypatch.chdir(tmp_path)
    done = run(name)
    assert isinstance(done.exception, ModelError)
    assert str(done.exception).startswith(f"there is no model {name}; ")


def test_a_name_too_long_for_a_file_is_unknown() -> None:
    """It can be no model, so it is an architecture that is not there."""
    done = run("a" * 300)
    assert done.stdout == ""
    assert isinstance(done.exception, UsageError)
    assert str(done.exception).startswith("unknown architecture")


@pytest.mark.parametrize("share", [0.03, 0.99])
def test_what_is_left_of_a_litert_model_is_refused(share: float, tmp_path: Path) -> None:
    """A file that is cut short is no model, to the summary as to who loads it, and in the same words."""
    whole = pretrained.PATH.read_bytes()
    (tmp_path / "cut.tflite").write_bytes(whole[: round(share * len(whole))])
    done = run(tmp_path / "cut.tflite")
    assert done.stdout == ""
    assert isinstance(done.exception, ModelError)
    assert "cut.tflite is damaged" in str(done.exception)
    with pytest.raises(ModelError) as caught:
        modelfile.load(tmp_path / "cut.tflite")
    assert str(caught.value) == str(done.exception)
