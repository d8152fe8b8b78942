"""Every setting of a training, with its default, its meaning and its bounds.

This is the one place for them: the command line makes its options from the fields of ``Settings``, and the
``--config`` file takes the same names. A recipe, from ``cifarcnn.recipes``, gives an architecture values for
some settings; an option or the file overrides it.
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifarcnn import recipes
from cifarcnn.errors import UsageError, reason

Value = recipes.Value

FULL_RESOLUTION = 32
MOST_IMAGES = 10_000_000
"""A bound for sizes that are told in images; how many there are is known when they are read."""

SMALLEST_RESOLUTION = 16
"""Of a smaller image, three poolings leave nothing."""

RUNS = "runs"
"""Where run directories are made, and looked for, unless the user names another place."""

RANDOM = "random"
"""The value of ``init`` that names no model."""

BACKBONE = "backbone"
"""The value of ``freeze`` that means all layers but the last."""

SEARCH = "search"
"""The table of a settings file that makes it one for ``cifarcnn tune``; see ``training.searchspace``."""


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
    """What determines a training's result. The defaults hold where a recipe says nothing; see ``resolve``."""

    arch: str = _setting("whiten6-small", "Network; `cifarcnn summary` lists them.")
    recipe: str = _setting(
        "fast",
        "Set of defaults (fast: ours, few epochs; finetune: for --init and few images; classic: its author's,"
        " as far as it was published).",
        choices=tuple(recipes.RECIPES),
    )
    init: str = _setting(
        RANDOM,
        "Initial weights (random, or those of a model: pretrained, a .keras file or a run directory; --arch"
        " is then that model's, unless it is given).",
    )
    freeze: str = _setting(
        "0", "Hold fixed the first N convolutions with what follows each, or all but the last layer."
    )
    epochs: int = _setting(10, "Passes over the training images.", least=1, most=100_000)
    batch_size: int = _setting(250, "Batch size: images per optimizer step.", least=1, most=MOST_IMAGES)
    micro_batch: int = _setting(
        0,
        "Gradient accumulation in micro-batches of this many images; batch normalisation sees each by itself."
        " 0 disables it.",
        least=0,
        most=MOST_IMAGES,
    )
    optimizer: str = _setting(
        "muon",
        "Optimizer (nesterov: SGD with Nesterov momentum; muon: Muon for all kernels but the last, Adam for"
        " the rest).",
        choices=("nesterov", "sgd", "rmsprop", "adam", "muon"),
    )
    learning_rate: float = _setting(0.06, "Learning rate, at its peak.", above=0, most=1000)
    momentum: float = _setting(0.6, "Momentum of nesterov, sgd and muon.", least=0, most=0.9999)
    weight_decay: float = _setting(
        0.0,
        "Decoupled weight decay per step, times the learning rate. Muon's kernels, whose norm is fixed, have"
        " none.",
        least=0,
        most=1,
    )
    schedule: str = _setting(
        "one-cycle",
        "Learning rate schedule (one-cycle: linear up and down; step: divided by 10 after 1/2 and 3/4).",
        choices=("constant", "inverse-time", "step", "cosine", "one-cycle"),
    )
    warmup: float = _setting(
        0.1, "Linear warmup, as a share of all steps (not for inverse-time).", least=0, most=0.9
    )
    decay: float = _setting(
        0.0, "Decay of schedule inverse-time: rate / (1 + decay * step).", least=0, most=1
    )
    label_smoothing: float = _setting(0.1, "Label smoothing.", least=0, most=0.9)
    balance: bool = _setting(False, "Weight the loss so that every class counts the same.")
    augment: str = _setting(
        "standard",
        "Data augmentation (flip: horizontal; shift: random crop of the padded image; standard: both).",
        choices=("none", "flip", "shift", "standard"),
    )
    shift: int = _setting(2, "Padding of the random crop, in pixels.", least=0, most=16)
    jitter: float = _setting(
        0.0,
        "Color jitter: the most by which brightness and contrast vary, as a share, whatever --augment is.",
        least=0,
        most=0.9,
    )
    resolutions: str = _setting(
        "32",
        "Progressive resizing: resolutions of the training images, spread evenly over the epochs, as in"
        " 20,24,32.",
    )
    normalize: str = _setting(
        "standard",
        "Input normalisation (unit: divided by 255; standard: z-scores by channel).",
        choices=("unit", "standard"),
    )
    batch_norm_momentum: float = _setting(
        0.9, "Momentum of batch normalisation's moving statistics.", least=0, most=0.9999
    )
    dropout: float = _setting(
        0.5, "Factor on the network's dropout rates; 0 disables dropout.", least=0, most=1.9
    )
    ema: float = _setting(
        0.0,
        "Momentum of the exponential moving average (EMA) of the weights; 0 disables it.",
        least=0,
        most=0.99999,
    )
    patience: int = _setting(0, "Early stopping patience in epochs; 0 disables it.", least=0, most=100_000)
    val_size: int = _setting(
        5000,
        "Validation images held out of the training images; 0: none. Where the data set brings its own,"
        " these are taken unless this is given.",
        least=0,
        most=MOST_IMAGES,
    )
    train_size: int | None = _setting(
        None,
        "Train on this many images, the same share of every class.  [default: all the rest]",
        least=2,
        most=MOST_IMAGES,
    )
    precision: str = _setting(
        "auto",
        "Numeric precision (auto: bfloat16 where the hardware computes it natively).",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    device: str = _setting("auto", "Device: auto (GPUs, if there are any), cpu, gpu or gpu:N.")
    devices: int | None = _setting(
        None,
        "Data parallelism over this many GPUs; with --device cpu over as many parts of the CPU, to try it"
        " out.  [default: all GPUs]",
        least=1,
        most=64,
    )
    deterministic: bool = _setting(
        False, "Deterministic operations on a GPU, for reproducible results; slower. A CPU has them anyway."
    )
    seed: int = _setting(
        0, "Random seed of weights, order, augmentation, dropout and split.", least=0, most=2**31 - 1
    )

    @property
    def accumulation_steps(self) -> int:
        """Into how many micro-batches a batch is divided."""
        whole = self.micro_batch == 0 or self.micro_batch >= self.batch_size
        return 1 if whole else math.ceil(self.batch_size / self.micro_batch)


FIELDS = {item.name: item for item in dataclasses.fields(Settings)}


def option(name: str) -> str:
    """Return a setting as it is typed: ``--learning-rate``."""
    return f"--{name.replace('_', '-')}"


def resolve(overrides: Mapping[str, Value]) -> Settings:
    """Complete what the user gave with the recipe's values and the defaults.

    Args:
        overrides: settings by name; None counts as not given.

    Raises:
        UsageError: an unknown setting, a wrong type or a value out of bounds.
    """
    from cifarcnn import architectures

    explicit = {name: value for name, value in overrides.items() if value is not None}
    for name, value in explicit.items():
        check(name, value)
    row = architectures.find(str(explicit.get("arch", Settings.arch)))
    recipe = str(explicit.get("recipe", Settings.recipe))
    known = recipes.recipes_for(row.name)
    if recipe not in known:
        raise UsageError(f"there is no {recipe} recipe for {row.name}; expected --recipe {', '.join(known)}")
    values: dict[str, Any] = {**known[recipe], **explicit}
    for name, value in values.items():
        if FIELDS[name].type is float:
            values[name] = float(value)
    settings = Settings(**values)
    if settings.accumulation_steps > 1 and settings.batch_size % settings.micro_batch:
        raise UsageError(
            f"--micro-batch is {settings.micro_batch}, which does not divide --batch-size"
            f" {settings.batch_size}; expected a divisor, or 0 not to divide batches"
        )
    if settings.freeze != BACKBONE and not settings.freeze.isdecimal():
        raise UsageError(f"--freeze is {settings.freeze!r}; expected a number of convolutions, or {BACKBONE}")
    if set(resolution_of_epoch(settings)) != {FULL_RESOLUTION} and not row.any_resolution:
        raise UsageError(
            f"--resolutions is {settings.resolutions!r}, but {row.name} takes no smaller images; expected"
            f" {FULL_RESOLUTION}"
        )
    return settings


def differing_from_recipe(settings: Settings) -> frozenset[str]:
    """Return the names of the settings that are not the recipe's."""
    recipe = resolve({"arch": settings.arch, "recipe": settings.recipe})
    return frozenset(name for name in FIELDS if getattr(settings, name) != getattr(recipe, name))


def resolution_of_epoch(settings: Settings) -> tuple[int, ...]:
    """Return the resolution of the training images of each epoch.

    Raises:
        UsageError: ``resolutions`` is no list of resolutions.
    """
    try:
        sides = [int(part) for part in settings.resolutions.split(",")]
    except ValueError:
        sides = []
    if not sides or not all(SMALLEST_RESOLUTION <= side <= FULL_RESOLUTION for side in sides):
        raise UsageError(
            f"--resolutions is {settings.resolutions!r}; expected whole numbers from {SMALLEST_RESOLUTION} to"
            f" {FULL_RESOLUTION}, separated by commas"
        )
    epochs, count = settings.epochs, len(sides)
    if epochs < count:  # those at the end: a network is used on images of full size
        return tuple(sides[(epoch + 1) * count // epochs - 1] for epoch in range(epochs))
    return tuple(sides[epoch * count // epochs] for epoch in range(epochs))


def read_toml(path: str | Path) -> dict[str, Value]:
    """Read settings from a TOML file: one ``name = value`` per line, names as in ``Settings`` or with dashes.

    Raises:
        UsageError: the file is missing, is no TOML, names a setting that does not exist, or is for ``tune``.
    """
    table = read_table(path)
    if SEARCH in table:
        raise UsageError(f"--config {str(path)!r} has a table [{SEARCH}]; give it to `cifarcnn tune`")
    return check_table(table, f"--config {str(path)!r}")


def merged(file: str | Path | None, overrides: Mapping[str, Value]) -> dict[str, Value]:
    """Return the settings of a file, if there is one, under those given besides; None counts as not given.

    Raises:
        UsageError: as for ``read_toml``.
    """
    from_file = read_toml(file) if file is not None else {}
    return {**from_file, **{name: value for name, value in overrides.items() if value is not None}}


def read_table(path: str | Path) -> dict[str, Any]:
    """Read a TOML file of settings without checking what it says.

    Raises:
        UsageError: the file is missing or is no TOML.
    """
    try:
        # Windows' editors put a byte-order mark first, which TOML does not allow.
        return tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    # A number of more digits than Python converts is a ValueError, as are the two that TOML and UTF-8 have.
    except (OSError, ValueError, RecursionError) as problem:
        raise UsageError(
            f"--config {str(path)!r}: {reason(problem)}; expected a TOML file of settings"
        ) from problem


def check_table(table: Mapping[str, Any], where: str) -> dict[str, Value]:
    """Return settings by their names with underscores.

    Args:
        table: settings, named with underscores or dashes.
        where: what stands before the message of an error.

    Raises:
        UsageError: a setting does not exist or is there twice, or a value is wrong.
    """
    settings: dict[str, Value] = {}
    for written, value in table.items():
        name = written.replace("-", "_")
        if name in settings:
            raise UsageError(f"{where}: {name} stands there twice, with a dash and without; expected it once")
        try:
            check(name, value)
        except UsageError as problem:
            raise UsageError(f"{where}: {problem}") from None
        settings[name] = value
    return settings


def check(name: str, value: object) -> None:
    """Refuse a setting that does not exist, or a value of the wrong type or out of bounds."""
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(FIELDS)}"
        raise UsageError(f"unknown setting {name!r}{hint}")
    kind, limits = FIELDS[name].type, FIELDS[name].metadata
    if kind is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{option(name)} is {value!r}; expected true or false")
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        if not isinstance(value, str):
            raise UsageError(f"{option(name)} is {value!r}; expected text")
        if limits["choices"] and value not in limits["choices"]:
            raise UsageError(f"{option(name)} is {value!r}; expected one of {', '.join(limits['choices'])}")
    elif not number or (kind is not float and not isinstance(value, int)):
        raise UsageError(
            f"{option(name)} is {value!r}; expected {'a number' if kind is float else 'a whole number'}"
        )
    else:
        try:
            size = float(value)  # type: ignore[arg-type]
        except OverflowError:  # a whole number of hundreds of digits
            size = math.inf
        _check_bounds(name, size, limits)


def _check_bounds(name: str, value: float, limits: Mapping[str, Any]) -> None:
    if math.isfinite(value) and limits["least"] <= value <= limits["most"] and value > limits["above"]:
        return
    open_below = math.isfinite(limits["above"])
    low = f"above {limits['above']:.10g}" if open_below else f"at least {limits['least']:.10g}"
    high = f" and at most {limits['most']:.10g}" if math.isfinite(limits["most"]) else ""
    raise UsageError(f"{option(name)} is {value:.10g}; expected a number {low}{high}")
