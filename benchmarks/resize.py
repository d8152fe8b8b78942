"""How pictures of other proportions are best made square: accuracy of a model per way, on your own pictures.

    python benchmarks/resize.py runs/NAME photos

``photos`` holds folders named for the classes (airplane, cat, ...) with pictures of any size. All ways see
the same pictures; the differences are paired.
"""

import argparse
from pathlib import Path

import numpy as np

from cifarcnn.data import images
from cifarcnn.data.cifar10 import CLASSES
from cifarcnn.errors import ImageError
from cifarcnn.evaluation import comparison
from cifarcnn.models import modelfile


def main() -> None:
    """Read, ask, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    given = parser.parse_args()
    pixels: dict[images.Resize, list[np.ndarray]] = {way: [] for way in images.RESIZES}
    labels = []
    for label, name in enumerate(CLASSES):
        for path in sorted((given.photos / name).glob("*")):
            try:
                read = {way: images.read(path, way) for way in images.RESIZES}
            except ImageError as problem:
                print(f"{path}: {problem}")
                continue
            labels.append(label)
            for way, square in read.items():
                pixels[way].append(square)
    if not labels:
        parser.error(f"no picture in {given.photos}/{CLASSES[0]}, {CLASSES[1]}, ...")
    truth = np.array(labels)
    model = modelfile.load(given.model)
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
