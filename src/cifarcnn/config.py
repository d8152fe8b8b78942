"""Every setting of a training, with its default, its meaning and its bounds, and the recipes.

This is the one place for them: the command line makes its options from the fields of ``Settings``, and the
``--config`` file takes the same names. A recipe gives an architecture values for some settings; an option
or the file overrides it.
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifarcnn.errors import UsageError

Value = str | int | float | bool | None


def _setting(
    default: Value,
    meaning: str,
    *,
    choices: tuple[str, ...] = (),
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
) -> Any:
    """Declare a setting. ``least`` and ``most`` are allowed values, ``above`` is not."""
    bounds = {"choices": choices, "least": least, "most": most, "above": above}
    return field(default=default, metadata={"meaning": meaning, **bounds})


@dataclass(frozen=True)
class Settings:
    """What determines a training's result. The defaults are the ``fast`` recipe's; see ``resolve``."""

    arch: str = _setting("vgg2", "Architecture; `cifarcnn summary` lists them.")
    recipe: str = _setting(
        "fast", "fast: ours, few epochs; classic: as its author published it.", choices=("fast", "classic")
    )
    epochs: int = _setting(12, "Passes over the training images.", least=1, most=100_000)
    batch_size: int = _setting(128, "Images per step.", least=1, most=50_000)
    optimizer: str = _setting(
        "nesterov",
        "Optimizer; nesterov is sgd with Nesterov's momentum.",
        choices=("nesterov", "sgd", "rmsprop", "adam"),
    )
    learning_rate: float = _setting(0.1, "Learning rate; the peak, where it varies.", above=0, most=1000)
    momentum: float = _setting(0.9, "Momentum of nesterov and sgd.", least=0, most=0.9999)
    weight_decay: float = _setting(5e-4, "Decoupled weight decay per step, times the rate.", least=0, most=1)
    schedule: str = _setting(
        "one-cycle",
        "How the rate varies: one-cycle rises and falls linearly, step divides by 10 after 1/2 and 3/4.",
        choices=("constant", "inverse-time", "step", "cosine", "one-cycle"),
    )
    warmup: float = _setting(
        0.2, "Share of the steps in which the rate rises (all but inverse-time).", least=0, most=0.9
    )
    decay: float = _setting(0.0, "Of inverse-time: rate / (1 + decay * step).", least=0, most=1)
    label_smoothing: float = _setting(0.1, "Share of the truth spread over all classes.", least=0, most=0.9)
    augment: str = _setting(
        "standard", "Random changes of training images; standard is flip and shift.",
        choices=("none", "flip", "shift", "standard"),
    )  # fmt: skip
    shift: int = _setting(4, "Most pixels by which shift moves an image.", least=0, most=16)
    normalize: str = _setting(
        "standard", "unit: pixels/255; standard: z-scores.", choices=("unit", "standard")
    )
    batch_norm_momentum: float = _setting(
        0.9, "Inertia of batch norm's moving statistics.", least=0, most=0.9999
    )
    dropout: float = _setting(0.5, "Factor on the network's dropout rates.", least=0, most=1.9)
    ema: float = _setting(
        0.0, "Average the weights over steps with this momentum; 0: off.", least=0, most=0.99999
    )
    patience: int = _setting(
        0,
        "Stop after this many epochs without a better validation accuracy; 0: never.",
        least=0,
        most=100_000,
    )
    val_size: int = _setting(5000, "Training images held out for validation.", least=0, most=49_990)
    train_size: int | None = _setting(
        None,
        "Train on this many images, the same share of every class.  [default: all the rest]",
        least=10,
        most=50_000,
    )
    precision: str = _setting(
        "auto",
        "Arithmetic; auto asks the hardware.",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    device: str = _setting("auto", "auto, cpu, gpu or gpu:N.")
    deterministic: bool = _setting(
        False, "On a GPU too, the same seed gives the same result on the same machine; slower."
    )
    seed: int = _setting(0, "Fixes weights, order, augmentation, dropout and split.", least=0, most=2**31 - 1)


FIELDS = {item.name: item for item in dataclasses.fields(Settings)}

# What Keras's own defaults were when the five networks were published, and what they did not do.
_CLASSIC: dict[str, Value] = {
    "weight_decay": 0.0,
    "warmup": 0.0,
    "schedule": "constant",
    "label_smoothing": 0.0,
    "augment": "none",
    "shift": 3,  # 10 % of 32 pixels
    "normalize": "unit",
    "batch_norm_momentum": 0.99,
    "dropout": 1.0,
}
# The rate was not published; this is the Keras example that its author followed.
_CLASSIC_PLAIN: dict[str, Value] = {
    **_CLASSIC,
    "optimizer": "rmsprop",
    "learning_rate": 1e-4,
    "schedule": "inverse-time",
    "decay": 1e-6,
    "epochs": 50,
    "batch_size": 32,
    "augment": "standard",
}
_CLASSIC_VGG: dict[str, Value] = {**_CLASSIC, "optimizer": "sgd", "learning_rate": 0.001, "momentum": 0.9}

RECIPES: Mapping[str, Mapping[str, Mapping[str, Value]]] = {
    "fast": {
        "plain6": {},
        "plain6-small": {},
        "rmsprop6": {},
        "vgg2": {},
        "vgg3": {},
        "shallow2": {},
    },
    "classic": {
        "plain6": _CLASSIC_PLAIN,
        "plain6-small": _CLASSIC_PLAIN,
        "rmsprop6": {
            **_CLASSIC_PLAIN,
            "decay": 1e-4 / 60,
            "epochs": 60,
            "normalize": "standard",
        },
        "vgg2": {**_CLASSIC_VGG, "epochs": 20, "batch_size": 32},
        "vgg3": {**_CLASSIC_VGG, "epochs": 600, "batch_size": 64, "augment": "standard"},
        # Its optimizer was not published either.
        "shallow2": {**_CLASSIC_PLAIN, "epochs": 25, "augment": "none"},
    },
}


def resolve(overrides: Mapping[str, Value]) -> Settings:
    """Complete what the user said with the recipe's values and the defaults.

    Args:
        overrides: settings by name; None counts as not said.

    Raises:
        UsageError: an unknown setting, a wrong type or a value out of bounds.
    """
    from cifarcnn import architectures

    said = {name: value for name, value in overrides.items() if value is not None}
    for name, value in said.items():
        _check(name, value)
    arch = architectures.find(str(said.get("arch", Settings.arch))).name
    recipe = RECIPES[str(said.get("recipe", Settings.recipe))].get(arch, {})
    values: dict[str, Any] = {**recipe, **said}
    for name, value in values.items():
        if FIELDS[name].type is float:
            values[name] = float(value)
    return Settings(**values)


def read_toml(path: str | Path) -> dict[str, Value]:
    """Read settings from a TOML file: one ``name = value`` per line, names as in ``Settings`` or with dashes.

    Raises:
        UsageError: the file is missing, is no TOML, or names a setting that does not exist.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UsageError(f"--config {str(path)!r}: {reason}; expected a TOML file of settings") from problem
    settings = {name.replace("-", "_"): value for name, value in table.items()}
    for name, value in settings.items():
        try:
            _check(name, value)
        except UsageError as problem:
            raise UsageError(f"--config {str(path)!r}: {problem}") from None
    return settings


