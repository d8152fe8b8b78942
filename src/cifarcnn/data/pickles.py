"""Reading the pickles of CIFAR-10's python version without running what a pickle may ask for.

Those files hold a dict of byte strings, integers, a list and one uint8 array, written by Python 2. Nothing
else is admitted: the operations are checked against a short list first, and the three numpy names are
answered by inert stand-ins, so that not even numpy acts on bytes that nobody has verified yet.
"""

import io
import pickle
import pickletools
import warnings
from typing import Any

import numpy as np

from cifarcnn.data.cifar10 import RECORD_BYTES
from cifarcnn.errors import DataError

ADMITTED = (
    "PROTO STOP MARK GLOBAL REDUCE BUILD EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "SETITEM SETITEMS APPEND APPENDS SHORT_BINSTRING BINSTRING BININT BININT1 BININT2 NONE NEWTRUE NEWFALSE "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET"
)
OPERATIONS = frozenset(ADMITTED.split())
# The memo grows to the largest number named, so an honest file's few ten thousand must bound it.
LARGEST_MEMO = 1 << 20
# Each may make an object; an honest file's 10,000 labels and remembered file names take some 30,000.
MOST_OPERATIONS = 1 << 17


def records(raw: bytes, count: int) -> bytes:
    """Turn one batch of the python version into binary records.

    Args:
        raw: the file's content.
        count: how many images it must hold.

    Raises:
        DataError: it is no such pickle, or holds something else.
    """
    batch = _load(raw)
    if not isinstance(batch, dict):
        raise DataError("the pickle holds no dict")
    array, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(array, _Array) or len(array.raw) != count * (RECORD_BYTES - 1):
        raise DataError(f"the pickle's b'data' is no uint8 array of {count:,} images")
    if not isinstance(labels, list) or len(labels) != count:
        raise DataError(f"the pickle's b'labels' is no list of {count:,} labels")
    if not all(isinstance(label, int) and 0 <= label <= 9 for label in labels):
        raise DataError("the pickle's b'labels' holds something else than 0 to 9")
    content = np.empty((count, RECORD_BYTES), np.uint8)
    content[:, 0] = labels
    content[:, 1:] = np.frombuffer(array.raw, np.uint8).reshape((count, -1), order=array.order)
    return content.tobytes()


def _load(raw: bytes) -> Any:
    try:
        # pickletools parses the arguments even of operations that are about to be refused.
        with warnings.catch_warnings(action="ignore"):
            for number, (operation, argument, _) in enumerate(pickletools.genops(raw), 1):
                if operation.name not in OPERATIONS:
                    raise DataError(f"the pickle asks for {operation.name}, which no CIFAR-10 file contains")
                if operation.name == "LONG_BINPUT" and (argument or 0) > LARGEST_MEMO:
                    raise DataError("the pickle asks for more memory than a CIFAR-10 file needs")
                if number > MOST_OPERATIONS:
                    raise DataError(
                        f"the pickle has more than {MOST_OPERATIONS:,} operations; expected some 30,000"
                    )
        return _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError) as problem:
        raise DataError(f"not a pickle of CIFAR-10's python version: {problem}") from None


class _Dtype:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, name: object = None, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which single bytes do not have."""


class _Array:
    """Stands in for ``numpy.ndarray``: keeps the bytes and the order they stand in ("C" or "F")."""

    raw = b""
    order: Any = "C"

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        if not (isinstance(dtype, _Dtype) and dtype.name == b"u1" and isinstance(raw, bytes)):
            raise DataError("the pickle holds an array that is not uint8")
        if shape != (len(raw) // (RECORD_BYTES - 1), RECORD_BYTES - 1):
            raise DataError(f"the pickle holds an array that is not (n, {RECORD_BYTES - 1})")
        self.raw, self.order = raw, "F" if is_fortran else "C"


def _reconstruct(*_: object) -> _Array:
    return _Array()


STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return STAND_INS[module, name]
        except KeyError:
            raise DataError(f"the pickle asks for {module}.{name}, which no CIFAR-10 file contains") from None
