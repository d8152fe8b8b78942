"""What a training is set up with: images divided, defaults fitted to few of them, faults in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from cifarcnn.config import resolve
from cifarcnn.data.cifar10 import Images
from cifarcnn.errors import ModelError, RunError, UsageError
from cifarcnn.events import Event, Note, ignore
from cifarcnn.machine import devices
from cifarcnn.models.modelfile import TRAINED_ON
from cifarcnn.runs.progress import Progress
from cifarcnn.runs.run import Checkpoint
from cifarcnn.training import setup
from cifarcnn.training.setup import with_arch


def images(count: int, classes: int = 10) -> Images:
    """As many small images, of each class the same share."""
    pixels = np.zeros((count, 2, 2, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count) % 256
    return Images(pixels, (np.arange(count) % classes).astype(np.uint8), "a folder")


def fit(count: int, own: Images | None = None, **given: Any) -> tuple[dict[str, int], list[str]]:
    """What becomes of the sizes that the settings name, and what is said of it."""
    events: list[Event] = []
    fitted = setup.fit_to_images(resolve(given), images(count), given.keys(), own, events.append)
    sizes = {name: getattr(fitted, name) for name in ("val_size", "batch_size", "micro_batch")}
    return sizes, [event.text for event in events if isinstance(event, Note)]


def test_few_images_get_sizes_that_suit_and_are_told() -> None:
    """A fifth is held out, and an epoch has ten steps."""
    sizes, told = fit(300, arch="whiten6")
    assert sizes == {"val_size": 60, "batch_size": 24, "micro_batch": 0}
    assert told == ["300 images: --val-size 60, --batch-size 24 instead of the recipe's"]


def test_what_the_user_said_is_not_fitted() -> None:
    """Nor is anything where there are images enough."""
    assert fit(300, val_size=100, batch_size=50)[0]["batch_size"] == 50
    assert fit(300, val_size=0, micro_batch=250)[0] == {"val_size": 0, "batch_size": 500, "micro_batch": 250}
    assert fit(30_000) == ({"val_size": 1000, "batch_size": 500, "micro_batch": 0}, [])


def test_validation_images_of_the_data_sets_own_are_taken_and_told() -> None:
    """Unless the user asks for a number held out of the training images."""
    sizes, told = fit(30_000, own=images(40))
    assert sizes["val_size"] == 0
    assert told == ["validation: these 40 images; none are held out of the training images"]
    train, validation = setup.divide(images(100), resolve({"val_size": 0, "batch_size": 9}), images(40))
    assert (len(train), len(validation or ())) == (100, 40)
    train, validation = setup.divide(images(100), resolve({"val_size": 20, "batch_size": 9}))
    assert (len(train), len(validation or ())) == (80, 20)
    assert setup.divide(images(100), resolve({"val_size": 0, "batch_size": 9}))[1] is None


def test_a_batch_larger_than_the_images_is_refused() -> None:
    """The line tells how many there are."""
    with pytest.raises(
        UsageError, match="--batch-size is 90, but there are 80 training images; expected 80 or"
    ):
        setup.divide(images(100), resolve({"val_size": 20, "batch_size": 90}))


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        (
            {"batch_size": 128},
            3,
            "--batch-size is 128, which 3 devices cannot share equally; expected e.g. 126 or",
        ),
        ({"batch_size": 128, "micro_batch": 1}, 2, "--micro-batch is 1, which 2 devices .* expected e.g. 2"),
    ],
)
def test_shares_that_are_not_equal_are_refused(changes: dict[str, int], count: int, message: str) -> None:
    """Numbers near by are named."""
    with pytest.raises(UsageError, match=message):
        setup.check_shares(resolve(changes), count)
    setup.check_shares(resolve({"batch_size": 128, "micro_batch": 64}), 4)


def test_scaling_multiplies_batch_and_rate_by_the_devices() -> None:
    """Of all workers together."""
    hardware = devices.Hardware("tensorflow", "a processor", 2, frozenset())
    before = resolve({"arch": "vgg2", "batch_size": 100, "learning_rate": 0.1, "device": "cpu"})
    after, choice = setup._choose(hardware, before, 3, ignore, scale_batch=True)
    assert (after.batch_size, after.learning_rate, choice.count) == (300, pytest.approx(0.3), 1)


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        (TRAINED_ON, "its training_images_sha256 was old, and is new now; name the images .* with --data"),
        (setup.VALIDATED_ON, "its validation_images_sha256 was old, and is new now; name the images"),
        ("backend", "its backend was old, and is new now; set KERAS_BACKEND=old"),
    ],
)
def test_a_run_goes_on_with_its_own_images_and_backend_alone(fact: str, message: str) -> None:
    """Other versions are told, and no more."""
    told: list[Event] = []
    checkpoint = Checkpoint(resolve({}), {fact: "old", "keras": "1"}, None, Progress(), [])
    setup.compare(checkpoint, {fact: "old", "keras": "2"}, told.append)
    assert told == [Note("warning: keras was 1, is 2 now: the result may differ in the last digits")]
    with pytest.raises(RunError, match=message):
        setup.compare(checkpoint, {fact: "new", "keras": "1"}, ignore)


@pytest.mark.parametrize(
    ("counts", "balance", "expected"),
    [
        ((20, 10), False, []),
        (
            (21, 10),
            False,
            ["21 of 'a', 10 of 'b'; the loss is not weighted; --balance does that"],
        ),
        ((10, 30), True, ["30 of 'b', 10 of 'a'; the loss is weighted"]),
    ],
)
def test_imbalance_is_said(counts: tuple[int, int], balance: bool, expected: list[str]) -> None:
    """Where a class has more than twice the images of another, with what is done about it."""
    labels = np.repeat(np.arange(2, dtype=np.uint8), counts)
    train = Images(np.zeros((len(labels), 2, 2, 3), np.uint8), labels, "a folder", ("a", "b"))
    choice = devices.choose(devices.Hardware("tensorflow", "a processor", 2, frozenset(), (), None), "cpu")
    events: list[Event] = []
    setup._tell(resolve({"balance": balance}), choice, {TRAINED_ON: ""}, train, None, events.append)
    told = [event.text for event in events if isinstance(event, Note)]
    assert told == [f"training images: {text}" for text in expected]


def test_the_architecture_is_that_of_the_model_to_begin_with(tmp_path: Path) -> None:
    """Unless one is given; a run that goes on does not need the file."""
    assert with_arch({"init": "pretrained"})["arch"] == "whiten6"
    assert with_arch({"init": "pretrained", "arch": "whiten6-tiny"})["arch"] == "whiten6-tiny"
    assert with_arch({"init": "gone.keras", "arch": "vgg2"})["init"] == "gone.keras"
    with pytest.raises(ModelError, match=r"there is no model gone\.keras"):
        with_arch({"init": "gone.keras"})
    with pytest.raises(UsageError, match="does not tell its architecture; name a similar one with --arch"):
        with_arch({"init": str(models.save_tiny(tmp_path / "tiny.keras"))})
