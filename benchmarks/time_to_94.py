"""Time to 94%: `whiten6` against the network of airbench94_muon in PyTorch, by their steps in one run.

    python benchmarks/time_to_94.py --torch-python /path/to/python --rounds 3

In each round both make a few steps of 2,000 images at each resolution of their recipe, in processes of their
own; a whole training is the median of each step's seconds times the number of steps that the recipe makes.
Start-up, compilation, validation and saving are excluded on both sides. airbench94_muon makes 200 steps
(8 epochs of 25) at the full resolution; `whiten6` makes those of its recipe.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from typing import Any

import harness

AIRBENCH_STEPS = 200
BATCH = 2000


def ours(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of a step of whiten6 at one resolution: of an epoch after one that compiles."""
    import cifarcnn
    from cifarcnn import events

    ends: list[float] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.StepsDone) and event.epoch == 2:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        result = cifarcnn.train(
            arch="whiten6",
            epochs=2,
            train_size=BATCH * (spec["steps"] + 1),
            val_size=0,
            resolutions=str(spec["resolution"]),
            precision=spec["precision"],
            device="cpu",
            out=out,
            on_event=watch,
        )
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    return {"seconds_per_step": statistics.median(seconds), "precision": result.precision}


def main() -> None:
    """Measure both, round by round, and print the ratio."""
    if len(sys.argv) == 3 and sys.argv[1] == "ours":
        print(json.dumps(ours(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch-python", required=True, help="an interpreter that has torch and numpy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each kind in a round")
    parser.add_argument("--json", metavar="FILE|-", help="write everything measured; -: to stdout")
    given = parser.parse_args()
    from cifarcnn import config
    from cifarcnn.machine import devices

    settings = config.resolve({"arch": "whiten6"})
    images = 50_000 - settings.val_size
    resolutions = config.resolution_of_epoch(settings)
    steps = {side: resolutions.count(side) * (images // BATCH) for side in sorted(set(resolutions))}
    bfloat16 = bool(devices.cpu_flags() & devices.BFLOAT16_FLAGS)
    document = harness.begin("time_to_94", vars(given))
    rounds = []
    for number in range(given.rounds):
        spec = {"steps": given.steps, "cpus": document["hardware"]["cpus"], "precision": "auto"}
        kind = "torch" if bfloat16 else "torch-float32"
        airbench = harness.run("airbench_contestant.py", kind, spec, given.torch_python)
        found = {
            side: harness.run("time_to_94.py", "ours", {**spec, "resolution": side})["seconds_per_step"]
            for side in steps
        }
        whole = sum(steps[side] * found[side] for side in steps)
        theirs = AIRBENCH_STEPS * airbench["seconds_per_step"]
        rounds.append({"ours": whole, "airbench": theirs, "steps": found, "ratio": whole / theirs})
        harness.say(f"round {number + 1}: {whole:.0f} s against {theirs:.0f} s, ratio {whole / theirs:.2f}")
    ratio = harness.spread(item["ratio"] for item in rounds)
    document |= {"rounds": rounds, "ratio": ratio, "versions": {"torch": airbench["torch"]}}
    text = (
        f"whiten6, {sum(steps.values())} steps: {statistics.median(item['ours'] for item in rounds):.0f} s;"
        f" airbench94_muon, {AIRBENCH_STEPS} steps:"
        f" {statistics.median(item['airbench'] for item in rounds):.0f} s; ratio"
        f" {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
        f" in {'bfloat16' if bfloat16 else 'float32'}"
    )
    harness.finish(document, text, given.json)


if __name__ == "__main__":
    main()
