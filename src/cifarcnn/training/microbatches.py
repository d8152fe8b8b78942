"""A training step whose batch passes in parts: the gradients of the micro-batches make one update.

A processor's caches hold the activations of some hundred images, but not of thousands, which Muon wants: a
batch of 2,000 trains a fifth faster in parts of 500. Batch normalisation sees each part by itself.
"""

from typing import TYPE_CHECKING, Any

from keras import StatelessScope, ops

if TYPE_CHECKING:
    from cifarcnn.training.twin import Twin


def gradients(twin: "Twin", inputs: Any, targets: Any, parts: int) -> tuple[list[Any], Any, Any]:
    """Return what one of a batch's parts adds to its step, on TensorFlow.

    Args:
        twin: compiled, from inputs to logits.
        inputs: those of the part.
        targets: float32, (images of the part, classes).
        parts: how many there are.

    Returns:
        Its share of the gradients of the trainable variables, scaled as the optimizer wants them; its share
        of the loss; its logits, float32, (images of the part, classes).
    """
    import tensorflow as tf

    with tf.GradientTape() as tape:
        logits = twin(inputs, training=True)
        loss = twin.compute_loss(x=inputs, y=targets, y_pred=logits, training=True) / parts
        scaled = twin.optimizer.scale_loss(loss)
    return tape.gradient(scaled, [variable.value for variable in twin.trainable_variables]), loss, logits


def step_on_tensorflow(twin: "Twin", data: Any) -> Any:
    """Make one step, as ``keras.Model.train_step`` on TensorFlow; return the metrics."""
    import tensorflow as tf

    inputs, targets = data
    images, truth = _divide(inputs, twin.parts), _divide(targets, twin.parts)

    def add(part: Any, sums: Any, loss: Any, logits: Any) -> Any:
        found, more, answers = gradients(twin, images[part], truth[part], twin.parts)
        sums = [total + share for total, share in zip(sums, found, strict=True)]
        return part + 1, sums, loss + more, logits.write(part, answers)

    nothing = [tf.zeros_like(variable.value) for variable in twin.trainable_variables]
    _, found, loss, logits = tf.while_loop(
        lambda part, *_: part < twin.parts,
        add,
        (0, nothing, 0.0, tf.TensorArray(tf.float32, twin.parts)),
        parallel_iterations=1,
    )
    twin.optimizer.apply_gradients(zip(found, twin.trainable_variables, strict=True))
    return _measure(twin, inputs, targets, loss, logits.concat())


def step_on_jax(twin: "Twin", state: Any, data: Any) -> Any:
    """Make one step, as ``keras.Model.train_step`` on JAX; return the metrics and the new state."""
    import jax

    trainable, others, of_optimizer, of_metrics = state
    inputs, targets = data
    differentiate = jax.value_and_grad(twin.compute_loss_and_updates, has_aux=True)

    def add(carried: Any, part: Any) -> Any:
        sums, before = carried
        (_, (loss, logits, after, _)), found = differentiate(
            trainable, before, of_metrics, *part, None, training=True, optimizer_variables=of_optimizer
        )
        sums = [total + share / twin.parts for total, share in zip(sums, found, strict=True)]
        return (sums, after), (loss, logits)

    start = ([ops.zeros_like(value) for value in trainable], others)
    divided = tuple(_divide(array, twin.parts) for array in (inputs, targets))
    (found, others), (losses, logits) = jax.lax.scan(add, start, divided)
    trainable, of_optimizer = twin.optimizer.stateless_apply(of_optimizer, found, trainable)
    with StatelessScope(state_mapping=zip(twin.metrics_variables, of_metrics, strict=True)) as scope:
        logs = _measure(twin, inputs, targets, ops.mean(losses), ops.reshape(logits, targets.shape))
    of_metrics = [scope.get_current_value(variable) for variable in twin.metrics_variables]
    return logs, (trainable, others, of_optimizer, of_metrics)


def _divide(array: Any, parts: int) -> Any:
    """Divide an array into equal parts, (parts, images of a part, ...)."""
    return ops.reshape(array, (parts, -1, *array.shape[1:]))


def _measure(twin: "Twin", inputs: Any, targets: Any, loss: Any, logits: Any) -> Any:
    """Tell the metrics what a step found; return them."""
    (of_loss,) = (metric for metric in twin.metrics if metric.name == "loss")
    of_loss.update_state(loss, sample_weight=ops.shape(inputs)[0])
    return twin.compute_metrics(x=inputs, y=targets, y_pred=logits)
