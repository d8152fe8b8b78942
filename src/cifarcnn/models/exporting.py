"""Exporting a trained network: convert it, then believe in it only after asking both the same images.

The conversion itself stands in ``conversion``, what opens the result in ``exported``.
"""

import hashlib
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarcnn.data import cifar10, sources
from cifarcnn.errors import ModelError, UsageError, first_line, reason
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.machine import files
from cifarcnn.models import conversion, exported, heldout, modelfile
from cifarcnn.models.exportformats import FORMATS
from cifarcnn.models.modelfile import Model

PARITY_IMAGES = 500
TOLERANCE = 1e-4
"""The largest difference of a probability at which an export counts as the same network."""


@dataclass(frozen=True)
class Export:
    """A model that was exported, and how far it is from the network it was made from.

    Args:
        path: the file, or the directory of a SavedModel.
        format: "litert", "onnx" or "saved-model".
        weights: "float32" or "float16", as stored.
        size: bytes on disk.
        images: how many images were compared, none of them a test image.
        difference: the largest difference of a probability to Keras with the weights as stored.
        rounding_difference: the same to Keras with float32 weights, None unless the weights were rounded.
        changed: the share of those images whose answer rounding changed, None unless it took place.
    """

    path: Path
    format: str
    weights: str
    size: int
    images: int
    difference: float
    rounding_difference: float | None
    changed: float | None

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"schema": 1, **asdict(self), "path": str(self.path)}


