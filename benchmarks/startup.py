"""How soon ``cifarcnn predict`` answers: the pretrained model against a Keras model, as whole processes.

    python benchmarks/startup.py --model runs/20261121-033456-vgg2-fast-seed0 --json startup.json

Every measurement is a process of its own, from before it starts until it has ended; rounds go over all
contestants in turn, and the first round, which warms the disk's cache, does not count.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

import harness
from harness import say, spread

COMMAND = Path(sys.executable).with_name("cifarcnn")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="a .keras file or a run directory; default: a fresh vgg2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keras-rounds", type=int, default=3, help="it takes seconds each")
    parser.add_argument("--json", metavar="FILE|-", help="write everything measured; -: to stdout")
    given = parser.parse_args()
    if given.rounds < 1 or given.keras_rounds < 1:
        parser.error("expected at least one round")
    return given


def fresh(path: Path) -> None:
    """Save an untrained vgg2, whose start costs what a trained one's does, in a process of its own."""
    script = (
        "import sys; from pathlib import Path; from cifarcnn import architectures\n"
        "from cifarcnn.machine import backend\n"
        "from cifarcnn.models import modelfile\n"
        "backend.load(); modelfile.save(architectures.build('vgg2'), Path(sys.argv[1]), {})\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True)


def seconds(words: list[str]) -> float:
    """Run one process to its end."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("CIFARCNN_MODEL", None)
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    elapsed = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return elapsed


def main() -> None:
    """Measure, print and write."""
    given = arguments()
    document = harness.begin("startup", vars(given))
    with tempfile.TemporaryDirectory() as directory:
        from PIL import Image

        picture = Path(directory, "picture.png")
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        Image.fromarray(pixels).save(picture)
        model = given.model
        if model is None:
            model = str(Path(directory, "vgg2.keras"))
            fresh(Path(model))
        predict = [str(COMMAND), "predict", str(picture)]
        contestants = {
            "predict, pretrained model": (predict, given.rounds),
            "predict, Keras model": ([*predict, "--model", str(model)], given.keras_rounds),
            "--help": ([str(COMMAND), "--help"], given.rounds),
            "Python with numpy": ([sys.executable, "-c", "import numpy"], given.rounds),
        }
        measured: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(max(given.rounds, given.keras_rounds) + 1):
            for name, (words, rounds) in contestants.items():
                if number > rounds:
                    continue
                elapsed = seconds(words)
                say(f"round {number} {name}: {elapsed:.2f} s")
                if number:
                    measured[name].append(elapsed)
    document |= {
        "versions": {name: version(name) for name in ("ai-edge-litert", "keras", "numpy", "tensorflow")},
        "measurements": measured,
    }
    rows = [
        [name, "{median:.2f} ({min:.2f}-{max:.2f})".format(**spread(values)), str(len(values))]
        for name, values in measured.items()
    ]
    header = ["whole process", "seconds (least-most)", "n"]
    harness.finish(document, harness.table(header, rows), given.json)


if __name__ == "__main__":
    main()
