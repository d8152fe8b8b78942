"""What variables and files ask of Keras, told without importing it: as in its ``src/backend/config.py``."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cifarcnn.machine import files

BACKENDS = ("tensorflow", "jax")
"""The backends of Keras that this package supports."""


def backend_asked(environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the backend that Keras is going to take, and what asks for it: a variable, or Keras's file."""
    if named := environ.get("KERAS_BACKEND"):
        return named, "KERAS_BACKEND"
    found = _read(environ)
    named = found.get("backend") if isinstance(found, dict) else None
    return str(named or "tensorflow"), str(_place(environ))


def usable(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether Keras can be imported with these settings, and is the usual Keras, without NNX."""
    found = _read(environ)
    limits = [environ.get(name, "0") for name in ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")]
    return (
        isinstance(found, dict)
        and found.get("floatx", "float32") in ("float16", "float32", "float64")
        and isinstance(found.get("epsilon", 1e-7), float)
        and found.get("image_data_format", "channels_last") in ("channels_last", "channels_first")
        and not found.get("nnx_enabled", False)
        and environ.get("KERAS_NNX_ENABLED", "").lower() not in ("true", "1")
        and all(limit.strip().removeprefix("-").isdecimal() for limit in limits)
    )


@contextlib.contextmanager
def hidden(backend: str) -> Iterator[None]:
    """Keep the user's settings from Keras while it is imported; of them it gets the backend."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("KERAS_")}
    for name in kept:
        del os.environ[name]
    # There is no settings file below a file, and none can be made.
    ours = {"KERAS_BACKEND": backend, "KERAS_HOME": __file__}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
        os.environ.update(kept)


def _place(environ: Mapping[str, str]) -> Path:
    """Return where Keras looks for its settings."""
    base = os.path.expanduser("~")
    home = environ.get("KERAS_HOME", f"{base if os.access(base, os.W_OK) else '/tmp'}/.keras")  # noqa: S108
    return Path(home, "keras.json").expanduser()


def _read(environ: Mapping[str, str]) -> Any:
    """Return what Keras's settings file holds; {} where it takes none, None where it fails to read it."""
    path = _place(environ)
    if not os.path.exists(path):
        return {}
    try:
        return json.loads(files.read_text(path))
    except json.JSONDecodeError:
        return {}
    except (OSError, ValueError, RecursionError):
        return None