def _check(name: str, value: object) -> None:
    """Refuse a setting that does not exist, or a value of the wrong type or out of bounds."""
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(FIELDS)}"
        raise UsageError(f"unknown setting {name!r}{hint}")
    kind, limits = FIELDS[name].type, FIELDS[name].metadata
    if kind is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{name} is {value!r}; expected true or false")
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        if not isinstance(value, str):
            raise UsageError(f"{name} is {value!r}; expected text")
        if limits["choices"] and value not in limits["choices"]:
            raise UsageError(f"{name} is {value!r}; expected one of {', '.join(limits['choices'])}")
    elif not number or (kind is not float and not isinstance(value, int)):
        raise UsageError(f"{name} is {value!r}; expected {'a number' if kind is float else 'a whole number'}")
    else:
        _check_bounds(name, float(value), limits)  # type: ignore[arg-type]


def _check_bounds(name: str, value: float, limits: Mapping[str, Any]) -> None:
    if math.isfinite(value) and limits["least"] <= value <= limits["most"] and value > limits["above"]:
        return
    low = f"above {limits['above']:g}" if math.isfinite(limits["above"]) else f"at least {limits['least']:g}"
    high = f" and at most {limits['most']:g}" if math.isfinite(limits["most"]) else ""
    raise UsageError(f"{name} is {value:g}; expected a number {low}{high}")
