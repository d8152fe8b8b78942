"""The cache: its place, its checks, and what happens when it cannot be written."""

import sys
import threading
from pathlib import Path

import pytest

from cifarcnn.data import cache, sources
from cifarcnn.data.formats import locate
from cifarcnn.data.publication import CIFAR10
from cifarcnn.errors import DataError
from cifarcnn.events import Event, Note, ignore
from tinydata import FILES, RECORDS, TinyData, damage

pytestmark = pytest.mark.usefixtures("isolated")


def test_one_changed_byte_of_the_real_files_is_detected(tmp_path: Path, data_directory: Path) -> None:
    """The same with the published sums and the real files, at the first, a middle and the last byte."""
    for name in FILES:
        (tmp_path / name).symlink_to(data_directory / name)
    for name, position in zip(FILES, [0, 1, 12_345_678, 29_999_999, 30_729_998, 30_729_999], strict=True):
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes((data_directory / name).read_bytes())
        damage(tmp_path / name, position)
        with pytest.raises(DataError, match=f"{name} is damaged"):
            cache.read(tmp_path, [name], CIFAR10)
    assert all(sources.verify(tmp_path).problems.values())


@pytest.mark.parametrize("size", [0, RECORDS * 3073 - 1, RECORDS * 3073 + 1])
def test_a_file_of_the_wrong_length_is_detected(tmp_path: Path, tiny: TinyData, size: int) -> None:
    """Cut and lengthened files are damaged."""
    folder = tiny.write(tmp_path / "bin", tiny.files)
    (folder / "test_batch.bin").write_bytes((tiny.files["test_batch.bin"] + b"x")[:size])
    with pytest.raises(DataError, match=rf"test_batch.bin is damaged: .* it has {size:,} bytes"):
        sources.load("test", folder, publication=tiny.publication)


def test_a_cache_that_cannot_be_written_is_an_error_with_a_remedy(
    tmp_path: Path, tiny: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is told to name another directory."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CIFARCNN_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "archive").write_bytes(tiny.binary_archive)
    with pytest.raises(DataError, match="set CIFARCNN_CACHE to a directory"):
        sources.find(tmp_path / "archive", publication=tiny.publication)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"CIFARCNN_CACHE": "/own"}, "/own"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/cifarcnn"),
        ("linux", {}, "/home/me/.cache/cifarcnn"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/me/Library/Caches/cifarcnn"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/cifarcnn"),
        ("win32", {}, "/home/me/AppData/Local/cifarcnn"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(
    platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each platform has its own place, which ``CIFARCNN_CACHE`` overrides."""
    for name in ("CIFARCNN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HOME": "/home/me"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert str(cache.directory()) == expected


def test_who_waits_for_another_process_uses_its_result(
    isolated: Path, tiny: TinyData, tmp_path: Path
) -> None:
    """While the lock is held elsewhere a search waits and says so; then it finds the cache filled."""
    (tmp_path / "archive").write_bytes(tiny.python_archive)
    waiting = threading.Event()
    results: list[sources.Found] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Note) and "another process" in event.text:
            waiting.set()

    search = threading.Thread(
        target=lambda: results.append(sources.find(None, on_event, publication=tiny.publication))
    )
    with cache.lock(print):
        search.start()
        assert waiting.wait(20)
        cache.install(locate(tmp_path / "archive", tiny.publication), print)
    search.join(20)
    assert results == [sources.Found(isolated, f"cache {isolated}")]


def test_a_directory_of_other_things_may_be_the_cache(isolated: Path, tmp_path: Path, tiny: TinyData) -> None:
    """What stands there already stays, whatever its name."""
    for name in ("incoming", "npm"):
        (isolated / name).mkdir(parents=True)
        (isolated / name / "mine.txt").write_text("mine")
    copy = tiny.write(tmp_path / "cifar-10-batches-py", tiny.pickles)
    cache.install(locate(copy, tiny.publication), ignore)
    with cache.workspace("npm"):
        pass
    assert [(isolated / name / "mine.txt").read_text() for name in ("incoming", "npm")] == ["mine", "mine"]


@pytest.mark.parametrize("state", ["{", "[]", '{"a": 1}', "directory"])
def test_what_was_converted_may_be_forgotten(
    state: str, isolated: Path, tmp_path: Path, tiny: TinyData
) -> None:
    """A note of it that cannot be read is written anew, or done without."""
    archive = tmp_path / "archive"
    archive.write_bytes(tiny.binary_archive)
    isolated.mkdir()
    if state == "directory":
        (isolated / cache.SEEN).mkdir()
    else:
        (isolated / cache.SEEN).write_text(state)
    located = locate(archive, tiny.publication)
    assert not cache.remembers(located)
    cache.install(located, ignore)
    assert cache.remembers(located) == (state != "directory")
    archive.unlink()
    assert not cache.remembers(located)
