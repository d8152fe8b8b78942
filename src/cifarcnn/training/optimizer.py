"""The optimizer that the settings ask for, with a learning rate for every step."""

import functools
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from cifarcnn.config import Settings


class RateTable(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate for every step, looked up by the optimizer's step counter."""

    def __init__(self, rates: npt.NDArray[np.float32]) -> None:
        self.rates = rates

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step; beyond the table, the last one."""
        position = keras.ops.minimum(keras.ops.cast(step, "int32"), len(self.rates) - 1)
        return keras.ops.take(keras.ops.convert_to_tensor(self.rates), position)


class Muon(keras.optimizers.Adam):  # type: ignore[misc]
    """Muon for the kernels of convolutions and hidden dense layers, Adam for everything else.

    The step of a kernel is its Nesterov momentum made orthogonal: all its singular values become about one.
    After Keller Jordan (2024, https://kellerjordan.github.io/posts/muon/), with the kernel as a matrix from
    all its inputs to its outputs, and held at the norm of an orthogonal matrix of as many outputs, as in
    airbench94. (Keras's own Muon leaves convolution kernels to Adam.) The last dense kernel, which gives the
    answer, is Adam's.

    Args:
        momentum: of the kernels' steps.
        **options: as of Adam.
    """

    REST = 1 / 8
    """The share of the learning rate with which Adam goes. The last kernel's is that much again smaller as
    its inputs are more than 16, as its initial weights are."""

    STEPS = 3
    """Of Newton and Schulz's iteration; more make the singular values more equal, and no better network."""

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    TALL = 10
    """Kernels of more inputs than this times their outputs, as of a dense layer after many maps, take a short
    way to the same; for others the iteration is a small part of a training's step. In a GPU's TF32 the short
    way is right within 1 % after these three iterations; of more, it would not be."""

    def __init__(self, momentum: float, **options: Any) -> None:
        super().__init__(beta_2=0.95, epsilon=1e-12, **options)
        self.momentum = momentum

    def build(self, variables: list[Any]) -> None:
        """Make the state, and note which kernels are Muon's."""
        super().build(variables)
        dense = [number for number, variable in enumerate(variables) if len(variable.shape) == 2]
        self.last = dense[-1] if dense else None
        filters = [number for number, variable in enumerate(variables) if len(variable.shape) == 4]
        self.muons = frozenset([*filters, *dense[:-1]])

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Change one variable by its gradient."""
        number = self._get_variable_index(variable)
        if number not in self.muons:
            share = 16 / variable.shape[0] if number == self.last else 1
            super().update_step(gradient, variable, learning_rate * (self.REST * share))
            return
        rate = ops.cast(learning_rate, variable.dtype)
        velocity = self._momentums[number]
        self.assign(velocity, velocity * self.momentum + gradient)
        step = ops.reshape(gradient + velocity * self.momentum, (-1, variable.shape[-1]))
        step = ops.reshape(self._orthogonal(step), variable.shape)
        scale = ops.sqrt(variable.shape[-1] / ops.sum(ops.square(variable)))
        self.assign(variable, variable * scale - step * rate)

    def _orthogonal(self, matrix: Any) -> Any:
        """Bring all singular values of a matrix near one, keeping its singular vectors."""
        if matrix.shape[0] > self.TALL * matrix.shape[1]:
            return self._orthogonal_of_tall(matrix)
        first, second, third = self.COEFFICIENTS
        wide = matrix.shape[0] <= matrix.shape[1]
        x = matrix if wide else ops.transpose(matrix)
        x = x / (ops.norm(x) + 1e-7)
        for _ in range(self.STEPS):
            square = ops.matmul(x, ops.transpose(x))
            x = first * x + ops.matmul(second * square + third * ops.matmul(square, square), x)
        return x if wide else ops.transpose(x)

    def _orthogonal_of_tall(self, matrix: Any) -> Any:
        """Do the same by iterating on the small square of the matrix, and multiplying the matrix once."""
        first, second, third = self.COEFFICIENTS
        square = ops.matmul(ops.transpose(matrix), matrix)
        norm = ops.sqrt(ops.trace(square)) + 1e-7
        square = square / norm**2
        factors = []
        for _ in range(self.STEPS):
            unit = ops.eye(square.shape[0], dtype=square.dtype)
            factors.append(first * unit + second * square + third * ops.matmul(square, square))
            square = ops.matmul(ops.matmul(factors[-1], square), factors[-1])
        return ops.matmul(matrix, functools.reduce(ops.matmul, factors) / norm)


def make(settings: Settings, rates: npt.NDArray[np.float32]) -> keras.optimizers.Optimizer:
    """Make the optimizer.

    Args:
        settings: the optimizer's kind and its constants.
        rates: the learning rate of each step, from ``schedules``.
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
        case "muon":
            optimizer = Muon(settings.momentum, **options)
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
