"""Models from elsewhere: old files in every form answer as they did, and nothing of hostile ones is run."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from click.testing import CliRunner

import models
from cifarcnn import architectures
from cifarcnn.cli.main import cli
from cifarcnn.errors import CifarCNNError, ModelError, UsageError
from cifarcnn.models import importing, modelfile

layers = keras.layers
IMAGES = models.pixels(8)


def classic(*end: keras.layers.Layer) -> keras.Model:
    """A network as people wrote it: every kind of layer that an order of axes matters to."""
    keras.utils.set_random_seed(3)
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(6, (3, 5), strides=2, padding="same", name="conv1"),
            layers.BatchNormalization(name="norm1"),
            layers.LeakyReLU(0.2, name="leaky"),
            layers.ZeroPadding2D(((1, 0), (2, 0)), name="pad"),
            layers.SeparableConv2D(8, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D((2, 3), name="pool"),
            layers.Dropout(0.5, name="dropout"),
            layers.Flatten(name="flatten"),
            layers.BatchNormalization(name="norm2"),
            *(end or (layers.Dense(10, activation="softmax", name="dense"),)),
        ],
        name="classic",
    )
    generator = np.random.default_rng(0)
    for weight in network.weights:
        if "norm1" in weight.path or weight.name == "bias":
            weight.assign(generator.uniform(0.5, 1.5, weight.shape).astype(np.float32))
    return network


def write_old(
    path: Path, network: keras.Model, *, config: bool = True, optimizer: bool = False, first: bool = False
) -> Path:
    """Write a file as Keras 2 did."""
    with h5py.File(path, "w") as file:
        weights = file
        if config:
            file.attrs["model_config"] = json.dumps(models.old_config(network, channels_first=first)).encode()
            file.attrs["keras_version"] = b"2.3.1"
            weights = file.create_group("model_weights")
        models.old_weights(weights, network, channels_first=first)
        if optimizer:
            file.create_group("optimizer_weights")["training/Adam/iterations:0"] = np.int64(7)
    return path


def answers(path: Path) -> np.ndarray:
    """What an imported model says."""
    return modelfile.load(path).probabilities(IMAGES)


@pytest.mark.parametrize("first", [False, True], ids=["channels-last", "channels-first"])
def test_whole_models_of_keras_2(first: bool, tmp_path: Path) -> None:
    """Configuration and weights, in both orders of the axes, give the network's own answers."""
    network = classic()
    # norm2 has a weight for each number that Flatten gives, which the old order would permute as well.
    old = write_old(tmp_path / "old.h5", network, optimizer=first, first=first)
    result = importing.import_model(str(old), tmp_path / "new.keras", pixels="0-1")
    assert result.found == "a model of Keras 2.3.1"
    assert result.classes[0] == "airplane"
    expected = network.predict_on_batch(IMAGES / 255)
    np.testing.assert_allclose(answers(result.path), expected, atol=1e-5)
    said = " ".join(result.changes)
    assert "(0-1) in front" in said
    assert ("optimizer" in said, "channels_first" in said) == (first, first)
    assert modelfile.load(result.path).keras.get_layer("conv1").data_format == "channels_last"


def test_flatten_that_knows_the_order_needs_no_permutation(tmp_path: Path) -> None:
    """Later versions of Keras 2 put the channels last before they flattened."""
    network = classic()
    config = models.old_config(network, channels_first=True)
    config["config"]["layers"][7]["config"]["data_format"] = "channels_first"
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        models.old_weights(file.create_group("model_weights"), network)
    result = importing.import_model(tmp_path / "old.h5", tmp_path / "new.keras")
    np.testing.assert_allclose(answers(result.path), network.predict_on_batch(IMAGES), atol=1e-5)


