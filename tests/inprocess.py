"""The command line without a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cifarcnn.cli import console, main
from cifarcnn.machine import signals

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> Run:
    """Return what runs ``cifarcnn``, with these words first, as its process would: its code and its texts."""

    def run(
        *arguments: object, env: dict[str, str] | None = None, cwd: Path = tmp_path, columns: int = 80
    ) -> "subprocess.CompletedProcess[str]":
        command = ["cifarcnn", *words, *map(str, arguments)]
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", command)
            patch.setattr(console.stdout, "_width", columns)
            for module, name in (
                (main, "_open_standard_streams"),
                (main, "_tune_process"),
                (signals, "stop_in_order"),
            ):
                patch.setattr(module, name, lambda: None)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main.main()
        return subprocess.CompletedProcess(command, int(ended.value.code or 0), *capsys.readouterr())

    return run
