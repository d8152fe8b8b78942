"""Several devices that train in step, in one machine or in several, by TensorFlow's own ``tf.distribute``.

Each device holds a replica of the weights and all training images, and computes its share of every batch; the
gradients are added up, so all replicas stay equal. ``fit`` stands in for Keras's, which under several workers
fails in Keras 3.15 (github.com/keras-team/keras issue 20585) and shuffles shares about. Which machines they
are is the business of ``cluster``.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from cifarcnn.config import Settings
from cifarcnn.errors import RunError
from cifarcnn.training.callbacks import StepCallback
from cifarcnn.training.cluster import Cluster
from cifarcnn.training.distributed import SingleDevice
from cifarcnn.training.model import TrainingModel, gather, gradients, pad


class Replicas(SingleDevice):
    """The devices that train in step. Make one with ``joining.join``.

    Attributes:
        count: how many devices there are, those of other workers included.
        is_chief: whether this process is the one that writes.
    """

    gathers = True

    def __init__(
        self, strategy: tf.distribute.Strategy, cluster: Cluster | None, steps_per_call: int
    ) -> None:
        self.strategy, self.cluster, self.steps_per_call = strategy, cluster, steps_per_call
        self.count = strategy.num_replicas_in_sync
        self.is_chief = cluster is None or cluster.chief
        self.chief_name = cluster.name(0) if cluster else SingleDevice.chief_name
        self.devices: tuple[str, ...] = strategy.extended.worker_devices
        self.first = len(self.devices) * (cluster.index if cluster else 0)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which model and optimizer are made."""
        return self.strategy.scope()  # type: ignore[no-any-return]

    def explaining_errors(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context that turns the loss of a worker into one line."""
        from cifarcnn.training.joining import noticing_loss

        return noticing_loss(self.cluster) if self.cluster else contextlib.nullcontext()

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
        model: TrainingModel,
        crops: npt.NDArray[np.int32],
        targets: npt.NDArray[np.float32],
        batch_size: int,
        callback: StepCallback,
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

    def _make_calls(self, model: TrainingModel) -> Callable[..., Any]:
        """Return the function that makes some steps on all devices and returns their sums."""

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
    def _step(model: TrainingModel, pixels: list[Any], targets: list[Any]) -> Any:
        """Make one step on this device's share; return its part of the loss, and how many it had right."""
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

    def check_equal(self, model: TrainingModel) -> None:
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
            raise RunError(
                "the devices' weights are no longer equal, so this training cannot go on; go back to the last"
                " checkpoint with --resume, and if it happens again, train with --devices 1"
            )

    def _from_chief(self, array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._sum(array if self.is_chief else np.zeros_like(array))

    def _sum(self, array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Add up one array of each worker."""
        nothing = np.zeros_like(array)
        values = self._on_each(lambda replica: array if replica == self.first else nothing)
        total: npt.NDArray[np.int64] = self._add(values).numpy()
        return total

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def _add(self, values: Any) -> Any:
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

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


def _finite_everywhere(gradients: list[Any]) -> list[Any]:
    """Make the gradients of all devices NaN if those of one are not finite.

    Keras's loss scaling looks at one device before the gradients are added up, and skips the step or not.
    """
    replica = tf.distribute.get_replica_context()
    broken = tf.add_n([tf.reduce_sum(tf.cast(~tf.math.is_finite(part), tf.float32)) for part in gradients])
    broken = replica.all_reduce(tf.distribute.ReduceOp.SUM, broken)
    spoiling = tf.where(broken > 0, float("nan"), 0.0)
    return [part + tf.cast(spoiling, part.dtype) for part in gradients]