def branched() -> keras.Model:
    """A network with a shortcut and two ways to its end."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="one")(inputs)
    both = layers.Concatenate(name="both")([x, layers.Activation("relu", name="relu")(x)])
    flat = layers.Flatten(name="flat")(layers.AveragePooling2D(8, name="pool")(both))
    mean = layers.GlobalAveragePooling2D(name="mean")(both)
    x = layers.Concatenate(name="ends")([flat, mean])
    return keras.Model(inputs, layers.Dense(3, name="scores")(x), name="branched")


def old_graph(network: keras.Model, *, first: bool) -> dict[str, Any]:
    """Describe a functional network as Keras 2 did."""
    sequential = models.old_config(network, channels_first=first)["config"]["layers"]
    for entry, layer in zip(sequential, network.layers, strict=True):
        sources = [tensor._keras_history.operation.name for tensor in layer._inbound_nodes[0].input_tensors]
        entry["name"] = layer.name
        entry["inbound_nodes"] = [[[name, 0, 0, {}] for name in sources]] if sources else []
        entry["config"].pop("batch_shape", None)
        if layer.name == "both":
            entry["config"]["axis"] = 1 if first else -1
    return {
        "class_name": "Model",
        "config": {
            "name": "branched",
            "layers": sequential,
            "input_layers": [["image", 0, 0]],
            "output_layers": [["scores", 0, 0]],
        },
    }


@pytest.mark.parametrize("first", [False, True], ids=["channels-last", "channels-first"])
def test_functional_models_that_end_in_logits(first: bool, tmp_path: Path) -> None:
    """A graph keeps its edges; three classes are named by number; a softmax is put at the end."""
    network = branched()
    kernel = np.asarray(network.get_layer("scores").kernel)
    stored = branched()
    if first:
        flat = kernel[:128].reshape(4, 4, 8, 3).transpose(2, 0, 1, 3).reshape(128, 3)
        stored.get_layer("scores").kernel.assign(np.concatenate([flat, kernel[128:]]))
    with h5py.File(tmp_path / "old.hdf5", "w") as file:
        file.attrs["model_config"] = json.dumps(old_graph(network, first=first))
        models.old_weights(file.create_group("model_weights"), stored)
    result = importing.import_model(tmp_path / "old.hdf5", tmp_path / "new.keras", pixels="120,60")
    assert "put a softmax at its end" in result.changes
    assert result.classes == ("class 0", "class 1", "class 2")
    logits = network.predict_on_batch(((IMAGES - 120.0) / 60).astype(np.float32))
    np.testing.assert_allclose(answers(result.path), np.asarray(keras.ops.softmax(logits)), atol=1e-5)


def test_weights_alone_need_their_network(tmp_path: Path) -> None:
    """Its name, or its JSON beside them; with neither, or the wrong one, a line says so."""
    network = classic()
    old = write_old(tmp_path / "old.h5", network, config=False)
    with pytest.raises(
        UsageError, match=r"weights of Keras 2\.3\.1 without their network; name it with --arch"
    ):
        importing.import_model(old, tmp_path / "new.keras")
    with pytest.raises(ModelError, match="holds weights of 5 layers, but the network vgg2 has 8"):
        importing.import_model(old, tmp_path / "new.keras", arch="vgg2")
    (tmp_path / "old.json").write_text(json.dumps(models.old_config(network)))
    result = importing.import_model(old, tmp_path / "new.keras")
    assert result.found.endswith("its configuration in old.json")
    np.testing.assert_allclose(answers(result.path), network.predict_on_batch(IMAGES), atol=1e-5)
    (tmp_path / "old.json").write_text("[]")
    with pytest.raises(ModelError, match="its configuration is not a JSON object"):
        importing.import_model(old, tmp_path / "other.keras")


@pytest.mark.parametrize("of_keras_3", [False, True], ids=["keras-2", "keras-3"])
def test_weights_of_a_known_architecture(of_keras_3: bool, tmp_path: Path) -> None:
    """Layers of other names are taken in order; its normalisation becomes that of the pixels."""
    network = architectures.build("plain6")
    if of_keras_3:
        path = tmp_path / "old.weights.h5"
        network.save_weights(path)
    else:
        bare = keras.Sequential([keras.Input((32, 32, 3)), *keras.models.clone_model(network).layers[2:]])
        bare.set_weights(network.get_weights())
        for layer in bare.layers:
            layer.name = f"old_{layer.name}"
        path = write_old(tmp_path / "old.h5", bare, config=False)
    result = importing.import_model(
        path, tmp_path / "new.keras", arch="plain6", pixels="125,122,113,63,62,66"
    )
    assert result.found == f"weights of {'Keras 3' if of_keras_3 else 'Keras 2.3.1'} without their network"
    normalised = (IMAGES - np.float32([125, 122, 113])) / np.float32([63, 62, 66])
    inner = keras.Model(network.layers[2].input, network.output)
    np.testing.assert_allclose(answers(result.path), inner.predict_on_batch(normalised), atol=1e-5)
    assert modelfile.read_metadata(result.path)["arch"] == "plain6"


def test_keras_files_get_what_they_lack(tmp_path: Path) -> None:
    """The preparation of the pixels and the softmax of TensorFlow's own tutorial."""
    keras.utils.set_random_seed(5)
    network = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(10)]
    )
    network.save(tmp_path / "tutorial.keras")
    result = importing.import_model(tmp_path / "tutorial.keras", tmp_path / "new.keras", pixels="0-1")
    assert result.changes == ("put the preparation of its pixels (0-1) in front", "put a softmax at its end")
    expected = np.asarray(keras.ops.softmax(network.predict_on_batch(IMAGES / 255)))
    np.testing.assert_allclose(answers(result.path), expected, atol=1e-5)
    assert modelfile.load(result.path).warnings == ()


