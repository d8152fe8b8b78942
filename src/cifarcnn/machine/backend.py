"""Keras and its backend: their import, with our settings and without their chatter, and their differences.

Nothing else imports Keras first. The rest of the package speaks Keras's own API and runs on TensorFlow and on
JAX, whichever ``KERAS_BACKEND`` names. TensorFlow's own layers stand in ``training.tf_layers``.
"""

import contextlib
import errno
import functools
import gc
import importlib
import logging
import os
import platform
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cifarcnn.errors import CifarCNNError, Interrupted, UsageError, reason
from cifarcnn.machine import devices, kerassettings, signals

_CHATTER = re.compile(
    rb"[IWE]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+:\d+\] "
    rb"|WARNING: All log messages before absl::InitializeLog\(\)"
    rb"|To enable the following instructions:"
    rb"|INFO: Created TensorFlow Lite "
)
"""How a line begins that TensorFlow or LiteRT logs below the level that it was told."""

_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|ResourceExhausted|Status: 1, message|bad_alloc|out of memory|OUT_OF_MEMORY"
    r"|ALLOC_FAILED|cannot allocate memory|failed to allocate|failed to map segment|can't start new thread",
    re.IGNORECASE,
)
"""What an error says of memory. oneDNN's status 1 is its out_of_memory ("could not create a primitive")."""

_stderr_is_held = threading.RLock()
_callers_settings: list[Callable[[], None]] = []
_depth = 0


def load() -> str:
    """Import Keras and its backend, if nobody has, and return the backend's name.

    Raises:
        CifarCNNError: the backend is not installed, or is one that we do not support.
        Interrupted: a signal came meanwhile.
    """
    if "keras" not in sys.modules:
        _import_keras()
        if _depth:
            _take_over()
    from keras import backend

    found: str = backend.backend()
    if found not in kerassettings.BACKENDS:
        raise CifarCNNError(f"Keras runs on {found!r} in this process; expected tensorflow or jax")
    return found


@contextlib.contextmanager
def keras_settings() -> Iterator[None]:
    """Have Keras compute with our settings within the block, or decorated function; put the caller's back.

    Data format, float type, epsilon, dtype policy and limits of training may come from the caller, or from
    their ``keras.json`` and environment. Keras is not imported for it: ``load`` goes on from here.
    """
    global _depth  # noqa: PLW0603 - Keras's settings are global, too
    _depth += 1
    if _depth == 1 and "keras" in sys.modules:
        _take_over()
    try:
        yield
    finally:
        _depth -= 1
        while not _depth and _callers_settings:
            _callers_settings.pop()()


def _take_over() -> None:
    """Remember Keras's settings, and make ours."""
    from keras import config

    def swap(name: str, ours: object) -> None:
        setting = getattr(config, f"set_{name}")
        _callers_settings.append(functools.partial(setting, getattr(config, name)()))
        setting(ours)

    swap("floatx", "float32")
    swap("epsilon", 1e-7)
    swap("image_data_format", "channels_last")
    swap("dtype_policy", "float32")
    swap("max_epochs", None)
    swap("max_steps_per_epoch", None)


