"""The choice of device and arithmetic, for machines one has and machines one has not."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cifarcnn.errors import UsageError
from cifarcnn.machine import devices
from cifarcnn.machine.devices import Gpu, Hardware

PLAIN = frozenset({"avx2", "avx512f"})


def machine(
    *flags: str, gpus: tuple[Gpu, ...] = (), backend: str = "tensorflow", idle_gpu: str | None = None
) -> Hardware:
    """A machine with these processor features and GPUs."""
    return Hardware(backend, "a processor", 4, PLAIN | set(flags), gpus, idle_gpu)


@pytest.mark.parametrize(
    ("hardware", "device", "precision"),
    [
        (machine(), "cpu", "float32"),
        (machine("avx512_bf16"), "cpu", "mixed_bfloat16"),
        (machine("amx_bf16"), "cpu", "mixed_bfloat16"),
        (machine("bf16"), "cpu", "mixed_bfloat16"),
        (machine("avx512_bf16", backend="jax"), "cpu", "float32"),
        (machine(gpus=(Gpu("K80", (3, 7)),)), "gpu:0", "float32"),
        (machine(gpus=(Gpu("P100", (6, 0)),)), "gpu:0", "float32"),
        (machine(gpus=(Gpu("V100", (7, 0)),)), "gpu:0", "mixed_float16"),
        (machine(gpus=(Gpu("T4", (7, 5)),)), "gpu:0", "mixed_float16"),
        (machine(gpus=(Gpu("A100", (8, 0)),)), "gpu:0", "mixed_bfloat16"),
        (machine(gpus=(Gpu("H200", (9, 0)),), backend="jax"), "gpu:0", "mixed_bfloat16"),
        (machine(gpus=(Gpu("unknown", None),)), "gpu:0", "float32"),
    ],
)
def test_auto_chooses_by_the_hardware(hardware: Hardware, device: str, precision: str) -> None:
    """bfloat16 where it is native, float16 on older tensor cores, float32 elsewhere; always with a reason."""
    choice = devices.choose(hardware)
    assert (choice.device, choice.precision) == (device, precision)
    assert precision in choice.reason


def test_what_is_asked_for_is_taken() -> None:
    """An explicit device and precision win over the hardware's best."""
    hardware = machine("avx512_bf16", gpus=(Gpu("A100", (8, 0)), Gpu("A100", (8, 0))))
    assert devices.choose(hardware, "cpu").precision == "mixed_bfloat16"
    assert devices.choose(hardware, "gpu:1").device == "gpu:1"
    choice = devices.choose(hardware, "gpu", "float32", 1)
    assert (choice.device, choice.precision) == ("gpu:0", "float32")


def test_all_gpus_train_unless_fewer_are_asked_for() -> None:
    """The weakest of them decides on the arithmetic; JAX trains on one, unless more are asked for."""
    gpus = (Gpu("A100", (8, 0)), Gpu("V100", (7, 0)), Gpu("V100", (7, 0)))
    both = devices.choose(machine(gpus=gpus))
    assert (both.device, both.count, both.precision) == ("gpu", 3, "mixed_float16")
    assert "3 GPUs in step (A100, V100)" in both.reason
    assert devices.choose(machine(gpus=gpus), count=2).count == 2
    assert devices.choose(machine(gpus=gpus), count=1).precision == "mixed_bfloat16"
    assert devices.choose(machine(gpus=gpus), "gpu:1").count == 1
    assert devices.choose(machine(gpus=gpus, backend="jax")).count == 1
    assert devices.choose(machine(gpus=gpus, backend="jax"), count=2).count == 2


@pytest.mark.parametrize(
    ("device", "count", "backend", "said"),
    [
        ("gpu", 4, "tensorflow", "devices is 4, but tensorflow found 3 usable GPUs"),
        ("gpu:1", 2, "tensorflow", "'gpu:1' is one GPU, but devices is 2"),
        ("gpu", 4, "jax", "devices is 4, but jax found 3 usable GPUs"),
    ],
)
def test_more_devices_than_there_are_get_one_line(device: str, count: int, backend: str, said: str) -> None:
    """What was asked for, what there is."""
    hardware = machine(gpus=(Gpu("A100", (8, 0)),) * 3, backend=backend)
    with pytest.raises(UsageError, match=said):
        devices.choose(hardware, device, count=count)


def test_xla_is_for_gpus_which_also_take_more_steps_per_call() -> None:
    """On a CPU TensorFlow's own kernels run, a few steps a call; JAX always compiles."""
    cpu, gpu = devices.choose(machine()), devices.choose(machine(gpus=(Gpu("A100", (8, 0)),)))
    assert cpu.jit_compile is False
    assert gpu.jit_compile == "auto"
    assert 1 < cpu.steps_per_execution < gpu.steps_per_execution
    assert devices.choose(machine(backend="jax")).jit_compile is True


