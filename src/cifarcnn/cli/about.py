"""What is installed and what there is to compute on, for ``cifarcnn --version`` and for reports of faults.

Versions come from the packages' metadata and hardware from the operating system, so nothing is imported for
it. What a training then computes on is chosen in ``machine.devices``, with what ``machine.backend`` adds.
"""

import platform
from importlib.metadata import PackageNotFoundError, version

from cifarcnn.formatting import count
from cifarcnn.machine import devices, kerassettings

NAMES = {"keras": "Keras", "tensorflow": "TensorFlow", "jax": "JAX"}
"""Packages as their makers spell them."""


def lines() -> list[str]:
    """Return the facts, a line for each kind: software, processor, GPU."""
    backend = kerassettings.backend_asked()[0]
    packages = ", ".join(_version(package) for package in ("keras", backend))
    native = sorted(devices.cpu_flags() & devices.BFLOAT16_FLAGS)
    bfloat16 = f"native bfloat16 ({', '.join(native)})" if native else "no native bfloat16"
    return [
        f"Python {platform.python_version()}, {packages}",
        f"CPU: {devices.cpu_name()}, {count(devices.usable_cpus(), 'core')}, {bfloat16}",
        f"NVIDIA GPU: {devices.nvidia_gpu() or 'none'}",
    ]


def _version(package: str) -> str:
    """Name a package and its version."""
    name = NAMES.get(package, package)
    try:
        return f"{name} {version(package)}"
    except (PackageNotFoundError, ValueError):  # ValueError: what KERAS_BACKEND says is no package's name
        return f"{name} (not installed)"
