"""The run directory: what a training leaves on disk, and the checkpoint from which it goes on.

A run directory holds
``settings.json``     the resolved settings,
``environment.json``  versions, hardware, the data's checksum,
``metrics.csv``       one row per epoch; the same for every run with the same seed on the same machine,
``timing.csv``        how long each epoch took,
``best.keras``        the model of the best epoch, as ``progress.best_row`` has it,
``last.keras``        the model of the last epoch,
``curves.png``        the learning curves,
``confusion.png``     the confusion matrix of the last epoch on the validation images,
``report.html``       everything about the finished run on one page,
``tensorboard/``      the same figures for TensorBoard,
``checkpoint.npz``    everything on which the rest of the training depends; until it ends, the one before too,
``failure.json``      why the last sitting failed, if it did,
``skipped.txt``       the pictures that could not be read, if there were any.

Every file appears whole or not at all. What is in a checkpoint is the business of ``training.train``.
"""

import contextlib
import dataclasses
import errno
import json
import os
import platform
import shlex
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cifarcnn.config import Settings
from cifarcnn.errors import Interrupted, RunError, UsageError, reason
from cifarcnn.events import Note, OnEvent
from cifarcnn.machine import files, locks
from cifarcnn.runs.progress import METRICS, TIMING, Progress, write_table


@dataclass(frozen=True)
class Checkpoint:
    """Everything on which the rest of a training depends.

    Attributes:
        settings: the run's, with device and precision resolved.
        facts: versions, hardware and the data's checksum, to compare when the run is resumed.
        data: where the user said the data set is; None if it was found by itself.
        progress: how far the training is.
        variables: the values of ``training.model.Models.state``.
    """

    settings: Settings
    facts: dict[str, Any]
    data: str | None
    progress: Progress
    variables: list[npt.NDArray[Any]]


