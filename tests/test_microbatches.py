"""A batch in parts makes the step that it makes as a whole; batch norm alone sees the parts."""

from typing import Any

import keras
import numpy as np
import pytest

from cifarcnn import architectures
from cifarcnn.config import resolve
from cifarcnn.training import pipeline, twin
from cifarcnn.training.preparation import _smaller

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3)).astype(np.uint8)
TARGETS = np.eye(10, dtype=np.float32)[np.arange(24) % 10]
PICKS = pipeline.draw_epoch(24, seed=1, epoch=0, augment="standard", shift=2)


def make(arch: str, parts: int) -> twin.Pair:
    """Make a twin, the same whenever it is asked for."""
    keras.utils.set_random_seed(1)
    stock = architectures.build(arch, architectures.Variant(dropout=0))
    pair = twin.make(stock, IMAGES, margin=2, precision="float32", seed=3)
    pair.twin.parts = parts
    pair.twin.compile(
        keras.optimizers.SGD(0.05),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    return pair


def change(pair: twin.Pair) -> list[Any]:
    """Make one step on all images; return by how much each trainable variable changed."""
    before = [variable.numpy() for variable in pair.twin.trainable_variables]
    pair.twin.fit(PICKS, TARGETS, batch_size=24, shuffle=False, verbose=0)
    after = [variable.numpy() for variable in pair.twin.trainable_variables]
    return [new - old for new, old in zip(after, before, strict=True)]


@pytest.mark.parametrize("arch", ["plain6-small", "rmsprop6"])
@pytest.mark.parametrize("parts", [2, 3, 24])
def test_the_step_and_its_figures_are_those_of_the_whole_batch(arch: str, parts: int) -> None:
    """Penalties count once, not once for each part."""
    whole, divided = make(arch, 1), make(arch, parts)
    for one, other in zip(change(whole), change(divided), strict=True):
        assert np.allclose(one, other, atol=1e-6 + 1e-4 * np.abs(one).max())
    figures = [pair.twin.get_metrics_result() for pair in (whole, divided)]
    assert figures[0]["accuracy"] == figures[1]["accuracy"]
    assert float(figures[0]["loss"]) == pytest.approx(float(figures[1]["loss"]), rel=1e-5)


def test_batch_norm_sees_each_part_by_itself() -> None:
    """The step is the mean of the parts' steps, which is not the whole batch's."""
    whole, divided = change(make("vgg2", 1)), change(make("vgg2", 2))
    halves = []
    for half in (slice(0, 12), slice(12, 24)):
        pair = make("vgg2", 1)
        before = [variable.numpy() for variable in pair.twin.trainable_variables]
        pair.twin.fit(PICKS[half], TARGETS[half], batch_size=12, shuffle=False, verbose=0)
        after = [variable.numpy() for variable in pair.twin.trainable_variables]
        halves.append([new - old for new, old in zip(after, before, strict=True)])
    for of_whole, of_parts, *of_halves in zip(whole, divided, *halves, strict=True):
        largest = np.abs(of_parts).max()
        assert np.allclose(of_parts, sum(of_halves) / 2, atol=1e-6 + 1e-3 * largest)
        assert not np.allclose(of_parts, of_whole, atol=1e-2 * largest)


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "expected"),
    [
        (50, 0, "batches of 50 images; try a new run with --batch-size 25"),
        (2000, 500, "batches of 500 images; try a new run with --micro-batch 250"),
        (2000, 125, "batches of 125 images; try a new run with --micro-batch 50"),
        (3, 1, "one image at a time; free some, or try a smaller network, fewer images or fewer epochs"),
    ],
)
def test_what_to_try_when_memory_is_short(batch_size: int, micro_batch: int, expected: str) -> None:
    """The advice is a smaller number that the command takes, as long as there is one."""
    settings = resolve({"batch_size": batch_size, "micro_batch": micro_batch})
    assert _smaller(settings) == expected
