"""How fast: Keras as written, ours and PyTorch on the same machine in the same run, training and inference.

    python benchmarks/throughput.py --torch-python /path/to/python --json throughput.json

Every measurement is a process of its own. A round goes over all architectures and, for each, over all
contestants, in an order that rotates from round to round; ratios are taken within a round, then their median
and range over the rounds are printed. What is timed, and what is not, stands in ``benchmarks/README.md``.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness import say, spread

TORCH = ("torch", "torch-float32")
WARMUP = 5
"""Batches trained before the clock starts, by Keras and PyTorch; ours trains a whole epoch before."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    from cifarcnn import recipes
    from cifarcnn.architectures import ARCHITECTURES

    names = [row.name for row in ARCHITECTURES if "classic" in recipes.recipes_for(row.name)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    of_names = "default: all that have a classic recipe"
    parser.add_argument("--arch", nargs="+", choices=names, default=names, help=of_names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="timed batches per measurement, at least 8")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--predict-images", type=int, default=10_000, help="for inference")
    parser.add_argument("--memory-images", type=int, default=50_000, help="for peak memory; 0: not measured")
    parser.add_argument("--data", help="where CIFAR-10 is; default: where `cifarcnn train` finds it")
    parser.add_argument("--torch-python", help="an interpreter that has torch and numpy; default: this one")
    parser.add_argument("--json", metavar="FILE|-", help="write everything measured; -: to stdout")
    given = parser.parse_args()
    if given.steps < 8 or given.steps * given.batch_size > 50_000:
        parser.error(f"--steps {given.steps} of {given.batch_size} images; expected 8 steps to 50,000 images")
    if given.rounds < 1 or not 1 <= given.predict_images <= 50_000:
        parser.error("expected at least one round, and 1 to 50,000 --predict-images")
    return given


def find_torch(asked: str | None) -> tuple[str, str] | None:
    """Return the interpreter for PyTorch and torch's version, or None if there is no torch."""
    python = asked or sys.executable
    command = [python, "-c", "import torch, numpy; print(torch.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        if asked:
            sys.exit(f"--torch-python {asked!r} cannot import torch and numpy; expected one that can")
        say("PyTorch is left out: torch is not installed here; name an interpreter with --torch-python")
        return None
    return python, done.stdout.strip()


def measure(contestant: str, spec: dict[str, Any], torch_python: str | None) -> dict[str, Any]:
    """Run one contestant once."""
    if contestant in TORCH:
        return harness.run("torch_contestant.py", contestant, spec, torch_python or sys.executable)
    return harness.run("contestants.py", contestant, spec)


def memory(spec: dict[str, Any], images: int) -> int:
    """Return the peak memory of one epoch of ours on so many images, in bytes."""
    whole = {**spec, "steps": images // spec["batch_size"], "epochs": 1, "predict_images": 0}
    peak: int = harness.run("contestants.py", "ours", whole)["peak_memory"]
    return peak


def summarise(found: list[dict[str, Any]], network: dict[str, Any]) -> dict[str, Any]:
    """Reduce one architecture's measurements to medians, and to ratios taken within each round.

    Args:
        found: measurements with "round" and "contestant".
        network: what ``describe`` returned.
    """
    rounds: dict[int, dict[str, dict[str, Any]]] = {}
    for item in found:
        rounds.setdefault(item["round"], {})[item["contestant"]] = item
    contestants = [name for name in rounds[0] if name != "ceiling"]

    def ratios(rival: str, figure: str) -> dict[str, float]:
        return spread(both["ours"][figure] / both[rival][figure] for both in rounds.values())

    summary: dict[str, Any] = {
        "ceiling_share": spread(
            both["ours"]["images_per_second"]
            * network["training_flops"]
            / both["ceiling"]["flops_per_second"][both["ours"]["precision"]]
            for both in rounds.values()
        ),
        "precision": rounds[0]["ours"]["precision"],
        "first_step_seconds": spread(both["ours"]["first_step_seconds"] for both in rounds.values()),
    }
    for figure in ("images_per_second", "epoch_images_per_second", "predict_images_per_second"):
        summary[figure] = {
            name: spread(both[name][figure] for both in rounds.values()) for name in contestants
        }
        summary[f"{figure}_ratio"] = {
            rival: ratios(rival, figure) for rival in contestants if rival != "ours"
        }
    return summary


def render(summaries: dict[str, dict[str, Any]], contestants: Sequence[str]) -> str:
    """Return the tables for training and inference."""
    rivals = [name for name in contestants if name not in ("ours", "ceiling")]
    titles = {"keras": "Keras", "ours": "ours", "torch": "torch bf16", "torch-float32": "torch f32"}

    def cells(summary: dict[str, Any], figure: str) -> list[str]:
        speeds = [f"{summary[figure][name]['median']:,.0f}" for name in ("ours", *rivals)]
        return speeds + [_range(summary[f"{figure}_ratio"][rival]) for rival in rivals]

    header = ["ours", *(titles[rival] for rival in rivals), *(f"ours / {titles[name]}" for name in rivals)]
    training = []
    for arch, summary in summaries.items():
        extra = summary.get("memory_over_idle")
        training.append(
            [
                arch,
                *cells(summary, "images_per_second"),
                _range(summary["epoch_images_per_second_ratio"]["keras"]),
                _range({name: 100 * value for name, value in summary["ceiling_share"].items()}, "{:.0f}"),
                summary["precision"],
                f"{extra / 1e9:.2f}" if extra is not None else "-",
                f"{summary['first_step_seconds']['median']:.1f}",
            ]
        )
    inference = [[arch, *cells(row, "predict_images_per_second")] for arch, row in summaries.items()]
    more = ["epoch / Keras's", "% of ceiling", "precision", "GB over idle", "first step, s"]
    return (
        "Training, images/s; median of rounds, ratios with (least-most)\n\n"
        + harness.table(["network", *header, *more], training)
        + "\n\nInference, images/s\n\n"
        + harness.table(["network", *header], inference)
    )


def _range(numbers: dict[str, float], form: str = "{:.2f}") -> str:
    middle, least, most = (form.format(numbers[name]) for name in ("median", "min", "max"))
    return f"{middle} ({least}-{most})"


def main() -> None:
    """Measure, print and write."""
    given = arguments()
    document = harness.begin("throughput", vars(given))
    torch = find_torch(given.torch_python)
    contestants = ["ceiling", "keras", "ours", *(TORCH if torch else ())]
    with tempfile.TemporaryDirectory() as directory:
        spec = _share_images(given, Path(directory), document["hardware"]["cpus"])
        say("describing the networks")
        networks = {arch: harness.run("contestants.py", "describe", {"arch": arch}) for arch in given.arch}
        measurements: list[dict[str, Any]] = []
        for number in range(given.rounds):
            turn = number % len(contestants)
            for arch in given.arch:
                for contestant in contestants[turn:] + contestants[:turn]:
                    measured = measure(
                        contestant, {**networks[arch], **spec, "arch": arch}, torch and torch[0]
                    )
                    measurements.append({"round": number, "arch": arch, "contestant": contestant, **measured})
                    speed = measured.get("images_per_second")
                    shown = f"{speed:,.0f} images/s" if speed else _ceilings(measured)
                    say(f"round {number + 1}/{given.rounds} {arch} {contestant}: {shown}")
        summaries = {
            arch: summarise([item for item in measurements if item["arch"] == arch], networks[arch])
            for arch in given.arch
        }
        if given.memory_images:
            idle = harness.run("contestants.py", "idle", {})["peak_memory"]
            for arch, summary in summaries.items():
                peak = memory({**spec, "arch": arch}, given.memory_images)
                summary["memory_over_idle"] = peak - idle
                say(f"{arch}: {(peak - idle) / 1e9:.2f} GB over an idle process of {idle / 1e9:.2f} GB")
    speeds = [item["flops_per_second"] for item in measurements if item["contestant"] == "ceiling"]
    ceilings = {dtype: spread(speed[dtype] for speed in speeds) for dtype in speeds[0]}
    document |= {
        "versions": networks[given.arch[0]]["versions"] | ({"torch": torch[1]} if torch else {}),
        "ceiling_flops_per_second": ceilings,
        "networks": {
            arch: {name: network[name] for name in ("params", "forward_flops", "training_flops")}
            for arch, network in networks.items()
        },
        "summary": summaries,
        "measurements": measurements,
    }
    text = render(summaries, contestants)
    middle = {"flops_per_second": {dtype: speed["median"] for dtype, speed in ceilings.items()}}
    harness.finish(document, f"{text}\n\nConvolution ceiling: {_ceilings(middle)}", given.json)


def _share_images(given: argparse.Namespace, directory: Path, cpus: int) -> dict[str, Any]:
    """Write training images where every contestant can read them; return what all contestants are told."""
    import cifarcnn

    images = cifarcnn.load_images("train", data=given.data)
    count = max(max(given.steps, WARMUP) * given.batch_size, given.predict_images)
    np.save(directory / "images.npy", images.images[:count])
    np.save(directory / "labels.npy", images.labels[:count])
    return {
        "images": str(directory / "images.npy"),
        "labels": str(directory / "labels.npy"),
        "data": given.data,
        "cpus": cpus,
        "steps": given.steps,
        "warmup": WARMUP,
        "epochs": 2,
        "batch_size": given.batch_size,
        "predict_images": given.predict_images,
    }


def _ceilings(measured: dict[str, Any]) -> str:
    speeds = measured["flops_per_second"].items()
    return ", ".join(f"{speed / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, speed in speeds)


if __name__ == "__main__":
    main()
