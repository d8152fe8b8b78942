"""Descriptions of networks as Keras 2 wrote them, or with channels first, in the form that Keras 3 takes.

Only what a network computes is taken over. ``modelguard.check_config`` decides what is allowed.
"""

import copy
import json
from pathlib import Path
from typing import Any

from cifarcnn.errors import ModelError, first_line
from cifarcnn.models.modelguard import MODELS

Config = dict[str, Any]

DROPPED = {
    *("dtype", "batch_input_shape", "input_dtype", "build_config", "compile_config", "sparse", "ragged"),
    *("fused", "renorm", "renorm_clipping", "renorm_momentum", "virtual_batch_size", "adjustment"),
    *("implementation", "build_input_shape", "optional"),
}
"""Arguments of layers that Keras 3 does not know, or that change nothing here."""

DROPPED_ENDINGS = ("_initializer", "_regularizer", "_constraint")

RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}
CLASS_NAMES = {"BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization"}

FLATTENING = ("Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D")
"""Layers after which an image is a row of numbers."""

ANY_ORDER = {
    *("Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "Dropout", "ELU"),
    *("GaussianDropout", "GaussianNoise", "Identity", "InputLayer", "LeakyReLU", "Maximum", "Minimum"),
    *("Multiply", "ReLU", "Subtract"),
}
"""Layers that compute the same wherever the channels stand."""

TURNED_AXES = {1: 3, 2: 1, 3: 2, -1: 2, -2: 1, -3: 3}
"""Axes of (images, channels, rows, columns), and where they are in (images, rows, columns, channels)."""


def has_channels_first(config: Any) -> bool:
    """Tell whether a layer of a description takes images of (channels, rows, columns)."""
    return '"data_format": "channels_first"' in json.dumps(config)


def translate(path: Path, config: Any) -> Config:
    """Return a copy of a description, which may be any JSON, for Keras 3, with the channels last.

    Raises:
        ModelError: it is none of a network, or what it holds cannot be turned round.
    """
    try:
        return _model(path, copy.deepcopy(config), has_channels_first(config))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as problem:
        raise ModelError(
            f"the configuration of the model {path} is not one of Keras: {first_line(problem)}"
        ) from problem


def _model(path: Path, config: Any, channels_first: bool) -> Config:
    """Translate a whole network, or one that is a layer of another."""
    if config["class_name"] not in MODELS:
        raise ModelError(f"the model {path} describes a {config['class_name']!r}; expected a Keras model")
    sequential = config["class_name"] == "Sequential"
    inner = config["config"] if isinstance(config["config"], dict) else {"layers": config["config"]}
    entries = list(inner["layers"])
    if sequential and entries[0]["class_name"] != "InputLayer":
        shape = entries[0]["config"].get("batch_input_shape") or inner.get("build_input_shape")
        default = [None, 3, 32, 32] if channels_first else [None, 32, 32, 3]
        first = {"class_name": "InputLayer", "config": {"name": "pixels", "batch_shape": shape or default}}
        entries = [first, *entries]
    layers = [_layer(path, entry, channels_first) for entry in entries]
    if channels_first:
        layers = _turned(path, layers, sequential)
    made: Config = {"name": inner.get("name", "network"), "layers": layers}
    if not sequential:
        made |= {ends: inner[ends] for ends in ("input_layers", "output_layers")}
    return {
        "module": "keras" if sequential else "keras.src.models.functional",
        "class_name": "Sequential" if sequential else "Functional",
        "config": made,
        "registered_name": None,
    }


def _layer(path: Path, entry: Config, channels_first: bool) -> Config:
    """Translate a layer or an operation."""
    name: Any = CLASS_NAMES.get(entry["class_name"], entry["class_name"])
    graph = {key: entry[key] for key in ("name", "inbound_nodes") if key in entry}
    if name in MODELS:
        if channels_first:
            raise ModelError(f"the model {path} has channels first and a model within; not turned round")
        return _model(path, entry, channels_first) | graph
    module = entry.get("module") or "keras.layers"
    settings = entry["config"]
    if module == "keras.layers":
        settings = {
            RENAMED.get((name, key), key): value
            for key, value in settings.items()
            if key not in DROPPED and not key.endswith(DROPPED_ENDINGS)
        }
    if name == "InputLayer":
        shape = entry["config"].get("batch_shape") or entry["config"]["batch_input_shape"]
        settings = {"batch_shape": shape, "name": settings["name"]}
    if name == "BatchNormalization" and isinstance(settings.get("axis"), list):
        (settings["axis"],) = settings["axis"]
    made = {"module": module, "class_name": name, "config": settings}
    return made | {"registered_name": entry.get("registered_name")} | graph


def _turned(path: Path, layers: list[Config], sequential: bool) -> list[Config]:
    """Put the channels last: in the input, in every layer, and before what flattens them in their order."""
    flat: set[str] = set()
    turned: list[Config] = []
    before: list[str] = []
    for layer in layers:
        kind, settings = layer["class_name"], layer["config"]
        name = layer.get("name", settings["name"])
        before = before if sequential else _sources(layer.get("inbound_nodes"))
        is_flat = bool(before) and set(before) <= flat
        if is_flat or kind in FLATTENING:
            flat.add(name)
        if kind == "InputLayer":
            batch, channels, *sides = settings["batch_shape"]
            settings["batch_shape"] = [batch, *sides, channels]
        elif kind == "Flatten" and not is_flat and settings.get("data_format") != "channels_first":
            turned.append(_channels_first_again(layer, name))
        elif not is_flat and kind in ("BatchNormalization", "Concatenate"):
            settings["axis"] = TURNED_AXES[settings.get("axis", -1)]
        elif not is_flat and "data_format" not in settings and kind not in ANY_ORDER:
            raise ModelError(
                f"the model {path} has channels first and a {kind} of images, which cannot be turned round"
            )
        if "data_format" in settings:
            settings["data_format"] = "channels_last"
        turned.append(layer)
        before = [name]
    return turned


def _channels_first_again(flatten: Config, name: str) -> Config:
    """Return a layer to stand before this Flatten, so that what follows gets its numbers in the old order."""
    permute = f"{name}_channels_first"
    made: Config = {"module": "keras.layers", "class_name": "Permute", "registered_name": None}
    made["config"] = {"name": permute, "dims": [3, 1, 2]}
    if "inbound_nodes" in flatten:
        (node,) = flatten["inbound_nodes"]
        made |= {"name": permute, "inbound_nodes": [node]}
        flatten["inbound_nodes"] = [[[permute, 0, 0, {}]]]
    return made


def _sources(nodes: Any) -> list[str]:
    """Name the layers whose outputs a layer takes, as Keras 2 or Keras 3 wrote them."""
    if isinstance(nodes, dict):
        if nodes.get("class_name") == "__keras_tensor__":
            return [nodes["config"]["keras_history"][0]]
        nodes = list(nodes.values())
    if not isinstance(nodes, list):
        return []
    if len(nodes) >= 3 and isinstance(nodes[0], str) and isinstance(nodes[1], int):
        return [nodes[0]]
    return [name for node in nodes for name in _sources(node)]
