"""What differs between Keras's backends outside the networks, from their import to running out of memory.

The rest of the package speaks Keras's own API and runs on TensorFlow and on JAX, whichever ``KERAS_BACKEND``
names. TensorFlow's own layers stand in ``training.tf_layers``.
"""

import contextlib
import gc
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cifarcnn.errors import CifarCNNError, Interrupted, UsageError
from cifarcnn.machine import devices
from cifarcnn.machine.signals import StopRequest


def load() -> str:
    """Import Keras and its backend without their start-up chatter, and return the backend's name.

    Raises:
        CifarCNNError: the backend is not installed, or is one we do not support.
        Interrupted: Ctrl-C or SIGTERM came meanwhile.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        # By itself TensorFlow takes oneDNN's kernels only where there is AVX512-VNNI or more. On a processor
        # with AVX2 alone (AMD EPYC, Zen 3, two cores) they train 1.45 to 1.6 times as fast as its own.
        if platform.machine().lower() in ("x86_64", "amd64"):
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        # A KeyboardInterrupt raised inside TensorFlow's import can be swallowed there, so it is noted and
        # acted on afterwards.
        stop = StopRequest()
        try:
            with stop, quiet_stderr(), _no_garbage_collection():
                import keras

                if keras.backend.backend() == "tensorflow":
                    _tensorflow_gpus()
        # A ValueError: KERAS_BACKEND or keras.json names nothing there is, or libraries do not fit together.
        except (ImportError, ValueError) as problem:
            raise CifarCNNError(
                f"Keras or its backend cannot be imported ({problem}); install tensorflow, or install jax and"
                " set KERAS_BACKEND=jax"
            ) from problem
        if stop.received is not None:
            name = "Ctrl-C" if stop.received == signal.SIGINT else signal.Signals(stop.received).name
            raise Interrupted(f"stopped by {name} before anything was begun", 128 + stop.received)
    from keras import backend

    found: str = backend.backend()
    if found not in ("tensorflow", "jax"):
        raise CifarCNNError(f"KERAS_BACKEND is {found!r}; expected tensorflow or jax")
    return found


def need_tensorflow(what: str) -> None:
    """Load the backend, and refuse another than TensorFlow for what it alone can do.

    Raises:
        UsageError: it is another.
    """
    if (name := load()) != "tensorflow":
        raise UsageError(f"{what} on TensorFlow only, but the backend is {name}; unset KERAS_BACKEND")


def hardware() -> devices.Hardware:
    """Ask the framework and the operating system what there is to compute on."""
    backend = load()
    with quiet_stderr():
        gpus = _tensorflow_gpus() if backend == "tensorflow" else _jax_gpus()
    return devices.Hardware(
        backend=backend,
        cpu=devices.cpu_name(),
        cpus=devices.usable_cpus(),
        flags=devices.cpu_flags(),
        gpus=gpus,
        idle_gpu=None if gpus else devices.nvidia_gpu(),
    )


def inference() -> str:
    """Say on what and in which arithmetic saved networks answer: Keras's first device, float32."""
    found = hardware()
    return devices.choose(found, precision="float32", count=1).reason.replace(": as asked", "")


@contextlib.contextmanager
def running_on(choice: devices.Choice, cpus: int, *, alone: bool = True) -> Iterator[None]:
    """Place everything made within the block on the chosen device; not so if it is one of several.

    Threads are set once a process, before the first operation; later calls leave them.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # TensorFlow counts the cores it may be scheduled on, not a container's quota. Two operations at a
        # time would compete for the cores and the cache.
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(cpus)
            tf.config.threading.set_inter_op_parallelism_threads(1 if choice.device == "cpu" and alone else 0)
    if not alone:  # a strategy places what it computes
        yield
        return
    with keras.device(choice.device if ":" in choice.device else f"{choice.device}:0"):
        yield


def make_deterministic() -> str:
    """Have the GPU's operations sum in a fixed order. It holds until the process ends.

    Returns:
        What it costs, in words.

    Raises:
        UsageError: JAX was started without the flag that asks for it.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        return "slower operations, without the XLA compiler"
    if "--xla_gpu_deterministic_ops=true" not in os.environ.get("XLA_FLAGS", ""):
        raise UsageError(
            "deterministic is true, but JAX was started without the flag that it needs on a GPU; expected"
            " XLA_FLAGS=--xla_gpu_deterministic_ops=true in the environment"
        )
    return "slower operations"


def feed(inputs: npt.NDArray[Any], targets: npt.NDArray[Any], batch_size: int) -> dict[str, Any]:
    """Return the arguments with which ``Model.fit`` takes these arrays in order, batch by batch.

    Keras wraps arrays in a ``tf.data`` pipeline whose autotuning thread sleeps for ever longer, up to a
    minute, and is waited for when the pipeline ends: an epoch of 2 s took 2.6 s, one of 13 s up to 20 s.
    Nothing needs tuning here, so it is turned off.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return {"x": inputs, "y": targets, "batch_size": batch_size, "shuffle": False}
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    dataset = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(batch_size, drop_remainder=True)
    return {"x": dataset.prefetch(2).with_options(options), "shuffle": False}


def seed(number: int) -> None:
    """Seed all from which Keras draws, in silence: on JAX too it imports TensorFlow, if it can."""
    import keras

    with quiet_stderr(), _no_garbage_collection():
        keras.utils.set_random_seed(number)


def versions() -> dict[str, str]:
    """Return the versions of what computes, for the run's records."""
    import keras

    found = {"keras": keras.__version__, "numpy": np.__version__}
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return {**found, "tensorflow": tf.__version__}
    import jax

    return {**found, "jax": jax.__version__}


def is_out_of_memory(problem: Exception) -> bool:
    """Tell whether an error is what Python or the backend raises when memory runs out."""
    import keras

    if isinstance(problem, MemoryError):
        return True
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return isinstance(problem, tf.errors.ResourceExhaustedError)
    import jax

    # JAX has one class for all that goes wrong while it computes; the code stands in the text.
    return isinstance(problem, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(problem)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Import without searching for garbage: what modules make stays, and searching takes a fifth of it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _tensorflow_gpus() -> tuple[devices.Gpu, ...]:
    import tensorflow as tf

    found = []
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # once a GPU is in use, its memory growth stays as it is
            tf.config.experimental.set_memory_growth(gpu, True)
        details = tf.config.experimental.get_device_details(gpu)
        found.append(devices.Gpu(details.get("device_name", gpu.name), details.get("compute_capability")))
    return tuple(found)


def _jax_gpus() -> tuple[devices.Gpu, ...]:
    import jax

    try:
        found = jax.devices("gpu")
    except RuntimeError:  # jax's way of saying that there is none
        return ()
    capabilities = [str(getattr(gpu, "compute_capability", "")).split(".") for gpu in found]
    return tuple(
        devices.Gpu(gpu.device_kind, (int(parts[0]), int(parts[1])) if len(parts) == 2 else None)
        for gpu, parts in zip(found, capabilities, strict=True)
    )


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what native libraries write to file descriptor 2; show it if the block fails.

    Ctrl-C is no failure: the chatter is then dropped.
    """
    try:
        buffer = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    except OSError:  # there is nowhere to hold anything
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(kept, 2)
            buffer.seek(0)
            os.write(2, buffer.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
