"""Locks between processes, which the end of a process frees."""

import subprocess
import sys
from pathlib import Path

import pytest

from cifarcnn.errors import RunError
from cifarcnn.machine import locks

HOLD = """
import sys
from pathlib import Path
from cifarcnn.machine import locks
with locks.{0}(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(kind: str, path: Path) -> "subprocess.Popen[str]":
    """Start a process that holds a lock until its stdin ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(kind), path], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_holds_a_run_until_that_is_killed(tmp_path: Path) -> None:
    """The number is the process's."""
    assert not locks.in_use(tmp_path)
    with holder("held", tmp_path) as process:
        assert locks.in_use(tmp_path)
        with pytest.raises(RunError, match=f"in use by process {process.pid}; wait"), locks.held(tmp_path):
            pass
        process.kill()
        process.wait()
    assert not locks.in_use(tmp_path)
    with locks.held(tmp_path):
        assert locks.in_use(tmp_path)


def test_asking_whether_a_run_is_in_use_disturbs_nobody(tmp_path: Path) -> None:
    """Several may ask at once, and what is no file locks nothing."""
    (tmp_path / locks.NAME).touch()
    with open(tmp_path / locks.NAME, "rb") as file:
        assert locks.acquire(file, shared=True)
        assert not locks.in_use(tmp_path)
    (tmp_path / "other" / locks.NAME).mkdir(parents=True)
    assert not locks.in_use(tmp_path / "other")


def test_who_wants_to_be_alone_waits_and_says_so_once(tmp_path: Path) -> None:
    """The other's end is the end of the wait."""
    path = tmp_path / "lock"
    with holder("alone", path) as process:
        told: list[int] = []

        def tell() -> None:
            told.append(1)
            process.kill()

        with locks.alone(path, tell):
            assert told == [1]
