"""Accuracy and confidence on your own photographs, per way to make them square and number of views.

    python benchmarks/resize.py pretrained photos

``photos`` holds folders named for the model's classes (airplane, cat, ...), as ``evaluate --data`` takes
them. All settings see the same pictures; the differences from the program's defaults are paired.
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np

from cifarcnn import metrics
from cifarcnn.data import images
from cifarcnn.data.classnames import labels_among
from cifarcnn.errors import CifarCNNError, DataError
from cifarcnn.models import modelfile
from cifarcnn.prediction.picturefiles import Failure
from cifarcnn.prediction.predict import DEFAULT_VIEWS, VIEWS, Prediction, predict


def main() -> None:
    """Print a Markdown table, or one line that says why there is none."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    given = parser.parse_args()
    try:
        measure(modelfile.load(given.model), given.photos)
    except CifarCNNError as problem:
        sys.exit(f"error: {problem}")


def measure(model: modelfile.Model, photos: Path) -> None:
    """Predict in all ways, and print."""
    folders = sorted(entry for entry in photos.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    names = [folder.name for folder in folders]
    label_of = dict(zip(names, labels_among(names, model.classes, str(photos)), strict=True))
    correct, confidence, failed = {}, {}, set()
    labels = np.zeros(0, int)
    for way in itertools.product(images.RESIZES, VIEWS):
        outcomes = list(predict(folders, model=model, resize=way[0], views=way[1], recursive=True))
        failed |= {f"{outcome.path}: {outcome.error}" for outcome in outcomes if isinstance(outcome, Failure)}
        read = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        if not read:
            raise DataError(f"none of the pictures in {photos} can be read; expected at least one")
        labels = np.array([label_of[Path(one.path).relative_to(photos).parts[0]] for one in read])
        correct[way] = np.array([model.classes.index(one.top[0].label) for one in read]) == labels
        confidence[way] = np.mean([one.top[0].probability for one in read])
    for line in sorted(failed):
        print(line)
    default = correct[images.DEFAULT_RESIZE, DEFAULT_VIEWS]
    print("| resize | views | correct | accuracy | mean over classes | confidence | difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (resize, views), hits in correct.items():
        mean = np.mean([hits[labels == label].mean() for label in np.unique(labels)])
        paired = metrics.compare(default, hits)
        low, high = (100 * bound for bound in paired.interval)
        change = f"{100 * paired.difference:+.1f} ({low:+.1f} to {high:+.1f}, p = {paired.p_value:.2g})"
        print(
            f"| `{resize}` | {views} | {int(hits.sum())} of {len(hits)} | {hits.mean():.1%} | {mean:.1%} "
            f"| {confidence[resize, views]:.1%} | {'' if hits is default else change} |"
        )


if __name__ == "__main__":
    main()