def _import_keras() -> None:
    name, asker = kerassettings.backend_asked()
    if name not in kerassettings.BACKENDS:
        raise CifarCNNError(
            f"{asker} asks for Keras's backend {name!r}; expected tensorflow or jax: set KERAS_BACKEND to one"
        )
    # Errors are raised as well; what is fatal is said in any case. 0 is for those who want to see it all.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # By itself TensorFlow takes oneDNN's kernels only where there is AVX512-VNNI or more. On a processor
    # with AVX2 alone (AMD EPYC, Zen 3, two cores) they train 1.45 to 1.6 times as fast as its own.
    if platform.machine().lower() in ("x86_64", "amd64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # A KeyboardInterrupt raised inside TensorFlow's import can be swallowed there, so it is noted and
    # acted on afterwards.
    stop = signals.StopRequest()
    try:
        with stop, _no_garbage_collection():
            with contextlib.ExitStack() as stack:
                stack.enter_context(quiet_stderr())
                if not _has_pyplot():
                    stack.enter_context(_without("matplotlib"))
                if not kerassettings.usable():
                    stack.enter_context(kerassettings.hidden(name))
                import keras  # noqa: F401
            if name == "tensorflow":
                _tensorflow_gpus()
    # Libraries that do not fit together raise anything.
    except Exception as problem:
        if is_out_of_memory(problem):
            advice = "free some, or raise the limit (ulimit -v)"
        elif isinstance(problem, ModuleNotFoundError):
            other = "jax" if name == "tensorflow" else "tensorflow"
            advice = f"pip install {problem.name}, or set KERAS_BACKEND={other}"
        else:
            advice = f"check that memory suffices, and that keras and {name} fit together"
        raise CifarCNNError(f"cannot import Keras on {name}: {reason(problem)[-300:]}; {advice}") from problem
    if stop.received is not None:
        raise Interrupted(
            f"stopped by {signals.name(stop.received)} before anything was begun", 128 + stop.received
        )


def need_tensorflow(what: str) -> None:
    """Load the backend, and refuse another than TensorFlow for what it alone can do.

    Raises:
        UsageError: it is another.
    """
    if (name := load()) != "tensorflow":
        raise UsageError(
            f"{what} on TensorFlow only, but the backend is {name}; set KERAS_BACKEND=tensorflow"
        )


def hardware() -> devices.Hardware:
    """Ask the framework and the operating system what there is to compute on."""
    backend = load()
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
    """Tell whether an error is what Python, a library or the backend raises when memory runs out."""
    if isinstance(problem, MemoryError) or getattr(problem, "errno", None) == errno.ENOMEM:
        return True
    # RuntimeError is what becomes of a C++ library's exceptions, ImportError of what does not fit.
    theirs = type(problem).__module__.startswith(("tensorflow", "jax"))
    if not (theirs or isinstance(problem, RuntimeError | ImportError)):
        return False
    return bool(_OUT_OF_MEMORY.search(f"{type(problem).__name__}: {problem}"))


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


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Let nothing import a module within the block."""
    kept = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if kept is not None:
            sys.modules[name] = kept


def _has_pyplot() -> bool:
    """Return whether Keras can import pyplot, which it does for galleries.

    Matplotlib's import fails where ``MPLBACKEND`` or a ``matplotlibrc`` names what is not there, and Keras's
    with it.
    """
    if sys.modules.get("matplotlib.pyplot", sys) is None:  # left out by the command line
        return False
    try:
        importlib.import_module("matplotlib.pyplot")
    except Exception:  # whatever it raises
        return False
    return True


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

    # It warns of a GPU that it cannot use; so do we, and say what to do.
    log = logging.getLogger("jax._src.xla_bridge")
    before, log.disabled = log.disabled, True
    try:
        found = jax.devices("gpu")
    except RuntimeError:  # jax's way of saying that there is none
        return ()
    finally:
        log.disabled = before
    capabilities = [str(getattr(gpu, "compute_capability", "")).split(".") for gpu in found]
    return tuple(
        devices.Gpu(gpu.device_kind, (int(parts[0]), int(parts[1])) if len(parts) == 2 else None)
        for gpu, parts in zip(found, capabilities, strict=True)
    )


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop lines of native libraries that no setting keeps from file descriptor 2.

    What else is written there meanwhile, by whatever thread, follows when the block ends. Only for moments at
    which such lines are known, since what a process says that ends within the block is lost.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
    with _stderr_is_held, contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            kept = os.dup(2)
        except OSError:  # stderr is closed, or there is nowhere to hold anything
            yield
            return
        stack.callback(os.close, kept)
        _flush_stderr()
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            _flush_stderr()
            os.dup2(kept, 2)
            held.seek(0)
            with contextlib.suppress(OSError):  # nobody reads it any more
                for line in held:
                    if not _CHATTER.match(line):
                        os.write(2, line)


def _flush_stderr() -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be none, or a closed one
        sys.stderr.flush()
