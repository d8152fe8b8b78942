"""What each recipe reaches, and at what cost: train and evaluate by the command, seed by seed, and tabulate.

    python benchmarks/recipes.py --arch whiten6 --seeds 5 --table

Every seed is one `cifarcnn train` and one `cifarcnn evaluate --tta`, each a process of its own. What they
measured goes into a file at once (`--results`), so the command may be stopped and called again: seeds
that are there are not trained again, unless network or recipe have changed, and a training that was stopped
goes on if its run directory is kept (`--out`). `--table` prints a table of what is in the file.

With `--publish`, for maintainers, that file is `benchmarks/recipes.json`, whose table the README shows, and
its means go into the package, where `cifarcnn summary` and `cifarcnn train` find what to expect.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
from cifarcnn import architectures, config, expectations, formatting
from cifarcnn.machine import files
from cifarcnn.models import summaries
from cifarcnn.recipes import RECIPES
from harness import HERE, say

PUBLISHED = HERE / "recipes.json"
VARYING = ("seed", "device", "devices", "precision")
"""Settings that are no part of a recipe."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    names = [row.name for row in architectures.ARCHITECTURES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", nargs="+", choices=names, default=[])
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="fast")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N-1")
    parser.add_argument(
        "--results",
        metavar="FILE",
        type=Path,
        help="what was measured stands here, and is not measured again; default: measured.json",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="keep the run directories here, and go on with those that are there; default: they are not kept",
    )
    parser.add_argument("--table", action="store_true", help="print a table of all that stands there")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="for maintainers: use benchmarks/recipes.json, and write expectations",
    )
    given = parser.parse_args()
    if not (given.arch or given.table or given.publish):
        parser.error("nothing to do: name architectures with --arch, or ask for the --table")
    if given.publish and given.results:
        parser.error(f"--publish has a file of its own, {PUBLISHED}; leave --results out")
    given.results = PUBLISHED if given.publish else given.results or Path("measured.json")
    return given


def recipe_settings(arch: str, recipe: str) -> dict[str, Any]:
    """Return the settings that make the recipe."""
    settings = dataclasses.asdict(config.resolve({"arch": arch, "recipe": recipe}))
    return {name: value for name, value in settings.items() if name not in VARYING}


def command(*words: str) -> dict[str, Any]:
    """Run a command of ours to its end, and return the document that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "cifarcnn", *words, "--json"], stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        sys.exit(f"cifarcnn {' '.join(words)} failed with exit code {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def measure(arch: str, recipe: str, seed: int, out: Path) -> dict[str, Any]:
    """Train and evaluate one network."""
    hardware = harness.machine()
    begun = begun_before(arch, recipe, seed, out)
    anew = ("--arch", arch, "--recipe", recipe, "--seed", str(seed), "--out", str(out))
    trained = command("train", *(("--resume", str(begun)) if begun else anew))
    evaluated = command("evaluate", trained["run_dir"], "--tta")
    environment = json.loads(Path(trained["run_dir"], "environment.json").read_text())
    return {
        "arch": arch,
        "recipe": recipe,
        "seed": seed,
        "accuracy": evaluated["accuracy"],
        "flip": evaluated["tta"]["flip"]["accuracy"],
        "flip_shift": evaluated["tta"]["flip_shift"]["accuracy"],
        "val_accuracy": trained["val_accuracy"],
        "best_epoch": trained["best_epoch"],
        "train_seconds": trained["train_seconds"],
        "images_per_second": trained["images_per_second"],
        "precision": trained["precision"],
        "device": trained["device"],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware,
        "versions": {
            name: environment[name]
            for name in ("cifarcnn", "keras", "tensorflow", "jax", "numpy")
            if name in environment
        },
        "settings": recipe_settings(arch, recipe),
        **network(arch),
    }


@functools.cache
def network(arch: str) -> dict[str, int]:
    """Return by what a changed network is known."""
    return {"params": architectures.find(arch).params, "flops": summaries.summarise(arch).flops}


def begun_before(arch: str, recipe: str, seed: int, out: Path) -> Path | None:
    """Return the run directory of this very training, finished or not, None if there is none."""
    wanted = {**recipe_settings(arch, recipe), "seed": seed}
    for path in sorted(out.glob("*/settings.json")):
        settings = json.loads(path.read_text())
        if {name: settings.get(name) for name in wanted} == wanted:
            return path.parent
    return None


def divide(records: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the records of networks and recipes as they are now, and the others; say which these are."""
    kept, others = [], []
    known = {row.name for row in architectures.ARCHITECTURES}
    for record in records:
        arch, recipe = record["arch"], record["recipe"]
        now = {"settings": recipe_settings(arch, recipe), **network(arch)} if arch in known else {}
        if now and all(record.get(name, value) == value for name, value in now.items()):
            kept.append(record)
        else:
            others.append(record)
            say(f"{arch} {recipe} seed {record['seed']}: the network or the recipe has changed; left out")
    return kept, others


