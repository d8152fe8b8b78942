"""The devices that train together: those of this machine, and of the other workers."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from cifarcnn.errors import UsageError
from cifarcnn.events import Note, OnEvent
from cifarcnn.machine import backend
from cifarcnn.machine.devices import Choice
from cifarcnn.training.cluster import LONGEST_WAIT, Cluster, from_environment
from cifarcnn.training.devices import ShardedBatches, SingleDevice


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
