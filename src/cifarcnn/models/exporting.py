"""Exporting a trained network to LiteRT, ONNX or SavedModel by Keras's own exporters.

The result is kept only if its probabilities agree with those of Keras on training images.
"""

import hashlib
import importlib
import json
import os
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cifarcnn.data import cifar10, sources
from cifarcnn.errors import ModelError, UsageError, first_line, reason
from cifarcnn.events import Note, OnEvent, ignore
from cifarcnn.machine import backend, files
from cifarcnn.metrics import Array
from cifarcnn.models import litert, modelfile, modelguard
from cifarcnn.models.modelfile import Model

if TYPE_CHECKING:
    import keras


class Format(NamedTuple):
    """A format: the name of its runtime, how names of its files end, and what Keras calls it."""

    runtime: str
    suffix: str
    keras_name: str


FORMATS = {
    "litert": Format("LiteRT", litert.SUFFIX, "litert"),
    "onnx": Format("ONNX Runtime", ".onnx", "onnx"),
    "saved-model": Format("TensorFlow", "_saved_model", "tf_saved_model"),
}
"""What ``--format`` takes."""

ONNX_PACKAGES = ("onnx", "tf2onnx", "onnxruntime")

PARITY_IMAGES = 500
TOLERANCE = 1e-4
"""The largest difference of a probability at which an export counts as the same network."""

HALF_TOLERANCE = 0.1
"""The same for half precision, which moves the probabilities of images between two classes most."""


@dataclass(frozen=True)
class Export:
    """A model that was exported, and how far it is from the network it was made from.

    Args:
        path: the file, or the directory of a SavedModel.
        format: "litert", "onnx" or "saved-model".
        weights: "float32" or "float16", as stored.
        size: bytes on disk.
        images: how many training images were compared.
        difference: the largest difference of a probability from Keras's, before any rounding.
        rounding_difference: the same after rounding; None with float32.
        changed: the share of those images whose predicted class rounding changed; None with float32.
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
        output: where to; default: the model's name with the format's ending, in the working directory.
        half: store the weights in float16 (litert only).
        data: where the data set is; None looks in the usual places and downloads if need be.
        force: replace a file or a SavedModel directory; no other directory.
        on_event: receives notes and the progress of a download.

    Raises:
        UsageError: the arguments do not go together, or ``output`` is there already.
        ModelError: the model cannot be opened or converted, or the result differs; nothing is written.
        DataError: the images for the comparison cannot be had.
    """
    if format not in FORMATS:
        raise UsageError(f"there is no format {format!r}; expected one of: {', '.join(FORMATS)}")
    if half and format != "litert":
        raise UsageError(f"half precision is for the format litert alone, but the format is {format}")
    target = _target(model, format, output, force)
    opened = _opened(model, format, half)
    for text in opened.warnings:
        on_event(Note(f"warning: {text}"))
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
    return replace(result, path=target)


def _opened(path: str | Path, kind: str, half: bool) -> Model:
    """Open the model, if it can be exported so."""
    model = modelfile.load(path)
    if model.format is not None and kind == "litert":
        if half:
            raise UsageError(
                f"{model.name} is a LiteRT file already, which is copied as it is; leave --half out"
            )
        return model
    end = model.keras.inputs[0]
    if end.dtype != "float32":
        raise ModelError(
            f"the model {model.path} takes {end.dtype} images at its input {end.name!r}; export needs "
            "float32: build it with keras.Input(shape) without a dtype"
        )
    return model


def _target(model: str | Path, kind: str, output: str | Path | None, force: bool) -> Path:
    """Choose the place, but none where the result would not be known again or replace what it must not."""
    suffix = FORMATS[kind].suffix
    resolved = Path(os.path.realpath(model))
    target = Path(output or f"{resolved.name if os.path.isdir(resolved) else resolved.stem}{suffix}")
    # A file is known again by its ending, a SavedModel by what is in it.
    if kind != "saved-model" and target.suffix.lower() != suffix:
        raise UsageError(f"cannot write {kind} as {target}; expected a name that ends in {suffix}")
    if os.path.lexists(target) and not force:
        raise UsageError(f"{target} is there already; give another name with --output, or --force")
    if os.path.isdir(target) and not (target / modelfile.SAVED_MODEL).is_file():
        raise UsageError(f"{target} is a directory, but no SavedModel to replace; give another with --output")
    files.check_place(target)
    return target