def test_keras_files_with_channels_first_are_turned(tmp_path: Path) -> None:
    """Keras 3 writes such files too, though TensorFlow cannot run them on a CPU."""
    network = classic()
    network.save(tmp_path / "last.keras")

    def turn(config: dict[str, Any]) -> None:
        for layer in config["config"]["layers"]:
            layer.pop("build_config", None)
            if "data_format" in layer["config"]:
                layer["config"]["data_format"] = "channels_first"
            if layer["config"]["name"] == "norm1":
                layer["config"]["axis"] = 1
        config["config"]["layers"][0]["config"]["batch_shape"] = [None, 3, 32, 32]

    path = models.edited(tmp_path / "first.keras", tmp_path / "last.keras", turn)
    result = importing.import_model(path, tmp_path / "new.keras")
    np.testing.assert_allclose(answers(result.path), network.predict_on_batch(IMAGES), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "at_zero", "at_255"),
    [
        ("0-255", [0], [255]),
        ("0-1", [0], [1]),
        ("127.5,127.5", [-1], [1]),
        ("0.5,0.5", [-1], [1]),
        ("100,120,140,50,60,70", [-2, -2, -2], [3.1, 2.25, 115 / 70]),
    ],
)
def test_preparations_of_pixels(text: str, at_zero: list[float], at_255: list[float]) -> None:
    """Each form, in both units, at the ends of the scale."""
    found = importing.parse_pixels(text)
    assert found is not None
    scale, offset = np.atleast_1d(found.scale), np.atleast_1d(found.offset)
    np.testing.assert_allclose(offset, at_zero, atol=1e-9)
    np.testing.assert_allclose(255 * scale + offset, at_255, atol=1e-9)


@pytest.mark.parametrize("text", ["", "0-2", "1,2,3", "1,0", "1,-2", "nan,1", "1,inf", "1,2,3,4"])
def test_other_preparations_are_refused(text: str, tmp_path: Path) -> None:
    """Said with the forms there are, before anything is read."""
    with pytest.raises(UsageError, match="expected 0-255, 0-1, MEAN,STD or three means"):
        importing.import_model(tmp_path / "none.h5", tmp_path / "new.keras", pixels=text)


