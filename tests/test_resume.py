"""A run with interruptions ends as the uninterrupted run does, bit for bit."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cifarcnn
from cifarcnn import architectures
from cifarcnn.errors import Interrupted, RunError, UsageError
from cifarcnn.events import EpochDone, Event, Note, StepsDone, ignore
from cifarcnn.machine import devices
from cifarcnn.machine.signals import StopRequest
from cifarcnn.models import modelfile
from cifarcnn.runs.run import RunDirectory
from cifarcnn.training import callbacks, setup

SMALL: dict[str, Any] = {"train_size": 120, "val_size": 50, "batch_size": 20, "epochs": 3, "device": "cpu"}
STEPS = 6

EVERYWHERE = [(1, 1), (2, STEPS), (3, 3)]
"""After the very first step, after an epoch's last, and within one."""

CASES: dict[str, dict[str, Any]] = {
    "vgg2-float32": {"arch": "vgg2", "precision": "float32", "ema": 0.9, "schedule": "cosine"},
    "rmsprop6-float32": {"arch": "rmsprop6", "recipe": "classic", "precision": "float32", "warmup": 0.3,
                         "schedule": "step"},
    "muon-smaller-images": {"arch": "whiten6-tiny", "precision": "mixed_bfloat16", "resolutions": "20,32",
                            "micro_batch": 10, "jitter": 0.1},
    "float16-loss-scale": {"arch": "plain6-small", "optimizer": "adam", "precision": "mixed_float16",
                           "ema": 0.8},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_step_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training be stopped after every step, not after every fourth alone."""
    monkeypatch.setattr(devices, "CPU_STEPS_PER_CALL", 1)


class Stopper:
    """An ``on_event`` that sends this process a signal at the given steps, as Ctrl-C would."""

    def __init__(self, *steps: tuple[int, int], number: int = signal.SIGINT) -> None:
        self.steps = set(steps)
        self.number = number
        self.notes: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(event.text)
        if isinstance(event, StepsDone) and (event.epoch, event.step) in self.steps:
            self.steps.remove((event.epoch, event.step))
            os.kill(os.getpid(), self.number)


def train_in_pieces(out: Path, data: Path, stops: list[tuple[int, int]], **settings: Any) -> tuple[Path, int]:
    """Train with a Ctrl-C at each of these (epoch, step); return the run directory and the interruptions."""
    stopper = Stopper(*stops)
    with pytest.raises(Interrupted, match="cifarcnn train --resume"):
        cifarcnn.train(out=out, data=data, on_event=stopper, **settings)
    run_dir = next(out.iterdir())
    for pieces in range(1, 100):
        try:
            cifarcnn.resume(run_dir, on_event=stopper)
        except Interrupted:
            continue
        return run_dir, pieces
    raise AssertionError("it never ended")


def assert_same_run(one: Path, other: Path) -> None:
    """Compare everything that a run leaves, times apart."""
    for name in ("best.keras", "last.keras", "metrics.csv", "settings.json", "environment.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    ours, theirs = (RunDirectory.open(path).load_checkpoint(ignore) for path in (one, other))
    assert len(ours.variables) == len(theirs.variables)
    for number, (left, right) in enumerate(zip(ours.variables, theirs.variables, strict=True)):
        assert left.dtype == right.dtype
        assert left.tobytes() == right.tobytes(), number
    untimed = []
    for checkpoint in (ours, theirs):
        progress = dataclasses.asdict(checkpoint.progress)
        del progress["seconds"], progress["epoch_seconds"]
        for row in progress["rows"]:
            del row["seconds"], row["images_per_second"]
        untimed.append(progress)
    assert untimed[0] == untimed[1]


@pytest.mark.parametrize("case", CASES)
def test_interrupted_training_ends_as_the_uninterrupted_one(
    case: str, tmp_path: Path, data_directory: Path
) -> None:
    """Stopped within an epoch, or wherever it can be, all is equal bit for bit."""
    settings = {**SMALL, **CASES[case]}
    straight = cifarcnn.train(out=tmp_path / "straight", data=data_directory, **settings)
    stops = EVERYWHERE if case == "vgg2-float32" else [(2, 3)]
    pieces, interruptions = train_in_pieces(tmp_path / "pieces", data_directory, stops, **settings)
    assert interruptions == len(stops)
    assert_same_run(straight.run_dir, pieces)


def test_a_run_begun_with_a_model_needs_it_no_more(tmp_path: Path, data_directory: Path) -> None:
    """Its weights are in the checkpoint; frozen layers and the weights of classes are resumed as well."""
    init = tmp_path / "init.keras"
    modelfile.save(architectures.build("whiten6-tiny"), init, {"arch": "whiten6-tiny"})
    settings = {**SMALL, "init": str(init), "freeze": "3", "balance": True, "epochs": 2}
    straight = cifarcnn.train(out=tmp_path / "straight", data=data_directory, **settings)
    stopper = Stopper((1, 2))
    with pytest.raises(Interrupted):
        cifarcnn.train(out=tmp_path / "pieces", data=data_directory, on_event=stopper, **settings)
    assert f"--init {init}: 14 of 14 layers begin with its weights" in stopper.notes
    assert "--freeze 3: 5 layers held fixed" in stopper.notes
    kept = cifarcnn.load_model(init).keras.get_weights()
    init.unlink()
    pieces = next((tmp_path / "pieces").iterdir())
    cifarcnn.resume(pieces)
    assert_same_run(straight.run_dir, pieces)
    trained = cifarcnn.load_model(pieces).keras.get_weights()
    changed = [not np.array_equal(*pair) for pair in zip(kept, trained, strict=True)]
    assert not any(changed[:9])
    assert all(changed[9:])


def test_neither_steps_a_call_nor_checkpoints_change_anything(
    tmp_path: Path, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run by single steps and others by four a call, stopped between calls, or saved after each step."""
    settings = {**SMALL, "epochs": 2, "arch": "vgg2", "ema": 0.9}
    by_ones = cifarcnn.train(out=tmp_path / "ones", data=data_directory, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(devices, "CPU_STEPS_PER_CALL", 4)
        # An epoch's last call is cut short.
        pieces, interruptions = train_in_pieces(
            tmp_path / "fours", data_directory, [(1, 4), (2, STEPS)], **settings
        )
    assert interruptions == 2
    assert_same_run(by_ones.run_dir, pieces)

    # As a very slow epoch has them.
    saved: list[tuple[int, int]] = []
    save = RunDirectory.save_checkpoint

    def counting(self: RunDirectory, checkpoint: Any) -> None:
        saved.append((checkpoint.progress.epoch, checkpoint.progress.step))
        save(self, checkpoint)

    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(RunDirectory, "save_checkpoint", counting)
    often = cifarcnn.train(out=tmp_path / "often", data=data_directory, **settings)
    within = [(epoch, step) for epoch in range(2) for step in range(STEPS)]
    assert saved == [*within, (2, 0)]
    assert_same_run(by_ones.run_dir, often.run_dir)


def test_same_seed_gives_the_same_run_and_another_does_not(tmp_path: Path, data_directory: Path) -> None:
    """Everything random comes from the seed."""
    settings = {**SMALL, "epochs": 1}
    runs = [
        cifarcnn.train(out=tmp_path, data=data_directory, **settings, seed=seed).run_dir for seed in (3, 3, 4)
    ]
    assert_same_run(runs[0], runs[1])
    weights = [RunDirectory.open(run).load_checkpoint(ignore).variables for run in runs]
    assert not np.array_equal(weights[0][0], weights[2][0])


def test_patience_survives_a_resume(tmp_path: Path, data_directory: Path) -> None:
    """A run that waits in vain ends at the same epoch, interrupted or not, and then is finished."""
    # A rate too small to change any answer: no epoch is better than the first.
    settings = {**SMALL, "arch": "plain6-small", "epochs": 9, "patience": 2, "learning_rate": 1e-12,
                "optimizer": "sgd", "precision": "float32"}  # fmt: skip
    straight = cifarcnn.train(out=tmp_path / "straight", data=data_directory, **settings)
    assert straight.epochs == straight.best_epoch + 2 < 9
    pieces, _ = train_in_pieces(tmp_path / "pieces", data_directory, [(straight.epochs, 2)], **settings)
    assert_same_run(straight.run_dir, pieces)
    stopper = Stopper()
    assert cifarcnn.resume(pieces, on_event=stopper).epochs == straight.epochs
    reason = f"no better epoch in the 2 epochs after epoch {straight.best_epoch}"
    assert stopper.notes[0].endswith(reason)


def test_an_extended_run_equals_the_long_one(tmp_path: Path, data_directory: Path) -> None:
    """With a constant rate; it says so, interrupted or not, and its report is that of all epochs."""
    settings = {**SMALL, "arch": "plain6-small", "epochs": 1, "schedule": "constant", "warmup": 0.0}
    short = cifarcnn.train(out=tmp_path / "short", data=data_directory, **settings)
    stopper = Stopper((2, 2))
    with pytest.raises(Interrupted):
        cifarcnn.resume(short.run_dir, epochs=2, on_event=stopper)
    assert "the result is that of 2 epochs from the start" in "\n".join(stopper.notes)
    # What it had as a run of one epoch is no report of this one.
    assert not (short.run_dir / "report.html").exists()
    # The new end needs no second saying.
    assert cifarcnn.resume(short.run_dir, on_event=stopper).epochs == 2
    assert (short.run_dir / "report.html").exists()
    long = cifarcnn.train(out=tmp_path / "long", data=data_directory, **{**settings, "epochs": 2})
    for name in ("last.keras", "metrics.csv", "settings.json"):
        assert (short.run_dir / name).read_bytes() == (long.run_dir / name).read_bytes(), name


def test_a_finished_run_returns_its_result_at_once(tmp_path: Path, data_directory: Path) -> None:
    """Resuming it computes nothing and reads no image; it keeps one checkpoint."""
    first = cifarcnn.train(
        out=tmp_path, data=data_directory, **{**SMALL, "epochs": 1, "arch": "plain6-small"}
    )
    assert [path.name for path in first.run_dir.glob("*.npz")] == ["checkpoint.npz"]
    stopper = Stopper()
    assert cifarcnn.resume(first.run_dir, data=tmp_path / "nowhere", on_event=stopper) == first
    assert stopper.notes == [f"{first.run_dir} is finished: 1 of 1 epochs; --epochs extends it"]


@pytest.mark.parametrize(
    "lost", [("metrics.csv", "curves.png"), ("report.html",), ("confusion.png", "report.html")]
)
def test_a_finished_run_gets_back_what_a_kill_at_the_very_end_left_out(
    lost: tuple[str, ...], finished: Path, tmp_path: Path
) -> None:
    """Whatever it was, byte for byte; and the checkpoint stays as it is."""
    copy = tmp_path / finished.name
    shutil.copytree(finished, copy)
    for name in lost:
        (copy / name).unlink()
    result = cifarcnn.resume(copy)
    assert result.epochs == 1
    for name in (*lost, "checkpoint.npz", "best.keras"):
        if name != "report.html":  # which names its place
            assert (copy / name).read_bytes() == (finished / name).read_bytes(), name
    assert (copy / "report.html").stat().st_size > 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_directory: Path) -> Path:
    """A run of one epoch."""
    settings = {**SMALL, "arch": "plain6-small", "epochs": 1}
    return cifarcnn.train(out=tmp_path_factory.mktemp("runs"), data=data_directory, **settings).run_dir


def test_images_that_are_gone_are_asked_for(finished: Path, tmp_path: Path) -> None:
    """The place where they were is named, and the option that says where they are now."""
    run = RunDirectory.open(finished)
    checkpoint = run.load_checkpoint(ignore)
    facts = {**checkpoint.facts, "training_images_sha256": "of a user's own"}
    gone = dataclasses.replace(checkpoint, facts=facts, data=str(tmp_path / "moved"))
    with pytest.raises(UsageError, match=r"are gone from '.*/moved'; name where they are now with --data"):
        setup._stored_place(gone)
    # CIFAR-10's own are found wherever they are.
    assert setup._stored_place(dataclasses.replace(checkpoint, data=str(tmp_path / "moved"))) is None
    assert setup._stored_place(dataclasses.replace(gone, data=str(tmp_path))) == str(tmp_path)
    assert setup._stored_place(dataclasses.replace(gone, data="cifar100")) == "cifar100"


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, data_directory: Path) -> Path:
    """A run that was stopped in its first epoch."""
    out = tmp_path_factory.mktemp("runs")
    settings = {**SMALL, "arch": "plain6-small"}
    with pytest.raises(Interrupted):
        cifarcnn.train(out=out, data=data_directory, on_event=Stopper((1, 4)), **settings)
    return next(out.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 60}, "--batch-size is 20 in the run, 60 now"),
        ({"arch": "vgg2"}, "--arch is 'plain6-small' in the run, 'vgg2' now"),
        ({"seed": 1, "shift": 0}, r"--seed is 0 in the run, 1 now; --shift is \d+ in the run, 0 now"),
        ({"epochs": 0}, "--epochs is 0; expected a number at least 1"),
    ],
)
def test_other_settings_are_refused(interrupted: Path, changes: dict[str, Any], message: str) -> None:
    """The message names each setting, the run's value and the one given."""
    before = (interrupted / "checkpoint.npz").read_bytes()
    with pytest.raises(UsageError, match=message):
        cifarcnn.resume(interrupted, **changes)
    assert (interrupted / "checkpoint.npz").read_bytes() == before


