"""Training end to end, by the installed command on the real images."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import cifarcnn as package
from cifarcnn.architectures import ARCHITECTURES
from cifarcnn.cli.main import cli
from cifarcnn.data import sources
from cifarcnn.errors import CifarCNNError
from cifarcnn.events import Event, StepsDone
from cifarcnn.models import modelfile
from cifarcnn.training import train as trainer
from conftest import Run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data_directory: Path) -> Path:
    """The run directory of a short training of vgg2."""
    out = tmp_path_factory.mktemp("runs")
    result = package.train(
        out=out, data=data_directory, arch="vgg2", epochs=2, train_size=200, val_size=200, batch_size=50
    )
    return result.run_dir


SIZES_ALONE = {"whiten6-small", "whiten6-medium", "whiten6-large"}
"""Networks that differ from another in nothing but numbers of filters."""


@pytest.mark.parametrize("name", [row.name for row in ARCHITECTURES if row.name not in SIZES_ALONE])
def test_every_kind_of_network_trains(name: str, tmp_path: Path, data_directory: Path) -> None:
    """An epoch of its fast recipe leaves a run directory with everything in it."""
    options: dict[str, Any] = {"epochs": 1, "train_size": 100, "val_size": 50, "batch_size": 50}
    result = package.train(out=tmp_path, data=data_directory, arch=name, **options)
    assert (result.arch, result.recipe, result.epochs, result.best_epoch) == (name, "fast", 1, 1)
    assert result.val_accuracy is not None
    for file in (
        *("settings.json", "environment.json", "metrics.csv", "timing.csv", "best.keras", "last.keras"),
        *("curves.png", "confusion.png", "report.html"),
    ):
        assert (result.run_dir / file).stat().st_size > 0
    assert list((result.run_dir / "tensorboard").glob("events.*"))
    before, after = (
        package.load_model(path).probabilities(package.load_images("train", data_directory).images[:50])
        for path in (result.run_dir / "best.keras", result.run_dir / "last.keras")
    )
    assert np.array_equal(before, after)


def test_pictures_are_renewed_while_training(
    tmp_path: Path, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are there before the last epoch, and another after it; in TensorBoard's log as well."""
    drawn: list[bytes] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StepsDone) and (event.epoch, event.step) == (2, event.steps):
            (run,) = tmp_path.iterdir()
            drawn.extend((run / name).read_bytes() for name in ("curves.png", "confusion.png"))

    monkeypatch.setattr(trainer, "REDRAW_SECONDS", 0)
    options: dict[str, Any] = {"epochs": 2, "train_size": 100, "val_size": 50, "batch_size": 50}
    run = package.train(
        out=tmp_path, data=data_directory, arch="plain6-small", on_event=on_event, **options
    ).run_dir
    assert len(drawn) == 2
    assert (run / "curves.png").read_bytes() != drawn[0]
    (log,) = (run / "tensorboard").glob("events.*")
    assert all(picture in log.read_bytes() for picture in drawn)


@pytest.mark.slow
def test_the_command_says_what_it_did(cifarcnn: Run, tmp_path: Path, data_directory: Path) -> None:
    """One JSON document on stdout, progress and choices on stderr."""
    options = ("--epochs", 1, "--train-size", 200, "--val-size", 100, "--batch-size", 50, "--json")
    done = cifarcnn("train", "--arch", "vgg2", "--data", data_directory, *options)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document.keys() == {
        "schema", "run_dir", "model", "arch", "recipe", "seed", "epochs", "best_epoch", "val_accuracy",
        "val_loss", "train_seconds", "images_per_second", "device", "precision",
    }  # fmt: skip
    assert (document["arch"], document["epochs"], document["recipe"]) == ("vgg2", 1, "fast")
    assert (tmp_path / document["model"]).is_file()
    assert "epoch 1/1  loss" in done.stderr
    assert "train images: " in done.stderr
    assert re.search(rf"cores?; {document['precision']}: the CPU ", done.stderr)


@pytest.mark.slow
def test_a_network_learns(tmp_path: Path, data_directory: Path) -> None:
    """Two epochs on half of the images, made smaller; three seeds reached 73.0 to 73.5 % in float32."""
    half = {"train_size": 25_000, "resolutions": "20,24"}
    result = package.train(out=tmp_path, data=data_directory, arch="whiten6-tiny", **half)
    assert package.evaluate(result.model, data=data_directory).metrics.accuracy > 0.71


