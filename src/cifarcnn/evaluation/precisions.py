"""Inference in bfloat16, where the hardware computes it natively, beside float32, which is what counts."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, get_args

from cifarcnn.errors import UsageError
from cifarcnn.events import Note, OnEvent
from cifarcnn.models.modelfile import Model

if TYPE_CHECKING:
    import keras

Precision = Literal["float32", "auto"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def lower(model: Model, precision: Precision, on_event: OnEvent) -> Model | None:
    """Copy a Keras model so that it computes in bfloat16; None where float32 is asked for, or all there is.

    Raises:
        UsageError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return None
    from cifarcnn.machine import backend, devices

    why = f"{model.name} is a LiteRT model; only Keras models have others"
    if model.format is None:
        choice = devices.choose(backend.hardware())
        why = "" if choice.precision == "mixed_bfloat16" else choice.reason
    if why:
        on_event(Note(f"precision: float32 ({why})"))
        return None
    on_event(Note("precision: bfloat16; float32 runs beside it to count the predictions that differ"))
    return dataclasses.replace(model, network=in_bfloat16(model.keras))


def in_bfloat16(network: "keras.Model") -> "keras.Model":
    """Copy a network so that it computes in bfloat16; pixels, weights and the last layer stay float32."""
    import keras

    exact = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)

    def copied(layer: Any) -> Any:
        config = layer.get_config()
        if not isinstance(layer, exact) and layer is not network.layers[-1]:
            config["dtype"] = "mixed_bfloat16"
        return type(layer).from_config(config)

    copy = keras.models.clone_model(network, clone_function=copied)
    copy.set_weights(network.get_weights())
    return copy


def difference(count: int, of: int) -> Note:
    """Say how many predictions differ."""
    return Note(f"{count:,} of {of:,} predictions differ between bfloat16 and float32")
