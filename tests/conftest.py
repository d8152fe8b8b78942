"""What several test modules need: the real images, a tiny stand-in for them, and the installed command."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

import tinydata
from cifarcnn.data import sources
from cifarcnn.errors import DataError

# How long an example takes depends on the machine's other work; it is no property of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

Run = Callable[..., subprocess.CompletedProcess[str]]


# A script's background processes ignore it, and so would every process that a test means to stop by it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, item.path.stem != "test_workers"))


@pytest.fixture(scope="session")
def data_directory() -> Path:
    """The directory of the real files, found or fetched as any user's are."""
    try:
        return sources.find().directory
    except DataError as problem:
        # In continuous integration a suite without the real images has tested nothing that matters.
        if os.environ.get("CI"):
            pytest.fail(f"the real images cannot be had: {problem}")
        pytest.skip(f"the real images cannot be had: {problem}")


@pytest.fixture(scope="session")
def tiny() -> tinydata.TinyData:
    """A data set of 120 images in every form."""
    return tinydata.make()


@pytest.fixture(autouse=True)
def _tiny_stays_out_of_the_users_cache(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test with the stand-in data set must not put it in place of the real images."""
    if "tiny" in request.fixturenames:
        monkeypatch.setenv("CIFARCNN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, cache and working directory, no mirrors and no npm. Returns the cache directory."""
    for name, value in isolated_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("CIFARCNN_DATA", "KERAS_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def cifarcnn(tmp_path: Path) -> Run:
    """Run the installed command: ``cifarcnn("data", "where", env={...})``.

    Its home, cache and working directory are empty; there are no mirrors and no npm unless ``env`` says so.
    """
    command = Path(sys.executable).with_name("cifarcnn")

    def run(
        *arguments: object, env: dict[str, str] | None = None, cwd: Path = tmp_path, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH") if name in os.environ}
        return subprocess.run(
            [command, *map(str, arguments)],
            env=kept | isolated_environment(tmp_path) | (env or {}),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def fake_npm(tmp_path: Path) -> Callable[[str], None]:
    """Put an ``npm`` that runs some shell commands on the path."""

    def npm(commands: str) -> None:
        program = tmp_path / "bin" / "npm"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{commands}\n")
        program.chmod(0o755)

    return npm


def isolated_environment(directory: Path) -> dict[str, str]:
    """Variables that keep the user's own files and the network out of a test."""
    return {
        "HOME": str(directory / "home"),
        "CIFARCNN_CACHE": str(directory / "cache"),
        "CIFARCNN_MIRRORS": "",
        "PATH": str(directory / "bin"),
        "no_proxy": "127.0.0.1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
