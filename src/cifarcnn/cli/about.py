"""What is installed and what there is to compute on, for ``cifarcnn --version`` and for reports of faults.

Versions come from the packages' metadata and hardware from the operating system, so nothing is imported for
it. What a training then computes on is chosen in ``machine.devices``, with what ``machine.backend`` adds.
"""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cifarcnn.machine import devices
from cifarcnn.wording import count

NAMES = {"keras": "Keras", "tensorflow": "TensorFlow", "jax": "JAX"}
"""Packages as their makers spell them."""


def lines() -> list[str]:
    """Return the facts, a line for each kind: software, processor, GPU."""
    packages = ", ".join(_version(package) for package in ("keras", keras_backend()))
    native = sorted(devices.cpu_flags() & devices.BFLOAT16_FLAGS)
    bfloat16 = f"native bfloat16 ({', '.join(native)})" if native else "no native bfloat16"
    return [
        f"Python {platform.python_version()}, {packages}",
        f"CPU: {devices.cpu_name()}, {count(devices.usable_cpus(), 'core')}, {bfloat16}",
        f"NVIDIA GPU: {devices.nvidia_gpu() or 'none'}",
    ]


def keras_backend(environ: Mapping[str, str] = os.environ) -> str:
    """Return the backend that Keras will import, which a variable or Keras's settings file names."""
    if named := environ.get("KERAS_BACKEND"):
        return named
    home = environ.get("KERAS_HOME", os.path.expanduser("~/.keras"))
    try:
        settings = json.loads(Path(home, "keras.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    found = settings.get("backend") if isinstance(settings, dict) else None
    return found if isinstance(found, str) and found else "tensorflow"


def _version(package: str) -> str:
    """Name a package and its version."""
    name = NAMES.get(package, package)
    try:
        return f"{name} {version(package)}"
    except (PackageNotFoundError, ValueError):  # ValueError: what KERAS_BACKEND says is no package's name
        return f"{name} (not installed)"
