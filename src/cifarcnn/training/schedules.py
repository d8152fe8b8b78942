"""The learning rate of every step, as a table computed once.

A table has no state, so a resumed training is at the right rate by its step number alone.
"""

import numpy as np
import numpy.typing as npt

from cifarcnn.config import Settings, side_of_epoch
from cifarcnn.wording import count


def learning_rates(settings: Settings, steps_per_epoch: int) -> npt.NDArray[np.float32]:
    """Return the learning rate of each step of the training, float32, (epochs * steps_per_epoch,)."""
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
    same_sides = side_of_epoch(before)[:begun] == side_of_epoch(after)[:begun]
    what = f"{count(after.epochs, 'epoch')} instead of {before.epochs}: the {after.schedule} schedule"
    straight = f"that of {count(after.epochs, 'epoch')} from the start"
    if np.array_equal(old[:done], new[:done]):
        if not same_sides:
            spread = f"the sides {after.sides} are spread anew"
            return f"{what} is the same so far, but {spread}; the result is not {straight}"
        return f"{what} is the same so far; the result is {straight}"
    return (
        f"{what} is laid out anew over all of them and goes on at the rate {new[min(done, len(new) - 1)]:.3g}"
        f" after {old[done - 1]:.3g}; the result is not {straight}"
    )
