"""From settings to a setup: images, hardware and devices, chosen and checked before Keras makes a network.

What was chosen is said; what does not suit is refused in one line.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cifarcnn import config, expectations
from cifarcnn.config import Settings
from cifarcnn.data import cifar10, sources
from cifarcnn.data.cifar10 import Images, stratified_split, stratified_subset
from cifarcnn.errors import RunError, UsageError
from cifarcnn.events import Note, OnEvent
from cifarcnn.machine import backend, devices
from cifarcnn.machine.devices import Choice, Hardware
from cifarcnn.models import modelfile
from cifarcnn.models.modelfile import TRAINED_ON
from cifarcnn.runs.run import Checkpoint
from cifarcnn.training import distributed
from cifarcnn.training.cluster import WAIT_SECONDS, Cluster
from cifarcnn.training.devices import SingleDevice

VALIDATED_ON = "validation_images_sha256"
"""The fact that identifies the data set's own validation images, where it brings some."""

IMBALANCE = 2
"""How many times more images one class may have than another until it is said."""

MAY_CHANGE = ("epochs", "device", "devices")
"""The settings of a run that may change when it is resumed."""


@dataclass(frozen=True)
class Setup:
    """What a training works on.

    Attributes:
        settings: with device and precision resolved.
        choice: the device, and how its framework is used.
        train, validation: the images; ``validation`` is None without any.
        facts: versions, hardware and checksums on which the result depends; compared when a run is resumed.
        data: where the user said the data set is; None if it was found by itself.
        devices: what computes.
        skipped: the pictures of the user's folder that could not be read.
    """

    settings: Settings
    choice: Choice
    train: Images
    validation: Images | None
    facts: dict[str, Any]
    data: str | None
    devices: SingleDevice
    skipped: tuple[str, ...] = ()

    @contextlib.contextmanager
    def explaining_errors(self) -> Iterator[None]:
        """Turn what the backend says when memory runs out, or a worker is lost, into one line.

        Raises:
            RunError: one of these.
        """
        with self.devices.explaining_errors():
            try:
                yield
            # Anything else is raised again.
            except Exception as problem:
                if not backend.is_out_of_memory(problem):
                    raise
                raise RunError(f"out of memory with {smaller_batch(self.settings)}") from problem


@contextlib.contextmanager
def prepare(
    settings: Settings,
    data: str | Path | None,
    on_event: OnEvent,
    *,
    explicit: Set[str] | None = None,
    checkpoint: Checkpoint | None = None,
    resumed: bool = False,
    cluster: Cluster | None = None,
    wait: float = WAIT_SECONDS,
    scale_batch: bool = False,
) -> Iterator[Setup]:
    """Get images and hardware, choose, and hold the devices for the length of the block.

    Args:
        settings: the user's, or the run's; a worker that goes on with the chief's run is told them.
        data, on_event, wait, scale_batch: as for ``train``.
        explicit: the settings that are the user's own, and not a default to be fitted to few images; if it
            is not told, those that are not the recipe's.
        checkpoint: of the run that goes on, where this process has it.
        resumed: whether a run goes on.
        cluster: the processes that train together, None for this one alone.
    """
    data = _stored_place(checkpoint) if data is None and checkpoint else data
    images = sources.load("train", data, on_event)
    if explicit is None:
        explicit = config.differing_from_recipe(settings)
    holds_out = "val_size" in explicit if checkpoint is None else VALIDATED_ON not in checkpoint.facts
    own = None if holds_out else sources.validation(data, on_event)
    hardware = backend.hardware()
    facts = _facts(images, hardware, cluster)
    all_facts = facts if own is None else {**facts, VALIDATED_ON: own.sha256()}
    if checkpoint is not None:
        compare(checkpoint, all_facts, on_event)
    elif not resumed:
        settings = fit_to_images(settings, images, explicit, own, on_event)
    workers = len(cluster.workers) if cluster else 1
    settings, choice = _choose(hardware, settings, workers, on_event, scale_batch=scale_batch)
    with (
        backend.running_on(choice, hardware.cpus, alone=workers * choice.count == 1),
        distributed.connect(choice, cluster, wait, on_event) as joined,
    ):
        settings = joined.agree(settings, facts, resumed=resumed)
        train, validation = divide(images, settings, own)
        _tell(settings, choice, facts, train, validation, on_event)
        place, skipped = sources.absolute(data), images.skipped
        setup = Setup(settings, choice, train, validation, all_facts, place, joined, skipped)
        with setup.explaining_errors():
            yield setup


