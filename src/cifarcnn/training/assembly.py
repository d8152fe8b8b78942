"""What a training works on, and what it is made of: the network, its training twin and the optimizer."""

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from cifarcnn import architectures
from cifarcnn.config import Settings
from cifarcnn.data.cifar10 import CLASSES, Images
from cifarcnn.errors import RunError
from cifarcnn.machine import backend
from cifarcnn.machine.devices import Choice
from cifarcnn.runs.run import Checkpoint
from cifarcnn.training import optimizer, twin, whitening
from cifarcnn.training.cluster import Cluster

if TYPE_CHECKING:
    from cifarcnn.training.replicas import Replicas


@dataclass(frozen=True)
class Setup:
    """What a training works on: fixed settings, hardware and data.

    ``facts`` are compared when a run is resumed: versions and checksums on which its result depends. ``data``
    is where the user said the data set is. ``cluster`` are the processes that train together,
    ``replicas`` all their devices, once they are joined; None where there is but one.
    """

    settings: Settings
    choice: Choice
    cpus: int
    train: Images
    validation: Images | None
    facts: dict[str, Any]
    data: str | None
    cluster: Cluster | None = None
    replicas: "Replicas | None" = None


def build(setup: Setup, rates: npt.NDArray[np.float32]) -> twin.Pair:
    """Make the network, its twin and the optimizer.

    Args:
        setup: the settings and the training images.
        rates: the learning rate of each step.
    """
    settings = setup.settings
    backend.seed(settings.seed)
    keras.mixed_precision.set_dtype_policy("float32")
    variant = architectures.Variant(settings.normalize, settings.batch_norm_momentum, settings.dropout)
    row = architectures.find(settings.arch)
    stock = row.build(variant)
    if row.whitened:
        whitening.initialise(stock, setup.train.images, setup.train.labels, settings.seed)
    several = setup.replicas
    with several.strategy.scope() if several else contextlib.nullcontext():
        pair = twin.make(
            stock,
            setup.train.images,
            margin=settings.shift,
            precision=settings.precision,
            seed=settings.seed,
            jitter=settings.jitter > 0,
            any_side=row.any_side,
            crops_given=several is not None,
        )
        update_rule = optimizer.make(settings, rates)
        # Keras makes these variables at the first step; a checkpoint must find them before.
        update_rule.build(pair.twin.trainable_variables)
    if several:
        several.hold(setup.train, settings.shift)
    # The metrics are no part of a replica: what all devices found is added to them.
    pair.twin.compile(
        optimizer=update_rule,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False if several else setup.choice.jit_compile,
        steps_per_execution=min(setup.choice.steps_per_execution, len(rates)),
    )
    pair.twin.parts = settings.parts
    nothing = np.zeros((1, len(CLASSES)), np.float32)
    pair.twin.compute_metrics(x=None, y=nothing, y_pred=nothing)
    pair.twin.reset_metrics()
    return pair


def restore(pair: twin.Pair, checkpoint: Checkpoint) -> None:
    """Put the checkpoint's variables back."""
    variables = pair.state()
    shapes = [tuple(variable.shape) for variable in variables]
    found = [value.shape for value in checkpoint.variables]
    if shapes != found:
        raise RunError(
            f"the checkpoint holds {len(found)} variables that do not fit the {len(shapes)} of this network"
            " and optimizer; it was written by another version of cifarcnn: resume it with the one in its"
            " environment.json, or start a new run"
        )
    for variable, value in zip(variables, checkpoint.variables, strict=True):
        variable.assign(value)


def one_hot(labels: npt.NDArray[np.uint8], smoothing: float) -> npt.NDArray[np.float32]:
    """Return the targets, float32 (n, 10), with ``smoothing`` of each row spread over all classes."""
    classes = len(CLASSES)
    targets = np.full((len(labels), classes), smoothing / classes, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets
