"""Devices that train in step on ``tf.distribute``, which joins the workers and notices when one is lost.

Imports TensorFlow.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context

from cifarcnn.config import Settings
from cifarcnn.errors import RunError, UsageError, first_line
from cifarcnn.machine.devices import Choice
from cifarcnn.machine.signals import STOPPING
from cifarcnn.training.cluster import Cluster
from cifarcnn.training.devices import DRIFTED, SingleDevice
from cifarcnn.training.model import gather, gradients, pad

if TYPE_CHECKING:
    from cifarcnn.training.callbacks import StepCallback
    from cifarcnn.training.model import TrainingModel

HEARTBEAT_SECONDS = 10
"""A worker that has not been heard of for so long is lost; the others end within some seconds more."""

MOST_STEPS = 4
"""Of a call on several devices: each is traced for each device."""

MAY_DIFFER = ("cpu", "cpus", "device")
"""The facts and settings that need not be the same on all workers."""

TASK = re.compile(r"/job:worker/(?:replica:0/)?task:(\d+)")


class Replicas(SingleDevice):
    """The devices of one process or of several, each with the weights and all training images.

    Each computes its share of every batch; the gradients are added up, so the weights stay equal. ``fit``
    stands in for Keras's, which under several workers fails in Keras 3.15 (github.com/keras-team/keras issue
    20585) and shuffles shares about.
    """

    gathers = True

    def __init__(
        self, strategy: tf.distribute.Strategy, cluster: Cluster | None, steps_per_call: int
    ) -> None:
        self.strategy, self.cluster = strategy, cluster
        self.steps_per_call = min(steps_per_call, MOST_STEPS)
        self.count = strategy.num_replicas_in_sync
        self.is_chief = cluster is None or cluster.chief
        self.chief_name = cluster.name(0) if cluster else super().chief_name
        self.devices: tuple[str, ...] = strategy.extended.worker_devices
        self.first = len(self.devices) * (cluster.index if cluster else 0)
        self._add = tf.function(
            lambda values: strategy.reduce("SUM", values, axis=None), autograph=False, reduce_retracing=True
        )

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which model and optimizer are made."""
        return self.strategy.scope()  # type: ignore[no-any-return]

    def explaining_errors(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context that turns the loss of a worker into one line."""
        return _explaining_loss(self.cluster) if self.cluster else contextlib.nullcontext()

    def hold(self, images: npt.NDArray[np.uint8], margin: int) -> None:
        """Put the training images on every device of this process, with a border of ``margin`` pixels."""
        pixels = pad(images, margin)
        if "GPU" in self.devices[0]:
            # TensorFlow gathers no bytes on a GPU without compiling; float16 holds 0-255 exactly.
            pixels = pixels.astype(np.float16)
        self.size, self.margin = images.shape[1], margin
        self.store = self._on_each(lambda _replica: pixels)

    def fit(
        self,
        model: "TrainingModel",
        crops: npt.NDArray[np.int32],
        targets: npt.NDArray[np.float32],
        batch_size: int,
        callback: "StepCallback",
    ) -> None:
        """Train on these crops in order, batch by batch, until they or the callbacks of all end it."""
        model.reset_metrics()
        callback.set_model(model)
        model.stop_training = False
        if model.train_function is None:
            model.train_function = self._make_calls(model)
        batches, parts = len(crops) // batch_size, model.accumulation_steps
        divided = [  # (batch, replica, part, image, ...)
            array.reshape(batches, parts, self.count, batch_size // self.count // parts, -1).swapaxes(1, 2)
            for array in (crops.astype(np.int64), targets)
        ]
        done = 0
        while done < batches and not model.stop_training:
            calls = slice(done, min(done + self.steps_per_call, batches))
            mine = [self._shares(array[calls]) for array in divided]
            flags = self._on_each(lambda _replica: callback.stop_flags().astype(np.float32))
            totals = np.asarray(model.train_function(self.store, *mine, flags))
            images = (calls.stop - done) * batch_size
            amounts = (totals[0] * batch_size, images, totals[1], images)
            for variable, amount in zip(model.metrics_variables, amounts, strict=True):
                variable.assign_add(float(amount))
            done = calls.stop
            callback.agreed = totals[2:] > 0
            callback.on_train_batch_end(done - 1, model.get_metrics_result())

    def _make_calls(self, model: "TrainingModel") -> Callable[..., Any]:
        """Return the function that makes some steps on all devices and returns their sums."""

        def steps(store: Any, crops: Any, targets: Any, flags: Any) -> Any:
            totals = tf.zeros(2)
            for number in range(crops.shape[0]):
                pixels = [
                    tf.cast(gather(store, part, self.size, self.margin), tf.uint8)
                    for part in tf.unstack(crops[number])
                ]
                totals += _step(model, pixels, tf.unstack(targets[number]))
            return tf.concat([totals, flags], 0)

        @tf.function(reduce_retracing=False)  # type: ignore[untyped-decorator]
        def call(*arguments: Any) -> Any:
            each = self.strategy.run(steps, args=arguments)
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None)

        return call  # type: ignore[no-any-return]

    def broadcast(self, content: bytes) -> bytes:
        """Return the chief's content on every worker. What the others give does not matter."""
        return content if self.cluster is None else self._gather(content if self.is_chief else b"")[0]

    def any(self, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return for each flag whether it is set on any worker."""
        return flags if self.cluster is None else self._sum(flags.astype(np.int64)) > 0

    def agree(self, settings: Settings, facts: Mapping[str, Any], *, resumed: bool) -> Settings:
        """Return the chief's settings on every worker.

        Raises:
            RunError: a worker would train differently; on every worker in the same words.
        """
        if self.cluster is None:
            return settings
        own = {**facts, "resume": resumed, "computing on": settings.device.partition(":")[0]}
        if self.is_chief or not resumed:
            own |= dataclasses.asdict(settings)
        everyone = [json.loads(terms) for terms in self._gather(json.dumps(own).encode())]
        chief = everyone[0]
        for index, terms in enumerate(everyone):
            differing = [
                f"{name} is {chief.get(name)!r} at worker 0, {value!r} at worker {index}"
                for name, value in terms.items()
                if name not in MAY_DIFFER and chief.get(name) != value
            ]
            if differing:
                raise RunError(
                    f"{self.cluster.name(index)} would not train the same: {'; '.join(differing)}; start all"
                    " workers with the same settings, images and versions"
                )
        fields = {field.name: chief[field.name] for field in dataclasses.fields(Settings)}
        return Settings(**{**fields, "device": settings.device})

    def check_equal(self, model: "TrainingModel") -> None:
        """Raise RunError if the devices' weights differ in any bit."""
        digests = np.zeros((self.count, 4), np.int64)
        for number in range(len(self.devices)):
            digest = hashlib.sha256()
            for variable in model.variables:
                copies = self.strategy.experimental_local_results(variable.value)
                digest.update(copies[number].numpy().tobytes())
            digests[self.first + number] = np.frombuffer(digest.digest(), np.int64)
        everyone = self._sum(digests)
        if (everyone != everyone[0]).any():
            raise RunError(DRIFTED)

    def _gather(self, content: bytes) -> list[bytes]:
        """Return the contents of all workers, in their order."""
        assert self.cluster is not None  # noqa: S101 - only called where there is one
        index, count = self.cluster.index, len(self.cluster.workers)
        sizes = self._sum(np.eye(count, dtype=np.int64)[index] * len(content))
        # Eight bytes a number: adding the others' zeros leaves it as it is.
        numbers = np.zeros((count, (int(sizes.max()) + 7) // 8), np.int64)
        numbers[index] = np.frombuffer(content.ljust(8 * numbers.shape[1], b"\0"), np.int64)
        return [row.tobytes()[:size] for row, size in zip(self._sum(numbers), sizes, strict=True)]

    def _sum(self, array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Add up one array of each worker."""
        nothing = np.zeros_like(array)
        values = self._on_each(lambda replica: array if replica == self.first else nothing)
        total: npt.NDArray[np.int64] = self._add(values).numpy()
        return total

    def _shares(self, arrays: npt.NDArray[Any]) -> Any:
        """Give each device of this process its part of arrays (batches, replicas, ...)."""
        return self._on_each(lambda replica: arrays[:, replica])

    def _on_each(self, value: Callable[[int], Any]) -> Any:
        """Put a value on each device of this process, made from the replica's number."""

        def place(replica: Any) -> Any:
            number = replica.replica_id_in_sync_group
            with tf.device(self.devices[number - self.first]):
                return tf.identity(value(number))

        return self.strategy.experimental_distribute_values_from_function(place)


def _step(model: "TrainingModel", pixels: list[Any], targets: list[Any]) -> Any:
    """Make one step on this device's share; return its part of the loss, and how many it had right."""
    variables = model.trainable_variables
    # A loop in TensorFlow would forbid the devices to exchange batch norm's statistics.
    parts = [gradients(model, *part, len(pixels)) for part in zip(pixels, targets, strict=True)]
    summed = [tf.add_n(shares) for shares in zip(*(found for found, *_ in parts), strict=True)]
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        summed = finite_everywhere(summed)
    model.optimizer.apply_gradients(zip(summed, variables, strict=True))
    # Keras divides by the number of replicas: the shares' losses add up to the mean over the batch.
    loss = tf.add_n([loss for _, loss, _ in parts])
    logits = tf.concat([logits for *_, logits in parts], 0)
    correct = tf.equal(tf.argmax(logits, 1), tf.argmax(tf.concat(targets, 0), 1))
    return tf.stack([tf.cast(loss, tf.float32), tf.reduce_sum(tf.cast(correct, tf.float32))])


def finite_everywhere(gradients: list[Any]) -> list[Any]:
    """Make the gradients of all devices NaN if those of one are not finite.

    Keras's loss scaling looks at one device before the gradients are added up, and skips the step or not.
    """
    replica = tf.distribute.get_replica_context()
    broken = tf.add_n([tf.reduce_sum(tf.cast(~tf.math.is_finite(part), tf.float32)) for part in gradients])
    broken = replica.all_reduce(tf.distribute.ReduceOp.SUM, broken)
    spoiling = tf.where(broken > 0, float("nan"), 0.0)
    return [part + tf.cast(spoiling, part.dtype) for part in gradients]


def join(choice: Choice, cluster: Cluster | None, wait: float) -> tf.distribute.Strategy:
    """Show TensorFlow the devices that shall train, and join them; see ``distributed.connect``."""
    kind = "GPU" if choice.device.startswith("gpu") else "CPU"
    physical = tf.config.list_physical_devices(kind)
    try:
        if kind == "CPU":
            tf.config.set_visible_devices([], "GPU")
            if choice.count > 1:
                parts = [tf.config.LogicalDeviceConfiguration()] * choice.count
                tf.config.set_logical_device_configuration(physical[0], parts)
        elif cluster is not None:
            first = int(choice.device.partition(":")[2] or 0)
            tf.config.set_visible_devices(physical[first : first + choice.count], "GPU")
        if cluster is None:
            return tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(choice.count)])
        return _join_workers(cluster, {kind: choice.count} if kind == "GPU" else {}, wait)
    except RuntimeError as problem:
        raise UsageError(
            f"TensorFlow has computed in this process already, and can no longer train on several devices"
            f" ({problem}); expected a training of several devices to be the first in its process"
        ) from problem


def _join_workers(cluster: Cluster, accelerators: dict[str, int], wait: float) -> tf.distribute.Strategy:
    """Start this worker's server, and wait for the others'. Without accelerators the CPU is the device."""
    # TensorFlow has no public name for these; by itself it waits an hour, in which no Python runs.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=round(wait * 1000),
        heartbeat_timeout_in_ms=HEARTBEAT_SECONDS * 1000,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=len(cluster.workers))
        ],
    )
    context.context().coordination_service.cluster_register_with_barrier = True
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.workers)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators=accelerators,
        rpc_layer="grpc",
    )
    try:
        with _dying_of_signals():
            return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except (tf.errors.DeadlineExceededError, tf.errors.UnavailableError) as problem:
        _, _, listed = str(problem).partition("timed out task names")
        missing = sorted({*map(int, TASK.findall(listed.partition('"')[0]))} - {cluster.index})
        who = ", ".join(cluster.name(number) for number in missing)
        who = f"{who} did not come" if who else f"not all {len(cluster.workers)} workers came"
        raise RunError(f"{who} within {wait:g} s; start every worker, within --wait") from problem
    except tf.errors.OpError as problem:
        raise RunError(
            f"{cluster.name(cluster.index)} cannot join the others: {first_line(problem)}; expected a free"
            " port, and the same TF_CONFIG but for the index on every worker"
        ) from problem


@contextlib.contextmanager
def _dying_of_signals() -> Iterator[None]:
    """Let signals end the process at once: while TensorFlow waits no Python runs, and nothing is lost."""
    numbers = STOPPING if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _explaining_loss(cluster: Cluster) -> Iterator[None]:
    """Turn what TensorFlow says when a worker is lost into one line.

    Raises:
        RunError: one was lost.
    """
    # What it raises when another has gone; other errors are so if they name another's task.
    gone = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as problem:
        named = {int(number) for number in TASK.findall(str(problem))} - {cluster.index}
        if not named and not isinstance(problem, gone):
            raise RunError(f"TensorFlow failed: {first_line(problem)}") from problem
        lost = cluster.name(named.pop()) if len(named) == 1 else "another worker"
        raise RunError(
            f"{lost} is lost: it has ended, or is no longer to be reached; start all workers again with"
            " --resume"
        ) from problem