def _images(model: Model, data: str | Path | None, on_event: OnEvent) -> cifar10.Images:
    """Choose training images, of those that the model's own training held out if they are among them."""
    images = sources.load("train", data=data, on_event=on_event)
    held_out = modelfile.held_out(model.metadata)
    # Of other images, or of too few, nothing would be gained.
    if held_out and held_out.size >= PARITY_IMAGES and held_out.sha256 == images.sha256():
        images = held_out.among(images)
    return images.at(np.arange(0, len(images), max(1, len(images) // PARITY_IMAGES))[:PARITY_IMAGES])


def _write(model: Model, kind: str, half: bool, path: Path, images: cifar10.Images) -> Export:
    """Convert, attach the metadata, and compare."""
    expected = model.probabilities(images.images)
    if model.format is not None:
        path.write_bytes(model.path.read_bytes())
        facts = model.metadata
    else:
        convert(model.keras, kind, path)
        facts = {
            **model.metadata,
            "classes": list(model.classes),
            "exported_from": hashlib.sha256(model.path.read_bytes()).hexdigest(),
            "weights": "float16" if half else "float32",
        }
    rows = _answers(model, kind, path, images.images)
    difference = _difference(model, kind, rows, expected, TOLERANCE)
    rounding_difference = changed = None
    if half:
        convert(model.keras, kind, path, half=True)
        rows = _answers(model, kind, path, images.images)
        rounding_difference = _difference(model, f"{kind} in half precision", rows, expected, HALF_TOLERANCE)
        changed = float((rows.argmax(1) != expected.argmax(1)).mean())
    if model.format is None:
        attach(kind, path, facts)
    return Export(
        path=path,
        format=kind,
        weights=str(facts.get("weights", "float32")),
        size=files.size(path),
        images=len(rows),
        difference=difference,
        rounding_difference=rounding_difference,
        changed=changed,
    )


def _difference(model: Model, what: str, rows: Array, expected: Array, tolerance: float) -> float:
    """Return the largest difference of two sets of probabilities, if it can be borne."""
    difference = float(np.abs(rows - expected).max())
    if not difference <= tolerance:
        raise ModelError(
            f"the export of {model.path} as {what} answers otherwise than Keras: probabilities differ by up "
            f"to {difference:.1e} on {len(rows)} images, at most {tolerance:.0e} is accepted; nothing is "
            "written"
        )
    return difference


def convert(network: "keras.Model", kind: str, path: Path, *, half: bool = False) -> None:
    """Write a network in one of ``FORMATS``.

    Raises:
        ModelError: a package is missing, or Keras cannot convert this network.
    """
    options: dict[str, Any] = {}
    if kind == "onnx":
        for package in ONNX_PACKAGES:
            try:
                importlib.import_module(package)
            except ImportError as problem:
                raise ModelError(
                    f"exporting to ONNX needs {package}, which is not installed; fix: pip install "
                    + " ".join(ONNX_PACKAGES)
                ) from problem
        _teach_erfc()
    try:
        with warnings.catch_warnings(), backend.quiet_stderr():
            # What converters say of NumPy's and TensorFlow's coming versions is nothing a user can fix.
            warnings.simplefilter("ignore")
            network(np.zeros((1, 32, 32, 3), np.float32))  # a network that was never called is refused
            if half:
                import tensorflow as tf

                options["optimizations"] = [tf.lite.Optimize.DEFAULT]
                options["target_spec"] = {"supported_types": [tf.float16]}
            network.export(str(path), format=FORMATS[kind].keras_name, verbose=False, **options)
    # The exporters promise no set of errors; each is about this network or this backend.
    except Exception as problem:
        raise ModelError(f"Keras cannot export this network as {kind}: {first_line(problem)}") from problem


@cache
def _teach_erfc() -> None:
    """Tell tf2onnx that erfc(x) is 1 - erf(x): Keras's GELU is written with it, and ONNX has only erf."""
    from tf2onnx.handler import tf_op

    class Erfc:
        """tf2onnx takes a class with a method for each version of ONNX's operations."""

        @classmethod
        def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
            """Replace one node."""
            ends = {"shapes": [ctx.get_shape(node.output[0])], "dtypes": [ctx.get_dtype(node.output[0])]}
            erf = ctx.make_node("Erf", node.input, **ends)
            one = ctx.make_const(f"{node.name}_one", np.array(1, np.float32))
            ctx.remove_node(node.name)
            operands = [one.output[0], erf.output[0]]
            ctx.make_node("Sub", operands, name=node.name, outputs=node.output, **ends)

    tf_op("Erfc")(Erfc)


def attach(kind: str, path: Path, metadata: dict[str, Any]) -> None:
    """Store metadata as a zip behind a LiteRT flatbuffer, an ONNX property, or an asset of a SavedModel."""
    text = json.dumps(metadata, indent=1, sort_keys=True, allow_nan=False)
    if kind == "saved-model":
        (path / "assets.extra").mkdir()
        (path / "assets.extra" / modelguard.OUR_METADATA).write_text(text, encoding="utf-8")
    elif kind == "onnx":
        import onnx

        model = onnx.load(path, load_external_data=False)
        onnx.helper.set_model_props(model, {modelguard.OUR_METADATA: text})
        path.write_bytes(model.SerializeToString(deterministic=True))
    else:
        path.write_bytes(litert.with_metadata(path.read_bytes(), text))


def _answers(model: Model, kind: str, path: Path, images: Array) -> Array:
    """Return the probabilities of what was just exported."""
    runtime = {"litert": _ask_litert, "onnx": _ask_onnx, "saved-model": _ask_saved_model}[kind]
    try:
        with backend.quiet_stderr():
            rows = runtime(path, images)
    # The runtimes' errors share no class but Exception; they are all about the exported model.
    except Exception as problem:
        raise ModelError(
            f"the export of {model.path} as {kind} does not run: {first_line(problem)}"
        ) from problem
    return rows


def _ask_litert(path: Path, images: Array) -> Array:
    return litert.LiteRT(path.name, path.read_bytes()).predict_on_batch(images)


def _ask_onnx(path: Path, images: Array) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (end,) = session.get_inputs()
    rows: Array = session.run(None, {end.name: images.astype(np.float32)})[0]
    return rows


def _ask_saved_model(path: Path, images: Array) -> Array:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    (rows,) = loaded.signatures["serving_default"](tf.constant(images, tf.float32)).values()
    return np.asarray(rows)


def _move(aside: Path, target: Path) -> None:
    """Put the result in its place; no rename replaces an old directory, so that is first moved aside."""
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