@pytest.mark.slow
def test_a_cpu_without_bfloat16_takes_float32_and_says_so(
    cifarcnn: Run, tmp_path: Path, data_directory: Path
) -> None:
    """With the processor's bfloat16 masked, as oneDNN's own switch does, training is in float32."""
    options = ("--epochs", 1, "--train-size", 100, "--val-size", 50, "--batch-size", 50)
    done = cifarcnn(
        "train",
        "--arch",
        "plain6-small",
        "--data",
        data_directory,
        *options,
        env={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    )
    assert done.returncode == 0, done.stderr
    assert "float32: the CPU does not compute bfloat16 natively" in done.stderr
    assert "images/s" not in done.stdout  # two steps are no measure of speed
    settings = json.loads((next((tmp_path / "runs").iterdir()) / "settings.json").read_text())
    assert settings["precision"] == "float32"


@pytest.mark.slow
def test_settings_come_from_command_line_then_file_then_recipe(
    cifarcnn: Run, tmp_path: Path, data_directory: Path
) -> None:
    """The command line wins over the file, the file over the recipe."""
    (tmp_path / "settings.toml").write_text('recipe = "classic"\nbatch-size = 40\nepochs = 5\n')
    options = (
        "--config",
        "settings.toml",
        "--epochs",
        1,
        "--train-size",
        200,
        "--val-size",
        50,
        "--json",
        "-q",
    )
    done = cifarcnn("train", "--arch", "rmsprop6", "--data", data_directory, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    settings = json.loads((tmp_path / json.loads(done.stdout)["run_dir"] / "settings.json").read_text())
    assert settings["epochs"] == 1
    assert settings["batch_size"] == 40
    assert (settings["optimizer"], settings["schedule"]) == ("rmsprop", "inverse-time")


def test_validation_accuracy_is_what_evaluate_reports(trained: Path, data_directory: Path) -> None:
    """The model's file gives the validation figures that training wrote down for its epoch."""
    evaluation = package.evaluate(trained, split="validation", data=data_directory)
    figures = evaluation.uncalibrated or evaluation.metrics
    metadata = modelfile.read_metadata(trained / "best.keras")
    assert figures.n == 200
    assert figures.accuracy == pytest.approx(metadata["val_accuracy"], abs=1e-12)
    assert figures.loss == pytest.approx(metadata["val_loss"], rel=1e-6)


def test_metrics_file_has_a_row_per_epoch(trained: Path) -> None:
    """One row per epoch, with the columns that the documentation names."""
    with open(trained / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    assert all(np.isfinite(float(row["loss"])) for row in rows)


def test_saved_models_are_stock_float32(trained: Path) -> None:
    """Trained in whatever precision, saved in float32 with Keras's own layers."""
    network = keras.models.load_model(trained / "best.keras")
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert all(type(layer).__module__.startswith("keras.") for layer in network.layers)
    assert {layer.dtype_policy.name for layer in network.layers} == {"float32"}


@pytest.mark.slow
def test_training_never_opens_the_test_images(cifarcnn: Run, tmp_path: Path, data_directory: Path) -> None:
    """With the test file missing its content, training works as before."""
    for name in sources.CIFAR10.sums:
        (tmp_path / name).symlink_to(data_directory / name)
    (tmp_path / "test_batch.bin").unlink()
    (tmp_path / "test_batch.bin").write_bytes(bytes(30_730_000))
    done = cifarcnn("train", "--arch", "plain6-small", "--data", tmp_path, "--epochs", 1,
                    "--train-size", 100, "--val-size", 50, "--batch-size", 50, "-q")  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused = cifarcnn("evaluate", next((tmp_path / "runs").iterdir()), "--data", tmp_path)
    assert refused.returncode == 1
    assert "test_batch.bin" in refused.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--arch", "vgg4"], 2, "unknown architecture 'vgg4': did you mean 'vgg"),
        (["--epochs", "0"], 2, "--epochs is 0; expected a number at least 1"),
        (["--epochs", "many"], 2, "'many' is not a valid integer"),
        (["--learning-rate", "-1"], 2, "--learning-rate is -1; expected a number above 0"),
        (["--learning-rate", "nan"], 2, "--learning-rate is nan; expected a number above 0"),
        (["--batch-size", "60000"], 2, "--batch-size is 60000, but there are 200 training images; expected"),
        (["--val-size", "49999"], 2, "--val-size is 49,999, but there are 50,000 images; expected"),
        (["--train-size", "49000"], 2, "--train-size is 49,000; expected 1 to 45,000"),
        (["--precision", "int8"], 2, "'int8' is not one of"),
        (["--device", "tpu"], 2, "device is 'tpu'; expected auto, cpu, gpu or gpu:N"),
        (["--recipe", "slow"], 2, "'slow' is not one of"),
        (["--config", "missing.toml"], 2, "--config 'missing.toml': No such file or directory"),
        (["--config", "wrong.toml"], 2, "unknown setting 'epoch'; did you mean 'epochs'?"),
        (["--config", "broken.toml"], 2, "expected a TOML file of settings"),
        (["--out", "file"], 1, "cannot make a run directory in 'file'"),
        (["--data", "nowhere"], 1, "nowhere"),
        (["--resume", "nowhere"], 2, "no run directory 'nowhere'"),
        (["--sped", "1"], 2, "No such option"),
    ],
)
def test_wrong_input_gets_one_line_and_leaves_nothing(
    options: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    data_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was received, what was expected, and no run directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFARCNN_DATA", str(data_directory))
    (tmp_path / "wrong.toml").write_text("epoch = 3\n")
    (tmp_path / "broken.toml").write_text("epochs = = 3\n")
    (tmp_path / "file").write_text("")
    words = ["train", "--arch", "vgg2", "--train-size", "200", "--batch-size", "50", "--epochs", "1", "-q"]
    done = CliRunner().invoke(cli, [*words, *options])
    assert done.stdout == ""
    if isinstance(done.exception, CifarCNNError):
        assert done.exception.exit_code == code
        error = str(done.exception)
        assert "\n" not in error
    else:
        assert done.exit_code == code
        error = done.stderr
    assert message in error
    assert not list(tmp_path.glob("runs/*"))
