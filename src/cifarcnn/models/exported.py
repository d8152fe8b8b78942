"""Exported models and what is stored with them, opened with as little trust as model files.

The runtimes of LiteRT, ONNX and TensorFlow's SavedModel are native programs that a hostile file may crash or
keep busy for ever. So every file but the pretrained one, whose checksum is known, is first opened and run in
a child process with limits; only what answered there like a classifier is opened here, from the same bytes.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn.errors import ModelError, first_line
from cifarcnn.models import modelguard, pretrained
from cifarcnn.models.exportformats import FORMATS

if TYPE_CHECKING:
    from cifarcnn.models.runtimes import Runtime

GRAPH = "saved_model.pb"
EXTRA_METADATA = f"assets.extra/{modelguard.OUR_METADATA}"
DATA, INDEX = "variables/variables.data-00000-of-00001", "variables/variables.index"
MEMBERS = {
    GRAPH: 64 << 20,
    DATA: 512 << 20,
    INDEX: 8 << 20,
    "fingerprint.pb": 1 << 20,
    EXTRA_METADATA: 1 << 20,
}
"""Every file that a SavedModel may have, with the bytes it may hold."""

LITERT_MARK = b"TFL3"
"""Bytes 5 to 8 of every LiteRT file."""

ONNX_PROPERTIES, ONNX_KEY, ONNX_VALUE = 14, 1, 2
"""Numbers of protobuf fields: ``ModelProto.metadata_props``, and what each of its entries has."""

MOST_FIELDS = 1_000
"""Fields that an ONNX model, or one of its properties, may have at its top; ours have about ten."""

LARGEST_FILE = 512 << 20
LARGEST_METADATA = modelguard.LARGEST_MEMBER[modelguard.OUR_METADATA]
PROBE_SECONDS = 300
"""How long a model may take to answer in the child process, its start included."""


def form(path: Path) -> str | None:
    """Return the format of an exported model, one of ``FORMATS``; None for any other file."""
    if path.is_dir():
        return "saved-model" if (path / GRAPH).is_file() else None
    for row in FORMATS.values():
        if path.suffix.lower() == row.suffix:
            return row.name
    with modelguard.open_regular(path) as file:
        return "litert" if file.read(8)[4:] == LITERT_MARK else None


def read_metadata(path: Path, kind: str) -> dict[str, Any]:
    """Read what was stored with an exported model, without a runtime; empty where it is not ours.

    Raises:
        ModelError: the file cannot be read, is too large, or its metadata is damaged.
    """
    if kind == "saved-model":
        members = _read_directory(path, EXTRA_METADATA)
        data = members.get(EXTRA_METADATA)
    elif kind == "onnx":
        data = _onnx_metadata(path, _read(path))
    else:
        content = _read(path)
        if content[4:8] != LITERT_MARK:
            raise ModelError(f"{path} is damaged, or not a LiteRT model; export it again")
        data = _litert_metadata(path, content)
    return {} if data is None else modelguard.parse_json(path, modelguard.OUR_METADATA, data)


def load(path: Path, kind: str) -> "Runtime":
    """Open an exported model, trusting nothing in it.

    Raises:
        ModelError: it is missing, damaged, unsafe, or does not map 32x32 images to ten probabilities.
    """
    from cifarcnn.models import runtimes

    try:
        if kind == "saved-model":
            with _vetted_directory(path) as directory:
                return runtimes.SavedModel(str(path), directory)
        data = _vetted_file(path, kind)
        return runtimes.OF_FILES[kind](str(path), data)
    except (RuntimeError, ValueError, ImportError) as problem:
        raise ModelError(f"the model {path} cannot be opened: {first_line(problem)}") from problem


def check(path: Path, kind: str) -> None:
    """Refuse what ``load`` refuses, without opening the model in this process.

    Raises:
        ModelError: as for ``load``.
    """
    if kind == "saved-model":
        with _vetted_directory(path):
            pass
    else:
        _vetted_file(path, kind)


def open_own(path: Path, kind: str) -> "Runtime":
    """Open what this process has just exported, without the child process."""
    from cifarcnn.models import runtimes

    if kind == "saved-model":
        return runtimes.SavedModel(str(path), path)
    return runtimes.OF_FILES[kind](str(path), path.read_bytes())


@contextlib.contextmanager
def _vetted_directory(path: Path) -> Iterator[Path]:
    """Give a copy of a SavedModel that has been vetted."""
    with modelguard.place_to_try(path) as directory:
        _copy(path, directory)
        _vet(path, "saved-model", directory)
        yield directory


def _vetted_file(path: Path, kind: str) -> bytes:
    """Return the content of a model of one file, which has been vetted unless it is the pretrained one."""
    data = _read(path)
    if not pretrained.is_pretrained(data):
        # The child gets a copy of exactly what is opened here, and no file that may change meanwhile.
        with modelguard.place_to_try(path) as directory:
            place = directory / f"model{FORMATS[kind].suffix}"
            place.write_bytes(data)
            _vet(path, kind, place)
    return data


def _vet(path: Path, kind: str, place: Path) -> None:
    """Have a child process open and ask the model; refuse it where that fails, crashes or never ends."""
    # -P: whatever lies in the working directory must not be taken for a module.
    command = [sys.executable, "-P", "-m", "cifarcnn.models._probe", kind, str(path), str(place)]
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTEROP_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise ModelError(
            f"the model {path} gave no answer within {PROBE_SECONDS} s in a process of its own; not opened"
        ) from problem
    try:
        error = json.loads(done.stdout)["error"]
    except ValueError as problem:
        ended = f"by signal {-done.returncode}" if done.returncode < 0 else f"with code {done.returncode}"
        raise ModelError(
            f"the model {path} is damaged or too large: trying it in a process of its own ended {ended}; "
            "not opened"
        ) from problem
    if error is not None:
        raise ModelError(error)


def _read(path: Path) -> bytes:
    """Read a whole file of bearable size."""
    with modelguard.open_regular(path) as file:
        data = file.read(LARGEST_FILE + 1)
    if not data:
        raise ModelError(f"{path} is empty; expected a model file or a run directory")
    if len(data) > LARGEST_FILE:
        raise ModelError(f"the model {path} has more than {LARGEST_FILE >> 20} MiB; not opened")
    return data


def _read_directory(path: Path, *names: str) -> dict[str, bytes]:
    """Read files of a SavedModel after checking what the directory holds."""
    try:
        found = sorted(
            str(Path(parent, name).relative_to(path))
            for parent in (path, path / "variables", path / "assets", path / "assets.extra")
            for name in (os.listdir(parent) if parent.is_dir() and not parent.is_symlink() else ())
        )
        folders = {"variables", "assets", "assets.extra"}
        extra = [name for name in found if name not in MEMBERS and name not in folders]
        if extra or any((path / name).is_symlink() for name in found):
            raise ModelError(f"the SavedModel {path} holds {(extra or ['links'])[0][:80]!r}; not opened")
        members = {}
        for name in found:
            if name in MEMBERS and (not names or name in names):
                with modelguard.open_regular(path / name) as file:
                    members[name] = file.read(MEMBERS[name] + 1)
                if len(members[name]) > MEMBERS[name]:
                    raise ModelError(f"the SavedModel {path} has a {name} of absurd size; not opened")
    except OSError as problem:
        raise ModelError(f"cannot read the SavedModel {path}: {problem.strerror}") from problem
    return members


def _copy(path: Path, place: Path) -> None:
    """Copy a SavedModel to where nobody else writes."""
    for name, data in _read_directory(path).items():
        if name != EXTRA_METADATA:
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(data)


def _litert_metadata(path: Path, data: bytes) -> bytes | None:
    """Read our member of the zip that may follow a flatbuffer."""
    if b"PK\x05\x06" not in data[-(1 << 16) :]:
        return None
    modelguard.check_zip_end(path, data[-42:])
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = archive.NameToInfo.get(modelguard.OUR_METADATA)
            if member is None:
                return None
            large = member.file_size > LARGEST_METADATA
            if large or member.flag_bits & 1 or member.compress_type not in modelguard.PACKINGS:
                raise ModelError(f"the model {path} has metadata of absurd size or packing; not opened")
            return modelguard.unpacked(archive, member)
    except modelguard.DAMAGE as problem:
        raise ModelError(f"the model {path} is damaged: {first_line(problem)}; copy it again") from problem
    except (NotImplementedError, RuntimeError) as problem:
        raise ModelError(f"the model {path} is packed as ours never are; not opened") from problem


def _onnx_metadata(path: Path, data: bytes) -> bytes | None:
    """Read our entry among an ONNX model's properties; onnx would make objects of all else in it too."""
    try:
        entries = [
            dict(_protobuf_fields(content))
            for number, content in _protobuf_fields(memoryview(data))
            if number == ONNX_PROPERTIES
        ]
    except (IndexError, ValueError) as problem:
        raise ModelError(f"{path} is damaged, or not an ONNX model; export it again") from problem
    for entry in entries:
        if entry.get(ONNX_KEY) == memoryview(modelguard.OUR_METADATA.encode()):
            value = entry.get(ONNX_VALUE, memoryview(b""))
            if len(value) > LARGEST_METADATA:
                raise ModelError(f"the model {path} has metadata of absurd size; not opened")
            return bytes(value)
    return None


def _protobuf_fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and content of a protobuf message's strings and messages, passing over its numbers.

    Raises:
        ValueError, IndexError: it is no such message, or has more fields than an ONNX model needs.
    """
    at = 0
    for _ in range(MOST_FIELDS):
        if at == len(data):
            return
        tag, at = _varint(data, at)
        start = at
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                length, start = _varint(data, at)
                at = start + length
            case 5:
                at += 4
            case other:
                raise ValueError(f"wire type {other}")
        if at > len(data) or tag >> 3 == 0:
            raise ValueError("a field beyond the end, or without a number")
        if tag & 7 == 2:
            yield tag >> 3, data[start:at]
    raise ValueError("too many fields")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a protobuf number of at most ten bytes; return it and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("a number without end")
