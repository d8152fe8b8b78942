"""The devices that train: one, several of one machine, or those of several processes, behind one interface.

TensorFlow's ``tf.distribute`` brings the processes together, waits for them, and notices when one is lost.
On JAX, ``keras.distribution`` divides the batches among the devices of one machine.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifarcnn.config import Settings
from cifarcnn.errors import RunError, UsageError, first_line, reason
from cifarcnn.events import Note, OnEvent
from cifarcnn.machine import backend
from cifarcnn.machine.devices import Choice
from cifarcnn.training import cluster as clusters
from cifarcnn.training.cluster import LONGEST_WAIT, Cluster

if TYPE_CHECKING:
    import tensorflow as tf

    from cifarcnn.training.callbacks import StepCallback
    from cifarcnn.training.model import TrainingModel

HEARTBEAT_SECONDS = 10
"""A worker that has not been heard of for so long is lost; the others end within some seconds more."""

CONNECT_SECONDS, RETRY_SECONDS = 2, 0.2
"""Of an attempt to reach a worker that is not there yet, and between two of them."""

MOST_STEPS = 4
"""Of a call on several devices: each is traced for each device."""

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
        """Raise RunError if the devices' weights differ."""

    def agree(self, settings: Settings, facts: Mapping[str, Any], *, resumed: bool) -> Settings:
        """Return the chief's settings on every worker; raise RunError if one would train differently."""
        del facts, resumed  # one device agrees with itself
        return settings


class ShardedBatches(SingleDevice):
    """Several devices of this machine on JAX, where Keras itself divides each batch. Made by ``connect``."""

    def __init__(self, count: int) -> None:
        self.count = count

    def check_equal(self, model: "TrainingModel") -> None:
        """Compare the weights on all devices, bit by bit.

        Raises:
            RunError: they differ.
        """
        for variable in model.variables:
            contents = {np.asarray(shard.data).tobytes() for shard in variable.value.addressable_shards}
            if len(contents) > 1:
                raise RunError(DRIFTED)


