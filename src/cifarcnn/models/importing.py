"""Other people's models: Keras 2's ``.h5`` files, weights alone, and networks that expect prepared pixels.

A file is read as JSON and arrays, with h5py alone; stock layers are built from it, behind ``modelguard``.
"""

import hashlib
import io
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarcnn import architectures
from cifarcnn.errors import ModelError, UsageError, reason
from cifarcnn.machine import backend, files
from cifarcnn.models import kerasconfig, kerasfile, litert, modelfile, modelguard

if TYPE_CHECKING:
    import h5py
    import keras

    from cifarcnn.metrics import Array

RAW = "0-255"
TURNED = "turned channels_first round: channels stand last"
LARGEST_ATTRIBUTE = 256 << 20
LARGEST_CONFIGURATION = 16 << 20
MOST_PIECES = 1_000

StoredLayer = tuple[str, list["Array"]]
"""A layer's name, and its arrays in the order of Keras's own."""


@dataclass(frozen=True)
class Import:
    """A model that was imported.

    Args:
        path: the ``.keras`` file that was written.
        found: what the file turned out to be.
        changes: what was done to it.
        params: the number of its parameters.
        classes: what its outputs stand for.
        warnings: what a user should know before believing in its figures.
    """

    path: Path
    found: str
    changes: tuple[str, ...]
    params: int
    classes: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_document(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"schema": 1, **asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class Pixels:
    """How a network's pixels were prepared: ``pixels * scale + offset``, each one number or one a channel."""

    text: str
    scale: float | list[float]
    offset: float | list[float]


def import_model(
    model: str | Path,
    output: str | Path,
    *,
    arch: str | None = None,
    pixels: str | None = None,
    force: bool = False,
) -> Import:
    """Make a ``.keras`` file that every command takes out of a model from elsewhere.

    Args:
        model: a ``.h5`` or ``.hdf5`` file of Keras 2 or 3, or a ``.keras`` file. The configuration of
            weights alone may lie beside them as a ``.json`` file.
        output: where to; the name ends in ``.keras``.
        arch: the architecture that weights alone belong to.
        pixels: what its training did to pixels outside the network: "0-255" (nothing), "0-1" (division by
            255), "M,S" (mean and deviation) or "M,M,M,S,S,S". Without it, nothing, or what ``arch`` does.
        force: replace ``output``.

    Raises:
        UsageError: an argument is wrong, or does not go with this file.
        ModelError: the file is damaged, unsafe, or no image classifier that can be used.
    """
    target, prepared = Path(output), parse_pixels(pixels)
    if target.suffix != ".keras":
        raise UsageError(f"cannot write a model as {target}; expected a name that ends in .keras")
    if os.path.lexists(target) and not force:
        raise UsageError(f"{target} is there already; give another name with --output, or --force")
    files.check_place(target)
    if arch is not None:
        architectures.find(arch)
    path = modelfile.resolve(Path(model))
    if litert.is_litert(path):
        raise UsageError(
            f"{path} is a LiteRT file, which needs no import: cifarcnn evaluate takes it as it is"
        )
    data = modelguard.read_whole(path)
    backend.hardware()
    from_hdf5 = data.startswith(modelguard.HDF5_MARK)
    network, found, changes = _from_hdf5(path, data, arch) if from_hdf5 else _from_archive(path, arch)
    network, more = _finished(path, network, prepared, arch)
    facts = {"imported_from": hashlib.sha256(data).hexdigest(), "arch": arch, "pixels": pixels}
    try:
        modelfile.save(network, target, {name: text for name, text in facts.items() if text is not None})
    except OSError as problem:
        raise ModelError(
            f"cannot write {target}: {reason(problem)}; choose another place with --output"
        ) from problem
    opened = modelfile.load(target)
    return Import(target, found, (*changes, *more), network.count_params(), opened.classes, opened.warnings)


def parse_pixels(text: str | None) -> Pixels | None:
    """Read how pixels were prepared.

    Means and standard deviations are of pixels of 0 to 255 or, where none exceeds 1, of 0 to 1.

    Raises:
        UsageError: it is none of the forms.
    """
    if text is None or text == RAW:
        return None if text is None else Pixels(text, 1.0, 0.0)
    if text == "0-1":
        return Pixels(text, 1 / 255, 0.0)
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    half = len(numbers) // 2
    means, deviations = numbers[:half], numbers[half:]
    if len(numbers) not in (2, 6) or not all(map(math.isfinite, numbers)) or min(deviations) <= 0:
        raise UsageError(
            f"--pixels is {text!r}; expected 0-255, 0-1, MEAN,STD or three means and three deviations"
        )
    unit = 255 if max(map(abs, numbers)) <= 1 else 1
    scale = [1 / (unit * deviation) for deviation in deviations]
    offset = [-mean / deviation for mean, deviation in zip(means, deviations, strict=True)]
    return Pixels(text, scale[0], offset[0]) if half == 1 else Pixels(text, scale, offset)


Found = tuple["keras.Model", str, list[str]]
"""A network, what it was found in, and what was changed."""


def _from_archive(path: Path, arch: str | None) -> Found:
    """Open a ``.keras`` file that need not end in probabilities."""
    if arch is not None:
        raise UsageError(f"{path} describes its own network; leave --arch out")
    config, weights = kerasfile.read(path)
    modelguard.check_config(path, config)
    changes = []
    if kerasconfig.has_channels_first(config):
        config = kerasconfig.translate(path, config)
        modelguard.check_config(path, config)
        changes.append(TURNED)
    return kerasfile.build(path, config, weights), "a Keras 3 model", changes


def _from_hdf5(path: Path, data: bytes, arch: str | None) -> Found:
    """Open an HDF5 file of weights, with or without the network's configuration."""
    text, version, layers, of_keras_3, left_out = _read_hdf5(path, data)
    writer = f"Keras {version.decode()[:20]}" if version else "Keras 3" if of_keras_3 else "Keras 2"
    found = f"a model of {writer}" if text is not None else f"weights of {writer} without their network"
    changes = ["left out the optimizer's state"] if left_out else []
    if text is None and arch is None:
        beside = path.with_name(f"{path.name.removesuffix(path.suffix).removesuffix('.weights')}.json")
        if not beside.exists():
            raise UsageError(
                f"{path} holds {found}; name it with --arch, or put what model.to_json() gives into {beside}"
            )
        with modelguard.open_regular(beside) as configuration:
            text = configuration.read(LARGEST_CONFIGURATION)
        found += f", its configuration in {beside.name}"
    elif text is not None and arch is not None:
        raise UsageError(f"{path} describes its own network; leave --arch out")
    if text is None:
        network = architectures.build(str(arch))
    else:
        network, turned = _built(path, text)
        changes += [TURNED] if turned else []
    if layers is not None:
        _assign(path, network, layers)
    else:
        with modelguard.place_to_try(path) as directory, kerasfile.loading(path):
            checked = directory / "checked.weights.h5"
            checked.write_bytes(data)
            network.load_weights(checked)
    return network, found, changes


def _built(path: Path, text: bytes) -> tuple["keras.Model", bool]:
    """Build the network of a configuration, and tell whether its channels stood first."""
    import keras

    read = modelguard.parse_json(path, "its configuration", text[:LARGEST_CONFIGURATION])
    config = modelguard.check_config(path, kerasconfig.translate(path, read))
    kerasfile.check_size(path, config)
    with kerasfile.loading(path):
        network: keras.Model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    return network, kerasconfig.has_channels_first(read)


def _read_hdf5(path: Path, data: bytes) -> tuple[bytes | None, bytes | None, Any, bool, bool]:
    """Read configuration, version and layers, and whether Keras 3 wrote them, and an optimizer's state."""
    import h5py

    modelguard.check_weights(path, data)
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            reader = _File(path, file, len(data))
            text, version = reader.attribute(file, "model_config"), reader.attribute(file, "keras_version")
            layers = reader.layers()
            of_keras_3 = layers is None and "layers" in file
            left_out = "optimizer_weights" in file or "optimizer" in file
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError) as problem:
        raise ModelError(f"the model {path} is damaged: {reason(problem)}; copy it again") from problem
    if layers is None and not of_keras_3:
        raise ModelError(f"{path} is an HDF5 file that holds no weights of Keras; expected a model")
    return text, version, layers, of_keras_3, left_out


