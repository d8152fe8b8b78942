"""What ``--version`` tells: which backend Keras would take, found without importing Keras."""

import os
from pathlib import Path

import pytest

from cifarcnn.cli import about


@pytest.mark.parametrize(
    ("variables", "file", "expected"),
    [
        ({}, None, "tensorflow"),
        ({"KERAS_BACKEND": "jax"}, None, "jax"),
        ({}, '{"backend": "jax"}', "jax"),
        ({"KERAS_BACKEND": "tensorflow"}, '{"backend": "jax"}', "tensorflow"),
        ({"KERAS_BACKEND": ""}, '{"backend": "jax"}', "jax"),
        ({}, "{", "tensorflow"),
        ({}, "[]", "tensorflow"),
        ({}, '{"backend": 3}', "tensorflow"),
    ],
)
def test_the_backend_is_found_as_keras_finds_it(
    variables: dict[str, str], file: str | None, expected: str, tmp_path: Path
) -> None:
    """The variable wins over the settings file, and what is unreadable counts as not there."""
    if file is not None:
        (tmp_path / "keras.json").write_text(file)
    assert about.keras_backend({"KERAS_HOME": str(tmp_path), **variables}) == expected


@pytest.mark.parametrize("name", ["no-such-package", "../tensorflow", " "])
def test_a_backend_that_is_not_there_is_said_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the variable holds, the other facts are told."""
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", name)
    software, *others = about.lines()
    assert software.endswith(f"{name} (not installed)")
    assert len(others) == 2