def with_arch(overrides: Mapping[str, config.Value]) -> dict[str, config.Value]:
    """Return settings that name the network of the model that ``init`` names, if they name none.

    Raises:
        UsageError: the model does not say which network it is.
        ModelError: there is no such model.
    """
    explicit: dict[str, config.Value] = {
        name: value for name, value in overrides.items() if value is not None
    }
    init = explicit.get("init", config.RANDOM)
    if init == config.RANDOM or "arch" in explicit:
        return explicit
    config.check("init", init)
    arch = modelfile.read_metadata(Path(str(init))).get("arch")
    if not isinstance(arch, str):
        raise UsageError(f"--init {init!r} does not tell its architecture; name a similar one with --arch")
    return {**explicit, "arch": arch}


def fit_to_images(
    settings: Settings, images: Images, explicit: Set[str], own: Images | None, on_event: OnEvent
) -> Settings:
    """Fit what the user left to the defaults, which were made for 50,000 images, to a user's own images.

    ``own`` are the data set's own validation images, which make it unnecessary to hold some out.
    """
    changes: dict[str, Any] = {}
    if own is not None and "val_size" not in explicit:
        changes["val_size"] = 0
        on_event(Note(f"validation: these {len(own):,} images; none are held out of the training images"))
    elif "val_size" not in explicit and settings.val_size > len(images) // 5:
        changes["val_size"] = len(images) // 5
    count = len(images) - changes.get("val_size", settings.val_size)
    count = min(count, settings.train_size or count)
    # Ten steps an epoch at least; of CIFAR-10's images fewer may be what someone wants to measure.
    few = settings.batch_size > count // 10 and images.sha256() != cifar10.TRAINING_IMAGES_SHA256
    if few and explicit.isdisjoint(("batch_size", "micro_batch")):
        changes |= {"batch_size": max(1, count // 10), "micro_batch": 0}
    fitted = {name: value for name, value in changes.items() if value and value != getattr(settings, name)}
    if fitted:
        options = ", ".join(f"{config.option(name)} {value:,}" for name, value in fitted.items())
        on_event(Note(f"{len(images):,} images: {options} instead of the recipe's"))
    return dataclasses.replace(settings, **changes)


def divide(images: Images, settings: Settings, own: Images | None = None) -> tuple[Images, Images | None]:
    """Hold the validation images out, then reduce the rest to ``train_size``.

    Args:
        images: all that the training was given.
        settings: of which ``val_size``, ``train_size``, ``batch_size`` and ``seed`` count.
        own: the data set's own validation images, which are taken with ``val_size`` 0.

    Returns:
        The images to train on, and those to validate on: None with ``val_size`` 0 and no own ones.

    Raises:
        UsageError: there are too few images.
    """
    rest, held_out = stratified_split(images.labels, settings.val_size, settings.seed)
    if settings.train_size is not None:
        rest = stratified_subset(images.labels, rest, settings.train_size, settings.seed)
    if settings.batch_size > len(rest):
        raise UsageError(
            f"--batch-size is {settings.batch_size}, but there are {len(rest)} training images;"
            f" expected {len(rest)} or less"
        )
    return images.at(rest), images.at(held_out) if settings.val_size else own


def check_shares(settings: Settings, count: int) -> None:
    """Refuse batches that ``count`` devices cannot share equally.

    Raises:
        UsageError: the number of devices does not divide ``batch_size``, or ``micro_batch``.
    """
    name = "micro_batch" if settings.accumulation_steps > 1 else "batch_size"
    images = getattr(settings, name)
    if rest := images % count:
        sizes = [str(size) for size in (images - rest, images - rest + count) if size]
        raise UsageError(
            f"{config.option(name)} is {images}, which {count} devices cannot share equally; expected e.g."
            f" {' or '.join(sizes)}"
        )


def resumed_settings(checkpoint: Checkpoint, overrides: Mapping[str, config.Value]) -> Settings:
    """Return the run's settings with another number of epochs or device; refuse any other change.

    Raises:
        UsageError: a setting differs, or more epochs than that are completed.
    """
    before, progress = checkpoint.settings, checkpoint.progress
    for name, value in overrides.items():
        if value is not None:
            config.check(name, value)
    # "auto" leaves to the machine what it chose when the run began.
    given = {name: value for name, value in overrides.items() if value is not None and value != "auto"}
    differing = [
        f"{config.option(name)} is {getattr(before, name)!r} in the run, {value!r} now"
        for name, value in given.items()
        if name not in MAY_CHANGE and value != getattr(before, name)
    ]
    if differing:
        raise UsageError(
            f"a resumed run keeps its settings ({'; '.join(differing)}); leave these options out, or start a"
            " new run without --resume"
        )
    begun, epochs = progress.epoch + (progress.step > 0), given.get("epochs")
    if isinstance(epochs, int) and epochs < begun:
        raise UsageError(
            f"--epochs is {epochs}, but {begun} are begun or completed; expected at least {begun}"
        )
    return with_changes(before, given)


def with_changes(settings: Settings, overrides: Mapping[str, config.Value]) -> Settings:
    """Return a run's settings with those of ``MAY_CHANGE`` that are given; None and "auto" are not.

    Raises:
        UsageError: a value is wrong.
    """
    changed = {
        name: overrides[name] for name in MAY_CHANGE if overrides.get(name) is not None
        and overrides[name] != "auto"
    }  # fmt: skip
    if changed.get("device", settings.device) != settings.device:
        changed.setdefault("devices", None)  # their number is that of the device before
    elif "devices" in changed and settings.device.startswith("gpu"):
        changed["device"] = "gpu"
    return config.resolve({**dataclasses.asdict(settings), **changed})


def compare(checkpoint: Checkpoint, facts: Mapping[str, Any], on_event: OnEvent) -> None:
    """Refuse other images or another backend than the run's; say where versions or hardware differ.

    Raises:
        RunError: the run cannot go on with these.
    """
    before: Mapping[str, Any] = checkpoint.facts
    differing = {
        name: (before.get(name), value) for name, value in facts.items() if before.get(name) != value
    }
    images = "name the images that it began with, with --data"
    for name, fix in (
        (TRAINED_ON, images),
        (VALIDATED_ON, images),
        ("backend", f"set KERAS_BACKEND={before.get('backend')}"),
    ):
        if name in differing:
            old, new = differing[name]
            raise RunError(f"cannot resume the run: its {name} was {old}, and is {new} now; {fix}")
    for name, (old, new) in differing.items():
        on_event(Note(f"warning: {name} was {old}, is {new} now: the result may differ in the last digits"))


def smaller_batch(settings: Settings) -> str:
    """Return how many images were computed on at once, and how to need less memory."""
    option, size = "--batch-size", settings.batch_size
    fewer = max(1, size // 2)
    if settings.accumulation_steps > 1:
        option, size = "--micro-batch", settings.micro_batch
        fewer = next(half for half in range(max(1, size // 2), 0, -1) if settings.batch_size % half == 0)
    if size == 1:
        return "one image at a time; free some, or try a smaller network, fewer images or fewer epochs"
    return f"batches of {size} images; try a new run with {option} {fewer}"


def _stored_place(checkpoint: Checkpoint) -> str | None:
    """Return where the run's images were, or refuse to take others if they are gone."""
    place = checkpoint.data
    if place is None or not os.path.isabs(place) or os.path.exists(place):
        return place
    if checkpoint.facts.get(TRAINED_ON) == cifar10.TRAINING_IMAGES_SHA256:
        return None  # they are found wherever CIFAR-10 is
    raise UsageError(
        f"the images that the run was trained on are gone from {place!r}; name where they are now with --data"
    )


def _facts(images: Images, hardware: Hardware, cluster: Cluster | None) -> dict[str, Any]:
    """Return on what a result depends besides the settings."""
    return {
        "cifarcnn": version("cifarcnn"),
        **backend.versions(),
        "backend": hardware.backend,
        "cpu": hardware.cpu,
        "cpus": hardware.cpus,
        "workers": len(cluster.workers) if cluster else 1,
        TRAINED_ON: images.sha256(),
    }


def _choose(
    hardware: Hardware, settings: Settings, workers: int, on_event: OnEvent, *, scale_batch: bool
) -> tuple[Settings, Choice]:
    """Choose device and precision; return the settings with them resolved."""
    choice = devices.choose(hardware, settings.device, settings.precision, settings.devices)
    if workers > 1 and choice.device == "cpu" and choice.count > 1:
        raise UsageError(
            f"--devices is {choice.count}, but a worker without GPU is one device; leave --devices out"
        )
    if scale_batch:
        factor = workers * choice.count
        scaled = {
            name: getattr(settings, name) * factor for name in ("batch_size", "micro_batch", "learning_rate")
        }
        settings = config.resolve({**dataclasses.asdict(settings), **scaled})
    elif settings.devices is None:
        together = settings.batch_size // settings.accumulation_steps
        while together % (workers * choice.count) and choice.count > 1:
            fewer = choice.count - 1
            choice = devices.choose(hardware, settings.device, settings.precision, fewer)
            on_event(Note(f"{fewer + 1} devices cannot share batches of {together} equally"))
    if choice.warning:
        on_event(Note(f"warning: {choice.warning}"))
    on_event(Note(f"{choice.device}: {choice.reason}"))
    resolved = dataclasses.replace(
        settings, device=choice.device, precision=choice.precision, devices=choice.count
    )
    check_shares(resolved, workers * choice.count)
    return resolved, choice


def _tell(
    settings: Settings,
    choice: Choice,
    facts: Mapping[str, Any],
    train: Images,
    validation: Images | None,
    on_event: OnEvent,
) -> None:
    """Say what to expect, and what has no effect; make a GPU deterministic, and say what that costs."""
    counts = np.bincount(train.labels, minlength=len(train.classes))
    if counts.max() > IMBALANCE * counts.min():
        most, least = (
            f"{counts[at]:,} of {train.classes[at]!r}" for at in (counts.argmax(), counts.argmin())
        )
        what = "is weighted" if settings.balance else "is not weighted; --balance does that"
        on_event(Note(f"training images: {most}, {least}; the loss {what}"))
    as_measured = facts[TRAINED_ON] == cifar10.TRAINING_IMAGES_SHA256
    if as_measured and (expected := expectations.expected_for(settings)):
        on_event(Note(expected.sentence()))
    if settings.patience and validation is None:
        on_event(Note("warning: --patience has no effect without validation images"))
    if settings.deterministic and choice.device == "cpu":
        on_event(Note("deterministic: no change, on a CPU the same seed gives the same result anyway"))
    elif settings.deterministic:
        cost = backend.make_deterministic()
        text = (
            "the same seed gives the same result on the same model of GPU with the same driver and versions"
        )
        on_event(Note(f"deterministic: {cost}; {text}, not on another"))
