"""What is known of an exported model, which has no Keras layers to list: how it was made and measured."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarcnn.machine import files
from cifarcnn.models import exported, modelfile


@dataclass(frozen=True)
class ExportSummary:
    """An exported model by what is stored with it.

    ``size`` is in bytes. ``metadata`` is what is stored with it, for the pretrained model its provenance
    among it.
    ``sha256`` is None for a SavedModel, which is a directory.
    """

    name: str
    format: str
    size: int
    sha256: str | None
    metadata: dict[str, Any]

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"schema": 1, **dataclasses.asdict(self), "layers": None}


def describe(path: Path) -> ExportSummary | None:
    """Describe an exported model, which is tried in a child process; None where the path is a Keras model's.

    Raises:
        ModelError: there is no such model, or it is damaged, unsafe, or does not answer as a classifier.
    """
    found = modelfile.resolve(path)
    kind = exported.form(found)
    if kind is None:
        return None
    metadata = modelfile.read_metadata(found)
    exported.check(found, kind)
    digest = None
    if found.is_file():
        with found.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ExportSummary(str(path), kind, files.size(found), digest, metadata)