def export(
    model: str | Path,
    format: str,  # noqa: A002 - what it is called on the command line
    *,
    output: str | Path | None = None,
    half: bool = False,
    data: str | Path | None = None,
    force: bool = False,
    on_event: OnEvent = ignore,
) -> Export:
    """Write a model for another runtime, whole or not at all.

    Args:
        model: a ``.keras`` file, a run directory, or ``pretrained``, which is a LiteRT file already.
        format: "litert", "onnx" or "saved-model".
        output: where to; without it, the model's name with the format's ending in the working directory.
        half: store the kernels in float16 (litert only).
        data: where the data set is; None looks in the usual places and downloads if need be.
        force: replace what is there: a file, or the directory of a SavedModel; no other directory.
        on_event: receives notes and the progress of a download.

    Raises:
        UsageError: the format is unknown or has no half precision, or ``output`` ends otherwise than names of
            the format do, or there is something that is not to be replaced.
        ModelError: the model cannot be opened or converted, or the result answers otherwise; nothing is left.
        DataError: the images for the comparison cannot be had.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no format {format!r}; expected one of: {', '.join(FORMATS)}")
    if half and format != "litert":
        raise UsageError(f"half precision is for the format litert alone, but the format is {format}")
    target = Path(output) if output is not None else _default_output(Path(model), format)
    _check_target(target, format, force)
    opened = modelfile.load(Path(model))
    if (opened.format, format) != ("litert", "litert"):
        _ = opened.keras
    elif half:
        raise UsageError(
            f"{opened.name} is a LiteRT file already, which is copied as it is; leave --half out"
        )
    images = _images(opened, data, on_event)
    try:
        # On the same disk as the target, so that the result can be renamed to it.
        with tempfile.TemporaryDirectory(prefix=files.beside(target), dir=target.parent) as directory:
            # Converters choose by the suffix.
            aside = Path(directory, f"model{FORMATS[format].suffix}")
            result = _write(opened, format, half, aside, images)
            _move(aside, target)
    except OSError as problem:
        raise ModelError(
            f"cannot write {target}: {reason(problem)}; choose another place with --output"
        ) from problem
    on_event(Note(f"compared on {result.images:,} training images from {images.source}"))
    return Export(**{**asdict(result), "path": target})


def _check_target(target: Path, kind: str, force: bool) -> None:
    """Refuse a place where the result cannot stand, would not be known again, or would replace too much."""
    suffix = FORMATS[kind].suffix
    # A file is known again by its ending, a SavedModel by what is in it.
    if kind != "saved-model" and target.suffix.lower() != suffix:
        raise UsageError(f"cannot write {kind} as {target}; expected a name that ends in {suffix}")
    if os.path.lexists(target) and not force:
        raise UsageError(f"{target} is there already; give another name with --output, or --force")
    if os.path.isdir(target) and not (target / exported.GRAPH).is_file():
        raise UsageError(f"{target} is a directory, but no SavedModel to replace; give another with --output")
    files.check_place(target)


def _default_output(model: Path, kind: str) -> Path:
    """Name the result after the file or the run directory, in the working directory."""
    resolved = Path(os.path.realpath(model))
    name = resolved.name if os.path.isdir(resolved) else resolved.stem
    return Path(f"{name}{FORMATS[kind].suffix}")


def _images(model: Model, data: str | Path | None, on_event: OnEvent) -> cifar10.Images:
    """Choose training images, of those that the model's own training held out if they are among them."""
    images = sources.load("train", data=data, on_event=on_event)
    held_out = heldout.told(model.metadata)
    # Of other images, or of too few, nothing would be gained.
    if held_out and held_out.size >= PARITY_IMAGES and held_out.sha256 == images.sha256():
        images = held_out.among(images)
    return images.at(np.arange(0, len(images), max(1, len(images) // PARITY_IMAGES))[:PARITY_IMAGES])


def _write(model: Model, kind: str, half: bool, path: Path, images: cifar10.Images) -> Export:
    """Convert, attach the metadata, and compare."""
    plain = expected = model.probabilities(images.images)
    if model.format is not None:
        path.write_bytes(model.path.read_bytes())
        facts = model.metadata
    else:
        facts = {
            **model.metadata,
            "exported_from": hashlib.sha256(model.path.read_bytes()).hexdigest(),
            "weights": "float16" if half else "float32",
        }
        conversion.convert(model.keras, kind, path)
        if half:
            data, kernels = conversion.halve(path.read_bytes())
            path.write_bytes(data)
            conversion.round_kernels(model.keras, kernels)
            expected = model.probabilities(images.images)
        conversion.attach(kind, path, facts)
    answers = _ask(model, kind, path, images)
    difference = float(np.abs(answers - expected).max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"the export of {model.path} as {kind} answers otherwise than Keras: probabilities differ by up "
            f"to {difference:.1e} on {len(answers)} images, at most {TOLERANCE:.0e} is accepted; nothing is "
            "written"
        )
    return Export(
        path=path,
        format=kind,
        weights=str(facts.get("weights", "float32")),
        size=files.size(path),
        images=len(answers),
        difference=difference,
        rounding_difference=float(np.abs(answers - plain).max()) if half else None,
        changed=float((answers.argmax(1) != plain.argmax(1)).mean()) if half else None,
    )


def _ask(model: Model, kind: str, path: Path, images: cifar10.Images) -> "np.ndarray[Any, Any]":
    """Open what was just exported as any user would get it, and ask it."""
    try:
        return Model(path, {}, exported.open_own(path, kind), kind).probabilities(images.images)
    except (RuntimeError, ValueError) as problem:
        raise ModelError(
            f"the export of {model.path} as {kind} does not run: {first_line(problem)}"
        ) from problem


def _move(aside: Path, target: Path) -> None:
    """Put the result in its place; an old directory first gets out of the way, as no rename replaces it."""
    if aside.is_file() and not target.is_dir():
        files.write_bytes(target, aside.read_bytes())
        return
    if aside.is_dir():
        files.sync_tree(aside)
    replaced = aside.with_name("replaced") if os.path.lexists(target) else None
    try:
        if replaced:
            target.rename(replaced)
        aside.rename(target)
    # Ctrl-C too must not take the old one away.
    except BaseException:
        if replaced and os.path.lexists(replaced) and not os.path.lexists(target):
            replaced.rename(target)
        raise
    files.sync_directory(target.parent)
