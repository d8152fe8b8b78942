"""Keras's import, its settings, its chatter, and what it says when memory runs out."""

import errno
import os
import threading

import pytest

from cifarcnn import errors
from cifarcnn.machine import backend

LOGGED = b"I0000 00:00:1795901302.027910    6832 cpu_feature_guard.cc:227] This binary is optimized\n"
FATAL = b"F0000 00:00:1795901425.573049    9552 parse_flags_from_env.cc:234] Unknown flag\n"


def test_lines_of_others_survive_where_chatter_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    """Another thread's, and what is fatal."""

    def talk() -> None:
        os.write(2, b"another thread\n" + LOGGED)

    with backend.quiet_stderr():
        os.write(
            2, LOGGED + b"WARNING: All log messages before absl::InitializeLog() is called are written to"
        )
        os.write(2, b" STDERR\nINFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
        thread = threading.Thread(target=talk)
        thread.start()
        thread.join()
        os.write(2, FATAL + b"and an unfinished line")
    assert capfd.readouterr().err == f"another thread\n{FATAL.decode()}and an unfinished line"


def test_what_was_written_before_an_error_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    """The error itself goes on."""

    def fail() -> None:
        with backend.quiet_stderr():
            os.write(2, LOGGED + b"a reason\n")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert capfd.readouterr().err == "a reason\n"


def test_who_asks_for_all_lines_gets_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """By TensorFlow's own variable."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with backend.quiet_stderr():
        os.write(2, LOGGED)
    assert capfd.readouterr().err == LOGGED.decode()


def test_chatter_is_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where there is no room to hold it back, it is not held back; nor need there be a stderr."""

    def full() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    monkeypatch.setattr("sys.stderr", None)
    with backend.quiet_stderr():
        os.write(2, b"chatter")
    assert capfd.readouterr().err == "chatter"


@pytest.mark.parametrize("name", ["torch", "tensroflow", "JAX", " "])
def test_another_backend_is_refused_with_who_asks_for_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is imported for it."""
    monkeypatch.setenv("KERAS_BACKEND", name)
    with pytest.raises(errors.CifarCNNError, match=f"KERAS_BACKEND asks for .* '{name}'; expected"):
        backend._import_keras()


class OpError(Exception):
    """Stands for TensorFlow's, which derive from Exception alone."""

    __module__ = "tensorflow.python.framework.errors_impl"


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OpError("Operation received an exception:Status: 1, message: could not create a primitive"), True),
        (OpError("Operation received an exception:Status: 3, message: could not create a primitive"), False),
        (OpError("OOM: failed to allocate memory [Op:Mul]"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("libtensorflow_cc.so.2: failed to map segment from shared object"), True),
        (ModuleNotFoundError("No module named 'jax'"), False),
        (ValueError("the file 'out of memory.png' is no picture"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
    ids=repr,
)
def test_what_runs_out_of_memory_is_known(problem: Exception, expected: bool) -> None:
    """By class, number or words, of whoever has none left; oneDNN's status 1 is one of them."""
    assert backend.is_out_of_memory(problem) is expected


def test_settings_nest_and_are_put_back() -> None:
    """The outermost block puts back what it found."""
    from keras import config

    try:
        config.set_floatx("float64")
        with backend.keras_settings(), backend.keras_settings():
            assert config.floatx() == "float32"
        assert config.floatx() == "float64"
        with pytest.raises(ZeroDivisionError):
            backend.keras_settings()(lambda: 1 / 0)()
        assert config.floatx() == "float64"
    finally:
        config.set_floatx("float32")
