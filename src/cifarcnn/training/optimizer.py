"""The optimizer that the settings ask for: Muon, the learning rate of every step, averaged weights."""

import functools
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from cifarcnn.config import Settings, resolution_of_epoch
from cifarcnn.formatting import count


def make(settings: Settings, rates: npt.NDArray[np.float32]) -> keras.optimizers.Optimizer:
    """Make the optimizer.

    Args:
        settings: the optimizer's kind and its constants.
        rates: the learning rate of each step, from ``learning_rates``.
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


class RateTable(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate for every step, looked up by the optimizer's step counter."""

    def __init__(self, rates: npt.NDArray[np.float32]) -> None:
        self.rates = rates

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step; beyond the table, the last one."""
        position = ops.minimum(ops.cast(step, "int32"), len(self.rates) - 1)
        return ops.take(ops.convert_to_tensor(self.rates), position)


class Muon(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Muon for the kernels of convolutions and hidden dense layers, Adam for everything else.

    The step of a kernel is its Nesterov momentum made orthogonal: all its singular values become about one.
    After Keller Jordan (2024, https://kellerjordan.github.io/posts/muon/), with the kernel as a matrix from
    all its inputs to its outputs, and held at the norm of an orthogonal matrix of as many outputs, as in
    airbench94. (Keras's own Muon leaves convolution kernels to Adam.) The last dense kernel, which gives the
    logits, is Adam's.

    Args:
        momentum: of the kernels' steps.
        **options: of ``keras.optimizers.Optimizer``.
    """

    REST = 1 / 8
    """The share of the learning rate with which Adam goes. The last kernel's is that much again smaller as
    its inputs are more than 16, as its initial weights are."""

    BETA_1, BETA_2, EPSILON = 0.9, 0.95, 1e-12
    """Of Adam."""

    STEPS = 3
    """Of Newton and Schulz's iteration; more make the singular values more equal, and no better network."""

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    TALL = 10
    """Kernels of more inputs than this times their outputs, as of a dense layer after many maps, take a short
    way to the same; for others the iteration is a small part of a training's step. In a GPU's TF32 the short
    way is right within 1 % after these three iterations; of more, it would not be."""

    def __init__(self, momentum: float, **options: Any) -> None:
        super().__init__(**options)
        self.momentum = momentum

    def build(self, variables: list[Any]) -> None:
        """Make the state: a momentum for each variable, and a second moment for those that are Adam's."""
        if self.built:
            return
        super().build(variables)
        dense = [number for number, variable in enumerate(variables) if len(variable.shape) == 2]
        self.last = dense[-1] if dense else None
        filters = [number for number, variable in enumerate(variables) if len(variable.shape) == 4]
        self.muons = frozenset([*filters, *dense[:-1]])
        self._momentums = self.add_optimizer_variables(variables, "momentum")
        rest = [number for number in range(len(variables)) if number not in self.muons]
        velocities = self.add_optimizer_variables([variables[number] for number in rest], "velocity")
        self._velocities = dict(zip(rest, velocities, strict=True))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Change one variable by its gradient."""
        number = self._get_variable_index(variable)
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        if number in self.muons:
            self._orthogonal_step(gradient, variable, rate, self._momentums[number])
        else:
            share = 16 / variable.shape[0] if number == self.last else 1
            moments = self._momentums[number], self._velocities[number]
            self._adam_step(gradient, variable, rate * (self.REST * share), *moments)

    def _orthogonal_step(self, gradient: Any, variable: Any, rate: Any, momentum: Any) -> None:
        """Make a step of Muon."""
        self.assign(momentum, momentum * self.momentum + gradient)
        step = ops.reshape(gradient + momentum * self.momentum, (-1, variable.shape[-1]))
        step = ops.reshape(self._orthogonal(step), variable.shape)
        scale = ops.sqrt(variable.shape[-1] / ops.sum(ops.square(variable)))
        self.assign(variable, variable * scale - step * rate)

    def _adam_step(self, gradient: Any, variable: Any, rate: Any, momentum: Any, velocity: Any) -> None:
        """Make a step of Adam."""
        step = ops.cast(self.iterations + 1, variable.dtype)
        rate = rate * ops.sqrt(1 - ops.power(self.BETA_2, step)) / (1 - ops.power(self.BETA_1, step))
        self.assign_add(momentum, (gradient - momentum) * (1 - self.BETA_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.BETA_2))
        self.assign_sub(variable, momentum * rate / (ops.sqrt(velocity) + self.EPSILON))

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


def learning_rates(settings: Settings, steps_per_epoch: int) -> npt.NDArray[np.float32]:
    """Return the learning rate of each step of the training, float32, (epochs * steps_per_epoch,).

    A table has no state, so a resumed training is at the right rate by its step number alone.
    """
    total = settings.epochs * steps_per_epoch
    step = np.arange(total)
    if settings.schedule == "inverse-time":
        # What the `decay` argument of Keras 2's optimizers meant.
        return (settings.learning_rate / (1 + settings.decay * step)).astype(np.float32)
    rising = round(settings.warmup * total)
    up = (step + 1) / max(rising, 1)
    done = (step - rising) / max(total - rising, 1)
    down = {
        "constant": np.ones(total),
        "step": np.where(step < total / 2, 1.0, np.where(step < total * 3 / 4, 0.1, 0.01)),
        "cosine": (1 + np.cos(np.pi * done)) / 2,
        "one-cycle": 1 - done,
    }[settings.schedule]
    return (settings.learning_rate * np.where(step < rising, up, down)).astype(np.float32)


def explain_extension(before: Settings, after: Settings, steps_per_epoch: int, done: int) -> str:
    """Say what another number of epochs does to a run that is ``done`` steps far."""
    old, new = (learning_rates(settings, steps_per_epoch) for settings in (before, after))
    begun = -(-done // steps_per_epoch)
    same_resolutions = resolution_of_epoch(before)[:begun] == resolution_of_epoch(after)[:begun]
    what = f"{count(after.epochs, 'epoch')} instead of {before.epochs}: the {after.schedule} schedule"
    straight = f"that of {count(after.epochs, 'epoch')} from the start"
    if np.array_equal(old[:done], new[:done]):
        if not same_resolutions:
            spread = f"the resolutions {after.resolutions} are spread anew"
            return f"{what} is the same so far, but {spread}; the result is not {straight}"
        return f"{what} is the same so far; the result is {straight}"
    return (
        f"{what} is laid out anew over all of them and goes on at the rate {new[min(done, len(new) - 1)]:.3g}"
        f" after {old[done - 1]:.3g}; the result is not {straight}"
    )