def test_other_images_are_refused(interrupted: Path, tmp_path: Path) -> None:
    """A checksum over the training images stands in the checkpoint."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32), (0, 200, 0)).save(tmp_path / name / "1.png")
    with pytest.raises(RunError, match=r"its training_images_sha256 was \w+, and is \w+ now; .* with --data"):
        cifarcnn.resume(interrupted, data=tmp_path)


def test_other_versions_are_told(
    interrupted: Path, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of a package is named, with both versions, and another backend is refused."""
    from cifarcnn.machine import backend

    versions = backend.versions()
    monkeypatch.setattr(backend, "versions", lambda: {**versions, "keras": "3.99"})
    stopper = Stopper((1, 5))
    with pytest.raises(Interrupted):
        cifarcnn.resume(interrupted, data=data_directory, on_event=stopper)
    assert f"warning: keras was {versions['keras']}, is 3.99 now" in "\n".join(stopper.notes)
    run = RunDirectory.open(interrupted)
    checkpoint = run.load_checkpoint(ignore)
    run.save_checkpoint(dataclasses.replace(checkpoint, facts={**checkpoint.facts, "backend": "jax"}))
    with pytest.raises(RunError, match="its backend was jax, and is tensorflow now; set KERAS_BACKEND=jax"):
        cifarcnn.resume(interrupted, data=data_directory)
    run.save_checkpoint(checkpoint)