class RunDirectory:
    """A directory that holds one run, and the paths of its files. Make one with ``create`` or ``open``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = path / "settings.json"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.csv"
        self.timing = path / "timing.csv"
        self.best = path / "best.keras"
        self.last = path / "last.keras"
        self.curves = path / "curves.png"
        self.confusion = path / "confusion.png"
        self.report = path / "report.html"
        self.tensorboard = path / "tensorboard"
        self.checkpoint = path / "checkpoint.npz"
        self.previous = path / "checkpoint-previous.npz"
        self.failure = path / "failure.json"
        self.skipped = path / "skipped.txt"

    @classmethod
    def create(cls, out: Path, settings: Settings) -> "RunDirectory":
        """Make a new directory under ``out``, named by time, architecture, recipe and seed.

        Raises:
            RunError: ``out`` cannot be made or written to.
        """
        return cls(make_directory(out, f"{settings.arch}-{settings.recipe}-seed{settings.seed}"))

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Take up an existing run directory.

        Raises:
            UsageError: there is none.
        """
        run = cls(path)
        if not os.path.isdir(path):
            raise UsageError(f"no run directory {str(path)!r}; expected one that `cifarcnn train` has made")
        if not run.resumable():
            raise UsageError(
                f"{str(path)!r} holds no checkpoint.npz; expected a run directory that `cifarcnn train` made"
            )
        return run

    def resumable(self) -> bool:
        """Return whether there is a checkpoint."""
        # Where nobody may look, Path.exists raises an error.
        return os.path.exists(self.checkpoint) or os.path.exists(self.previous)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of this run for the length of the block, or raise RunError."""
        with contextlib.ExitStack() as stack:
            with saving(self.path):
                stack.enter_context(locks.held(self.path))
                self._remove_leftovers()
            yield

    @contextlib.contextmanager
    def remembering_failure(self) -> Iterator[None]:
        """Leave ``failure.json`` behind if the block fails; it sets a failed run apart from a stopped one."""
        with saving(self.path):
            self.failure.unlink(missing_ok=True)
        try:
            yield
        # Whatever it was is raised again.
        except Exception as problem:
            if not isinstance(problem, Interrupted):
                with contextlib.suppress(RunError):
                    self.write_json(self.failure, {"schema": 1, "error": str(problem) or repr(problem)})
            raise

    def _remove_leftovers(self) -> None:
        """Remove what a process killed inside a save left half written: hidden, with a dash in the name."""
        for path in self.path.glob(".*-*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def write_json(self, path: Path, document: Mapping[str, Any]) -> None:
        """Write a document to one of the paths above."""
        with saving(self.path):
            files.write_text(path, json.dumps(document, indent=2) + "\n")

    def describe(
        self, settings: Settings, facts: Mapping[str, Any], data: str | None, skipped: Sequence[str] = ()
    ) -> None:
        """Write ``settings.json``, and ``environment.json`` of a new run, unless they are there and right.

        Args:
            settings: of the run.
            facts: on what it depends besides.
            data: where the user said the images are.
            skipped: the pictures that could not be read.
        """
        if not self._holds(settings):
            self.write_json(self.settings, dataclasses.asdict(settings))
        if not os.path.exists(self.environment):
            place = {} if data is None else {"data": data}
            self.write_json(self.environment, {**facts, "platform": platform.platform(), **place})
            if skipped:
                with saving(self.path):
                    files.write_text(self.skipped, "".join(f"{line}\n" for line in skipped))

    def _holds(self, settings: Settings) -> bool:
        """Return whether ``settings.json`` says these."""
        try:
            return bool(json.loads(files.read_text(self.settings)) == dataclasses.asdict(settings))
        except (OSError, ValueError):
            return False

    def complete(self, settings: Settings) -> bool:
        """Return whether everything is there that a finished run with these settings leaves."""
        wanted = (self.environment, self.metrics, self.timing, self.best, self.last, self.curves, self.report)
        return self._holds(settings) and all(os.path.exists(path) for path in wanted)

    def remove_previous_checkpoint(self) -> None:
        """Leave a finished run one checkpoint."""
        with saving(self.path):
            if self.checkpoint.exists():
                self.previous.unlink(missing_ok=True)

    def write_tables(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``metrics.csv`` and ``timing.csv``."""
        with saving(self.path):
            write_table(self.metrics, METRICS, rows)
            write_table(self.timing, TIMING, rows)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and keep the one before it."""
        document = {
            "settings": dataclasses.asdict(checkpoint.settings),
            "facts": checkpoint.facts,
            "data": checkpoint.data,
            "progress": dataclasses.asdict(checkpoint.progress),
        }
        arrays: dict[str, Any] = {f"variable{i:04}": value for i, value in enumerate(checkpoint.variables)}
        arrays["document"] = np.frombuffer(json.dumps(document).encode(), np.uint8)
        with saving(self.path), files.replacing(self.checkpoint) as aside:
            np.savez(aside, **arrays)
            if self.checkpoint.exists():
                self.checkpoint.replace(self.previous)

    def load_checkpoint(self, on_event: OnEvent) -> Checkpoint:
        """Read the newest whole checkpoint. A damaged one is set aside, and the user is told.

        Raises:
            RunError: there is none, and each one's fault is named; or one cannot be read at present.
        """
        faults = []
        for path in (self.checkpoint, self.previous):
            try:
                checkpoint = _read_checkpoint(path)
            except FileNotFoundError:
                continue
            except _FAULTS as problem:
                if _may_be_whole(path, problem):
                    older = path == self.checkpoint and os.path.exists(self.previous)
                    other = ", or remove it to go on from the one before" if older else ""
                    why = "not enough memory" if isinstance(problem, MemoryError) else reason(problem)
                    raise RunError(
                        f"cannot read {str(path)!r}: {why}; fix that{other}, then:"
                        f" {resume_command(self.path)}"
                    ) from problem
                faults.append(f"{path.name}: {str(problem) or type(problem).__name__}")
                continue
            if faults:
                # The next save would else put the damaged one in the place of the whole one.
                aside = self.path / "checkpoint-damaged.npz"
                with saving(self.path):
                    self.checkpoint.replace(aside)
                text = f"{faults[0]}; kept as {aside.name}, going on from the checkpoint before it"
                on_event(Note(f"warning: {text}"))
            return checkpoint
        raise RunError(
            f"no usable checkpoint in {str(self.path)!r} ({'; '.join(faults)}); the run cannot be resumed,"
            " but the models in it are untouched: use them, or start a new run without --resume"
        )


# What NumPy, the zip reader and the check of the document raise at a damaged or foreign file.
_FAULTS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, MemoryError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def _may_be_whole(path: Path, problem: Exception) -> bool:
    """Tell whether not a checkpoint but the disk, the network, permissions or memory are at fault."""
    if isinstance(problem, OSError):
        return problem.errno not in (None, errno.EINVAL)
    if not isinstance(problem, MemoryError):
        return False
    # A damaged one may ask for any amount of memory; its checksums are computed in little.
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except _FAULTS:
        return False


def _read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. The zip format's checksums reveal a damaged one; nothing in it can run code."""
    # NumPy leaves a file that it opened itself open when it is no archive.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        # Every member, since a damaged name shows when the member is read, and not before.
        arrays = {name: archive[name] for name in sorted(archive.files)}
    document = json.loads(arrays.pop("document").tobytes())
    facts, progress = document["facts"], Progress(**document["progress"])
    counts = (progress.epoch, progress.step, progress.best_epoch)
    if not (isinstance(facts, dict) and all(isinstance(count, int) for count in counts)):
        raise ValueError("its document is not that of a checkpoint")
    return Checkpoint(
        Settings(**document["settings"]), facts, document["data"], progress, list(arrays.values())
    )


def make_directory(out: Path, name: str) -> Path:
    """Make a directory that did not exist, named by the time and ``name``.

    Raises:
        RunError: ``out`` cannot be made or written to.
    """
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            path = out / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    except OSError as problem:
        raise RunError(
            f"cannot make a run directory in {str(out)!r}: {problem.strerror}; choose another with --out"
        ) from problem
    raise RunError(f"{str(out)!r} holds a thousand runs of this second; choose another --out")


def resume_command(path: Path) -> str:
    """Return what to type to go on with a run."""
    return f"cifarcnn train --resume {shlex.quote(str(path))}"


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn a failure to write below ``path`` into one line."""
    try:
        yield
    except OSError as problem:
        if not path.is_dir():
            raise RunError(
                f"the run directory {str(path)!r} is gone, and the training with it; if it was moved, give"
                " its new place to `cifarcnn train --resume`"
            ) from problem
        # h5py's text is many lines of its own.
        why = os.strerror(problem.errno) if problem.errno else problem
        fix = "free space or fix the permissions, then"
        if not RunDirectory(path).resumable():
            raise RunError(f"cannot write to {str(path)!r}: {why}; {fix} start again") from problem
        raise RunError(
            f"cannot write to {str(path)!r}: {why}; what was saved before is intact: {fix}:"
            f" {resume_command(path)}"
        ) from problem
