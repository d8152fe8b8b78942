"""What a model from anywhere must be before it is opened. Imports no Keras.

Loading a ``.keras`` file runs what its description names and allocates what its sizes ask for, so both are
checked here first. ``kerasfile`` loads what passed.
"""

import contextlib
import io
import json
import math
import os
import shlex
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cifarcnn.errors import ModelError, reason
from cifarcnn.machine import files

if TYPE_CHECKING:
    from cifarcnn.metrics import Array

CONFIG, KERAS_METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
OUR_METADATA = "cifarcnn.json"
LARGEST_MEMBER = {CONFIG: 16 << 20, KERAS_METADATA: 1 << 20, WEIGHTS: 512 << 20, OUR_METADATA: 1 << 20}
"""Every member an archive may have, with the bytes it may unpack to."""

LARGEST_FILE = 512 << 20
"""Bytes of a model in one file."""

LARGEST_EXPANSION = 100
"""Keras stores without compression and random weights barely compress: more than this is a bomb."""

SMALLEST_BATCH = 8
"""A batch of one takes another path through the convolutions, whose sums differ in the last digits."""

MOST_CLASSES = 1 << 16
MOST_PARAMETERS = 100_000_000
LARGEST_ACTIVATION = 1 << 20
"""Numbers per image that one layer may put out; the widest published CIFAR-10 networks need two thirds."""

DEEPEST_CONFIG = 64
MOST_LAYERS = 2_000
MOST_WEIGHT_ITEMS = 20_000

DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, OSError, ValueError)
"""What reading a damaged archive raises."""

PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others could unpack one byte to any number before they are asked for the first."""

MODELS = ("Functional", "Model", "Sequential")
STOCK = {
    "keras": (*MODELS, "DTypePolicy"),
    "keras.models": MODELS,
    "keras.src.models.functional": MODELS,
    # Layers of an image classifier that neither run code from the file, nor read another file, nor wrap
    # another framework's model, and whose memory shows in the shape of what they put out.
    "keras.layers": (
        *("Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "AveragePooling2D"),
        *("BatchNormalization", "CenterCrop", "Concatenate", "Conv2D", "Conv2DTranspose", "Cropping2D"),
        *("Dense", "DepthwiseConv2D", "Dropout", "ELU", "Flatten", "GaussianDropout", "GaussianNoise"),
        *("GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization", "Identity", "InputLayer"),
        *("LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum", "Multiply"),
        *("Normalization", "PReLU", "Permute", "RMSNormalization", "RandomBrightness", "RandomContrast"),
        *("RandomCrop", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "ReLU"),
        *("Rescaling", "Reshape", "Resizing", "SeparableConv2D", "Softmax", "SpatialDropout2D", "Subtract"),
        *("UnitNormalization", "UpSampling2D", "ZeroPadding2D"),
    ),
    # Arithmetic on layers' outputs, as in ``x * 2``. Reshaping is left to its layer: it keeps images apart.
    "keras.src.ops.core": ("Cast",),
    "keras.src.ops.numpy": (
        *("Absolute", "Add", "Clip", "Divide", "Exp", "Log", "Max", "Maximum", "Mean", "Minimum", "Multiply"),
        *("Negative", "Power", "Sqrt", "Square", "Subtract", "Sum", "TrueDivide"),
    ),
    "keras.src.ops.nn": (
        *("Elu", "Gelu", "LeakyRelu", "LogSoftmax", "Relu", "Relu6", "Sigmoid", "Silu", "Softmax"),
    ),
}
"""Module to the names in it that a description may use."""

NUMBERS = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64")

PARAMETER_MODULES = ("keras.constraints", "keras.initializers", "keras.regularizers")
"""Modules of which every stock name may be used: they compute on a layer's own weights."""

