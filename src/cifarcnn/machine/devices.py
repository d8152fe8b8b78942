"""On what to compute, and in which arithmetic: the facts about the hardware, and the choice made from them.

``choose`` is a pure function of a ``Hardware``, so that it can be checked for machines one does not have.
The processor's name, features and cores, and an NVIDIA GPU that is present, are asked of the operating system
here; what only the framework knows, the GPUs that it can use, is asked in ``backend``.
"""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cifarcnn import formatting
from cifarcnn.errors import UsageError

# The processor features with which a CPU computes bfloat16 products itself: x86 and Arm names.
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

CPU_STEPS_PER_CALL = 4
"""Four steps a call take 10 % less time than one at a time (vgg2, batch 128); sixteen take no less."""

# oneDNN, TensorFlow's CPU kernels, can be told to use less than the CPU has. These values leave bfloat16 on.
_ISA_WITH_BFLOAT16 = re.compile(r"ALL|DEFAULT|AVX512_CORE_(BF16|FP16|AMX.*)|AVX10.*", re.IGNORECASE)


@dataclass(frozen=True)
class Gpu:
    """A GPU the framework can use. ``capability`` is NVIDIA's compute capability, None if unknown."""

    name: str
    capability: tuple[int, int] | None


@dataclass(frozen=True)
class Hardware:
    """What a choice depends on.

    Attributes:
        backend: Keras's backend, "tensorflow" or "jax".
        cpu: the processor's name.
        cpus: how many of its cores this process may use.
        flags: the processor's features, in the operating system's spelling.
        gpus: the GPUs that the framework can use.
        idle_gpu: the name of an NVIDIA GPU that is present while the framework sees none, else None.
    """

    backend: str
    cpu: str
    cpus: int
    flags: frozenset[str]
    gpus: tuple[Gpu, ...] = ()
    idle_gpu: str | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        device: "cpu", "gpu:N", or "gpu" for several.
        precision: a Keras dtype policy.
        reason: one line for the user.
        warning: a fault that the user should fix, or None.
        jit_compile: what to pass to ``Model.compile``. XLA is far slower than oneDNN on a CPU.
        steps_per_execution: steps made by one call; between calls the device waits for Python.
        count: how many devices train in step: all the GPUs, or as many virtual parts of the CPU.
    """

    device: str
    precision: str
    reason: str
    warning: str | None
    jit_compile: bool | str
    steps_per_execution: int
    count: int = 1


def choose(
    hardware: Hardware, device: str = "auto", precision: str = "auto", count: int | None = None
) -> Choice:
    """Choose the device and the arithmetic.

    Args:
        hardware: what there is.
        device: "auto", "cpu", "gpu" or "gpu:N".
        precision: "auto", or a Keras dtype policy, which is taken as it is.
        count: how many devices are to train in step; None for all GPUs on TensorFlow, and one
            on JAX. There is one CPU, which can be divided for trial.

    Raises:
        UsageError: ``device`` is no such name, or there is no such GPU, or there are not so many.
    """
    match = re.fullmatch(r"auto|cpu|gpu(?::(\d{1,4}))?", device)
    if match is None:
        raise UsageError(f"device is {device!r}; expected auto, cpu, gpu or gpu:N")
    warning = _idle_gpu_warning(hardware) if device != "cpu" else None
    if not hardware.gpus and device != "cpu" and (device != "auto" or (count or 1) > 1):
        found = warning or f"{hardware.backend} found no GPU"
        if device == "auto":
            raise UsageError(
                f"devices is {count}, but {found}; leave devices out, or divide the CPU by --device cpu"
            )
        raise UsageError(f"device is {device!r}, but {found}; use --device cpu meanwhile")
    if device == "cpu" or not hardware.gpus:
        return _on_cpu(hardware, precision, count or 1, warning)
    numbers = _gpu_numbers(hardware, device, match[1], count)
    if numbers[-1] >= len(hardware.gpus):
        found = f"{hardware.backend} found {formatting.count(len(hardware.gpus), 'usable GPU')}"
        if len(numbers) > 1:
            raise UsageError(f"devices is {len(numbers)}, but {found}; expected at most so many")
        raise UsageError(f"device is {device!r}, but {found}, counted from gpu:0")
    return _on_gpus(hardware, numbers, precision)


def _gpu_numbers(hardware: Hardware, device: str, named: str | None, count: int | None) -> range:
    """Return which GPUs are asked for."""
    if named is not None:
        if count is not None and count > 1:
            raise UsageError(f"device {device!r} is one GPU, but devices is {count}; expected --device gpu")
        return range(int(named), int(named) + 1)
    everyone = len(hardware.gpus) if hardware.backend == "tensorflow" else 1
    return range(max(1, everyone if count is None else count))


def _on_cpu(hardware: Hardware, precision: str, count: int, warning: str | None) -> Choice:
    native = sorted(hardware.flags & BFLOAT16_FLAGS)
    if precision != "auto":
        why = "as asked"
    elif hardware.backend != "tensorflow":
        precision, why = "float32", f"{hardware.backend} has no fast bfloat16 convolutions on a CPU"
    elif native:
        precision, why = "mixed_bfloat16", f"the CPU computes bfloat16 natively ({', '.join(native)})"
    else:
        precision, why = "float32", "the CPU does not compute bfloat16 natively"
    shown = formatting.count(hardware.cpus, "core")
    if count > 1:
        shown += f" as {count} devices, which is slower than one"
    jit, steps = (True, 1) if hardware.backend == "jax" else (False, CPU_STEPS_PER_CALL)
    reason = f"{hardware.cpu}, {shown}; {precision}: {why}"
    return Choice("cpu", precision, reason, warning, jit, steps, count)


def _on_gpus(hardware: Hardware, numbers: range, precision: str) -> Choice:
    gpus = [hardware.gpus[number] for number in numbers]
    # The weakest decides.
    capability = min(gpu.capability or (0, 0) for gpu in gpus)
    shown = f"compute capability {capability[0]}.{capability[1]}"
    if precision != "auto":
        why = "as asked"
    elif capability == (0, 0):
        precision, why = "float32", "the GPU's compute capability is unknown"
    elif capability >= (8, 0):
        precision, why = "mixed_bfloat16", f"{shown} >= 8.0"
    elif capability >= (7, 0):
        precision, why = "mixed_float16", f"{shown} >= 7.0"
    else:
        precision, why = "float32", f"{shown} < 7.0"
    # JAX compiles the steps of a call one after the other into one program, which takes time.
    steps = 4 if hardware.backend == "jax" else 16
    device, name = f"gpu:{numbers[0]}", gpus[0].name
    if len(gpus) > 1:
        device, name = "gpu", f"{len(gpus)} GPUs in step ({', '.join(sorted({gpu.name for gpu in gpus}))})"
    return Choice(device, precision, f"{name}; {precision}: {why}", None, "auto", steps, len(gpus))


def _idle_gpu_warning(hardware: Hardware) -> str | None:
    if hardware.idle_gpu is None or hardware.gpus:
        return None
    package = "tensorflow[and-cuda]" if hardware.backend == "tensorflow" else "jax[cuda12]"
    return (
        f"{hardware.idle_gpu} is present, but {hardware.backend} cannot use it (driver or CUDA libraries"
        f' missing); fix: run nvidia-smi to check the driver, then pip install "{package}"'
    )


def cpu_flags(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return the processor's features that the convolution kernels may use.

    oneDNN's own switches are honoured: ``ONEDNN_MAX_CPU_ISA`` below bfloat16, or ``TF_ENABLE_ONEDNN_OPTS=0``,
    take the bfloat16 features out.
    """
    flags = _all_cpu_flags()
    isa = environ.get("ONEDNN_MAX_CPU_ISA", "ALL")
    if environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" or not _ISA_WITH_BFLOAT16.fullmatch(isa):
        return flags - BFLOAT16_FLAGS
    return flags


def _all_cpu_flags() -> frozenset[str]:
    """Return the processor's features, as far as the operating system tells them."""
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE):
            return frozenset(found[1].split())
    elif platform.system() == "Darwin" and _output("sysctl", "-n", "hw.optional.arm.FEAT_BF16") == "1":
        return frozenset({"bf16"})
    return frozenset()


def cpu_name() -> str:
    """Return the processor's name, as the operating system spells it."""
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE):
            return found[1].strip()
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def usable_cpus() -> int:
    """Return how many cores this process may use: its affinity, and a container's quota if that is less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        limit, period = quota.read_text(encoding="ascii").split()
        if limit != "max":
            count = min(count, max(1, round(int(limit) / int(period))))
    return count


def nvidia_gpu() -> str | None:
    """Return the name of an NVIDIA GPU that the operating system or the driver knows, else None."""
    if named := _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"):
        return named.splitlines()[0]
    for card in sorted(Path("/sys/bus/pci/devices").glob("*")):
        try:
            vendor, kind = ((card / name).read_text(encoding="ascii").strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):  # NVIDIA; a display or 3D controller
            return f"an NVIDIA GPU ({card.name})"
    return None


def _output(*command: str) -> str:
    """Run a command of the system; its output, or "" where there is no such command or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
