"""Several devices of one machine train to what one trains to; what cannot be is refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cifarcnn.cli.main import cli
from cifarcnn.errors import UsageError
from cifarcnn.machine import backend
from cifarcnn.training import distributed
from cifarcnn.training.cluster import Cluster
from clusters import SMALL, TOLERANCES, distance, run_of
from conftest import Run

TWO = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}'


@pytest.mark.parametrize(("arch", "count", "micro_batch"), [("vgg2", 4, 0), ("whiten6-tiny", 2, 64)])
@pytest.mark.slow
def test_several_devices_train_to_the_weights_of_one(
    arch: str, count: int, micro_batch: int, cifarcnn: Run, tmp_path: Path, data_directory: Path
) -> None:
    """Dropout, batch norm, Muon: the devices' shares make up the batch of one (plain6: test_workers)."""
    for devices in (1, count):
        done = cifarcnn("train", "--arch", arch, *SMALL, "--micro-batch", micro_batch, "--devices", devices,
                        "--out", str(devices), env={"CIFARCNN_DATA": str(data_directory)})  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert f"as {count} devices" in done.stderr
    one = run_of(tmp_path / "1")
    assert distance(one, run_of(tmp_path / str(count))) < TOLERANCES[arch]
    if arch == "vgg2":
        start = cifarcnn("train", "--arch", arch, *SMALL, "--seed", 1, "--out", "other",
                         env={"CIFARCNN_DATA": str(data_directory)})  # fmt: skip
        assert start.returncode == 0
        assert distance(one, run_of(tmp_path / "other")) > 100 * TOLERANCES[arch]


@pytest.mark.slow
def test_float16_with_loss_scaling_trains_to_the_weights_of_one_device(
    cifarcnn: Run, tmp_path: Path, data_directory: Path
) -> None:
    """The scale is the same on all devices."""
    arguments = ("--arch", "plain6-small", *SMALL, "--precision", "mixed_float16", "--optimizer", "nesterov",
                 "--learning-rate", 0.05)  # fmt: skip
    for devices in (1, 2):
        done = cifarcnn("train", *arguments, "--devices", devices, "--out", str(devices),
                        env={"CIFARCNN_DATA": str(data_directory)})  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert distance(run_of(tmp_path / "1"), run_of(tmp_path / "2")) < 0.01


SCRIPT = """
import types
import keras, numpy as np, tensorflow as tf
from cifarcnn.cli.main import cli
from cifarcnn.errors import RunError
from cifarcnn.training.replicas import Replicas, finite_everywhere
parts = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

@tf.function
def gradients(overflowing):
    def one():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        gradient = tf.where(number == overflowing, [1.0, np.inf], [1.0, 2.0])
        return finite_everywhere([gradient, tf.ones(3)])
    return strategy.run(one)

for overflowing in (0, 1, 2):
    for part in gradients(overflowing):
        values = strategy.experimental_local_results(part)
        print(*(np.isfinite(value).all() for value in values))

with strategy.scope():
    weights = keras.Variable([1.0, 2.0])
model = types.SimpleNamespace(variables=[weights])
replicas = Replicas(strategy, None, 1)
replicas.check_equal(model)
strategy.experimental_local_results(weights.value)[1].assign([1.0, 2.0000002])
try:
    replicas.check_equal(model)
except RunError as problem:
    print(problem)
"""


@pytest.mark.slow
def test_an_overflow_on_one_device_is_one_on_all_and_drift_is_noticed(tmp_path: Path) -> None:
    """The first device overflows, the second, or none; then one weight differs by its last bit."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=300)
    *finite, drift = done.stdout.splitlines()
    assert finite == ["False False"] * 4 + ["True True"] * 2
    assert "the devices' weights are no longer equal" in drift


@pytest.mark.parametrize(
    ("arguments", "config", "said"),
    [
        ([], "{", "TF_CONFIG is set, but no JSON"),
        (["--devices", 3], "", "which 3 devices cannot share equally; expected e.g. 126 or 129"),
        (["--device", "gpu", "--devices", 2], "", "but tensorflow found"),
        (["--devices", 0], "", "devices"),
        (["--wait", 0], "", "--wait is 0"),
        (["--wait", "inf"], "", "--wait is inf"),
        (["--scale-batch", "--repeat", 2], "", "--scale-batch cannot be given with --repeat"),
        (["--repeat", 2], TWO, "several runs are not trained by several machines"),
    ],
)
def test_wrong_usage_gets_one_line(
    arguments: list[object], config: str, said: str, data_directory: Path
) -> None:
    """What cannot be is refused before anything is computed."""
    words = ["train", *map(str, [*SMALL, *arguments]), "--data", str(data_directory)]
    done = CliRunner().invoke(cli, words, env={"TF_CONFIG": config}, standalone_mode=False)
    problem = done.exception
    assert isinstance(problem, UsageError | click.UsageError)
    text = problem.format_message() if isinstance(problem, click.UsageError) else str(problem)
    assert said in text
    assert "\n" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--devices", 3, "--batch-size", 129], {"XLA_FLAGS": ""}, "JAX shows 1"),
        ([], {"TF_CONFIG": TWO}, "several machines train together on Tensor"),
    ],
)
def test_jax_refuses_what_it_has_not(
    arguments: list[object],
    environment: dict[str, str],
    said: str,
    cifarcnn: Run,
    data_directory: Path,
) -> None:
    """Several hosts, and more devices than there are."""
    environment = {**environment, "KERAS_BACKEND": "jax", "CIFARCNN_DATA": str(data_directory)}
    done = cifarcnn("train", *SMALL, *arguments, env=environment)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error:")


@pytest.mark.slow
def test_alone_ignores_the_environment(cifarcnn: Run, data_directory: Path) -> None:
    """--alone trains in this process, and nobody is waited for."""
    done = cifarcnn("train", *SMALL, "--alone", "--arch", "plain6-small",
                    env={"TF_CONFIG": TWO, "CIFARCNN_DATA": str(data_directory)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "waits" not in done.stderr


@pytest.mark.slow
def test_twice_the_devices_for_twice_the_batch_and_one_if_another_fails(
    cifarcnn: Run, tmp_path: Path, data_directory: Path
) -> None:
    """--scale-batch multiplies batch and rate, as settings.json tells; --devices may change on resuming."""
    environment = {"CIFARCNN_DATA": str(data_directory)}
    two = cifarcnn(
        "train", *SMALL, "--arch", "plain6-small", "--devices", 2, "--scale-batch", env=environment
    )
    assert two.returncode == 0, two.stderr
    run = run_of(tmp_path / "runs")
    settings = json.loads((run / "settings.json").read_text())
    assert (settings["batch_size"], settings["learning_rate"], settings["devices"]) == (256, 0.002, 2)
    one = cifarcnn("train", "--resume", run, "--epochs", 2, "--devices", 1, env=environment)
    assert one.returncode == 0, one.stderr
    assert "warning: devices was 2, is 1 now: the result may differ in the last digits" in one.stderr
    assert json.loads((run / "settings.json").read_text())["devices"] == 1
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


def test_workers_go_past_proxies_and_downloads_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what gRPC reads is set."""
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TF_CONFIG", TWO)
    monkeypatch.setattr(backend, "need_tensorflow", lambda _what: None)
    assert distributed.find_cluster(alone=False, wait=1) == Cluster(("a:1", "b:1"), 0)
    found = dict(os.environ)
    assert found["grpc_proxy"] == ""
    assert found["http_proxy"] == "http://127.0.0.1:9"
    assert "no_proxy" not in found
