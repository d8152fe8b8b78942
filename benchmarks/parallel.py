"""What several machines can gain: the time of a step on n of them, modelled from what was measured on one.

    python benchmarks/parallel.py --arch whiten6 whiten6-small --gigabits 1 10

A step takes the computing of its share of the batch, at the speed that one machine had in
`benchmarks/recipes.json`, and adding up the gradients: four bytes for each trainable parameter, of which a
ring sends and receives 2 (n - 1) / n times as many, and a latency for each of its 2 (n - 1) hops. What hides
behind computing, and what makes workers wait for the slowest, are left out.
"""

import argparse
import json

import harness
from cifarcnn import architectures, config
from cifarcnn.machine.backend import load
from cifarcnn.models import summaries

BYTES = 4


def arguments() -> argparse.Namespace:
    """Read the command line."""
    records = json.loads((harness.HERE / "recipes.json").read_text())["records"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", nargs="+", choices=sorted({row["arch"] for row in records}), required=True)
    parser.add_argument("--machines", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--gigabits", nargs="+", type=float, default=[1, 10], help="of the network, a second")
    parser.add_argument("--latency", type=float, default=1e-4, help="seconds, of each hop")
    given = parser.parse_args()
    given.records = records
    return given


def step_seconds(computing: float, size: float, machines: int, gigabits: float, latency: float) -> float:
    """Return the modelled seconds of a step on several machines.

    Args:
        computing: its seconds on one.
        size: bytes of the gradients.
        machines: how many.
        gigabits: what the network carries in a second, in each direction.
        latency: seconds of each hop.
    """
    sent = 2 * (machines - 1) / machines * size
    return computing / machines + sent * 8 / (gigabits * 1e9) + 2 * (machines - 1) * latency


def main() -> None:
    """Print a row for each network and line speed."""
    given = arguments()
    load()
    rows = []
    for arch in given.arch:
        settings = config.resolve({"arch": arch})
        runs = [row for row in given.records if row["arch"] == arch and row["recipe"] == settings.recipe]
        flops = summaries.training_flops(settings)
        speed = flops * len(runs) / sum(row["train_seconds"] for row in runs)
        network = architectures.build(arch)
        size = BYTES * sum(variable.value.numpy().size for variable in network.trainable_variables)
        steps = settings.epochs * ((50_000 - settings.val_size) // settings.batch_size)
        computing = flops / steps / speed
        for gigabits in given.gigabits:
            times = [step_seconds(computing, size, n, gigabits, given.latency) for n in given.machines]
            gains = [f"{computing / seconds:.1f}" for seconds in times]
            one = [f"`{arch}`", f"{size / 1e6:.1f}", f"{1000 * computing:.0f}", f"{gigabits:g}"]
            rows.append(one + gains)
    head = ["network", "MB of gradients", "ms of a step on one", "Gbit/s", *map(str, given.machines)]
    print(harness.table(head, rows))


if __name__ == "__main__":
    main()