class _File:
    """An HDF5 file whose links and sizes were checked, and what Keras wrote into its attributes."""

    def __init__(self, path: Path, file: "h5py.File", size: int) -> None:
        import h5py

        self.path, self.file = path, file
        self.texts = size
        """Bytes of the file that are no arrays."""

        def count(_name: str, item: "h5py.Group | h5py.Dataset") -> None:
            self.texts -= item.id.get_storage_size() if isinstance(item, h5py.Dataset) else 0

        file.visititems(count)

    def attribute(self, group: "h5py.Group", name: str) -> Any:
        """Read an attribute of bearable size, texts as bytes; None where there is none."""
        if name not in group.attrs:
            return None
        kind = group.attrs.get_id(name)
        # A text of any length lies elsewhere in the file, where a list may name it many times.
        each = self.texts if kind.dtype.hasobject else kind.dtype.itemsize
        if each * math.prod(kind.shape or ()) > LARGEST_ATTRIBUTE:
            raise ModelError(f"the model {self.path} has an attribute {name} of absurd size; not opened")
        value = group.attrs[name]
        return value.encode() if isinstance(value, str) else value

    def names(self, group: "h5py.Group", name: str) -> list[str] | None:
        """Read a list of names, which Keras divides among several attributes if it is long."""
        pieces = [name] if name in group.attrs else [f"{name}{number}" for number in range(MOST_PIECES)]
        pieces = [piece for piece in pieces if piece in group.attrs]
        found = [text for piece in pieces for text in self.attribute(group, piece).tolist()]
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in found]
        return texts if pieces else None

    def layers(self) -> list[StoredLayer] | None:
        """Read every layer that has weights, in the file's order; None where Keras 2 wrote none."""
        import numpy as np

        group = self.file.get("model_weights", self.file)
        if (layers := self.names(group, "layer_names")) is None:
            return None
        total, found = 0, []
        for layer in layers:
            names = self.names(group[layer], "weight_names") or []
            total += sum(group[layer][name].nbytes for name in names)
            if total > modelguard.LARGEST_FILE:
                raise ModelError(f"the model {self.path} declares too many weights; not opened")
            if names:
                found.append((layer, [np.asarray(group[layer][name], np.float32) for name in names]))
        return found


