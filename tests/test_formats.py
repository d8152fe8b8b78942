"""The forms of the data set on disk, and hostile files that look like them."""

import contextlib
import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarcnn.data import formats, pickles
from cifarcnn.data.formats import NothingThere, locate
from cifarcnn.errors import DataError
from tinydata import RECORDS, make, tar

TINY = make()
BATCH = TINY.pickles["data_batch_1"]
PNG = TINY.pngs["data_batch_1.png"]
PLAIN_TAR = gzip.decompress(TINY.binary_archive)

# One entry for every way in which people have the data: what to write, and the path to give.
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "binary directory": lambda top: TINY.write(top, TINY.files),
    "its parent": lambda top: TINY.write(top / "cifar-10-batches-bin", TINY.files).parent,
    "python directory": lambda top: TINY.write(top, TINY.pickles),
    "torchvision root": lambda top: TINY.write(top / "cifar-10-batches-py", TINY.pickles).parent,
    "keras": lambda top: (
        TINY.write(top / "cifar-10-batches-py-target" / "cifar-10-batches-py", TINY.pickles).parent.parent
    ),
    "keras archive": lambda top: TINY.write(top, {"cifar-10-batches-py-target_archive": TINY.python_archive}),
    "npm directory": lambda top: TINY.write(top, TINY.pngs),
    "python archive": lambda top: TINY.write(top, {"x.tar.gz": TINY.python_archive}) / "x.tar.gz",
    "binary archive": lambda top: TINY.write(top, {"y": TINY.binary_archive}) / "y",
    "npm archive": lambda top: TINY.write(top, {"z.tgz": TINY.npm_archive}) / "z.tgz",
    "directory with an archive": lambda top: TINY.write(top, {"cifar-10-binary.tar.gz": TINY.binary_archive}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_form_becomes_the_canonical_files(layout: str, tmp_path: Path) -> None:
    """Whatever people have, the bytes that come out are the same."""
    located = locate(LAYOUTS[layout](tmp_path / "top"))
    assert dict(located.files(TINY.publication)) == TINY.files
    assert located.is_canonical == (layout in ("binary directory", "its parent"))


def test_the_unpickler_agrees_with_pickle() -> None:
    """The handwritten batch is what Python itself reads as a dict with an array and labels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy says that numpy.core was renamed
        batch = pickle.loads(BATCH, encoding="bytes")
    content = np.frombuffer(pickles.records(BATCH, RECORDS), np.uint8).reshape(RECORDS, 3073)
    np.testing.assert_array_equal(content[:, 1:], batch[b"data"])
    assert content[:, 0].tolist() == batch[b"labels"]


class Evil:
    """Pickles to a call of os.system."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps(Evil(), protocol=2),
        pickle.dumps(Evil(), protocol=4),
        pickle.dumps({"data": np.zeros((RECORDS, 3072), np.uint8), "labels": [0] * RECORDS}),
        pickle.dumps({}, protocol=2),
        pickle.dumps([1, 2], protocol=2),
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02}r\xff\xff\xff\xff.",
        b"\x80\x02T\xff\xff\xff\x7fx.",
        b"",
        b"not a pickle",
        BATCH[:-1],
        BATCH.replace(b"u1", b"O8"),
        BATCH.replace(b"dataq", b"dada").replace(b"\x04data", b"\x04dada"),
        BATCH.replace(b"]q\x05(K", b"]q\x05(K\x0aK", 1),
    ],
)
def test_a_foreign_pickle_is_refused(raw: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, other types, claims of great size and broken files all end in a DataError, without effect."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        pickles.records(raw, RECORDS)
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_no_published_file_has_is_refused_before_it_runs() -> None:
    """A number in a dict is harmless, and still nothing that needs to be admitted."""
    harmless = b"\x80\x02}U\x01aG" + struct.pack(">d", 1.5) + b"s."
    assert pickle.loads(harmless) == {"a": 1.5}
    with pytest.raises(DataError, match=r"^the pickle asks for BINFLOAT, which no CIFAR-10 file contains$"):
        pickles.records(harmless, RECORDS)


def test_a_pickle_of_countless_objects_is_refused_before_they_are_made() -> None:
    """Each byte of a small file may ask for an empty dict, which takes more than sixty."""
    tracemalloc.start()
    with pytest.raises(DataError, match="more than 131,072 operations"):
        pickles.records(b"\x80\x02" + b"}" * 2_000_000 + b".", RECORDS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


@given(st.integers(0, 400), st.binary(min_size=1, max_size=6))
def test_a_changed_pickle_is_read_or_refused(position: int, patch: bytes) -> None:
    """Overwriting any bytes of the head or the tail raises nothing but DataError."""
    start = position if position < 200 else len(BATCH) - 1000 + position
    changed = BATCH[:start] + patch + BATCH[start + len(patch) :]
    with contextlib.suppress(DataError):
        assert len(pickles.records(changed, RECORDS)) == RECORDS * 3073


@given(st.integers(0, 200), st.binary(min_size=1, max_size=6))
def test_a_changed_picture_is_read_or_refused(position: int, patch: bytes) -> None:
    """Overwriting any bytes of a PNG file raises nothing but DataError."""
    start = position if position < 100 else len(PNG) - 200 + position
    changed = TINY.pngs | {"data_batch_1.png": PNG[:start] + patch + PNG[start + len(patch) :]}
    with contextlib.suppress(DataError):
        assert len(formats.PNG.convert("data_batch_1.bin", changed.__getitem__, RECORDS)) == RECORDS * 3073


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (3000, 3000, "is not 1024 pixels wide"),
        (10_000, 10_000, "cannot convert"),
        (20_000, 20_000, "cannot convert the picture"),
    ],
)
def test_a_picture_with_a_second_header_is_refused(width: int, height: int, reason: str) -> None:
    """The first may say what is expected, and the second what Pillow would decode."""
    header = b"IHDR" + struct.pack(">II", width, height) + PNG[24:29]
    second = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    members = TINY.pngs | {"data_batch_1.png": PNG[:33] + second + PNG[33:]}
    with pytest.raises(DataError, match=reason):
        formats.PNG.convert("data_batch_1.bin", members.__getitem__, RECORDS)


