"""Which backend Keras is going to take, told without importing it: as in its ``src/backend/config.py``."""

import json
import os
from collections.abc import Mapping


def backend_name(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the backend that a variable or Keras's settings file names; None where that cannot be told."""
    if named := environ.get("KERAS_BACKEND"):
        return named
    base = os.path.expanduser("~")
    home = environ.get("KERAS_HOME", f"{base if os.access(base, os.W_OK) else '/tmp'}/.keras")  # noqa: S108
    path = os.path.expanduser(os.path.join(home, "keras.json"))
    if not os.path.exists(path):
        return "tensorflow"
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except ValueError:  # what is no JSON is no settings to Keras either
        return "tensorflow"
    except (OSError, RecursionError):
        return None
    found = settings.get("backend", "tensorflow") if isinstance(settings, dict) else None
    return found if isinstance(found, str) else None
