"""The devices that train, one or several, behind one interface."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifarcnn.config import Settings
from cifarcnn.errors import RunError, UsageError
from cifarcnn.events import Note, OnEvent
from cifarcnn.machine import backend
from cifarcnn.machine.devices import Choice
from cifarcnn.training.cluster import LONGEST_WAIT, Cluster, from_environment

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


def find_cluster(*, alone: bool, wait: float) -> Cluster | None:
    """Return the workers that ``TF_CONFIG`` or SLURM say train together; None if this process trains alone.

    Raises:
        UsageError: the environment makes no sense, or the backend trains alone.
    """
    if not 0 < wait <= LONGEST_WAIT:
        raise UsageError(f"--wait is {wait:g}; expected seconds, above 0 and at most {LONGEST_WAIT}, a week")
    found = None if alone else from_environment(os.environ)
    if found is not None:
        backend.need_tensorflow("several machines train together")
        # gRPC looks for a proxy when it connects; workers reach each other directly.
        os.environ.update(grpc_proxy="")
    return found


@contextlib.contextmanager
def connect(
    choice: Choice, cluster: Cluster | None, wait: float, on_event: OnEvent
) -> Iterator[SingleDevice]:
    """Join the devices of this machine and of the other workers.

    Args:
        choice: which devices of this machine.
        cluster: the other workers, None for this process alone.
        wait: seconds to wait for them.
        on_event: told what is waited for.

    Raises:
        UsageError: the devices cannot be had.
        RunError: not all workers came, or one was lost.
    """
    import keras

    if cluster is None and choice.count == 1:
        yield SingleDevice()
    elif keras.backend.backend() == "jax":
        with _data_parallel(choice).scope():
            yield ShardedBatches(choice.count)
    else:
        from cifarcnn.training import replicas

        if cluster is not None:
            everyone = len(cluster.workers)
            on_event(Note(f"{cluster.name(cluster.index)} waits up to {wait:g} s for all {everyone}"))
        devices = replicas.Replicas(replicas.join(choice, cluster, wait), cluster, choice.steps_per_execution)
        with devices.explaining_errors():
            yield devices


def _data_parallel(choice: Choice) -> Any:
    """Return Keras's distribution over this machine's devices."""
    import keras

    kind = choice.device.partition(":")[0]
    names = keras.distribution.list_devices(kind)
    if len(names) < choice.count:
        flag = f"XLA_FLAGS=--xla_force_host_platform_device_count={choice.count}"
        fix = f"; set {flag}" if kind == "cpu" else ""
        raise UsageError(f"--devices is {choice.count}, but JAX shows {len(names)} of kind {kind}{fix}")
    return keras.distribution.DataParallel(devices=names[: choice.count], auto_shard_dataset=False)
