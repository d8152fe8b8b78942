"""The model that comes with the package, so that ``cifarcnn predict`` answers at once.

It is a LiteRT file of float16 weights, made out of an ordinary run by ``benchmarks/box.py``, which measures
it on the test images and writes what it found, and how the run was trained, into the file's metadata. Beside
it lies its SHA-256: a file of that checksum is opened without the precautions that other files get.
"""

import hashlib
from functools import cache
from pathlib import Path

NAME = "pretrained"
"""What stands for the model on the command line."""

DIRECTORY = Path(__file__).with_name("pretrained_model")
PATH = DIRECTORY / "model.tflite"
CHECKSUM = DIRECTORY / "model.tflite.sha256"
LARGEST = 10 << 20
"""Bytes that the file may have, its metadata included."""


@cache
def sha256() -> str:
    """Return the checksum that the pretrained model was packaged with; empty if none was."""
    return CHECKSUM.read_text(encoding="ascii").split()[0] if CHECKSUM.exists() else ""


def is_pretrained(data: bytes) -> bool:
    """Say whether these are the bytes of the pretrained model."""
    return len(data) <= LARGEST and hashlib.sha256(data).hexdigest() == sha256()