class Replicas(SingleDevice):
    """The devices that train in step on TensorFlow, in one process or in several. Made by ``connect``.

    Each holds the weights and all training images, and computes its share of every batch; the gradients are
    added up, so all stay equal. ``fit`` stands in for Keras's, which under several workers fails in Keras
    3.15 (github.com/keras-team/keras issue 20585) and shuffles shares about.
    """

    gathers = True

    def __init__(
        self, strategy: "tf.distribute.Strategy", cluster: Cluster | None, steps_per_call: int
    ) -> None:
        import tensorflow as tf

        self.strategy, self.cluster, self.steps_per_call = strategy, cluster, steps_per_call
        self.count = strategy.num_replicas_in_sync
        self.is_chief = cluster is None or cluster.chief
        self.chief_name = cluster.name(0) if cluster else SingleDevice.chief_name
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
        return _noticing_loss(self.cluster) if self.cluster else contextlib.nullcontext()

    def hold(self, images: npt.NDArray[np.uint8], margin: int) -> None:
        """Put the training images on every device of this process, with a border of ``margin`` pixels."""
        from cifarcnn.training.model import pad

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
        """Train in order, batch by batch, until the crops or the callback end it.

        Args:
            model: made with ``gathered`` and compiled for one device, in ``strategy.scope()``.
            crops: int32, (batches * batch_size, 4) or (batches * batch_size, 6).
            targets: float32, (batches * batch_size, classes).
            batch_size: images of a step, of all devices together.
            callback: told of every call; it decides with those of the other workers.
        """
        model.reset_metrics()
        callback.set_model(model)
        model.stop_training = False
        if model.train_function is None:
            model.train_function = self._make_calls(model)
        share = batch_size // self.count
        batches = len(crops) // batch_size
        parts = model.accumulation_steps
        # (batch, replica, part, image, ...)
        divided = [
            array.reshape(batches, parts, self.count, share // parts, -1).swapaxes(1, 2)
            for array in (crops.astype(np.int64), targets)
        ]
        done = 0
        while done < batches and not model.stop_training:
            steps = min(self.steps_per_call, batches - done)
            mine = [self._shares(array[done : done + steps]) for array in divided]
            flags = self._on_each(lambda _replica: callback.stop_flags().astype(np.float32))
            totals = np.asarray(model.train_function(self.store, *mine, flags))
            images = steps * batch_size
            loss, correct = float(totals[0]) * batch_size, float(totals[1])
            for variable, amount in zip(
                model.metrics_variables, (loss, images, correct, images), strict=True
            ):
                variable.assign_add(amount)
            done += steps
            callback.agreed = totals[2:] > 0
            callback.on_train_batch_end(done - 1, model.get_metrics_result())

    def _make_calls(self, model: "TrainingModel") -> Callable[..., Any]:
        """Return the function that makes some steps on all devices and returns their sums."""
        import tensorflow as tf

        from cifarcnn.training.model import gather

        def steps(store: Any, crops: Any, targets: Any, flags: Any) -> Any:
            totals = tf.zeros(2)
            for number in range(crops.shape[0]):
                pixels = [
                    tf.cast(gather(store, part, self.size, self.margin), tf.uint8)
                    for part in tf.unstack(crops[number])
                ]
                totals += self._step(model, pixels, tf.unstack(targets[number]))
            return tf.concat([totals, flags], 0)

        @tf.function(reduce_retracing=False)  # type: ignore[untyped-decorator]
        def call(store: Any, crops: Any, targets: Any, flags: Any) -> Any:
            each = self.strategy.run(steps, args=(store, crops, targets, flags))
            return self.strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None)

        return call  # type: ignore[no-any-return]

    @staticmethod
    def _step(model: "TrainingModel", pixels: list[Any], targets: list[Any]) -> Any:
        """Make one step on this device's share; return its part of the loss, and how many it had right."""
        import keras
        import tensorflow as tf

        from cifarcnn.training.model import gradients

        variables = model.trainable_variables
        # A loop in TensorFlow would forbid the devices to exchange batch norm's statistics.
        parts = [gradients(model, *part, len(pixels)) for part in zip(pixels, targets, strict=True)]
        by_variable = zip(*(found for found, *_ in parts), strict=True)
        summed = [tf.add_n(shares) for shares in by_variable]
        if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            summed = _finite_everywhere(summed)
        model.optimizer.apply_gradients(zip(summed, variables, strict=True))
        # Keras divides by the number of replicas: the shares' losses add up to the mean over the batch.
        loss = tf.add_n([loss for _, loss, _ in parts])
        answers = tf.concat([logits for *_, logits in parts], 0)
        right = tf.equal(tf.argmax(answers, 1), tf.argmax(tf.concat(targets, 0), 1))
        return tf.stack([tf.cast(loss, tf.float32), tf.reduce_sum(tf.cast(right, tf.float32))])

    def broadcast(self, content: bytes) -> bytes:
        """Return the chief's content on every worker. What the others give does not matter."""
        if self.cluster is None:
            return content
        size = int(self._from_chief(np.array([len(content)], np.int64))[0])
        # Eight bytes a number: adding the others' zeros leaves it as it is.
        numbers = np.zeros((size + 7) // 8, np.int64)
        if self.is_chief:
            numbers[:] = np.frombuffer(content.ljust(8 * len(numbers), b"\0"), np.int64)
        return self._from_chief(numbers).tobytes()[:size]

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
        own = {name: value for name, value in facts.items() if name not in ("cpu", "cpus")}
        own |= {"resume": resumed, "computing on": settings.device.partition(":")[0]}
        if self.is_chief or not resumed:
            own |= dataclasses.asdict(settings)
        everyone = [json.loads(terms) for terms in self._gather(json.dumps(own).encode())]
        chief = everyone[0]
        for index, terms in enumerate(everyone):
            differing = [
                f"{name} is {chief[name]!r} at worker 0, {value!r} at worker {index}"
                for name, value in terms.items()
                if name != "device" and chief.get(name) != value
            ]
            if differing:
                raise RunError(
                    f"{self.cluster.name(index)} would not train the same: {'; '.join(differing)}; start all"
                    " workers with the same settings, images and versions"
                )
        fields = {field.name: chief[field.name] for field in dataclasses.fields(Settings)}
        return Settings(**{**fields, "device": settings.device})

    def _gather(self, content: bytes) -> list[bytes]:
        """Return the contents of all workers, in their order."""
        assert self.cluster is not None  # noqa: S101 - only called where there is one
        index, count = self.cluster.index, len(self.cluster.workers)
        sizes = self._sum(np.eye(count, dtype=np.int64)[index] * len(content))
        numbers = np.zeros((count, (int(sizes.max()) + 7) // 8), np.int64)
        numbers[index] = np.frombuffer(content.ljust(8 * numbers.shape[1], b"\0"), np.int64)
        rows = self._sum(numbers)
        return [row.tobytes()[:size] for row, size in zip(rows, sizes, strict=True)]

    def check_equal(self, model: "TrainingModel") -> None:
        """Compare the weights of all replicas, bit by bit.

        Raises:
            RunError: they differ.
        """
        digests = np.zeros((self.count, 4), np.int64)
        for number in range(len(self.devices)):
            digest = hashlib.sha256()
            for variable in model.variables:
                digest.update(
                    self.strategy.experimental_local_results(variable.value)[number].numpy().tobytes()
                )
            digests[self.first + number] = np.frombuffer(digest.digest(), np.int64)
        everyone = self._sum(digests)
        if (everyone != everyone[0]).any():
            raise RunError(DRIFTED)

    def _from_chief(self, array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._sum(array if self.is_chief else np.zeros_like(array))

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
        import tensorflow as tf

        def place(replica: Any) -> Any:
            number = replica.replica_id_in_sync_group
            with tf.device(self.devices[number - self.first]):
                return tf.identity(value(number))

        return self.strategy.experimental_distribute_values_from_function(place)


def _finite_everywhere(gradients: list[Any]) -> list[Any]:
    """Make the gradients of all devices NaN if those of one are not finite.

    Keras's loss scaling looks at one device before the gradients are added up, and skips the step or not.
    """
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    broken = tf.add_n([tf.reduce_sum(tf.cast(~tf.math.is_finite(part), tf.float32)) for part in gradients])
    broken = replica.all_reduce(tf.distribute.ReduceOp.SUM, broken)
    spoiling = tf.where(broken > 0, float("nan"), 0.0)
    return [part + tf.cast(spoiling, part.dtype) for part in gradients]


def find_cluster(*, alone: bool, wait: float) -> Cluster | None:
    """Return the workers that ``TF_CONFIG`` or SLURM say train together; None if this process trains alone.

    Raises:
        UsageError: the environment makes no sense, or the backend trains alone.
    """
    if not 0 < wait <= LONGEST_WAIT:
        raise UsageError(f"--wait is {wait:g}; expected seconds, above 0 and at most {LONGEST_WAIT}, a week")
    if alone or not clusters.expected(os.environ):
        return None
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    found = clusters.from_environment(os.environ)
    if found is not None:
        backend.need_tensorflow("several machines train together")
        # gRPC looks for a proxy when it connects; workers reach each other directly.
        hosts = {address.rpartition(":")[0].strip("[]") for address in found.workers}
        os.environ.update(grpc_proxy="", no_grpc_proxy=",".join(sorted(hosts)))
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
        if cluster is not None:
            on_event(
                Note(f"{cluster.name(cluster.index)} waits up to {wait:g} s for all {len(cluster.workers)}")
            )
        strategy = _strategy(choice, cluster, wait)
        devices = Replicas(strategy, cluster, min(choice.steps_per_execution, MOST_STEPS))
        with devices.explaining_errors():
            yield devices


def _data_parallel(choice: Choice) -> Any:
    """Return Keras's distribution over this machine's devices."""
    import keras

    kind = choice.device.partition(":")[0]
    names = keras.distribution.list_devices(kind)
    if len(names) < choice.count:
        hint = (
            f"; set XLA_FLAGS=--xla_force_host_platform_device_count={choice.count}" if kind == "cpu" else ""
        )
        raise UsageError(f"--devices is {choice.count}, but JAX shows {len(names)} of kind {kind}{hint}")
    return keras.distribution.DataParallel(devices=names[: choice.count], auto_shard_dataset=False)


def _strategy(choice: Choice, cluster: Cluster | None, wait: float) -> "tf.distribute.Strategy":
    """Show TensorFlow the devices that shall train, and join them."""
    import tensorflow as tf

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
        return _multi_worker(cluster, {kind: choice.count} if kind == "GPU" else {}, wait)
    except RuntimeError as problem:
        raise UsageError(
            f"TensorFlow has computed in this process already, and can no longer train on several devices"
            f" ({problem}); expected a training of several devices to be the first in its process"
        ) from problem


def _multi_worker(cluster: Cluster, accelerators: dict[str, int], wait: float) -> "tf.distribute.Strategy":
    """Start this worker's server, and wait for the others'. Without accelerators the CPU is the device."""
    import tensorflow as tf
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    # TensorFlow has no public name for these; its own defaults wait an hour.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=round(wait * 1000),
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
    if cluster.chief:
        _await_servers(cluster, wait)
    try:
        with _dying_of_signals():
            return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    except tf.errors.OpError as problem:
        raise RunError(
            f"not all {len(cluster.workers)} workers came within {wait:g} s ({first_line(problem)}); start"
            " every worker, within --wait"
        ) from problem


def _await_servers(cluster: Cluster, wait: float) -> None:
    """Wait until the others have started theirs: TensorFlow's chief waits for them without end.

    Raises:
        RunError: one does not come.
    """
    deadline = time.monotonic() + wait
    for index, address in enumerate(cluster.workers[1:], 1):
        host, _, port = address.rpartition(":")
        while True:
            try:
                socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
                break
            except OSError as problem:
                if time.monotonic() > deadline:
                    raise RunError(
                        f"{cluster.name(index)} did not come within {wait:g} s ({reason(problem)});"
                        " start every worker, within --wait"
                    ) from problem
                time.sleep(RETRY_SECONDS)


@contextlib.contextmanager
def _dying_of_signals() -> Iterator[None]:
    """Let Ctrl-C end the process at once: while TensorFlow waits no Python runs, and nothing is lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _noticing_loss(cluster: Cluster) -> Iterator[None]:
    """Turn what TensorFlow says when a worker is lost into one line.

    Raises:
        RunError: one was lost.
    """
    import tensorflow as tf

    # What it raises when another has gone; other errors are so if they name another's task.
    gone = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    try:
        yield
    except tf.errors.OpError as problem:
        if isinstance(problem, tf.errors.ResourceExhaustedError):
            raise
        named = {int(number) for number in re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", str(problem))}
        named -= {cluster.index}
        if not named and not isinstance(problem, gone):
            raise RunError(f"TensorFlow failed: {first_line(problem)}") from problem
        lost = cluster.name(named.pop()) if len(named) == 1 else "another worker"
        raise RunError(
            f"{lost} is lost: it has ended, or is no longer to be reached; start all workers again with"
            " --resume"
        ) from problem
