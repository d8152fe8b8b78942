"""What goes wrong around a training: one line, exit code 1, and nothing good destroyed."""

import contextlib
import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cifarcnn as package
from cifarcnn.errors import Interrupted, RunError
from cifarcnn.events import EpochDone, Event, Note, StepsDone
from cifarcnn.figures import presentation
from cifarcnn.machine import backend
from cifarcnn.training import train as trainer
from conftest import Run

OPTIONS = ["--arch", "plain6-small", "--train-size", "120", "--val-size", "50", "--batch-size", "20"]
DISK = 20 << 20
COMMAND = Path(sys.executable).with_name("cifarcnn")


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(data_directory: Path) -> Iterator[Start]:
    """Start a training that would last for hours: ``start(out, *options, limit=None)``.

    ``limit`` is the largest file that it may write, in units of 512 bytes.
    """
    started: list[subprocess.Popen[str]] = []

    def begin(out: Path, *more: object, limit: int | None = None) -> "subprocess.Popen[str]":
        shell = ["/bin/sh", "-c", f'ulimit -f {limit}; exec "$@"', "sh"] if limit else []
        options = [*OPTIONS, "--epochs", "5000", "--data", data_directory, "--out", out, *more]
        process = subprocess.Popen(
            [*shell, COMMAND, "train", *map(str, options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A script's background job ignores Ctrl-C, and so would everything that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for(process: "subprocess.Popen[str]", text: str) -> str:
    """Read stderr up to a line with this text, and return the lines."""
    assert process.stderr is not None
    lines = ""
    for line in process.stderr:
        lines += line
        if text in line:
            return lines
    raise AssertionError(f"the training ended without {text!r}: {lines}")


def fill(path: Path) -> None:
    """Write zeros until the disk is full."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def assert_failed(process: "subprocess.Popen[str]", message: str, code: int = 1) -> None:
    """Expect the end of a training: one line that begins with "error:", and no traceback."""
    out, err = process.communicate(timeout=300)
    lines = [line for line in err.splitlines() if not re.match(r"epoch +\d+/", line)]
    assert process.returncode == code, err
    assert out == ""
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]


def assert_resumable(run: Path, cifarcnn: Run | None = None) -> None:
    """Train one more epoch than the checkpoint has, by the command if it is given, and load both models."""
    document = run / "metrics.csv"
    epochs = len(document.read_text().splitlines()) + 1
    if cifarcnn is None:
        package.resume(run, epochs=epochs)
    else:
        done = cifarcnn("train", "--resume", run, "--epochs", epochs, "-q")
        assert done.returncode == 0, done.stderr
    assert len(document.read_text().splitlines()) == epochs + 1
    for name in ("best.keras", "last.keras"):
        package.load_model(run / name)
    assert not list(run.glob(".*-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of ``DISK`` bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs more rights")
    yield place
    subprocess.run(["/bin/umount", "-l", place], check=True)


@pytest.mark.slow
def test_full_disk_stops_in_one_line_and_is_resumed_after(
    small_disk: Path, cifarcnn: Run, start: Start
) -> None:
    """The last checkpoint is whole, and the run goes on once there is space."""
    process = start(small_disk)
    wait_for(process, "epoch    2/")
    filler = small_disk / "filler"
    fill(filler)
    assert_failed(
        process, "cannot write to .*: No space left on device; what was saved before is intact: free"
    )
    (run,) = small_disk.glob("2*")
    assert not list(run.glob(".*-*"))
    refused = cifarcnn("train", "--resume", run)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: cannot write to ")
    assert "Traceback" not in refused.stderr
    filler.unlink()
    assert_resumable(run)


@pytest.mark.slow
def test_full_disk_at_the_start_leaves_one_line(small_disk: Path, start: Start) -> None:
    """Not even the first checkpoint fits."""
    (small_disk / "filler").write_bytes(bytes(DISK - (1 << 18)))
    process = start(small_disk, "-q")
    assert_failed(process, "cannot write to .*: No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2, 3000])
def test_a_file_too_large_for_the_system_stops_in_one_line(limit: int, tmp_path: Path, start: Start) -> None:
    """A full disk's stand-in where nothing can be mounted; the limit strikes at various files."""
    process = start(tmp_path / "runs", "-q", limit=limit)
    assert_failed(process, "cannot write to .*: File too large; free space .*, then start again")
    assert list(tmp_path.glob("runs/*/*.npz")) == []  # so there is nothing to go on with


def test_a_model_that_cannot_be_written_stops_in_one_line(tmp_path: Path, data_directory: Path) -> None:
    """What Keras raises inside its own writing becomes our one line, and the checkpoint stays."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_event(event: Event) -> None:
        if isinstance(event, StepsDone) and (event.epoch, event.step) == (2, event.steps):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    options = {"arch": "plain6-small", "train_size": 120, "val_size": 50, "batch_size": 20, "epochs": 3}
    try:
        with pytest.raises(RunError, match=r"cannot write to .*: File too large; what was saved before"):
            package.train(out=tmp_path, data=data_directory, on_event=on_event, **options)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (run,) = tmp_path.iterdir()
    assert package.resume(run).epochs == 3
    assert not list(run.glob(".*-*"))


@pytest.mark.slow
def test_deleted_run_directory_stops_in_one_line(tmp_path: Path, start: Start) -> None:
    """The message says that it is gone; it is not made again."""
    process = start(tmp_path / "runs")
    wait_for(process, "epoch    1/")
    (run,) = (tmp_path / "runs").iterdir()
    run.rename(tmp_path / "elsewhere")
    assert_failed(process, "the run directory .* is gone")
    assert not run.exists()


@pytest.mark.slow
def test_read_only_run_directory_stops_in_one_line(tmp_path: Path, start: Start) -> None:
    """Mended, the run goes on."""
    process = start(tmp_path / "runs")
    wait_for(process, "epoch    1/")
    (run,) = (tmp_path / "runs").iterdir()
    if os.geteuid():
        run.chmod(0o500)
    else:
        # Permissions do not bind root; a read-only mount over the directory does.
        for options in (["--bind", run, run], ["-o", "remount,bind,ro", run]):
            if subprocess.run(["/bin/mount", *options], capture_output=True, check=False).returncode:
                pytest.skip("a read-only mount needs more rights")
    try:
        assert_failed(process, "cannot write to .*: (Read-only file system|Permission denied)")
    finally:
        if os.geteuid():
            run.chmod(0o700)
        else:
            subprocess.run(["/bin/umount", "-l", run], check=True)
    assert_resumable(run)


def test_a_loss_that_is_not_finite_stops_and_saves_no_model(tmp_path: Path, data_directory: Path) -> None:
    """The step is named, and what to try."""
    options = {"arch": "plain6-small", "train_size": 120, "val_size": 50, "batch_size": 20, "epochs": 3}
    options |= {"learning_rate": 1000, "optimizer": "sgd", "precision": "float32", "schedule": "constant"}  # type: ignore[dict-item]
    with pytest.raises(
        RunError,
        match=r"^the (loss became (nan|inf)|network's weights .*) in epoch \d at step \d; no epoch was"
        r" completed; try a new run with --learning-rate 100$",
    ):
        package.train(out=tmp_path, data=data_directory, **options)  # type: ignore[arg-type]
    (run,) = tmp_path.iterdir()
    assert not list(run.glob("*.keras"))
    assert json.loads((run / "failure.json").read_text())["error"].startswith("the ")


def test_a_good_model_outlives_a_diverging_epoch(
    tmp_path: Path, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that become infinite in the second epoch's last step leave the first epoch's models alone."""
    options = {"arch": "plain6-small", "train_size": 200, "val_size": 50, "batch_size": 50, "epochs": 3}
    trainings: list[trainer.Trainer] = []
    make = trainer.Trainer.__init__

    def keeping(self: trainer.Trainer, *arguments: object, **named: object) -> None:
        make(self, *arguments, **named)  # type: ignore[arg-type]
        trainings.append(self)

    monkeypatch.setattr(trainer.Trainer, "__init__", keeping)
    models: list[bytes] = []

    def on_event(event: Event) -> None:
        if isinstance(event, EpochDone):
            (run,) = tmp_path.iterdir()
            models.append((run / "last.keras").read_bytes())
        if isinstance(event, StepsDone) and (event.epoch, event.step) == (2, event.steps):
            weights = trainings[0].models.training.trainable_variables[0]
            weights.assign(weights * float("inf"))

    with pytest.raises(
        RunError, match=r"not finite any more in epoch 2 at step 4; the model of epoch 1 is kept"
    ):
        package.train(out=tmp_path, data=data_directory, on_event=on_event, **options)  # type: ignore[arg-type]
    (run,) = tmp_path.iterdir()
    assert (run / "last.keras").read_bytes() == (run / "best.keras").read_bytes() == models[0]


def test_out_of_memory_says_which_batch_size_to_try(
    tmp_path: Path, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether Python or the backend found none; other errors of the backend are not disguised."""
    import tensorflow as tf

    options = {"arch": "plain6-small", "train_size": 200, "val_size": 50, "batch_size": 50, "epochs": 1}
    problems = [
        MemoryError(),
        # As TensorFlow words it: its class says what the text does not.
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[50,32,32,32]"),
    ]
    for problem in problems:

        def fail(*_arguments: object, problem: Exception = problem) -> None:
            raise problem

        monkeypatch.setattr(backend, "feed", fail)
        with pytest.raises(RunError, match=r"out of memory with batches of 50 images; .* --batch-size 25"):
            package.train(out=tmp_path, data=data_directory, **options)  # type: ignore[arg-type]
    failures = [json.loads(path.read_text())["error"] for path in tmp_path.glob("*/failure.json")]
    assert [text[:13] for text in failures] == ["out of memory"] * 2


@pytest.mark.slow
def test_two_processes_cannot_resume_one_run(tmp_path: Path, cifarcnn: Run, start: Start) -> None:
    """The second is refused with the first one's process id, and the first is not disturbed."""
    first = start(tmp_path / "runs")
    wait_for(first, "epoch    1/")
    (run,) = (tmp_path / "runs").iterdir()
    second = cifarcnn("train", "--resume", run)
    assert second.returncode == 1
    assert (
        second.stderr == f"error: run {str(run)!r} is in use by process {first.pid}; "
        "wait for it, or stop it first\n"
    )
    wait_for(first, "epoch ")
    first.send_signal(signal.SIGINT)
    assert_failed(first, "saved; go on with: cifarcnn train --resume ", 130)
    assert_resumable(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, code: int, tmp_path: Path, cifarcnn: Run, start: Start
) -> None:
    """The command that is printed works as it stands."""
    process = start(tmp_path / "my runs")
    wait_for(process, "epoch    1/")
    process.send_signal(number)
    assert process.stderr is not None
    _, err = process.communicate(timeout=300)
    assert process.returncode == code
    found = re.search(r"saved; go on with: cifarcnn train --resume '(.*)'$", err.strip())
    assert found, err
    if number == signal.SIGINT:
        assert_resumable(Path(found[1]), cifarcnn)


@pytest.mark.slow
def test_ctrl_c_during_the_start_gives_one_line(tmp_path: Path, start: Start) -> None:
    """Before there is anything to save, it just stops."""
    process = start(tmp_path / "runs")
    wait_for(process, "train images: ")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    errors = err.strip().splitlines()
    assert errors[-1].startswith(("error: stopped by Ctrl-C", "error: stopped in epoch 1"))
    assert len([line for line in errors if line.startswith("error")]) == 1
    assert "Traceback" not in err


@pytest.mark.slow
def test_on_a_terminal_the_bar_is_gone_before_the_error(tmp_path: Path, data_directory: Path) -> None:
    """Ctrl-C typed at a terminal: the cursor comes back, and the last line is the message, whole."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "train", *OPTIONS, "--epochs", "5000", "--data", data_directory, "--out", tmp_path],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    while b"epoch    2/" not in shown:
        shown += os.read(main, 4096)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            part = os.read(main, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait() == 130
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1
    after = shown[shown.rindex(b"\x1b[?25h") :].decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", after).strip()
    assert re.fullmatch(r"error: stopped in epoch \d+ after step \d of 6; saved; go on with: .*", plain), (
        plain
    )


SECOND = """
import os, signal
from cifarcnn.cli.main import main
from cifarcnn.machine import backend
from cifarcnn.training import callbacks

class Twice(callbacks.StepCallback):
    def on_train_batch_end(self, batch, logs=None):
        if self.progress.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        super().on_train_batch_end(batch, logs)

callbacks.StepCallback = Twice
main()
"""


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, data_directory: Path) -> None:
    """Nothing more is saved; the run is resumed from the last epoch."""
    done = subprocess.run(
        [sys.executable, "-c", SECOND, "train", *OPTIONS, "--epochs", "3", "--data", data_directory,
         "--out", tmp_path / "runs"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "error: stopped by Ctrl-C"
    assert "Traceback" not in done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert_resumable(run)


def test_a_truncated_checkpoint_is_told_and_the_one_before_taken(
    tmp_path: Path, data_directory: Path
) -> None:
    """With both damaged, one line says so and the models stay."""
    options = {"arch": "plain6-small", "train_size": 120, "val_size": 50, "batch_size": 20, "epochs": 2}

    def press(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        package.train(out=tmp_path, data=data_directory, on_event=press, **options)  # type: ignore[arg-type]
    (run,) = tmp_path.iterdir()
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    os.truncate(run / "checkpoint.npz", 1000)
    told: list[Event] = []
    assert package.resume(run, on_event=told.append).epochs == 2
    assert isinstance(told[0], Note)
    assert told[0].text.startswith("warning: checkpoint.npz: ")
    model = (copy / "last.keras").read_bytes()
    for name in ("checkpoint.npz", "checkpoint-previous.npz"):
        os.truncate(copy / name, 1000)
    with pytest.raises(RunError, match="no usable checkpoint"):
        package.resume(copy)
    assert (copy / "last.keras").read_bytes() == model


def test_a_chart_that_cannot_be_drawn_does_not_end_a_training(
    tmp_path: Path, data_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An odd font or style of the user's costs the picture, and one line; a full disk is another matter."""
    options = {"arch": "plain6-small", "train_size": 120, "val_size": 50, "batch_size": 20, "epochs": 1}

    def undrawable(*_arguments: object, **_named: object) -> None:
        raise RuntimeError("latex could not be found")

    monkeypatch.setattr(presentation, "redraw", undrawable)
    monkeypatch.setattr(presentation, "write_run_report", undrawable)
    told: list[Event] = []
    result = package.train(out=tmp_path, data=data_directory, on_event=told.append, **options)  # type: ignore[arg-type]
    assert result.model.exists()
    warnings = [event.text for event in told if isinstance(event, Note) and "warning" in event.text]
    assert warnings == [
        f"warning: no {what} was drawn: latex could not be found" for what in ("picture", "report")
    ]
    assert not (result.run_dir / "failure.json").exists()

    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(presentation, "redraw", full)
    with pytest.raises(RunError, match="No space left on device"):
        package.train(out=tmp_path, data=data_directory, **options)  # type: ignore[arg-type]
