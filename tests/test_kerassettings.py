"""Which backend Keras would take, found without importing Keras."""

import subprocess
import sys
from pathlib import Path

import pytest

from cifarcnn.machine import kerassettings

CASES = [
    ({}, None, "tensorflow"),
    ({}, '{"backend": "jax"}', "jax"),
    ({}, '{"floatx": "float32"}', "tensorflow"),
    ({}, "{", "tensorflow"),
    ({"KERAS_BACKEND": "jax"}, None, "jax"),
    ({"KERAS_BACKEND": "jax"}, '{"backend": "tensorflow"}', "jax"),
    ({"KERAS_BACKEND": "tensorflow"}, '{"backend": "jax"}', "tensorflow"),
    ({"KERAS_BACKEND": ""}, '{"backend": "jax"}', "jax"),
]


@pytest.mark.parametrize(
    ("variables", "file", "backend"), [*CASES, ({}, "[]", None), ({}, '{"backend": 3}', None)]
)
def test_the_variable_wins_over_the_settings_file(
    variables: dict[str, str], file: str | None, backend: str | None, tmp_path: Path
) -> None:
    """What Keras cannot read as settings is told apart from what it would fail on."""
    if file is not None:
        (tmp_path / "keras.json").write_text(file)
    assert kerassettings.backend_name({"KERAS_HOME": str(tmp_path), **variables}) == backend


@pytest.mark.parametrize("writable", [True, False])
def test_without_a_variable_the_place_is_below_home_if_that_can_be_written(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is below /tmp."""
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text('{"backend": "jax"}')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, _: writable and path == str(tmp_path))
    monkeypatch.setattr("os.path.exists", lambda path: path == f"{tmp_path}/.keras/keras.json")
    assert kerassettings.backend_name({}) == ("jax" if writable else "tensorflow")


def test_settings_that_are_nested_without_end_leave_it_open(tmp_path: Path) -> None:
    """No command may fail for it."""
    (tmp_path / "keras.json").write_text("[" * 100_000)
    assert kerassettings.backend_name({"KERAS_HOME": str(tmp_path)}) is None


def test_a_settings_file_that_cannot_be_read_leaves_it_open(tmp_path: Path) -> None:
    """A directory in its place."""
    (tmp_path / "keras.json").mkdir()
    assert kerassettings.backend_name({"KERAS_HOME": str(tmp_path)}) is None


def test_keras_finds_the_same(tmp_path: Path) -> None:
    """In every case that it can start in, by its own code."""
    script = (
        "import importlib.util, os, pathlib, sys\n"
        "place = pathlib.Path(importlib.util.find_spec('keras').origin).parent / 'src/backend/config.py'\n"
        "source = place.read_text().replace('from keras.src.api_export import keras_export', '')\n"
        "home = pathlib.Path(sys.argv[1])\n"
        f"for variables, file, _ in {CASES!r}:\n"
        "    (home / 'keras.json').unlink(missing_ok=True)\n"
        "    if file is not None: (home / 'keras.json').write_text(file)\n"
        "    os.environ.pop('KERAS_BACKEND', None)\n"
        "    os.environ |= {'KERAS_HOME': str(home), **variables}\n"
        "    found = {'keras_export': lambda _: lambda one: one, '__name__': 'config'}\n"
        "    exec(compile(source, place, 'exec'), found)\n"
        "    print(found['_BACKEND'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [backend for _, _, backend in CASES]
