"""Kill a training at random instants, resume it each time, and compare its end with an untouched run.

``python tests/torture.py --kills 20 --slow-saves``. SIGKILL leaves the process no time to tidy. With
``--slow-saves`` every file is written in small pieces with pauses and takes its place after another, so that
most kills land inside a save. Exits 1 if the end results differ in one bit, or
if a picture was not whole after a kill.
"""

import argparse
import contextlib
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

# Runs the command line in this interpreter, with every save stretched over about a third of a second.
SLOW = """
import contextlib, os, time
from cifarcnn.figures import charts
from cifarcnn.machine import files
from cifarcnn.models import modelfile

replacing = files.replacing

@contextlib.contextmanager
def slowly(path):
    with replacing(path) as aside:
        time.sleep(0.1)
        yield aside
        whole = aside.read_bytes()
        for share in (1, 2, 3):
            os.truncate(aside, 0)
            aside.write_bytes(whole[: len(whole) * share // 3])
            time.sleep(0.05)
        time.sleep(0.1)

files.replacing = slowly
for module in (charts, modelfile):
    if hasattr(module, "replacing"):
        module.replacing = slowly
"""
COMMAND = "from cifarcnn.cli.main import main\nmain()\n"


@dataclass
class Result:
    """What a torture found.

    Attributes:
        kills: kills while the training ran.
        restarts: kills before the first checkpoint, after which the training started anew.
        inside_saves: kills that left a half-written file.
        differing: names of what differs from the untouched run; empty is success.
        damaged: pictures and pages that were not whole after a kill; empty is success.
    """

    kills: int = 0
    restarts: int = 0
    inside_saves: int = 0
    differing: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


def torture(directory: Path, arguments: list[str], kills: int, *, slow_saves: bool, seed: int) -> Result:
    """Train once untouched and once with kills.

    Args:
        directory: an empty place for both.
        arguments: of ``cifarcnn train``, without ``--out``.
        kills: how many kills must strike a training that has saved something.
        slow_saves: stretch every save.
        seed: of the instants.
    """
    code = (SLOW if slow_saves else "") + COMMAND
    command = [sys.executable, "-c", code, "train", "-q"]
    straight, killed = directory / "straight", directory / "killed"
    subprocess.run([*command, *arguments, "--out", str(straight)], check=True, stdout=subprocess.DEVNULL)
    result = Result()
    instants = random.Random(seed)
    while True:
        run = next((path.parent for path in killed.glob("*/checkpoint*.npz")), None)
        ahead = ["--resume", str(run)] if run else [*arguments, "--out", str(killed)]
        before = modified(killed)
        process = subprocess.Popen([*command, *ahead], stdout=subprocess.DEVNULL)
        if result.kills < kills:
            # Importing takes most of so short a training's time; few kills at any time would strike it.
            moment = instants.choices(["any time", "first epoch", "a later epoch"], [2, 3, 5])[0]
            if moment == "any time":
                time.sleep(instants.uniform(0, 6))
            else:
                name = "tensorboard" if moment == "first epoch" else "metrics.csv"
                while process.poll() is None and modified(killed).get(name) == before.get(name):
                    time.sleep(0.01)
                time.sleep(instants.uniform(0, 2.5 if slow_saves else 1))
            process.kill()
        code_of_exit = process.wait()
        result.damaged += tuple(damaged_pictures(killed))
        if code_of_exit == 0:
            break
        if code_of_exit != -9:
            raise SystemExit(f"the training ended with {code_of_exit}")
        if run is None and not list(killed.glob("*/checkpoint*.npz")):
            result.restarts += 1
        else:
            result.kills += 1
        result.inside_saves += any(killed.glob("*/.*-*"))
        sys.stderr.write(f"kill {result.kills}: {where(killed)}\n")
    if result.kills < kills:
        raise SystemExit(f"the training ended after {result.kills} kills; give it more epochs")
    result.differing = tuple(differences(next(straight.iterdir()), run or next(killed.iterdir())))
    return result


def modified(killed: Path) -> dict[str, int]:
    """Return when each file of the run was last changed."""
    times = {}
    for path in killed.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):  # it may be replaced at this very moment
            times[path.name] = path.stat().st_mtime_ns
    return times


def damaged_pictures(killed: Path) -> list[str]:
    """Name the run's pictures and pages that are not whole."""
    damaged = [
        path.name
        for path in killed.glob("*/[!.]*.html")
        if not path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    ]
    for path in killed.glob("*/[!.]*.png"):
        try:
            with Image.open(path) as picture:
                picture.load()
        except OSError:
            damaged.append(path.name)
    return damaged


def where(killed: Path) -> str:
    """Say how far the killed training is, by its newest readable checkpoint."""
    for path in (*killed.glob("*/checkpoint.npz"), *killed.glob("*/checkpoint-previous.npz")):
        with np.load(path) as archive:
            progress = json.loads(archive["document"].tobytes())["progress"]
        return f"epoch {progress['epoch']} step {progress['step']}"
    return "no checkpoint"


def differences(one: Path, other: Path) -> list[str]:
    """Name what differs between two runs, times apart."""
    found = [
        name
        for name in ("settings.json", "best.keras", "last.keras", "metrics.csv")
        if hashlib.sha256((one / name).read_bytes()).digest()
        != hashlib.sha256((other / name).read_bytes()).digest()
    ]
    with np.load(one / "checkpoint.npz") as left, np.load(other / "checkpoint.npz") as right:
        names = sorted({*left.files, *right.files} - {"document"})
        found += [
            name
            for name in names
            if name not in left or name not in right or left[name].tobytes() != right[name].tobytes()
        ]
    return found + [f"left over: {path.name}" for path in other.glob(".*-*")]


def main() -> None:
    """Torture as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--slow-saves", action="store_true", help="stretch every save, to be killed inside it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("arguments", nargs="*", help="of `cifarcnn train`, after --")
    given = parser.parse_args()
    arguments = given.arguments or [
        *("--arch", "vgg2", "--epochs", str(3 + 3 * given.kills), "--train-size", "600", "--val-size", "200"),
        *("--batch-size", "30"),
    ]
    with tempfile.TemporaryDirectory() as directory:
        result = torture(
            Path(directory), arguments, given.kills, slow_saves=given.slow_saves, seed=given.seed
        )
    sys.stdout.write(f"{result}\n")
    sys.exit(1 if result.differing or result.damaged else 0)


if __name__ == "__main__":
    main()
