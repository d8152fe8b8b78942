"""The run directory: never overwritten, locked, and whole after whatever happened to it."""

import dataclasses
import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifarcnn.config import Settings
from cifarcnn.errors import RunError, UsageError
from cifarcnn.events import Event, Note, ignore
from cifarcnn.runs import run
from cifarcnn.runs.progress import Progress
from cifarcnn.runs.run import Checkpoint, RunDirectory

ROWS = [
    {"epoch": 1, "loss": 1.5, "accuracy": 0.1, "val_loss": 0.1 + 0.2, "val_accuracy": 0.25,
     "learning_rate": 0.01, "seconds": 2.0, "images_per_second": 100.0},
]  # fmt: skip


def checkpoint(step: int) -> Checkpoint:
    """A small checkpoint that is recognised by its step."""
    variables = [np.arange(12, dtype=np.float32).reshape(3, 4), np.array(step, np.int64)]
    return Checkpoint(
        Settings(), {"backend": "tensorflow"}, "/data", Progress(step=step, rows=ROWS), variables
    )


def directory_with(out: Path, *steps: int) -> RunDirectory:
    """A run directory in which these checkpoints were saved, one after the other."""
    directory = RunDirectory.create(out, Settings())
    for step in steps:
        directory.save_checkpoint(checkpoint(step))
    return directory


def test_a_run_directory_is_never_used_twice(tmp_path: Path) -> None:
    """Two runs that begin in the same second get a directory each."""
    made = {RunDirectory.create(tmp_path / "new" / "runs", Settings()).path for _ in range(3)}
    assert len(made) == 3
    assert all("-whiten6-small-fast-seed0" in path.name for path in made)


def test_a_checkpoint_reads_back_as_it_was(tmp_path: Path) -> None:
    """Settings, facts, progress and the variables' bytes, types and shapes."""
    found = directory_with(tmp_path, 7).load_checkpoint(ignore)
    wanted = checkpoint(7)
    for name in ("settings", "facts", "data", "progress"):
        assert getattr(found, name) == getattr(wanted, name)
    for ours, theirs in zip(found.variables, wanted.variables, strict=True):
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


def test_more_than_ten_variables_keep_their_order(tmp_path: Path) -> None:
    """They are stored by name, and names sort as numbers do."""
    directory = RunDirectory.create(tmp_path, Settings())
    variables = [np.array(number) for number in range(1200)]
    directory.save_checkpoint(dataclasses.replace(checkpoint(0), variables=variables))
    assert [int(value) for value in directory.load_checkpoint(ignore).variables] == list(range(1200))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut off anywhere or with any changed byte, it is read as it was or not at all, and the user is told."""
    directory = directory_with(tmp_path_factory.mktemp("runs"), 1, 2)
    newest = directory.path / "checkpoint.npz"
    content = bytearray(newest.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    newest.write_bytes(content)
    told: list[Event] = []
    found = directory.load_checkpoint(told.append)
    # Some bytes of a zip mean nothing to its reader: a date, or permissions.
    step = 1 if told else 2
    assert found.progress == checkpoint(step).progress
    assert [value.tobytes() for value in found.variables] == [
        value.tobytes() for value in checkpoint(step).variables
    ]
    if told:
        (note,) = told
        assert isinstance(note, Note)
        assert note.text.startswith("warning: checkpoint.npz: ")
        assert (directory.path / "checkpoint-damaged.npz").read_bytes() == content
        # What follows must not put the damaged one in the place of the whole one.
        directory.save_checkpoint(checkpoint(3))
        newest.write_bytes(b"")
        assert directory.load_checkpoint(ignore).progress.step in (1, 3)


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails for a moment costs one line; nothing is set aside, and nothing trained again."""
    directory = directory_with(tmp_path, 1, 2)
    before = set(directory.path.iterdir())

    def failing(path: Path) -> Checkpoint:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(run, "_read_checkpoint", failing)
        with pytest.raises(RunError, match=r"cannot read .*checkpoint\.npz': Input/output error; fix that"):
            directory.load_checkpoint(ignore)
    assert set(directory.path.iterdir()) == before
    assert directory.load_checkpoint(ignore).progress.step == 2