SIGNATURES = (
    (HDF5_MARK := b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x80\x02", PICKLE := "a pickle (never opened: it can carry code)"),
    *((bytes([0x80, protocol]), PICKLE) for protocol in (3, 4, 5)),
    *((start, "a picture") for start in (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")),
)
"""First bytes of files that may be taken for a model, and what they are."""


def trial_images(count: int) -> "Array":
    """Return images to try a model on, uint8 (count, 32, 32, 3): a black one, and noise."""
    import numpy as np

    pixels = np.zeros((count, 32, 32, 3), np.uint8)
    pixels[1:] = np.random.default_rng(0).integers(0, 256, pixels[1:].shape, np.uint8)
    return pixels


def check_probabilities(name: object, rows: "Array") -> None:
    """Raise ModelError unless these outputs of a model, float (n, classes), are probabilities."""
    import numpy as np

    if not np.isfinite(rows).all():
        raise ModelError(f"the outputs of the model {name} are not finite numbers; train it again")
    # bfloat16 outputs have three digits, and the roundings of all classes add up.
    if not np.allclose(rows.sum(axis=1), 1, atol=0.02) or not (rows >= 0).all():
        raise ModelError(
            f"the output of the model {name} is not probabilities; expected a softmax at its end (`cifarcnn "
            "import` puts one at the end of a Keras model)"
        )


def read_members(path: Path, *names: str) -> dict[str, bytes]:
    """Return the named members of a ``.keras`` archive, as far as they are there.

    Raises:
        ModelError: there is no such file, or it is not a sound Keras archive.
    """
    with open_regular(path) as file:
        _check_is_small_zip(path, file)
        try:
            with zipfile.ZipFile(file) as archive:
                _check_members(path, archive.infolist())
                members = [member for member in archive.infolist() if member.filename in names]
                return {member.filename: unpacked(archive, member) for member in members}
        except DAMAGE as problem:
            raise ModelError(f"the model {path} is damaged: {problem}; train or copy it again") from problem
        except (NotImplementedError, RuntimeError) as problem:
            raise ModelError(f"the model {path} is not a Keras file: {problem}") from problem


def unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Unpack a member no further than to the size that it declares, past which ``ZipFile.read`` goes on."""
    with archive.open(member) as file:
        return file.read(member.file_size)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read, or raise ModelError."""
    try:
        return files.open_regular(path)
    except files.NotRegularError as problem:
        raise ModelError(
            f"{path} is not a regular file; expected a model file or a run directory"
        ) from problem
    except OSError as problem:
        raise ModelError(f"cannot read the model {path}: {problem.strerror}") from problem


def read_whole(path: Path) -> bytes:
    """Read a whole model file; raise ModelError if it cannot be read, is empty or too large."""
    with open_regular(path) as file:
        data = file.read(LARGEST_FILE + 1)
    if not data:
        raise ModelError(f"{path} is empty; expected a model file or a run directory")
    if len(data) > LARGEST_FILE:
        raise ModelError(f"the model {path} has more than {LARGEST_FILE >> 20} MiB; not opened")
    return data


@contextlib.contextmanager
def place_to_try(path: Path) -> Iterator[Path]:
    """Give a temporary directory for a copy of a model; raise ModelError if there is no room for it."""
    try:
        with tempfile.TemporaryDirectory() as directory:
            yield Path(directory)
    except OSError as problem:
        raise ModelError(
            f"cannot copy the model {path} to {tempfile.gettempdir()} to try it: "
            f"{reason(problem)}; make room there, or name another directory in TMPDIR"
        ) from problem


def _check_is_small_zip(path: Path, file: Any) -> None:
    """Refuse what is no zip, saying what it is, and zips whose directory is large."""
    start = file.read(16)
    size = file.seek(0, os.SEEK_END)
    if start.startswith(HDF5_MARK):
        weights = " --arch NAME" if path.name.endswith(".weights.h5") else ""
        raise ModelError(
            f"{path} is {kind_of(start)}{' of weights without their network' if weights else ''}; make a "
            f".keras file of it: cifarcnn import {shlex.quote(str(path))}{weights} --output NEW.keras"
        )
    if not start.startswith(b"PK\x03\x04"):
        raise ModelError(f"{path} is {kind_of(start)}; expected a .keras file as `cifarcnn train` writes it")
    if size > sum(LARGEST_MEMBER.values()) + (1 << 20):
        raise ModelError(f"the model {path} has {size:,} bytes; at most 512 MiB are accepted")
    file.seek(max(size - 42, 0))
    check_zip_end(path, file.read())
    file.seek(0)


def check_zip_end(path: Path, end: bytes) -> None:
    """Refuse the last 42 bytes of a file unless a zip's small directory, which is read whole, ends there."""
    tail = end[-42:].rjust(42, b"\0")
    end, locator64 = tail[20:], tail[:4]
    if not end.startswith(b"PK\x05\x06") or not end.endswith(b"\0\0"):
        raise ModelError(f"the model {path} is cut short or has foreign data at its end; copy it again")
    if locator64 == b"PK\x06\x07" or int.from_bytes(end[12:16], "little") > 1 << 16:
        raise ModelError(f"the model {path} has an outsized archive directory; it is not a Keras file")


def kind_of(start: bytes) -> str:
    """Name a foreign file by its first bytes."""
    for signature, kind in SIGNATURES:
        if start.startswith(signature):
            return kind
    text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)
    return ("a text file" if text else "no Keras file") if start else "empty"


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse members of any other name, size or packing than Keras and we write."""
    names = [member.filename for member in members]
    for member in members:
        if member.filename not in LARGEST_MEMBER:
            raise ModelError(
                f"the model {path} holds {member.filename!r}, which no Keras model of ours has; not opened"
            )
        large = member.file_size > LARGEST_MEMBER[member.filename]
        bomb = member.file_size > max(1 << 20, LARGEST_EXPANSION * member.compress_size)
        if large or bomb:
            raise ModelError(
                f"the model {path} declares {member.file_size:,} bytes for {member.filename}, packed in "
                f"{member.compress_size:,}; that is too much to open safely"
            )
        if member.flag_bits & 1 or member.compress_type not in PACKINGS:
            raise ModelError(f"the model {path} has {member.filename} packed as Keras never does; not opened")
    missing = {CONFIG, WEIGHTS} - set(names)
    if missing or len(names) != len(set(names)):
        fault = f"lacks {', '.join(sorted(missing))}" if missing else "has a member twice"
        raise ModelError(f"{path} is not a whole Keras model: it {fault}")


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    """Write a zip whose bytes depend on its members alone."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])


def parse_json(path: Path, name: str, data: bytes) -> dict[str, Any]:
    """Parse a member that must be one JSON object, or raise ModelError."""
    try:
        document = json.loads(data)
        if name == OUR_METADATA:
            # Python reads NaN and Infinity, which are no JSON and could not be shown as such.
            json.dumps(document, allow_nan=False)
    except (ValueError, RecursionError) as problem:
        raise ModelError(
            f"the model {path} is damaged: {name} is not readable JSON; copy it again"
        ) from problem
    if not isinstance(document, dict):
        raise ModelError(f"the model {path} is damaged: {name} is not a JSON object; copy it again")
    return document


def check_config(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Refuse everything in a description but stock parts of an image classifier, and return it.

    Compile settings are taken out of it in place, mixed precision becomes float32, and a single input or
    output in a list, as Keras 3.6 wrote it, is taken out of the list.
    """
    layers = 0
    pending: list[tuple[Any, int]] = [(config, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > DEEPEST_CONFIG:
            raise ModelError(f"the model {path} has a description nested more than {DEEPEST_CONFIG} deep")
        if isinstance(item, dict):
            item.pop("compile_config", None)
            if "class_name" in item:
                _check_class(path, item)
                layers += item.get("module") == "keras.layers"
            if item.get("class_name") == "DTypePolicy":
                item["config"] = {"name": "float32"}
            for ends in ("input_layers", "output_layers"):
                if isinstance(item.get(ends), list) and len(item[ends]) == 1:
                    (item[ends],) = item[ends]
            item = list(item.values())
        if isinstance(item, list):
            pending.extend((value, depth + 1) for value in item)
        if layers > MOST_LAYERS:
            raise ModelError(f"the model {path} has more than {MOST_LAYERS:,} layers; not opened")
    if config.get("class_name") not in MODELS:
        raise ModelError(f"the model {path} describes a {config.get('class_name')!r}; expected a Keras model")
    return config


def _check_class(path: Path, item: dict[str, Any]) -> None:
    """Refuse a described object unless it is a known stock part of Keras."""
    module, name, registered = item.get("module"), item["class_name"], item.get("registered_name")
    inner = item.get("config")
    # Arithmetic with a NumPy array leaves plain numbers.
    numbers = isinstance(inner, dict) and inner.keys() == {"value", "dtype"} and inner["dtype"] in NUMBERS
    if module is None and (name == "__keras_tensor__" or (name == "__numpy__" and numbers)):
        return
    if isinstance(module, str) and isinstance(name, str) and registered in (None, name):
        if name in STOCK.get(module, ()):
            return
        if module in PARAMETER_MODULES and name.isidentifier() and not name.startswith("_"):
            return
    shown = ".".join(str(part)[:80] for part in (module, name) if part is not None)
    raise ModelError(
        f"the model {path} contains {shown}, which is not among the stock parts of an image classifier; it "
        "could run code, so it is not opened"
    )


def check_weights(path: Path, data: bytes) -> None:
    """Refuse HDF5 weights that point outside themselves or declare more than they hold."""
    import h5py

    seen = total = 0
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            groups = [file]
            while groups:
                group = groups.pop()
                for name in group:
                    item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
                    if isinstance(item, h5py.Group):
                        groups.append(item)
                    elif not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
                        raise ModelError(f"the model {path} has weights that lie outside it; not opened")
                    elif item.dtype.hasobject:
                        raise ModelError(f"the model {path} has weights that are not numbers; not opened")
                    else:
                        # A chunk is unpacked whole, however few of its numbers the dataset has.
                        total += max(item.nbytes, math.prod(item.chunks or (0,)) * item.dtype.itemsize)
                    seen += 1
                    # A group may contain itself, so the walk needs an end of its own.
                    if total > LARGEST_MEMBER[WEIGHTS] or seen > MOST_WEIGHT_ITEMS:
                        raise ModelError(f"the model {path} declares too many weights; not opened")
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as problem:
        raise ModelError(
            f"the model {path} is damaged: its weights cannot be read; copy it again"
        ) from problem
