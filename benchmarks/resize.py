"""How pictures of other proportions are best made square: accuracy of a model per way, on your own pictures.

    python benchmarks/resize.py runs/NAME photos

``photos`` holds folders named for the classes (airplane, cat, ...) with pictures of any size, as ``evaluate
--data`` takes them. All ways see the same pictures; the differences are paired.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from cifarcnn.cli import console
from cifarcnn.data import folders, images
from cifarcnn.errors import CifarCNNError, DataError, ImageError
from cifarcnn.evaluation import comparison
from cifarcnn.models import modelfile


def main() -> None:
    """Print a Markdown table, or one line that says why there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    given = parser.parse_args()
    try:
        measure(given.model, given.photos)
    except CifarCNNError as problem:
        sys.exit(f"error: {problem}")


def measure(path: Path, photos: Path) -> None:
    """Read, ask, and print."""
    model = modelfile.load(path)
    pixels: dict[images.Resize, list[np.ndarray]] = {way: [] for way in images.RESIZES}
    labels = []
    for picture in folders.find(photos, "test", console.Display())[1]:
        try:
            read = {way: images.read(picture.path, way) for way in images.RESIZES}
        except ImageError as problem:
            print(f"{picture.path}: {problem}")
            continue
        labels.append(picture.label)
        for way, square in read.items():
            pixels[way].append(square)
    if not labels:
        raise DataError(f"none of the pictures in {photos} can be read; expected at least one")
    truth = np.array(labels)
    right = {way: model.probabilities(np.stack(pixels[way])).argmax(axis=1) == truth for way in pixels}
    ours = right[images.DEFAULT_RESIZE]
    print("| resize | right | accuracy | mean over classes | difference from the default |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for way, hits in right.items():
        mean = np.mean([hits[truth == label].mean() for label in np.unique(truth)])
        paired = comparison.compare(ours, hits)
        low, high = (100 * bound for bound in paired.interval)
        change = f"{100 * paired.difference:+.1f} ({low:+.1f} to {high:+.1f}, p = {paired.p_value:.2g})"
        share = f"{int(hits.sum())} of {len(hits)} | {100 * hits.mean():.1f} %"
        print(f"| `{way}` | {share} | {100 * mean:.1f} % | {'' if hits is ours else change} |")


if __name__ == "__main__":
    main()