@pytest.mark.parametrize("whole", [True, False])
def test_too_little_memory_is_told_from_a_file_that_asks_for_too_much(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the checksums: a whole checkpoint stays where it is."""
    directory = directory_with(tmp_path, 1, 2)
    newest = directory.path / "checkpoint.npz"
    if not whole:
        content = bytearray(newest.read_bytes())
        content[content.index(b"NUMPY") + 80] ^= 1
        newest.write_bytes(content)
    read = run._read_checkpoint

    def without_memory(path: Path) -> Checkpoint:
        if path == newest:
            raise MemoryError
        return read(path)

    monkeypatch.setattr(run, "_read_checkpoint", without_memory)
    if whole:
        with pytest.raises(
            RunError, match="not enough memory; fix that, or remove it to go on from the one before"
        ):
            directory.load_checkpoint(ignore)
    else:
        assert directory.load_checkpoint(ignore).progress.step == 1
    assert newest.exists() == whole


def test_a_checkpoint_with_a_damaged_name_is_not_taken_for_a_smaller_one(tmp_path: Path) -> None:
    """A variable whose name is misspelt in the zip's directory is missed."""
    directory = directory_with(tmp_path, 1, 2)
    newest = directory.path / "checkpoint.npz"
    before, name, after = newest.read_bytes().rpartition(b"variable0000")
    newest.write_bytes(before + name.replace(b"v", b"w") + after)
    told: list[Event] = []
    assert directory.load_checkpoint(told.append).progress == checkpoint(1).progress
    assert told


def npz(**members: np.ndarray) -> bytes:
    """The bytes of a NumPy archive."""
    buffer = io.BytesIO()
    np.savez(buffer, **members)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    """The bytes of a single NumPy array, pickled if it holds objects."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def text(document: str) -> np.ndarray:
    """How a checkpoint holds its document."""
    return np.frombuffer(document.encode(), np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"PK\x03\x04 but no zip",
        npy(np.arange(3)),
        npy(np.array([{}], dtype=object)),
        npz(weights=np.arange(3)),
        npz(document=np.array([{}], dtype=object)),
        npz(document=text("[1, 2]")),
        npz(document=text("{}")),
        npz(document=text("no JSON")),
        npz(document=text('{"settings": {"speed": 1}, "facts": {}, "data": null, "progress": {}}')),
        npz(document=text('{"settings": {}, "facts": {}, "data": null, "progress": {"epoch": "one"}}')),
        npz(document=text('{"settings": {}, "facts": [], "data": null, "progress": {}}')),
    ],
)
def test_a_foreign_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """Whatever it is, the file is named, nothing in it is run, and it stays as it is."""
    directory = directory_with(tmp_path, 1)
    newest = directory.path / "checkpoint.npz"
    newest.write_bytes(content)
    with pytest.raises(RunError, match=r"no usable checkpoint in .*checkpoint\.npz: ") as caught:
        directory.load_checkpoint(ignore)
    assert "cannot be resumed" in str(caught.value)
    assert newest.read_bytes() == content


def test_a_directory_without_a_checkpoint_is_no_run(tmp_path: Path) -> None:
    """The user learns what was expected."""
    with pytest.raises(UsageError, match="no run directory"):
        RunDirectory.open(tmp_path / "none")
    with pytest.raises(UsageError, match=r"holds no checkpoint\.npz"):
        RunDirectory.open(tmp_path)


def test_a_failed_save_leaves_the_checkpoint_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the file nor a part of the new one changes or stays."""
    directory = directory_with(tmp_path, 1, 2)
    before = {path.name: path.read_bytes() for path in directory.path.iterdir()}

    def full(*_arguments: object, **_arrays: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunError, match="No space left on device; what was saved before is intact"):
        directory.save_checkpoint(checkpoint(3))
    assert {path.name: path.read_bytes() for path in directory.path.iterdir()} == before
    # Where nothing was saved before, there is nothing to go on with.
    first = RunDirectory(tmp_path / "first")
    first.path.mkdir()
    with pytest.raises(RunError, match=r"No space left on device; free space .*, then start again"):
        first.save_checkpoint(checkpoint(1))
    assert list(first.path.iterdir()) == []


LOCKER = """
import sys, time
from pathlib import Path
from cifarcnn.runs.run import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    """As long as the first lives, and no longer: a killed process holds no lock."""
    directory = directory_with(tmp_path, 1)
    first = subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(directory.path)], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    with first.stdout:
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=f"is in use by process {first.pid};"), directory.locked():
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
    with directory.locked():
        assert (directory.path / ".lock").read_text() == f"{os.getpid()}\n"


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    """Half-written files and directories go, everything else stays."""
    directory = directory_with(tmp_path, 1)
    (directory.path / ".checkpoint-abc.npz").write_bytes(b"half")
    (directory.path / ".best-xyz").mkdir()
    (directory.path / ".best-xyz" / "plain.keras").write_bytes(b"half")
    with directory.locked():
        assert {path.name for path in directory.path.iterdir()} == {".lock", "checkpoint.npz"}


def test_resume_command_can_be_pasted_into_a_shell() -> None:
    """A path with a space is quoted."""
    assert run.resume_command(Path("my runs/one")) == "cifarcnn train --resume 'my runs/one'"
