"""Several processes train in step; what goes wrong in one is said on all, and nothing is lost."""

import hashlib
import json
import re
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarcnn.data.cifar10 import CLASSES
from clusters import SMALL, TOLERANCES, Worker, cluster, distance, epochs_in, finish, run_of
from conftest import Run
from ports import free_ports

EPOCHS = 5
LONGER = ("--arch", "plain6-small", *SMALL, "--train-size", 2560, "--epochs", EPOCHS)


@pytest.mark.slow
def test_three_processes_train_to_the_weights_of_one(
    cifarcnn: Run, tmp_path: Path, data_directory: Path
) -> None:
    """A third of each batch on each; the chief alone writes, and all tell where."""
    arguments = ["--arch", "plain6", *SMALL, "--batch-size", 126]
    with cluster(3, tmp_path, data_directory, [*arguments, "--out", "cluster"]) as workers:
        finish(workers)
    assert [worker.code for worker in workers] == [0, 0, 0], workers
    run = run_of(tmp_path / "cluster")
    chief, *others = workers
    assert f"run directory: cluster/{run.name}\n" in chief.stderr
    for other in others:
        assert re.search(rf"run directory: cluster/{run.name}, at worker 0 \(127.0.0.1:\d+\)", other.stderr)
    alone = cifarcnn("train", *arguments, "--out", "alone", env={"CIFARCNN_DATA": str(data_directory)})
    assert alone.returncode == 0
    assert distance(run, run_of(tmp_path / "alone")) < TOLERANCES["plain6"]


def content_of(model: Path) -> dict[str, object]:
    """All that a saved model holds, but how many processes made it; weights as their checksum."""
    with zipfile.ZipFile(model) as archive:
        content: dict[str, object] = {
            name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()
        }
        about = json.loads(archive.read("cifarcnn.json"))
    del about["facts"]["workers"]
    return {**content, "cifarcnn.json": about}


def assert_same(one: Path, other: Path) -> None:
    """Two runs ended with the same bytes."""
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for name in ("last.keras", "best.keras"):
        assert content_of(one / name) == content_of(other / name), name


def assert_lost(victim: int, survivor: Worker) -> None:
    """A worker ended because another was lost: with exit code 1, and one line at the end."""
    assert survivor.code == 1, survivor
    (line,) = survivor.errors
    assert f"worker {victim} (127.0.0.1:" in line or "another worker" in line
    assert "--resume" in line
    assert survivor.stderr.splitlines()[-1] == line


@pytest.mark.slow
def test_two_processes_train_as_two_devices_of_one_however_often_they_are_stopped(
    cifarcnn: Run, tmp_path: Path, data_directory: Path
) -> None:
    """If either is killed, or gets SIGTERM, both end; what they reach at last is the same, bit for bit."""
    runs = tmp_path / "runs"

    def train_until(victim: int, number: signal.Signals, *arguments: list[object]) -> list[Worker]:
        with cluster(2, tmp_path, data_directory, *arguments) as workers:
            workers[0].wait_for_epoch(runs)
            workers[victim].process.send_signal(number)
            finish(workers)
        assert epochs_in(runs) < EPOCHS
        return workers

    _, other = train_until(0, signal.SIGKILL, [*LONGER, "--out", "runs"])
    assert_lost(0, other)
    run = run_of(runs)
    # Only the chief needs to have the directory.
    resume: list[list[object]] = [["--resume", run], ["--resume", "elsewhere"]]
    chief, _ = train_until(1, signal.SIGKILL, *resume)
    assert_lost(1, chief)
    workers = train_until(1, signal.SIGTERM, *resume)
    assert [worker.code for worker in workers] == [143, 143], workers
    # After the same step.
    assert len({line for worker in workers for line in worker.errors}) == 1

    done = cifarcnn("train", *LONGER, "--devices", 2, "--out", "unbroken",
                    env={"CIFARCNN_DATA": str(data_directory)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    for told in (f"epoch {EPOCHS}/{EPOCHS}", f"is finished: {EPOCHS} of {EPOCHS} epochs"):
        with cluster(2, tmp_path, data_directory, *resume) as workers:
            finish(workers)
        assert [worker.code for worker in workers] == [0, 0], workers
        assert_same(run, run_of(tmp_path / "unbroken"))
        chief, other = workers
        assert told in chief.stderr
        assert "epoch" not in other.stderr
        assert run.name in other.stdout
    assert json.loads((run / "environment.json").read_text())["workers"] == 2


def assert_refused(workers: list[Worker], *said: str) -> None:
    """Each worker ended with exit code 1 and one line at the end, and nothing was made."""
    for worker in workers:
        assert worker.code == 1, worker
        (line,) = worker.errors
        assert worker.stderr.splitlines()[-1] == line
        assert all(text in line for text in said), line


@pytest.mark.slow
def test_a_worker_that_resumes_beside_one_that_begins_trains_nothing(
    tmp_path: Path, data_directory: Path
) -> None:
    """The chief begins a run."""
    with cluster(2, tmp_path, data_directory, SMALL, ["--resume", "runs"]) as workers:
        finish(workers)
    assert_refused(workers, "resume is False at worker 0, True at worker 1")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_workers_with_other_images_and_settings_train_nothing(tmp_path: Path, data_directory: Path) -> None:
    """The images' checksum and the settings are compared, and both are told."""
    generator = np.random.default_rng(0)
    for name in CLASSES:
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(80):
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    others = [*SMALL, "--seed", 3, "--data", tmp_path / "pictures"]
    with cluster(2, tmp_path, data_directory, SMALL, others) as workers:
        finish(workers)
    assert_refused(
        workers,
        "worker 1 (127.0.0.1:",
        "training_images_sha256 is",
        "seed is 0 at worker 0, 3 at worker 1",
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_worker_that_cannot_begin_lets_the_others_end(tmp_path: Path, data_directory: Path) -> None:
    """It says what is wrong; the chief names it after --wait."""
    wrong = [*SMALL, "--batch-size", 127]
    with cluster(2, tmp_path, data_directory, [*SMALL, "--wait", 10], wrong) as workers:
        finish(workers)
    chief, other = workers
    assert other.code == 2
    assert "--batch-size is 127" in other.errors[0]
    assert_refused([chief], "worker 1 (127.0.0.1:", "did not come within 10 s", "--wait")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_chief_that_does_not_come_is_missed(cifarcnn: Run, data_directory: Path) -> None:
    """After --wait, exit code 1."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    config = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": 1}})
    environment = {"TF_CONFIG": config, "CIFARCNN_DATA": str(data_directory)}
    done = cifarcnn("train", *SMALL, "--wait", 2, env=environment)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.stderr.splitlines()[-1] == line
    assert "not all 2 workers came within 2 s" in line
