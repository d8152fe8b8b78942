"""Keeping processes apart at one run, one plan of runs, and the cache: locks on files beside what they guard.

The system lets go of a lock when its process ends, however it ends.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cifarcnn.errors import RunError

NAME = ".lock"

ATTEMPTS = 5
"""How often to try: whoever only asks whether a run is in use holds its lock for an instant."""


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run for the length of the block.

    Raises:
        RunError: another process is at it.
        OSError: the directory cannot be written to.
    """
    with open(directory / NAME, "a+", encoding="ascii") as lock:
        for attempt in range(ATTEMPTS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.01 * attempt)
        else:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise RunError(
                f"run {str(directory)!r} is in use by process {owner}; wait for it, or stop it first"
            )
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def in_use(directory: Path) -> bool:
    """Return whether a process is at a run, on this machine or, where the file system tells, on another.

    Raises:
        OSError: the lock cannot be looked at.
    """
    try:
        # Without O_NONBLOCK, opening what is no file, a FIFO, may wait for ever.
        descriptor = os.open(directory / NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def alone(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait until no other process is in such a block with this file, which is made.

    Args:
        path: the file.
        on_wait: called once if there is reason to wait.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold, for the length of the block and with any number of processes, a file, which is made.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def is_shared(path: Path) -> bool:
    """Return whether another process is in a ``shared`` block with this file.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