def test_averaged_weights_are_saved_and_the_others_trained_on(tmp_path: Path, data_directory: Path) -> None:
    """EMA changes the saved model, not the course of the training, in plain and in scaled optimizers."""
    settings = {**SMALL, "arch": "plain6-small", "epochs": 2, "augment": "none"}
    for precision in ("float32", "mixed_float16"):
        plain, averaged = (
            cifarcnn.train(out=tmp_path, data=data_directory, **{**settings, **changes}).run_dir
            for changes in ({"precision": precision}, {"precision": precision, "ema": 0.9})
        )
        ours, theirs = (RunDirectory.open(path).load_checkpoint(ignore) for path in (plain, averaged))
        losses = [[row["loss"] for row in checkpoint.progress.rows] for checkpoint in (ours, theirs)]
        assert losses[0] == losses[1]
        assert (plain / "last.keras").read_bytes() != (averaged / "last.keras").read_bytes()
        assert cifarcnn.load_model(plain / "last.keras").network.get_weights()[0].tobytes() == (
            ours.variables[0].tobytes()
        )
        assert cifarcnn.load_model(averaged / "last.keras").network.get_weights()[0].tobytes() != (
            ours.variables[0].tobytes()
        )


def test_a_run_that_is_shortened_to_where_it_is_remembers_it(tmp_path: Path, data_directory: Path) -> None:
    """It is finished then, also for who resumes it without a word."""
    settings = {**SMALL, "arch": "plain6-small", "epochs": 2}
    with pytest.raises(Interrupted):
        cifarcnn.train(out=tmp_path, data=data_directory, on_event=Stopper((2, 1)), **settings)
    run_dir, stopper = next(tmp_path.iterdir()), Stopper()
    with pytest.raises(UsageError, match="--epochs is 1, but 2 are begun or completed; expected at least 2"):
        cifarcnn.resume(run_dir, epochs=1)
    # As if it had been killed between the epochs.
    run = RunDirectory(run_dir)
    checkpoint = run.load_checkpoint(ignore)
    checkpoint.progress.step = 0
    run.save_checkpoint(checkpoint)
    assert cifarcnn.resume(run_dir, epochs=1).epochs == 1
    again = cifarcnn.resume(run_dir, on_event=stopper)
    assert again.epochs == 1
    assert stopper.notes[0] == f"{run_dir} is finished: 1 of 1 epochs; --epochs extends it"
    assert json.loads(run.settings.read_text())["epochs"] == 1


