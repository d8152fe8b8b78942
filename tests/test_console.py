"""What is shown: names of files from anywhere, on one line."""

import json
import os

import pytest

from cifarcnn.cli import console


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
