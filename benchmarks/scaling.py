"""How the time of an epoch grows with the number of images, the network's width and the batch size.

    python benchmarks/scaling.py --arch vgg2 --json scaling.json

One of the three varies at a time. Every point is an epoch of ``cifarcnn.train`` in a process of its own,
after an epoch that is not timed; rounds go over all points.
"""

import argparse
import math
from typing import Any

import numpy as np

import harness
from harness import say, spread

Point = tuple[int, float, int]
"""Images per epoch, factor on the convolutions' filters, images per step."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", choices=("vgg2", "vgg3", "plain6"), default="vgg2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, nargs="+", default=[6_400, 12_800, 25_600, 48_640])
    parser.add_argument("--widths", type=float, nargs="+", default=[0.5, 1, 2])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--base-images", type=int, default=12_800, help="while another varies")
    parser.add_argument("--base-batch-size", type=int, default=128, help="while another varies")
    parser.add_argument("--data", help="where CIFAR-10 is; default: where `cifarcnn train` finds it")
    parser.add_argument("--json", metavar="FILE|-", help="write everything measured; -: to stdout")
    given = parser.parse_args()
    least = 2 * max(given.base_batch_size, *given.batch_sizes)
    if min(given.base_images, *given.images) < least or max(given.base_images, *given.images) > 50_000:
        parser.error(f"expected {least} (two of the largest batches) to 50,000 images")
    if given.rounds < 1 or min(given.widths) <= 0 or min(given.batch_sizes) < 1:
        parser.error("expected at least one round, and widths and batch sizes above 0")
    return given


def points(given: argparse.Namespace) -> dict[str, list[Point]]:
    """Return the points of each axis; where axes cross, they share one."""
    images, batch = given.base_images, given.base_batch_size
    return {
        "images": [(count, 1, batch) for count in given.images],
        "width": [(images, width, batch) for width in given.widths],
        "batch size": [(images, 1, size) for size in given.batch_sizes],
    }


def measure(point: Point, arch: str, data: str | None) -> dict[str, Any]:
    """Time one epoch."""
    images, width, batch = point
    spec = {"arch": arch, "width": width, "batch_size": batch, "steps": images // batch, "epochs": 2}
    measured = harness.run("contestants.py", "ours", {**spec, "data": data, "predict_images": 0})
    seconds = spec["steps"] * batch / measured["epoch_images_per_second"]
    return {"images": images, "width": width, "batch_size": batch, "epoch_seconds": seconds, **measured}


def exponent(sizes: list[float], seconds: list[float]) -> float | None:
    """Return p where seconds grow as size to the power p, by least squares of the logarithms."""
    if len(set(sizes)) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def main() -> None:
    """Measure, print and write."""
    given = arguments()
    document = harness.begin("scaling", vars(given))
    axes = points(given)
    distinct = sorted({point for row in axes.values() for point in row})
    networks = {
        width: harness.run("contestants.py", "describe", {"arch": given.arch, "width": width})
        for width in sorted({point[1] for point in distinct})
    }
    measurements: list[dict[str, Any]] = []
    for number in range(given.rounds):
        for point in distinct:
            found = {"round": number, **measure(point, given.arch, given.data)}
            measurements.append(found)
            shown = "{} images, width {:g}, batch {}".format(*point)
            say(f"round {number + 1}/{given.rounds} {shown}: {found['epoch_seconds']:.2f} s an epoch")
    rows, growth = [], {}
    for column, (axis, row) in enumerate(axes.items()):
        medians = []
        for point in row:
            same = [
                item for item in measurements if (item["images"], item["width"], item["batch_size"]) == point
            ]
            seconds = spread(item["epoch_seconds"] for item in same)
            speed = spread(item["images_per_second"] for item in same)
            medians.append(seconds["median"])
            flops = networks[point[1]]["training_flops"]
            rows.append(
                [
                    f"{axis} {point[column]:g}",
                    "{median:.2f} ({min:.2f}-{max:.2f})".format(**seconds),
                    f"{speed['median']:,.0f}",
                    f"{speed['median'] * flops / 1e9:,.0f}",
                    f"{max(item['peak_memory'] for item in same) / 1e9:.2f}",
                ]
            )
        growth[axis] = exponent([float(point[column]) for point in row], medians)
    document |= {
        "versions": networks[min(networks)]["versions"],
        "growth": growth,
        "measurements": measurements,
    }
    header = [f"{given.arch}, varied", "s per epoch (least-most)", "images/s", "GFLOP/s", "peak GB"]
    grown = [
        f"Time grows as {axis} to the power {power:.2f}."
        for axis, power in growth.items()
        if power is not None and math.isfinite(power)
    ]
    harness.finish(document, "\n".join([harness.table(header, rows), "", *grown]), given.json)


if __name__ == "__main__":
    main()
