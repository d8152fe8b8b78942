"""The same package on JAX, with TensorFlow out of reach."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clusters import SMALL, TOLERANCES, distance, run_of

# As if TensorFlow were not installed.
WITHOUT_TENSORFLOW = """
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError("No module named 'tensorflow'", name=name)

sys.meta_path.insert(0, Nowhere())
from cifarcnn.cli.main import main
main()
"""


TWO_CPUS = "--xla_force_host_platform_device_count=2"


def run_on_jax(directory: Path, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command with Keras on JAX."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": "jax", **environment},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_tensorflow_beside_it_says_nothing() -> None:
    """Keras imports TensorFlow to seed it, also where JAX computes."""
    script = "from cifarcnn.machine import backend; print(backend.load()); backend.seed(0)"
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("jax\n", "")


@pytest.mark.slow
def test_trains_evaluates_and_resumes_without_tensorflow(tmp_path: Path, data_directory: Path) -> None:
    """A short training, its continuation, and the validation figures of its model."""
    options = ("--train-size", 300, "--val-size", 100, "--batch-size", 50, "--data", data_directory, "--json")
    arch = ("--arch", "whiten6-tiny", "--resolutions", "20", "--micro-batch", 25, "--jitter", 0.1)
    done = run_on_jax(tmp_path, "train", *arch, "--epochs", 1, *options)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["precision"] == "float32"
    assert "jax" in done.stderr
    resumed = run_on_jax(
        tmp_path, "train", "--resume", document["run_dir"], "--epochs", 2, "--data", data_directory, "--json"
    )
    assert resumed.returncode == 0, resumed.stderr
    document = json.loads(resumed.stdout)
    measured = run_on_jax(
        tmp_path, "evaluate", document["run_dir"], "--split", "validation", "--data", data_directory, "--json"
    )
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["accuracy"] == pytest.approx(document["val_accuracy"], abs=0.011)


@pytest.mark.slow
def test_two_devices_train_to_the_weights_of_one(tmp_path: Path, data_directory: Path) -> None:
    """Keras divides each batch; batch norm sees all of it. The validation images do not divide by two."""
    arguments = ("--arch", "vgg2", *SMALL, "--val-size", 101, "--data", data_directory)
    for count in (1, 2):
        done = run_on_jax(
            tmp_path, "train", *arguments, "--devices", count, "--out", count, XLA_FLAGS=TWO_CPUS
        )
        assert done.returncode == 0, done.stderr
    assert distance(run_of(tmp_path / "1"), run_of(tmp_path / "2")) < TOLERANCES["vgg2"]
