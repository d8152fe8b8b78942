"""Trainings of several processes on this machine, and what two runs have in common."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from ports import free_ports

SMALL = ("--epochs", 1, "--train-size", 384, "--val-size", 100, "--batch-size", 128,
         "--learning-rate", 0.001, "--precision", "float32", "--device", "cpu")  # fmt: skip
"""Three steps of a training."""

TOLERANCES = {
    # Rounding alone.
    "plain6": 1e-5,
    # Within 1e-5 on a processor with AVX-512, 3.3e-5 on one with AVX2 alone.
    "whiten6-tiny": 1e-4,
    # TensorFlow's fused batch norm, in a single process, has variances off by some 1e-4 of themselves.
    "vgg2": 5e-4,
}
"""How far a kernel may be from a single process's after these steps, as a share of its norm."""


@dataclass
class Worker:
    """A process of a cluster."""

    process: subprocess.Popen[str]
    stdout: str = ""
    stderr: str = ""

    @property
    def code(self) -> int:
        """How it ended."""
        return self.process.returncode

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that tell of errors; there must be none that we did not write."""
        return [line for line in self.stderr.splitlines() if line.startswith("error:")]

    def wait_for_epoch(self, runs: Path) -> None:
        """Wait until the only run in a directory has completed one more epoch."""
        before = epochs_in(runs)
        for _ in range(3000):
            if epochs_in(runs) > before:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        pytest.fail(f"no epoch was completed in {runs}")


@contextlib.contextmanager
def cluster(
    count: int,
    directory: Path,
    data: Path,
    arguments: Sequence[object],
    others: Sequence[object] | None = None,
) -> Iterator[list[Worker]]:
    """Start the command in several processes that form a cluster; end what is left of them.

    Args:
        count: how many.
        directory: where they run.
        data: the images.
        arguments: of ``cifarcnn train``.
        others: of all but the first, if they differ.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    workers = []
    for index in reversed(range(count)):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        words = arguments if index == 0 or others is None else others
        process = subprocess.Popen(
            [Path(sys.executable).with_name("cifarcnn"), "train", *map(str, words)],
            env={
                **{name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ},
                # Workers go past them.
                "http_proxy": "http://127.0.0.1:9",
                "https_proxy": "http://127.0.0.1:9",
                "TF_CONFIG": json.dumps(config),
                "CIFARCNN_DATA": str(data),
            },
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        workers.insert(0, Worker(process))
    try:
        yield workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.communicate()


def finish(workers: Sequence[Worker]) -> None:
    """Wait for all of them."""
    for worker in workers:
        worker.stdout, worker.stderr = worker.process.communicate(timeout=300)


def kernels_of(model: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the weights of a saved model, but for vectors, by name."""
    with zipfile.ZipFile(model) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        found: dict[str, npt.NDArray[Any]] = {}
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return {name: value for name, value in found.items() if value.ndim > 1}


def distance(one: Path, other: Path) -> float:
    """Return the largest difference of two runs' last kernels, as a share of the kernel's norm."""
    theirs = kernels_of(other / "last.keras")
    return max(
        float(np.linalg.norm(kernel - theirs[name]) / np.linalg.norm(kernel))
        for name, kernel in kernels_of(one / "last.keras").items()
    )


def epochs_in(runs: Path) -> int:
    """Count the completed epochs of the only run in a directory."""
    return sum(len(file.read_text().splitlines()) - 1 for file in runs.glob("*/metrics.csv"))


def run_of(directory: Path) -> Path:
    """Return the only run below a directory."""
    (run,) = directory.iterdir()
    return run
