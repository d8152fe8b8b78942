"""What is shown: names of files from anywhere, on one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fakes
from cifarcnn.cli import answers, console, summary
from cifarcnn.cli.main import cli
from cifarcnn.models import exporting
from cifarcnn.models.summaries import Layer, Summary
from cifarcnn.prediction.picturefiles import Failure
from cifarcnn.prediction.predict import Predictions

BAD, SHOWN = "\x1b[2J[red]x", r"\x1b[2J[red]x"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat.png", "cat.png"),
        ("Käse 猫.png", "Käse 猫.png"),
        ("two\nlines\t.png", r"two\nlines\t.png"),
        ("\x1b[31mred", r"\x1b[31mred"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png"),
        ("right-to-left \u202egnp.exe", r"right-to-left \u202egnp.exe"),
    ],
)
def test_names_are_shown_on_one_line(name: str, shown: str) -> None:
    """Control characters and bytes that are no text are shown by their codes."""
    assert console.printable(name) == shown
    console.text(name).encode("utf-8")


def test_what_is_said_holds_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """A name within an error or a note cannot colour a terminal, move its cursor or begin a line."""
    console.error("there is no model \x1b[31m[red]x\ny")
    console.note("model: \x1b]0;title\x07")
    assert capsys.readouterr().err == (
        "error: there is no model \\x1b[31m[red]x y\nmodel: \\x1b]0;title\\x07\n"
    )


def test_codes_of_emoji_in_names_stay_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """A file may be called ``:cat:``."""
    console.note("wrote my:cat:.png")
    console.stdout.print("my:cat:.png")
    assert capsys.readouterr() == ("my:cat:.png\n", "wrote my:cat:.png\n")


def test_a_document_is_valid_unicode_whatever_files_are_called(capsys: pytest.CaptureFixture[str]) -> None:
    """A byte that is no UTF-8 is shown as Python shows it."""
    console.emit_json({"name": "r\udcff", "runs": [{"r\udcff": ("x", 1, None)}]})
    assert json.loads(capsys.readouterr().out) == {"name": "r\\udcff", "runs": [{"r\\udcff": ["x", 1, None]}]}


def test_layers_cannot_command_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Their names come from a file that may be anybody's."""
    summary._show_layers(Summary("m.keras", 1, 1, 0, [Layer(BAD, BAD, [10], 1, 0)]))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count(SHOWN) == 2


def test_weights_cannot_command_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that is copied they are what its own metadata says."""
    made = exporting.Export(Path("m.tflite"), "litert", BAD, 1, 500, 0.0, None, None)
    monkeypatch.setattr(exporting, "export", lambda *_, **__: made)
    out = CliRunner().invoke(cli, ["export", "pretrained", "--format", "litert"]).stdout
    assert f"weights in {SHOWN}\n" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("form", ["table", "thumbnails"])
def test_reasons_cannot_command_a_terminal(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Why a picture cannot be read may be told in words from its file."""
    failures = Predictions(fakes.corner(), ("a.png",), 3, iter([Failure("a.png", BAD)]))
    assert answers.WAYS[form](failures, None) == 1
    out = capsys.readouterr().out
    assert f"cannot be read: {SHOWN}" in out
    assert "\x1b" not in out


def test_reasons_in_csv_are_valid_unicode(capsys: pytest.CaptureFixture[str]) -> None:
    """A byte that is no UTF-8 is shown as in names."""
    failures = Predictions(fakes.corner(), ("a.png",), 3, iter([Failure("a.png", "no r\udcff")]))
    assert answers.show_csv(failures, None) == 1
    assert r"a.png,no r\udcff," in capsys.readouterr().out


def test_results_are_written_though_nobody_reads_the_remarks() -> None:
    """As with ``2> >(head -1)``: whoever read stderr is gone."""
    script = (
        "import sys\nfrom cifarcnn.cli import console\nsys.stdin.read()\n"
        "for _ in range(3): console.note('a remark')\n"
        "console.emit_json({'schema': 1})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()
    assert process.stdout is not None
    assert json.loads(process.stdout.read()) == {"schema": 1}
    process.stdout.close()
    assert process.wait() == 0


def test_the_answers_stand_below_each_other_whatever_the_letters(capsys: pytest.CaptureFixture[str]) -> None:
    """An ideograph is as wide as two letters."""
    from rich.cells import cell_len

    names = ("cat.png", "\u732b.png", "e\u0301.png")
    failures = iter([Failure(name, "no picture") for name in names])
    answers.show_table(Predictions(fakes.corner(), names, 3, failures), None)
    lines = capsys.readouterr().out.splitlines()
    assert {cell_len(line.partition("cannot be read")[0]) for line in lines} == {len("cat.png") + 2}
