"""The optimizer that the settings ask for, with a learning rate for every step."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from cifarcnn.config import Settings


class RateTable(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate for every step, looked up by the optimizer's step counter."""

    def __init__(self, rates: npt.NDArray[np.float32]) -> None:
        self.rates = rates

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step; beyond the table, the last one."""
        position = keras.ops.minimum(keras.ops.cast(step, "int32"), len(self.rates) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self.rates), position)


def make(settings: Settings, rates: npt.NDArray[np.float32]) -> keras.optimizers.Optimizer:
    """Make the optimizer.

    Args:
        settings: the optimizer's kind and its constants.
        rates: the learning rate of each step, from ``cifarcnn.schedules``.
    """
    options: dict[str, Any] = {
        "learning_rate": RateTable(rates),
        "weight_decay": settings.weight_decay or None,
        "use_ema": settings.ema > 0,
        "ema_momentum": settings.ema or 0.99,
    }
    match settings.optimizer:
        case "nesterov" | "sgd" as kind:
            nesterov = kind == "nesterov"
            optimizer = keras.optimizers.SGD(momentum=settings.momentum, nesterov=nesterov, **options)
        case "rmsprop":
            optimizer = keras.optimizers.RMSprop(**options)
        case _:
            optimizer = keras.optimizers.Adam(**options)
    # `fit` ends by replacing the weights by their averages, but the training goes on from the weights.
    optimizer.finalize_variable_values = lambda _variables: None
    if settings.precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def put_averages(optimizer: keras.optimizers.Optimizer, variables: list[Any]) -> bool:
    """Replace weights by their moving averages, if the optimizer keeps any; return whether it does."""
    keeper = getattr(optimizer, "inner_optimizer", optimizer)
    keras.optimizers.Optimizer.finalize_variable_values(keeper, variables)
    return bool(keeper.use_ema)
