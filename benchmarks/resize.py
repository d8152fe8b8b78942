"""Accuracy and confidence on your own photographs, per way to make them square and number of views.

    python benchmarks/resize.py pretrained photos

``photos`` holds folders named for the model's classes (airplane, cat, ...). All settings see the same pictures;
the differences from the program's defaults are paired.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from cifarcnn.data import images
from cifarcnn.errors import CifarCNNError, DataError
from cifarcnn.evaluation import comparison
from cifarcnn.models import modelfile
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
    settings = [(resize, views) for resize in images.RESIZES for views in VIEWS]
    folders = [folder for name in model.classes if (folder := photos / name).is_dir()]
    correct, confidence = {}, {}
    labels = np.zeros(0, str)
    for resize, views in settings:
        outcomes = (
            predict(folders, model=model, resize=resize, views=views, recursive=True) if folders else ()
        )
        read = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        if not read:
            raise DataError(f"no picture can be read in folders of {photos} that are named for a class")
        labels = np.array([Path(one.path).relative_to(photos).parts[0] for one in read])
        correct[resize, views] = np.array([one.top[0].label for one in read]) == labels
        confidence[resize, views] = np.mean([one.top[0].probability for one in read])
    default = correct[images.DEFAULT_RESIZE, DEFAULT_VIEWS]
    print(
        "| resize | views | correct | accuracy | mean over classes | confidence | difference from the default |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (resize, views), hits in correct.items():
        mean = np.mean([hits[labels == label].mean() for label in np.unique(labels)])
        paired = comparison.compare(default, hits)
        low, high = (100 * bound for bound in paired.interval)
        change = f"{100 * paired.difference:+.1f} ({low:+.1f} to {high:+.1f}, p = {paired.p_value:.2g})"
        print(
            f"| `{resize}` | {views} | {int(hits.sum())} of {len(hits)} | {hits.mean():.1%} | {mean:.1%} "
            f"| {confidence[resize, views]:.1%} | {'' if hits is default else change} |"
        )


if __name__ == "__main__":
    main()