def test_an_unknown_setting_is_refused(interrupted: Path) -> None:
    """As for a new training."""
    with pytest.raises(UsageError, match="unknown setting 'lr'"):
        cifarcnn.resume(interrupted, lr=0.1)


def test_what_a_kill_left_unwritten_is_written_by_resuming(interrupted: Path, tmp_path: Path) -> None:
    """Settings and environment of a run that was killed right after its first checkpoint."""
    copy = tmp_path / "copy"
    shutil.copytree(interrupted, copy)
    (copy / "settings.json").write_text("{}")
    (copy / "environment.json").unlink()
    step = RunDirectory.open(copy).load_checkpoint(ignore).progress.step
    stopper = Stopper((1, step + 1))
    with pytest.raises(Interrupted):
        # To leave to the machine what it chose before is no other setting.
        cifarcnn.resume(copy, on_event=stopper, precision="auto", device="auto")
    for name in ("settings.json", "environment.json"):
        assert (copy / name).read_text() == (interrupted / name).read_text()


@pytest.mark.parametrize(
    ("said", "device", "count"),
    [
        ({"device": "cpu"}, "cpu", None),
        ({"device": "gpu:1"}, "gpu:1", None),
        ({"devices": 2}, "gpu", 2),
        ({"device": "gpu", "devices": 3}, "gpu", 3),
        ({}, "gpu:0", 4),
        ({"device": "auto"}, "gpu:0", 4),
        ({"device": "gpu:0"}, "gpu:0", 4),
    ],
)
def test_a_run_may_go_on_on_another_device(
    said: dict[str, Any], device: str, count: int | None, interrupted: Path
) -> None:
    """Where a GPU is gone, the CPU can go on; how many there were holds for that device alone."""
    checkpoint = RunDirectory.open(interrupted).load_checkpoint(ignore)
    settings = dataclasses.replace(checkpoint.settings, device="gpu:0", devices=4)
    checkpoint = dataclasses.replace(checkpoint, settings=settings)
    resumed = setup.resumed_settings(checkpoint, {"epochs": None, **said})
    assert (resumed.device, resumed.devices) == (device, count)


def test_a_signal_after_the_last_epoch_is_not_lost(
    tmp_path: Path, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a series would go on with its next run. The epoch's speed is over all of its pieces."""
    due = callbacks.StepCallback.stop_flags

    def two_pieces(self: callbacks.StepCallback) -> Any:
        return due(self) | (np.arange(4) == 3) * (self.progress.step == STEPS - 1)

    def press(event: Event) -> None:
        if isinstance(event, EpochDone):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(callbacks.StepCallback, "stop_flags", two_pieces)
    settings = {**SMALL, "arch": "plain6-small", "epochs": 1}
    with pytest.raises(Interrupted, match=r"stopped after the last epoch; saved; .* cifarcnn train --resume"):
        cifarcnn.train(out=tmp_path, data=data_directory, on_event=press, **settings)
    (run_dir,) = tmp_path.iterdir()
    assert not (run_dir / "report.html").exists()
    # The second piece is a single step, which has no speed of its own.
    assert cifarcnn.resume(run_dir).images_per_second > 0
    assert (run_dir / "report.html").exists()


def test_a_signal_that_is_to_be_ignored_is() -> None:
    """A script's background processes are started with SIGINT ignored, others under ``trap '' TERM``."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.received is None
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
