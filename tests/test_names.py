"""Names of new files, made from names of any bytes."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn import names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("photos/cat.png", "cat"),
        ("-", "standard-input"),
        ("--help.png", "help"),
        ("..png", "picture"),
        ("a/.hidden", "hidden"),
        ("two\nlines.jpg", "two_nlines"),
        (os.fsdecode(b"caf\xe9.png"), "caf_udce9"),
        ('what?*:"<x>|.png', "what_____x__"),
        ("", "picture"),
        ("...", "picture"),
        ("x" * 300 + ".png", "x" * names.LONGEST_STEM),
    ],
)
def test_stems(path: str, expected: str) -> None:
    """A stem keeps what can be kept."""
    assert names.stem(path) == expected


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(os.fsdecode)))
def test_any_name_makes_a_file_name(path: str) -> None:
    """Whatever the bytes: one directory entry of bearable length, which is no option and not hidden."""
    made = f"{names.stem(path)}-123-explained.png"
    assert Path(made).name == made
    assert made.isprintable()
    assert not made.startswith(("-", "."))
    assert len(os.fsencode(made)) <= 255


def test_unique() -> None:
    """No name comes twice, not even where capitals do not count."""
    unique = names.Unique()
    assert [unique(name) for name in ("a", "A", "a-2", "a", "b")] == ["a", "A-2", "a-2-2", "a-3", "b"]
    many = [unique("frame") for _ in range(20_000)]
    assert (many[0], many[-1], len(set(many))) == ("frame", "frame-20000", 20_000)
