"""Files appear whole or not at all, and what was said to be written survives a loss of power."""

import os
import stat
from pathlib import Path

import pytest

from cifarcnn.machine import files


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flush the file written aside, rename it, flush its directory: in this order."""
    happened: list[tuple[str, object]] = []
    fsync, replace = os.fsync, Path.replace

    def flush(descriptor: int) -> None:
        status = os.fstat(descriptor)
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
        happened.append((f"flush {kind}", (status.st_ino, status.st_size if kind == "file" else None)))
        fsync(descriptor)

    def rename(aside: Path, path: Path) -> Path:
        happened.append(("rename", aside.stat().st_ino))
        return replace(aside, path)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(Path, "replace", rename)
    path = tmp_path / "table.csv"
    files.write_bytes(path, b"12345")
    written, directory = path.stat().st_ino, tmp_path.stat().st_ino
    assert happened == [
        ("flush file", (written, 5)), ("rename", written), ("flush directory", (directory, None))
    ]  # fmt: skip


@pytest.mark.parametrize("before", [None, b"old"])
def test_an_error_leaves_what_was_there_and_nothing_beside_it(before: bytes | None, tmp_path: Path) -> None:
    """A writer that fails half way changes nothing."""
    path = tmp_path / "model.keras"
    if before is not None:
        path.write_bytes(before)

    def write_half() -> None:
        with files.replacing(path) as aside:
            aside.write_bytes(b"ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_half()
    assert {child.name: child.read_bytes() for child in tmp_path.iterdir()} == (
        {} if before is None else {"model.keras": before}
    )


def test_a_new_file_may_be_read_by_those_whom_the_umask_allows(tmp_path: Path) -> None:
    """The file written aside is private; what replaces the old one is not."""
    mask = os.umask(0o027)
    try:
        files.write_text(tmp_path / "settings.json", "{}")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "settings.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "ä" * 125 + ".csv", "a" * 255])
def test_the_longest_names_can_be_written(name: str, tmp_path: Path) -> None:
    """What is written aside has a name of its own, which is no longer."""
    files.write_bytes(tmp_path / name, b"1")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_ending_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    """What is written aside keeps the whole ending."""
    with pytest.raises(OSError, match="File name too long"):
        files.write_bytes(tmp_path / f"a.{250 * 'b'}", b"1")


def test_a_tree_is_flushed_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And every directory in it."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"1")
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    files.sync_tree(tmp_path / "a")
    assert sorted(flushed) == sorted(
        path.stat().st_ino for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "file")
    )