@pytest.mark.parametrize("labels", [b"", b"{}", b"[1, 2]", b'["a"]', b"[-1]", b"[[1]]", b"[" * 100_000])
def test_wrong_labels_are_refused(labels: bytes) -> None:
    """The label file of the npm form must be a list with a label for every image."""
    members = TINY.pngs | {"train_lables.json": labels}
    with pytest.raises(DataError):
        formats.PNG.convert("data_batch_1.bin", members.__getitem__, RECORDS)


@given(st.integers(0, 1600), st.binary(min_size=1, max_size=8))
def test_a_changed_archive_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, patch: bytes
) -> None:
    """Overwriting any bytes of a tar archive's first headers raises nothing but DataError."""
    changed = PLAIN_TAR[:at] + patch + PLAIN_TAR[at + len(patch) :]
    path = tmp_path_factory.getbasetemp() / "changed.tar"
    path.write_bytes(changed)
    with contextlib.suppress(DataError):
        dict(locate(path).files(TINY.publication))


def test_an_archive_need_not_be_compressed(tmp_path: Path) -> None:
    """Some browsers decompress what they download."""
    (tmp_path / "x.tar").write_bytes(PLAIN_TAR)
    assert dict(locate(tmp_path / "x.tar").files(TINY.publication)) == TINY.files


def test_an_archive_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file that decompresses to more than CIFAR-10 is stopped at that size."""
    monkeypatch.setattr(formats, "LARGEST_ARCHIVE", 100_000)
    (tmp_path / "bomb").write_bytes(tar("x", {"zeros": bytes(10_000_000)}))
    with pytest.raises(DataError, match="unpacks to more"):
        locate(tmp_path / "bomb")


def header(kind: bytes, size: int) -> bytes:
    """A header of a tar archive."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def extended(kind: bytes, content: bytes) -> bytes:
    """A header that extends the next, with its content."""
    return header(kind, len(content)) + content + bytes(-len(content) % 512)


def global_header(start: int) -> bytes:
    """A global header as large as one may be, with attributes numbered from there."""
    return extended(tarfile.XGLTYPE, b"".join(b"13 %05d=abc\n" % (start + n) for n in range(315)))


