"""Keeping processes apart at one run and at the cache: locks on files beside what they guard.

The system lets go of a lock when its process ends, however it ends.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from cifarcnn.errors import RunError
from cifarcnn.machine import files

NAME = ".lock"

ATTEMPTS = 5
"""How often to try: whoever only asks whether a run is in use holds its lock for an instant."""

WAIT = 0.1
"""Seconds between two attempts to get a lock that another process may hold for long."""


def acquire(file: IO[str] | IO[bytes], *, shared: bool = False) -> bool:
    """Lock an open file unless another process has; it is free again when it is closed.

    Args:
        file: is locked, not what it holds.
        shared: let others lock it so, too (not on Windows).

    Returns:
        Whether it could be locked.

    Raises:
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        # Windows locks bytes, and keeps others from reading them: one far behind all that is written.
        file.seek(1 << 30)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            file.seek(0)
    else:
        import fcntl

        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run for the length of the block.

    Raises:
        RunError: another process works in it.
        OSError: the directory cannot be written to.
    """
    with open(directory / NAME, "a+", encoding="ascii") as lock:
        for attempt in range(ATTEMPTS):
            if acquire(lock):
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
    """Return whether a process works in a run, on this machine or, where the file system tells, on another.

    Raises:
        OSError: the lock cannot be looked at.
    """
    try:
        with files.open_regular(directory / NAME) as lock:
            return not acquire(lock, shared=True)
    except (FileNotFoundError, files.NotRegularError):
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
        if not acquire(lock):
            on_wait()
            while not acquire(lock):
                time.sleep(WAIT)
        yield
