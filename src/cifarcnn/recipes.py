"""The recipes: for each architecture, the settings with which it is trained, where they are not the defaults.

``fast`` is ours; ``finetune``, one for all, is for a trained network and few images; ``classic`` is what a
network's author published. What the settings mean stands in ``cifarcnn.config``, what the recipes were
measured to reach in ``cifarcnn.expectations``.
"""

from collections.abc import Mapping

Value = str | int | float | bool | None
"""What a setting may be; None is a setting that is not limited, as ``train_size``."""

# What Keras's own defaults were when the six networks were published, and what they did not do.
_CLASSIC: dict[str, Value] = {
    "momentum": 0.9,
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
_CLASSIC_VGG: dict[str, Value] = {**_CLASSIC, "optimizer": "sgd", "learning_rate": 0.001}
# After airbench94 (Keller Jordan, 2024), on a CPU's terms.
_WHITENED: dict[str, Value] = {
    "batch_size": 1000,
    "learning_rate": 0.24,
    "warmup": 0.0,
    "label_smoothing": 0.2,
    "batch_norm_momentum": 0.6,
    "val_size": 1000,
}

# Few epochs want less dropout than a published rate.
_LESS_DROPOUT: dict[str, Value] = {"dropout": 0.25}

# For a trained network that goes on with few images of other classes. A step of Muon takes longer than the
# gradient of few images, and a batch of few tells little of the statistics.
_FINETUNE: dict[str, Value] = {
    "optimizer": "nesterov",
    "learning_rate": 0.003,
    "momentum": 0.9,
    "epochs": 10,
    "batch_norm_momentum": 0.99,
}
_FINETUNE_WHITENED: dict[str, Value] = {**_FINETUNE, "freeze": "3"}

RECIPES: Mapping[str, Mapping[str, Mapping[str, Value]]] = {
    "fast": {
        "plain6": _LESS_DROPOUT,
        "plain6-small": {"epochs": 12, "dropout": 0.0},
        "rmsprop6": _LESS_DROPOUT,
        "vgg2": _LESS_DROPOUT,
        "vgg3": _LESS_DROPOUT,
        "shallow2": {"epochs": 6},
        "whiten6-tiny": {**_WHITENED, "epochs": 2, "batch_size": 500, "resolutions": "20,32"},
        "whiten6-small": {**_WHITENED, "epochs": 4, "batch_size": 500, "resolutions": "20,24,32,32"},
        "whiten6-medium": {**_WHITENED, "epochs": 7, "resolutions": "20,24,28,32,32"},
        "whiten6": {
            **_WHITENED,
            "epochs": 10,
            "batch_size": 2000,
            "micro_batch": 500,
            "batch_norm_momentum": 0.9,
            "jitter": 0.14,
            "resolutions": "24,32,32,32,32",
        },
        "whiten6-large": {**_WHITENED, "epochs": 24, "resolutions": "20,24,28,32,32"},
    },
    "finetune": dict.fromkeys(
        ("whiten6-tiny", "whiten6-small", "whiten6-medium", "whiten6", "whiten6-large"), _FINETUNE_WHITENED
    ),
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


def recipes_for(arch: str) -> dict[str, Mapping[str, Value]]:
    """Return the recipes of an architecture by name; it has no ``classic`` one if nobody published it."""
    found = {name: table.get(arch, {}) for name, table in RECIPES.items() if name == "fast" or arch in table}
    return {**found, "finetune": RECIPES["finetune"].get(arch, _FINETUNE)}
