"""What a recipe is expected to reach: taken from what was measured, and from nothing else."""

import dataclasses
import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from cifarcnn import architectures, config, expectations
from cifarcnn.data import cifar10
from cifarcnn.events import Event, Note
from cifarcnn.machine import devices
from cifarcnn.models import modelfile, summaries
from cifarcnn.training import setup
from conftest import Run

REPOSITORY = Path(__file__).parents[1]
RECORDS = json.loads((REPOSITORY / "benchmarks" / "recipes.json").read_text())["records"]


def test_expectations_are_the_means_of_what_was_measured() -> None:
    """Every row in the package follows from the records beside the benchmark, and every record counts."""
    table = expectations.table()
    assert sum(row.seeds for row in table.values()) == len(RECORDS)
    for (arch, recipe), row in table.items():
        group = [entry for entry in RECORDS if (entry["arch"], entry["recipe"]) == (arch, recipe)]
        assert len({entry["seed"] for entry in group}) == len(group) == row.seeds
        for name in ("accuracy", "flip_shift", "train_seconds"):
            assert getattr(row, name) == pytest.approx(statistics.mean(entry[name] for entry in group))
        # What the accuracy and, above all, the time depend on.
        for hardware in (entry["hardware"] for entry in group):
            assert f"{hardware['cpu']}, {hardware['cpus']} core" in row.hardware
            assert all(feature in row.hardware for feature in hardware["bfloat16"])


def test_records_are_of_the_recipes_as_they_are() -> None:
    """A recipe that was changed after it was measured must be measured again."""
    for entry in RECORDS:
        settings = config.resolve({"arch": entry["arch"], "recipe": entry["recipe"]})
        resolved = dataclasses.asdict(settings)
        for name, value in entry["settings"].items():
            assert resolved[name] == value, (entry["arch"], name)


def percentages(values: list[float]) -> str:
    """Mean and standard deviation, as tables show them."""
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def test_the_documentation_shows_the_table() -> None:
    """Each row of the table of results follows, cell by cell, from the records and the network."""
    page = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    lines = [" ".join(line.split()) for line in page.splitlines()]
    machines = list(dict.fromkeys((row.hardware, row.precision) for row in expectations.table().values()))
    for (arch, recipe), row in expectations.table().items():
        group = [entry for entry in RECORDS if (entry["arch"], entry["recipe"]) == (arch, recipe)]
        settings = config.resolve({"arch": arch, "recipe": recipe})
        cells = (
            f"`{arch}`",
            recipe,
            f"{architectures.find(arch).params:,}",
            f"{summaries.summarise(arch).flops / 1e6:.0f}",
            f"{summaries.training_flops(settings) / 1e15:.3g}",
            str(settings.epochs),
            str(len(group)),
            f"{statistics.mean(entry['train_seconds'] for entry in group) / 60:.1f}",
            percentages([entry["accuracy"] for entry in group]),
            percentages([entry["flip_shift"] for entry in group]),
            "ABC"[machines.index((row.hardware, row.precision))],
        )
        assert f"| {' | '.join(cells)} |" in lines, row


def test_only_a_recipe_as_it_stands_has_an_expectation() -> None:
    """Another seed, device or precision is the same recipe; other epochs are not."""
    arch, recipe = next(iter(expectations.table()))
    settings = config.resolve({"arch": arch, "recipe": recipe, "seed": 7, "device": "cpu"})
    assert expectations.expected_for(settings) is not None
    assert expectations.expected_for(dataclasses.replace(settings, epochs=settings.epochs + 1)) is None
    assert expectations.expected_for(config.resolve({"arch": arch, "recipe": recipe, "shift": 9})) is None


def test_an_expectation_is_said_in_one_line() -> None:
    """Accuracy, time, how many runs, and on what."""
    row = next(iter(expectations.table().values()))
    line = row.sentence()
    assert f"{100 * row.accuracy:.1f}%" in line
    assert row.hardware in line
    assert "\n" not in line


def test_summary_shows_cost_and_expectation(cifarcnn: Run) -> None:
    """For a recipe that was measured: its accuracy; for any: its floating-point operations."""
    (arch, recipe), row = next(iter(expectations.table().items()))
    document = json.loads(cifarcnn("summary", arch, "--json").stdout)
    assert document["recipes"][recipe]["expected"]["accuracy"] == row.accuracy
    assert document["recipes"][recipe]["training_flops"] == row.training_flops
    shown = cifarcnn("summary", arch).stdout
    assert f"{100 * row.accuracy:.2f}%" in shown
    assert f"{row.training_flops / 1e15:.3g}" in shown


def test_an_expectation_is_told_of_the_published_images_alone() -> None:
    """What was measured on CIFAR-10 says nothing about a user's own pictures."""
    arch, recipe = next(iter(expectations.table()))
    settings = config.resolve({"arch": arch, "recipe": recipe, "device": "cpu"})
    choice = devices.choose(devices.Hardware("tensorflow", "a processor", 2, frozenset(), (), None), "cpu")
    for checksum, told in ((cifar10.TRAINING_IMAGES_SHA256, 1), ("another", 0)):
        events: list[Event] = []
        images = cifar10.Images(np.zeros((30, 1, 1, 3), np.uint8), np.arange(30, dtype=np.uint8) % 10, "")
        setup._tell(settings, choice, {modelfile.TRAINED_ON: checksum}, images, None, events.append)
        assert [event.text.startswith("expect ") for event in events if isinstance(event, Note)] == [
            True
        ] * told
