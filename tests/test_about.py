"""What ``--version`` tells."""

import os

import pytest

from cifarcnn.cli import about


@pytest.mark.parametrize("name", ["no-such-package", "../tensorflow", " "])
def test_a_backend_that_is_not_there_is_said_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the variable holds, the other facts are told."""
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", name)
    software, *others = about.lines()
    assert software.endswith(f"{name} (not installed)")
    assert len(others) == 2
