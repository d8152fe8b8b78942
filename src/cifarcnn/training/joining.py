"""Bringing the devices together that train in step, and noticing when one is lost.

It must happen before TensorFlow computes anything. What they do then stands in ``replicas``.
"""

import contextlib
import faulthandler
import re
import subprocess
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from cifarcnn.errors import RunError, UsageError, first_line
from cifarcnn.machine.devices import Choice
from cifarcnn.training.cluster import Cluster
from cifarcnn.training.replicas import Replicas

JOIN_SECONDS = 60
"""How long TensorFlow waits for workers that have met, each of which is about to start it."""

HEARTBEAT_SECONDS = 10
"""A worker that has not been heard of for so long is lost; the others end within some seconds more."""

MOST_STEPS = 4
"""Of a call: each is traced for each device."""

LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
"""What TensorFlow raises when another worker has gone; other errors are so if they name another's task."""


def join(choice: Choice, cluster: Cluster | None) -> Replicas:
    """Bring the devices together.

    Args:
        choice: which devices of this machine.
        cluster: the other machines; they must have met, see ``meeting``. None for this one alone.

    Raises:
        UsageError: TensorFlow has computed already, and cannot be divided any more.
        RunError: another worker was lost meanwhile.
    """
    kind = "GPU" if choice.device.startswith("gpu") else "CPU"
    steps = min(choice.steps_per_execution, MOST_STEPS)
    try:
        _show(kind, choice, cluster)
        if cluster is None:
            names = [f"{kind}:{number}" for number in range(choice.count)]
            return Replicas(tf.distribute.MirroredStrategy(names), None, steps)
        stuck = f"not all workers started TensorFlow within {JOIN_SECONDS} s; start all of them again"
        with noticing_loss(cluster), _ending_if_stuck(JOIN_SECONDS, stuck):
            strategy = _multi_worker(cluster, {kind: choice.count} if kind == "GPU" else {})
            return Replicas(strategy, cluster, steps)
    except RuntimeError as problem:
        raise UsageError(
            f"TensorFlow has computed in this process already, and can no longer train on several devices"
            f" ({problem}); expected a training of several devices to be the first in its process"
        ) from problem


def _show(kind: str, choice: Choice, cluster: Cluster | None) -> None:
    """Show TensorFlow the devices that shall train, where it is not told them by name."""
    physical = tf.config.list_physical_devices(kind)
    if kind == "GPU":
        if cluster is not None:
            first = int(choice.device.partition(":")[2] or 0)
            tf.config.set_visible_devices(physical[first : first + choice.count], "GPU")
        return
    tf.config.set_visible_devices([], "GPU")
    if choice.count > 1:
        parts = [tf.config.LogicalDeviceConfiguration()] * choice.count
        tf.config.set_logical_device_configuration(physical[0], parts)


@contextlib.contextmanager
def _ending_if_stuck(seconds: float, why: str) -> Iterator[None]:
    """End this process, with a line on stderr and exit code 1, if the block takes longer.

    TensorFlow waits without end for a worker that died after the meeting, and no Python runs meanwhile: the
    clock is one of C, and what it writes when it ends the process makes a shell say why.
    """
    command = ["sh", "-c", 'read -r _ && printf "%s\\n" "$0" >&2', f"error: {why}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as shell:
        faulthandler.dump_traceback_later(seconds, exit=True, file=shell.stdin or 2)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _multi_worker(cluster: Cluster, accelerators: dict[str, int]) -> tf.distribute.Strategy:
    """Start this worker's server, and wait for the others'. Without accelerators the CPU is the device."""
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        heartbeat_timeout_in_ms=HEARTBEAT_SECONDS * 1000,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=len(cluster.workers))
        ],
    )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators=accelerators,
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(resolver)


@contextlib.contextmanager
def noticing_loss(cluster: Cluster) -> Iterator[None]:
    """Turn what TensorFlow says when a worker is lost into one line.

    Raises:
        RunError: one was lost.
    """
    try:
        yield
    except tf.errors.OpError as problem:
        if isinstance(problem, tf.errors.ResourceExhaustedError):
            raise
        named = {int(number) for number in re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", str(problem))}
        named -= {cluster.index}
        if not named and not isinstance(problem, LOST):
            raise RunError(f"TensorFlow failed: {first_line(problem)}") from problem
        lost = cluster.name(named.pop()) if len(named) == 1 else "another worker"
        raise RunError(
            f"{lost} is lost: it has ended, or is no longer to be reached; start all workers again with"
            " --resume"
        ) from problem
