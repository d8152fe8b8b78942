"""Which backend Keras would take, and whether it can start, found without importing Keras."""

import os
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
    ("variables", "file", "backend"), [*CASES, ({}, "[]", "tensorflow"), ({}, '{"backend": 3}', "3")]
)
def test_the_variable_wins_over_the_settings_file(
    variables: dict[str, str], file: str | None, backend: str, tmp_path: Path
) -> None:
    """Who asks for it is told as well."""
    if file is not None:
        (tmp_path / "keras.json").write_text(file)
    named, asker = kerassettings.backend_asked({"KERAS_HOME": str(tmp_path), **variables})
    assert named == backend
    assert asker == ("KERAS_BACKEND" if variables.get("KERAS_BACKEND") else str(tmp_path / "keras.json"))


@pytest.mark.parametrize("writable", [True, False])
def test_without_a_variable_the_place_is_below_home_if_that_can_be_written(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is below /tmp."""
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text('{"backend": "jax"}')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, _: writable and path == str(tmp_path))
    place = f"{tmp_path if writable else '/tmp'}/.keras/keras.json"
    assert kerassettings.backend_asked({})[1] == place


@pytest.mark.parametrize(
    ("variables", "file", "expected"),
    [
        ({}, None, True),
        ({}, "{}", True),
        ({}, "{", True),  # what is no JSON is no settings to Keras either
        ({}, '{"floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.1}', True),
        ({"KERAS_MAX_EPOCHS": "-1"}, None, True),
        ({}, "[]", False),
        ({}, "[" * 100_000, False),
        ({}, '{"floatx": "bfloat16"}', False),
        ({}, '{"floatx": ["float32"]}', False),
        ({}, '{"epsilon": 1}', False),
        ({}, '{"image_data_format": null}', False),
        ({}, '{"nnx_enabled": true}', False),
        ({"KERAS_NNX_ENABLED": "True"}, None, False),
        ({"KERAS_MAX_STEPS_PER_EPOCH": "few"}, None, False),
    ],
)
def test_settings_that_keras_fails_at_are_known(
    variables: dict[str, str], file: str | None, expected: bool, tmp_path: Path
) -> None:
    """These are kept from it."""
    if file is not None:
        (tmp_path / "keras.json").write_text(file)
    assert kerassettings.usable({"KERAS_HOME": str(tmp_path), **variables}) is expected


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_a_settings_file_that_is_none_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    """It counts as none where the backend is asked for, and is kept from Keras."""
    place = tmp_path / "keras.json"
    if kind == "directory":
        place.mkdir()
    else:
        os.mkfifo(place)
    variables = {"KERAS_HOME": str(tmp_path)}
    assert kerassettings.backend_asked(variables)[0] == "tensorflow"
    assert not kerassettings.usable(variables)


def test_hidden_settings_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras sees the backend alone, and no place to read or write a file."""
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "few")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    before = dict(os.environ)
    with kerassettings.hidden("jax"):
        found = {name: value for name, value in os.environ.items() if name.startswith("KERAS_")}
        assert found.pop("KERAS_BACKEND") == "jax"
        assert not Path(found.pop("KERAS_HOME"), "keras.json").exists()
        assert not found
    assert dict(os.environ) == before


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