Edit = Callable[[dict[str, Any]], object]
HOSTILE: dict[str, tuple[Edit, str]] = {
    "lambda": (
        lambda config: config["config"]["layers"][2].update(
            class_name="Lambda", config={"name": "f", "function": ["4wEAAAA=", None, None]}
        ),
        r"contains keras\.layers\.Lambda, which is not among the stock parts",
    ),
    "custom": (
        lambda config: config["config"]["layers"][2].update(class_name="MyLayer"),
        r"contains keras\.layers\.MyLayer",
    ),
    "module": (
        lambda config: config["config"]["layers"][2].update(module="os", class_name="system"),
        r"contains os\.system",
    ),
    "activation": (
        lambda config: config["config"]["layers"][0]["config"].update(activation={"class_name": "function"}),
        "contains function",
    ),
    "huge": (
        lambda config: config["config"]["layers"][0]["config"].update(filters=10**9),
        "parameters; at most|Keras cannot load",
    ),
    "no-network": (lambda config: config.update(class_name="Dense"), "describes a 'Dense'"),
    "no-layers": (lambda config: config["config"].pop("layers"), "is not one of Keras"),
    "layer-is-text": (lambda config: config["config"]["layers"].insert(1, "x"), "is not one of Keras"),
    "other-input": (
        lambda config: config["config"]["layers"][0]["config"].update(batch_input_shape=[None, 28, 28, 3]),
        "takes input of shape",
    ),
    "other-filters": (
        lambda config: config["config"]["layers"][0]["config"].update(filters=7),
        "have the shapes .* takes",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_configurations_are_refused(name: str, tmp_path: Path) -> None:
    """Code, foreign classes, huge sizes and nonsense: one line each, and no file."""
    edit, reason = HOSTILE[name]
    network = classic()
    config = models.old_config(network)
    edit(config)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        models.old_weights(file.create_group("model_weights"), network)
    with pytest.raises(ModelError, match=reason) as caught:
        importing.import_model(tmp_path / "old.h5", tmp_path / "new.keras")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new.keras").exists()


def test_hostile_weights_are_refused(tmp_path: Path) -> None:
    """Links out of the file, one array named a million times, endless texts, and what is no model."""

    def link(file: h5py.File) -> None:
        file["a"] = h5py.ExternalLink("/etc/passwd", "/")

    def again(file: h5py.File) -> None:
        file.attrs["layer_names"] = [b"a"]
        file.create_group("a")["w"] = np.zeros(1 << 20, np.float32)
        file["a"].attrs["weight_names"] = [b"w"] * 1_000

    def texts(file: h5py.File) -> None:
        file.attrs["x"] = "x" * (1 << 20)
        file.attrs.create("layer_names", ["a"] * 500, dtype=h5py.string_dtype())

    def nothing(file: h5py.File) -> None:
        file["a"] = np.zeros(3)

    def missing(file: h5py.File) -> None:
        file.attrs["layer_names"] = [b"a"]

    for edit, reason in (
        (link, "lie outside it"),
        (again, "declares too many weights"),
        (texts, "attribute layer_names of absurd size"),
        (nothing, "holds no weights of Keras"),
        (missing, "is damaged"),
    ):
        path = tmp_path / f"{edit.__name__}.h5"
        with h5py.File(path, "w") as file:
            edit(file)
        with pytest.raises(ModelError, match=reason):
            importing.import_model(path, tmp_path / "new.keras", arch="vgg2")


@pytest.mark.slow
def test_damaged_files_are_models_or_reasons(tmp_path: Path) -> None:
    """A byte changed anywhere ends in a model or in one line."""
    whole = write_old(tmp_path / "old.h5", classic()).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(25):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] = generator.integers(256)
        (tmp_path / "damaged.h5").write_bytes(damaged)
        try:
            importing.import_model(tmp_path / "damaged.h5", tmp_path / "new.keras", force=True)
        except CifarCNNError as problem:
            assert "\n" not in str(problem)  # noqa: PT017 - either outcome will do


def test_wrong_arguments_are_refused_at_once(tmp_path: Path) -> None:
    """Names, places and combinations that cannot be."""
    old = write_old(tmp_path / "old.h5", classic())
    models.tiny().save(tmp_path / "m.keras")
    (tmp_path / "there.keras").write_text("kept")
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    for model, output, arch, reason in (
        (old, "new.h5", None, r"expected a name that ends in \.keras"),
        (old, "there.keras", None, "is there already"),
        (old, "no/new.keras", None, "there is no directory"),
        (old, "new.keras", "vgg9", "unknown architecture"),
        (old, "new.keras", "vgg2", "describes its own network; leave --arch out"),
        (tmp_path / "m.keras", "new.keras", "vgg2", "describes its own network; leave --arch out"),
        (tmp_path / "m.tflite", "new.keras", None, "needs no import"),
    ):
        with pytest.raises(UsageError, match=reason):
            importing.import_model(model, tmp_path / output, arch=arch)
    assert (tmp_path / "there.keras").read_text() == "kept"


def test_scores_that_are_neither_logits_nor_probabilities_are_refused(tmp_path: Path) -> None:
    """A softmax over sigmoids would say something else than the network; NaN says nothing."""
    sigmoid = classic(layers.Dense(10, activation="sigmoid", name="dense"))
    broken = classic(layers.Dense(10, name="dense"))
    broken.get_layer("dense").bias.assign(np.full(10, math.nan, np.float32))
    for network, reason in ((sigmoid, "is not probabilities"), (broken, "not finite numbers")):
        old = write_old(tmp_path / "old.h5", network)
        with pytest.raises(ModelError, match=reason):
            importing.import_model(old, tmp_path / "new.keras")


def test_the_command(tmp_path: Path) -> None:
    """It says what it found, what it did, and what comes next; or one document."""
    old, new = write_old(tmp_path / "old.h5", classic(), optimizer=True), tmp_path / "new.keras"
    done = CliRunner().invoke(cli, ["import", str(old), "--output", str(new), "--pixels", "0-1"])
    assert done.exit_code == 0, done.stderr
    first, optimizer, pixels, wrote, following = done.stdout.splitlines()
    assert first == f"{old}: a model of Keras 2.3.1"
    assert optimizer == "  left out the optimizer's state"
    assert pixels == "  put the preparation of its pixels (0-1) in front"
    assert wrote.startswith(f"wrote {new}: ")
    assert wrote.endswith(" parameters, 10 classes")
    assert following == f"next:  cifarcnn evaluate {new}"
    done = CliRunner().invoke(cli, ["import", str(old), "--output", str(new), "--force", "--json"])
    document = json.loads(done.stdout)
    assert (document["schema"], document["path"], document["found"]) == (
        1,
        str(new),
        "a model of Keras 2.3.1",
    )