def test_a_gpu_that_cannot_be_used_is_reported_with_the_fix() -> None:
    """A present but unusable GPU is not ignored silently; with --device gpu it is an error."""
    hardware = machine(idle_gpu="NVIDIA A100")
    warning = devices.choose(hardware).warning
    assert warning is not None
    assert "NVIDIA A100 is present" in warning
    assert 'pip install "tensorflow[and-cuda]"' in warning
    with pytest.raises(UsageError, match="NVIDIA A100 is present"):
        devices.choose(hardware, "gpu")


@pytest.mark.parametrize("device", ["tpu", "gpu:", "gpu:x", "", "GPU:0 ", "gpu:" + 5000 * "1"])
def test_an_impossible_device_is_refused(device: str) -> None:
    """The message says what is expected."""
    with pytest.raises(UsageError, match="expected auto, cpu, gpu or gpu:N"):
        devices.choose(machine(), device)


def test_a_gpu_number_that_does_not_exist_is_refused() -> None:
    """The message says how many there are."""
    with pytest.raises(UsageError, match="'gpu:3', but tensorflow found 1 usable GPU, counted from gpu:0"):
        devices.choose(machine(gpus=(Gpu("A100", (8, 0)),)), "gpu:3")
    with pytest.raises(UsageError, match="found no GPU; use --device cpu meanwhile"):
        devices.choose(machine(), "gpu")


def test_a_cpu_is_divided_only_if_it_is_named() -> None:
    """Who asks for two devices wants two GPUs, not a CPU in parts that is slower than whole."""
    with pytest.raises(UsageError, match="devices is 2, but tensorflow found no GPU; leave devices out"):
        devices.choose(machine(), count=2)
    assert devices.choose(machine(), "cpu", count=2).count == 2
    assert devices.choose(machine(), count=1).count == 1


@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ({}, True),
        ({"ONEDNN_MAX_CPU_ISA": "ALL"}, True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False),
    ],
)
def test_kernels_told_to_use_less_than_the_cpu_has_take_bfloat16_away(
    environment: dict[str, str], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN's own switches mask the bfloat16 features of a processor that has them, and no others."""
    native = frozenset({"avx2", *devices.BFLOAT16_FLAGS})
    monkeypatch.setattr(devices, "_all_cpu_flags", lambda: native)
    assert devices.cpu_flags(environment) == (native if kept else {"avx2"})


def test_the_machine_says_how_many_cores_may_be_used() -> None:
    """At least one, and no more than there are."""
    assert 1 <= devices.usable_cpus() <= (os.cpu_count() or 1)
    assert devices.cpu_name()


@pytest.mark.parametrize(
    ("quota", "usable"),
    [
        (None, 6),
        ("max 100000\n", 6),
        ("200000 100000\n", 2),
        ("75000 50000\n", 2),
        ("140000 100000\n", 1),
        ("10000 100000\n", 1),
        ("1600000 100000\n", 6),
    ],
)
@pytest.mark.parametrize("affinity", [True, False])
def test_affinity_and_a_containers_quota_limit_the_cores(
    quota: str | None, usable: int, affinity: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller of both counts, the quota as whole cores and at least one; without affinity, all cores."""
    if affinity:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64 if affinity else 6)
    monkeypatch.setattr(devices, "Path", lambda path: tmp_path / path.lstrip("/"))
    if quota is not None:
        file = tmp_path / "sys/fs/cgroup/cpu.max"
        file.parent.mkdir(parents=True)
        file.write_text(quota)
    assert devices.usable_cpus() == usable


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a switch of x86 processors")
@pytest.mark.parametrize(("environment", "used"), [({}, True), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False)])
def test_onednn_computes_unless_it_is_switched_off(environment: dict[str, str], used: bool) -> None:
    """Also where TensorFlow would not take it by itself. Asked to, oneDNN tells what it does."""
    script = (
        "from cifarcnn.machine import backend; backend.load(); import tensorflow as tf;"
        "tf.nn.conv2d(tf.ones((1, 32, 32, 8)), tf.ones((3, 3, 8, 8)), 1, 'SAME')"
    )
    kept = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, "KERAS_BACKEND": "tensorflow", "ONEDNN_VERBOSE": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("convolution" in done.stdout) is used


@pytest.mark.parametrize("collecting", [True, False])
def test_keras_is_imported_without_looking_for_garbage(collecting: bool) -> None:
    """The import is a fifth quicker by it; afterwards Python looks for garbage as it did before."""
    script = (
        f"import gc; {'gc.enable' if collecting else 'gc.disable'}()\n"
        "from cifarcnn.machine import backend\n"
        "searches = []\n"
        "gc.callbacks.append(lambda phase, _: searches.append(phase))\n"
        "backend.load()\n"
        "print(len(searches) < 10, gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"True {collecting}\n"
