"""Layers that do what Keras's do, at the speed of TensorFlow's own operations. Used in training only.

What is saved are Keras's own layers with the same weights; ``model`` exchanges one for the other.
"""

from typing import Any

import keras
import tensorflow as tf


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Batch normalisation of images as one operation.

    Keras 3 computes moments and elementwise steps separately, in float32. The fused operation reads bfloat16
    or float16 activations and keeps float32 statistics; a training step of ``vgg2`` takes a third less time.
    Where several devices share a batch, it is normalised by all of it.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise (n, height, width, channels) by the batch; other ranks, or inference, as Keras does."""
        training = training and self.trainable
        if training and (replica := _one_of_several()) is not None:
            return self._normalise_together(inputs, replica)
        if not training or len(inputs.shape) != 4:
            return super().call(inputs, training=training, mask=mask)
        normalised, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.ones_like(self.moving_mean) if self.gamma is None else tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation divides the sum of squares by count - 1, Keras by count.
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        variance *= (count - 1) / count
        self._follow(mean, variance)
        return normalised

    def _normalise_together(self, inputs: Any, replica: Any) -> Any:
        """Normalise this device's share, (n, ..., channels), by the statistics of the whole batch."""
        values = tf.cast(inputs, tf.float32)
        axes = list(range(values.shape.rank - 1))
        sums = tf.stack([tf.reduce_mean(values, axes), tf.reduce_mean(tf.square(values), axes)])
        mean, square = tf.unstack(
            replica.all_reduce(tf.distribute.ReduceOp.SUM, sums) / replica.num_replicas_in_sync
        )
        variance = tf.maximum(square - tf.square(mean), 0)
        self._follow(mean, variance)
        normalised = tf.nn.batch_normalization(values, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(normalised, inputs.dtype)

    def _follow(self, mean: Any, variance: Any) -> None:
        """Move the moving statistics towards those of a batch."""
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))


class SmallImageConv2D(keras.layers.Conv2D):  # type: ignore[misc]
    """A 3x3 convolution whose kernel's gradient, on small images, is computed as another convolution.

    On images of up to 7x7, oneDNN takes up to three times as long for that gradient in bfloat16 as for the
    convolution itself. But it is one, with images and channels in each other's place: the input, seen as
    images of as many channels as there are images in the batch, by a kernel as large as the output.
    """

    LARGEST_SIDE = 7
    FEWEST_CHANNELS = 96

    def call(self, inputs: Any) -> Any:
        """Convolve (n, height, width, channels)."""
        side, channels = inputs.shape[2], inputs.shape[3]
        plain = (3, 3), (1, 1), (1, 1), "same", False
        found = self.kernel_size, self.strides, self.dilation_rate, self.padding, self.use_bias
        if found != plain or side is None or side > self.LARGEST_SIDE or channels < self.FEWEST_CHANNELS:
            return super().call(inputs)
        return self.activation(_convolution(inputs, tf.cast(self.kernel, inputs.dtype)))


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _convolution(images: Any, kernel: Any) -> Any:
    """Convolve images (n, height, width, in) by a kernel (3, 3, in, out), to the same height and width."""

    def gradient(change: Any) -> tuple[Any, Any]:
        to_images = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(images),
            filter=kernel,
            out_backprop=change,
            strides=[1, 1, 1, 1],
            padding="SAME",
        )
        channels_as_images = tf.transpose(images, (3, 1, 2, 0))
        change_as_kernel = tf.transpose(change, (1, 2, 0, 3))
        border = [[0, 0], [1, 1], [1, 1], [0, 0]]
        to_kernel = tf.nn.conv2d(channels_as_images, change_as_kernel, 1, border)
        return to_images, tf.transpose(to_kernel, (1, 2, 0, 3))

    return tf.nn.conv2d(images, kernel, 1, "SAME"), gradient


class FusedSilu(keras.layers.Activation):  # type: ignore[misc]
    """An activation; if it is SiLU, on a CPU, its derivative is computed in one pass over memory.

    TensorFlow's takes a sigmoid and seven more operations, each from memory to memory: together 7 % of a
    training step of ``whiten6``.
    """

    def call(self, inputs: Any) -> Any:
        """Apply the activation to an array of any shape."""
        if self.activation is keras.activations.silu and not tf.config.list_logical_devices("GPU"):
            return _silu(inputs)
        return super().call(inputs)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _silu(inputs: Any) -> Any:
    """Multiply each number by its sigmoid."""
    outputs = inputs * tf.sigmoid(inputs)
    return outputs, lambda change: _change_before_silu(inputs, outputs, change)


@tf.function(jit_compile=True)  # type: ignore[untyped-decorator]
def _change_before_silu(inputs: Any, outputs: Any, change: Any) -> Any:
    """Return the gradient to the inputs of SiLU from that to its outputs; the compiler fuses the steps."""
    x, y = tf.cast(inputs, tf.float32), tf.cast(outputs, tf.float32)
    sigmoid = tf.where(x == 0, 0.5, y / x)
    return tf.cast(tf.cast(change, tf.float32) * sigmoid * (1 + (x - y)), change.dtype)


class ByteDropout(keras.layers.Dropout):  # type: ignore[misc]
    """Dropout that decides by a random byte for each unit, where Keras draws a 32-bit number.

    The rate is rounded to a multiple of 1/256 (0.35 becomes 0.3516), and the kept units are scaled by the
    rounded rate, so that the mean is right. Where several devices share a batch, each draws the bytes that a
    single one would have drawn for its share.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Drop units when training, else do nothing."""
        kept = round(256 * (1 - self.rate))
        if not training or kept == 256:
            return inputs
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        size = tf.size(inputs)
        replica = _one_of_several()
        if replica is None:
            words = tf.random.stateless_uniform(((size + 3) // 4,), seed, None, None, tf.int32, alg="philox")
            random_bytes = tf.reshape(tf.bitcast(words, tf.uint8), (-1,))[:size]
        else:
            random_bytes = _random_bytes(
                seed, tf.cast(replica.replica_id_in_sync_group, tf.int32) * size, size
            )
        mask = tf.cast(tf.reshape(random_bytes < kept, tf.shape(inputs)), inputs.dtype)
        return inputs * (mask * tf.cast(256 / kept, inputs.dtype))


def _one_of_several() -> Any:
    """Return the context of this device among those that share a batch, or None if there is but one."""
    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and replica.num_replicas_in_sync > 1 else None


def _random_bytes(seed: Any, first: Any, count: Any) -> Any:
    """Return ``count`` of the random bytes of a seed from the ``first`` on, without drawing those before.

    Philox computes blocks of 16 bytes, each from the block's number alone.
    """
    block = 16
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    start = tf.cast([first // block, 0], tf.int64)
    counter = tf.bitcast(tf.bitcast(counter, tf.int64) + start, tf.uint64)
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[(count + 2 * block - 2) // block * (block // 4)],
        key=key,
        counter=counter,
        alg=1,
        dtype=tf.int32,
    )
    skipped = first % block
    return tf.reshape(tf.bitcast(words, tf.uint8), (-1,))[skipped : skipped + count]


REPLACEMENTS: dict[type, Any] = {
    keras.layers.Activation: FusedSilu,
    keras.layers.BatchNormalization: FusedBatchNormalization,
    keras.layers.Conv2D: SmallImageConv2D,
    keras.layers.Dropout: ByteDropout,
}
