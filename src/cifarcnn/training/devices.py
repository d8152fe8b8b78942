"""One device, or several that train in step on JAX: what the trainer needs of devices."""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifarcnn.config import Settings
from cifarcnn.errors import RunError
from cifarcnn.machine import backend

if TYPE_CHECKING:
    from cifarcnn.training.callbacks import StepCallback
    from cifarcnn.training.model import TrainingModel

DRIFTED = (
    "the devices' weights are no longer equal, so this training cannot go on; go back to the last checkpoint"
    " with --resume, and if it happens again, train with --devices 1"
)


class SingleDevice:
    """One device. Several have the same attributes and methods.

    Attributes:
        count: the number of devices, those of other workers included.
        is_chief: whether this process writes the run directory.
        chief_name: what to call the process that does.
        gathers: whether ``fit`` cuts the images out of what ``hold`` was given; else the model does.
    """

    count = 1
    is_chief = True
    chief_name = "this process"
    gathers = False

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which model and optimizer are made."""
        return contextlib.nullcontext()

    def explaining_errors(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context that turns the loss of a worker into one line."""
        return contextlib.nullcontext()

    def hold(self, images: npt.NDArray[np.uint8], margin: int) -> None:
        """Put the training images on every device that gathers."""

    def fit(
        self,
        model: "TrainingModel",
        crops: npt.NDArray[np.int32],
        targets: npt.NDArray[np.float32],
        batch_size: int,
        callback: "StepCallback",
    ) -> None:
        """Train on these crops in order, batch by batch, until they or the callback end it."""
        model.fit(**backend.feed(crops, targets, batch_size), callbacks=[callback], verbose=0)

    def broadcast(self, content: bytes) -> bytes:
        """Return the chief's content on every worker."""
        return content

    def any(self, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return for each flag whether it is set on any worker."""
        return flags

    def check_equal(self, model: "TrainingModel") -> None:
        """Raise RunError if the devices' weights differ in any bit."""

    def agree(self, settings: Settings, facts: Mapping[str, Any], *, resumed: bool) -> Settings:
        """Return the chief's settings on every worker; raise RunError if one would train differently."""
        del facts, resumed  # one process agrees with itself
        return settings


class ShardedBatches(SingleDevice):
    """Several devices of this machine on JAX, where Keras divides each batch."""

    def __init__(self, count: int) -> None:
        self.count = count

    def check_equal(self, model: "TrainingModel") -> None:
        """Raise RunError if the devices' weights differ in any bit."""
        for variable in model.variables:
            if len({np.asarray(shard.data).tobytes() for shard in variable.value.addressable_shards}) > 1:
                raise RunError(DRIFTED)