FILE = header(tarfile.REGTYPE, 0)


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        (extended(tarfile.XGLTYPE, b"13 abcde=abc\n" * 20_000) + FILE, "larger headers"),
        (extended(tarfile.XHDTYPE, b"2 " * 30_000 + b"=") + FILE, "larger headers"),
        (extended(tarfile.GNUTYPE_LONGNAME, b"x" * 1_000_000) + FILE, "larger headers"),
        (b"".join(global_header(315 * n) + FILE for n in range(100)), "larger headers"),
        (FILE * 2000, "more or larger headers"),
        (extended(tarfile.XHDTYPE, b"7 a=bc\n") * 500 + FILE, "recursion|headers"),
        (extended(tarfile.GNUTYPE_LONGNAME, b"x") * 500 + FILE, "recursion|headers"),
        (header(tarfile.GNUTYPE_SPARSE, 0) + FILE, "sparse file"),
        (
            extended(tarfile.XHDTYPE, b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")
            + (header(tarfile.REGTYPE, 1 << 20) + b"1000000\n" + b"0\n" * (1 << 19)),
            "sparse file",
        ),
    ],
    ids=["global", "overlap", "name", "globals", "members", "nested", "nested names", "sparse", "sparse map"],
)
def test_an_archive_of_many_or_large_headers_is_refused(blocks: bytes, reason: str, tmp_path: Path) -> None:
    """Headers that Python would keep, copy for each member or read within each other end in one line."""
    (tmp_path / "bomb").write_bytes(gzip.compress(blocks + bytes(1024)))
    tracemalloc.start()
    with pytest.raises(DataError, match=f"cannot be read as a tar archive: .*({reason})"):
        locate(tmp_path / "bomb")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_members_with_many_attributes_are_not_kept(tmp_path: Path) -> None:
    """As many global headers as are let pass, which every member carries a copy of."""
    blocks = b"".join(global_header(315 * n) + FILE for n in range(16)) + FILE * 900
    (tmp_path / "bomb").write_bytes(gzip.compress(blocks + bytes(1024)))
    tracemalloc.start()
    with pytest.raises(DataError, match="an archive without CIFAR-10"):
        locate(tmp_path / "bomb")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_an_archive_may_have_extended_headers(form: int, tmp_path: Path) -> None:
    """Some programs write them for every file, with times and attributes."""
    with tarfile.open(tmp_path / "x.tar", "w", format=form, pax_headers={"comment": "y" * 300}) as archive:
        for name, content in TINY.files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size, member.linkname = len(content), "z" * 300
            member.pax_headers = {"mtime": "1257894000.5"}
            archive.addfile(member, io.BytesIO(content))
    assert dict(locate(tmp_path / "x.tar").files(TINY.publication)) == TINY.files


def test_a_member_that_is_too_large_or_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member's declared size is checked before it is read, and links are not followed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "link").write_bytes(packed.getvalue())
    (tmp_path / "large").write_bytes(TINY.binary_archive)
    TINY.write(tmp_path / "directory", TINY.pickles)
    monkeypatch.setattr(formats, "LARGEST_MEMBER", 1000)
    for name in ("link", "large"):
        with pytest.raises(DataError, match="no file of at most"):
            dict(locate(tmp_path / name).files(TINY.publication))
    with pytest.raises(DataError, match="data_batch_1 is larger than"):
        dict(locate(tmp_path / "directory").files(TINY.publication))


def test_a_parquet_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """The error says how the rows can be brought over."""
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="does not read: write its rows as binary records"):
        locate(tmp_path / "train.parquet")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, "holds no CIFAR-10; expected"),
        ({"train.parquet": b"PAR1"}, "Parquet"),
        ({"data_batch_1.bin": b""}, "part of the binary version; missing: data_batch_2.bin"),
        ({"cifar-10-python.tar.gz": b"<html>"}, "cannot be read as a tar archive"),
        ({"cifar-10-python.tar.gz": TINY.python_archive[:5000]}, "cannot be read as a tar archive"),
        ({"cifar-10-python.tar.gz": tar("other", {"x": b"y"})}, "archive without CIFAR-10"),
    ],
)
def test_a_directory_without_usable_data_is_refused(
    members: dict[str, bytes], reason: str, tmp_path: Path
) -> None:
    """The error says what is wrong with the directory."""
    with pytest.raises(DataError, match=reason):
        dict(locate(TINY.write(tmp_path, members)).files(TINY.publication))


def test_a_missing_path_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    """Absence is normal in a search; damage must be said."""
    with pytest.raises(NothingThere, match="does not exist"):
        locate(tmp_path / "nothing")


def test_what_is_useless_does_not_hide_what_is_good(tmp_path: Path) -> None:
    """An empty directory, as an interrupted unpacking leaves it, stands beside the archive."""
    (tmp_path / "cifar-10-batches-py-target").mkdir()
    TINY.write(tmp_path, {"cifar-10-batches-py-target_archive": TINY.python_archive})
    assert dict(locate(tmp_path).files(TINY.publication)) == TINY.files
    (tmp_path / "cifar-10-batches-py-target_archive").write_bytes(b"no archive")
    with pytest.raises(DataError) as caught:
        locate(tmp_path)
    assert not isinstance(caught.value, NothingThere)
