"""What a training is expected to reach and to take: the means that ``benchmarks/recipes.py`` measured.

Only measured figures stand here, each with its hardware; a training whose settings are not a recipe's own has
no expectation.
"""

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path

from cifarcnn import config
from cifarcnn.config import Settings
from cifarcnn.formatting import count, duration, percent

PATH = Path(__file__).with_name("expectations.json")

PLAIN = ("arch", "recipe", "seeds", "training_flops", "hardware", "precision")
"""What stands in the file as it is shown; of the rest, a mean and a standard deviation."""


@dataclass(frozen=True)
class Expectation:
    """What a recipe gave. Accuracies are shares of the test images; times are seconds of training.

    Attributes:
        seeds: how many trainings it was.
        accuracy, flip_shift: the mean, plain and with test-time views.
        accuracy_std, flip_shift_std: the standard deviation over seeds, None for a single one.
        train_seconds: the mean.
        training_flops: of a whole training.
        hardware, precision: on what, and in which numeric precision.
    """

    arch: str
    recipe: str
    seeds: int
    accuracy: float
    accuracy_std: float | None
    flip_shift: float
    flip_shift_std: float | None
    train_seconds: float
    training_flops: float
    hardware: str
    precision: str

    def sentence(self) -> str:
        """Say it in one line."""
        accuracy, views = percent(self.accuracy, 1), percent(self.flip_shift, 1)
        return (
            f"expect {accuracy} on the test images ({views} with views) after {duration(self.train_seconds)}:"
            f" the mean of {count(self.seeds, 'run')} on {self.hardware}, {self.precision}"
        )


@functools.cache
def table() -> dict[tuple[str, str], Expectation]:
    """Return what was measured, by architecture and recipe."""
    found = {}
    for row in json.loads(PATH.read_text(encoding="utf-8"))["rows"]:
        figures = {name: row[name] for name in PLAIN}
        for name in ("accuracy", "flip_shift"):
            figures |= {name: row[name]["mean"], f"{name}_std": row[name]["std"]}
        figures["train_seconds"] = row["train_seconds"]["mean"]
        found[row["arch"], row["recipe"]] = Expectation(**figures)
    return found


def expected_for(settings: Settings) -> Expectation | None:
    """Return what is expected of a training, None if it is not a recipe as it was measured."""
    recipe = config.resolve({"arch": settings.arch, "recipe": settings.recipe})
    free = {"seed": 0, "device": "auto", "precision": "auto", "deterministic": False, "devices": None}
    if dataclasses.replace(settings, **free) != dataclasses.replace(recipe, **free):  # type: ignore[arg-type]
        return None
    return table().get((settings.arch, settings.recipe))