def _assign(path: Path, network: "keras.Model", stored: list[StoredLayer]) -> None:
    """Give a network the weights of a file: by the names of its layers if they agree, else in order."""
    own = [(layer, weights) for layer in network.layers if (weights := _weights(layer))]
    by_name = dict(stored)
    if by_name.keys() == {layer.name for layer, _ in own}:
        stored = [(layer.name, by_name[layer.name]) for layer, _ in own]
    if len(stored) != len(own):
        raise ModelError(
            f"the model {path} holds weights of {len(stored)} layers, but the network {network.name} has "
            f"{len(own)}; expected the network that they were trained in"
        )
    for (layer, weights), (name, found) in zip(own, stored, strict=True):
        # Keras 2 also stores how many values a Normalization has seen.
        arrays = found[: len(weights)] if type(layer).__name__ == "Normalization" else found
        shapes = [tuple(weight.shape) for weight in weights]
        if [array.shape for array in arrays] != shapes:
            raise ModelError(
                f"the weights of {name} in the model {path} have the shapes {[a.shape for a in arrays]}, but "
                f"{layer.name} of the network takes {shapes}"
            )
        for weight, array in zip(weights, arrays, strict=True):
            weight.assign(array)


def _weights(layer: "keras.Layer") -> "list[keras.Variable]":
    """List a layer's weights in the order of Keras 2, which stored no states of random generators."""
    weights = [*layer.trainable_weights, *layer.non_trainable_weights]
    return [weight for weight in weights if "seed_generator" not in weight.path]


def _finished(
    path: Path, network: "keras.Model", prepared: Pixels | None, arch: str | None
) -> tuple["keras.Model", list[str]]:
    """Put the preparation of the pixels before a network, and a softmax after it where it has none."""
    import keras
    import numpy as np

    changes = []
    whole = network
    if prepared is not None and arch is not None:
        layer = network.get_layer("normalize")
        layer.scale, layer.offset = prepared.scale, prepared.offset
        changes.append(f"set the normalisation of {arch} to {prepared.text}")
    elif prepared is not None and prepared.text != RAW:
        first = keras.Input((32, 32, 3), name="pixels_0_255")
        rescaling = keras.layers.Rescaling(prepared.scale, prepared.offset, name="prepare_pixels")
        with kerasfile.loading(path):
            if isinstance(network, keras.Sequential):
                whole = keras.Sequential([first, rescaling, *network.layers], name=network.name)
            else:
                whole = keras.Model(first, network(rescaling(first)), name=f"{network.name}_of_pixels")
        changes.append(f"put the preparation of its pixels ({prepared.text}) in front")
    rows = kerasfile.trial_answers(path, whole)
    activation = getattr(network.layers[-1], "activation", None)
    ends_in_logits = activation in (None, keras.activations.linear) and np.isfinite(rows).all()
    try:
        modelguard.check_probabilities(path, rows)
    except ModelError:
        if not ends_in_logits:
            raise
        softmax = keras.layers.Softmax(name="to_probabilities")
        whole = keras.Model(whole.inputs[0], softmax(whole.outputs[0]), name=network.name)
        changes.append("put a softmax at its end")
    return whole, changes