def summarise(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each recipe and architecture, in the order of the tables of both."""
    rows = []
    for recipe in RECIPES:
        for row in architectures.ARCHITECTURES:
            group = [entry for entry in records if (entry["arch"], entry["recipe"]) == (row.name, recipe)]
            if group:
                rows.append(_summary(row.name, recipe, group))
    return rows


def _summary(arch: str, recipe: str, group: list[dict[str, Any]]) -> dict[str, Any]:
    settings = config.resolve({"arch": arch, "recipe": recipe})
    hardware = {_machine(entry["hardware"]) for entry in group}
    return {
        "arch": arch,
        "recipe": recipe,
        "seeds": len(group),
        "epochs": settings.epochs,
        "params": architectures.find(arch).params,
        "flops": summaries.summarise(arch).flops,
        "training_flops": summaries.training_flops(settings),
        **{
            name: {
                "mean": statistics.mean(entry[name] for entry in group),
                "std": statistics.stdev(entry[name] for entry in group) if len(group) > 1 else None,
            }
            for name in ("accuracy", "flip_shift", "train_seconds")
        },
        "hardware": "; ".join(sorted(hardware)),
        "precision": ", ".join(sorted({entry["precision"] for entry in group})),
        "versions": group[-1]["versions"],
    }


def _machine(hardware: dict[str, Any]) -> str:
    """Name a processor, its cores, and the feature that decides on the arithmetic."""
    features = "".join(f", {feature}" for feature in hardware["bfloat16"])
    return f"{hardware['cpu']}, {formatting.count(hardware['cpus'], 'core')}{features}"


def show(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table, under a line for each machine and arithmetic in it."""
    machines = list(dict.fromkeys(f"{row['hardware']}; {row['precision']}" for row in rows))
    letters = {machine: chr(ord("A") + number) for number, machine in enumerate(machines)}

    def percent(spread: dict[str, float | None]) -> str:
        mean, std = spread["mean"], spread["std"]
        return f"{100 * (mean or 0):.2f}" + ("" if std is None else f" ± {100 * std:.2f}")

    costs = ("parameters", "MFLOPs", "PFLOP", "epochs", "seeds", "minutes")
    header = ("network", "recipe", *costs, "accuracy %", "views %", "on")
    legend = "\n".join(f"{letter}: {machine}" for machine, letter in letters.items())
    table = harness.table(
        header,
        [
            (
                f"`{row['arch']}`",
                row["recipe"],
                f"{row['params']:,}",
                f"{row['flops'] / 1e6:.0f}",
                f"{row['training_flops'] / 1e15:.3g}",
                str(row["epochs"]),
                str(row["seeds"]),
                f"{row['train_seconds']['mean'] / 60:.1f}",
                percent(row["accuracy"]),
                percent(row["flip_shift"]),
                letters[f"{row['hardware']}; {row['precision']}"],
            )
            for row in rows
        ],
    )
    return f"{legend}\n\n{table}"


def main() -> None:
    """Measure what is missing, then tabulate if asked."""
    given = arguments()
    found = json.loads(given.results.read_text())["records"] if given.results.exists() else []
    records, others = divide(found)
    if given.publish:
        others = []
    for arch in given.arch:
        for seed in range(given.seeds):
            if any((arch, given.recipe, seed) == (r["arch"], r["recipe"], r["seed"]) for r in records):
                say(f"{arch} {given.recipe} seed {seed}: stands in {given.results} already")
                continue
            with tempfile.TemporaryDirectory() as directory:
                records.append(measure(arch, given.recipe, seed, given.out or Path(directory)))
            document = {"schema": 1, "records": [*others, *records]}
            files.write_text(given.results, json.dumps(document, indent=1) + "\n")
            last = records[-1]
            say(
                f"{arch} {given.recipe} seed {seed}: {100 * last['accuracy']:.2f} %, with views"
                f" {100 * last['flip_shift']:.2f} %, {last['train_seconds']:.0f} s"
            )
    if given.table:
        print(show(summarise(records)))
    if given.publish:
        document = {"schema": 1, "rows": summarise(records)}
        files.write_text(expectations.PATH, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
