"""Hostile and damaged model files: refused in one line, with nothing run and little allocated."""

import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models
from cifarcnn.errors import ModelError
from cifarcnn.models import modelfile, modelguard

Config = dict[str, Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of ours."""
    return models.save_tiny(tmp_path_factory.mktemp("good") / "good.keras")


@pytest.mark.slow
def test_code_in_a_model_is_not_run(tmp_path: Path) -> None:
    """A model that writes a file when loaded does so under unsafe loading, and does not through ours."""
    trace = tmp_path / "written-by-the-model"
    code = eval(f"lambda x: (__import__('pathlib').Path({str(trace)!r}).touch(), x)[1]")
    evil = tmp_path / "evil.keras"
    models.tiny(keras.layers.Dense(10, activation="softmax"), keras.layers.Lambda(code)).save(evil)
    trace.unlink()

    assert models.plain_keras(evil, safe=False).returncode == 0
    assert trace.exists()
    trace.unlink()

    with pytest.raises(ModelError, match=r"contains keras\.layers\.Lambda.*could run code"):
        modelfile.load(evil)
    assert not trace.exists()


def replace_layer(module: object, name: object, registered: object = None) -> Callable[[Config], None]:
    """An edit that makes the second layer something else."""

    def edit(config: Config) -> None:
        layer = config["config"]["layers"][1]
        layer.update(module=module, class_name=name, registered_name=registered)

    return edit


def set_in_layer(number: int, **values: object) -> Callable[[Config], None]:
    """An edit of one layer's own settings."""
    return lambda config: config["config"]["layers"][number]["config"].update(values)


def many_filters(config: Config) -> None:
    """Ask for a convolution of a billion filters, without the sizes that contradict it."""
    for layer in config["config"]["layers"]:
        layer.pop("build_config", None)
    config["config"]["layers"][2]["config"]["filters"] = 10**9


HOSTILE_CONFIGS = {
    "lambda": (replace_layer("keras.layers", "Lambda"), r"keras\.layers\.Lambda"),
    "saved-model": (replace_layer("keras.layers", "TFSMLayer"), r"TFSMLayer"),
    "builtin": (replace_layer("builtins", "eval"), r"builtins\.eval"),
    "other-package": (replace_layer("os", "system"), r"os\.system"),
    "keras-utility": (replace_layer("keras.utils", "get_file"), r"get_file"),
    "legacy-without-module": (replace_layer(None, "Lambda"), r"contains Lambda"),
    "array-of-objects": (
        set_in_layer(1, scale={"class_name": "__numpy__", "config": {"value": [1], "dtype": "object"}}),
        "contains __numpy__",
    ),
    "registered-elsewhere": (replace_layer("keras.layers", "Dense", "evil>Dense"), r"keras\.layers\.Dense"),
    "class-is-no-name": (replace_layer("keras.layers", ["Dense"]), "not among the stock parts"),
    "function": (
        set_in_layer(2, activation={"module": "builtins", "class_name": "function", "config": "exec"}),
        r"builtins\.function",
    ),
    "python-code": (set_in_layer(2, activation={"class_name": "__lambda__", "config": {}}), "__lambda__"),
    "not-a-model": (
        lambda config: config.update(module="keras.layers", class_name="Dense"),
        "expected a Keras",
    ),
    "huge-filters": (many_filters, "declares 38,000,000,010 parameters"),
    "huge-build": (
        lambda config: config["config"]["layers"][4].update(build_config={"input_shape": [None, 10**12]}),
        "Keras cannot load",
    ),
    "huge-input": (
        set_in_layer(0, batch_shape=[None, 10**6, 10**6, 3]),
        r"takes input of shape \(None, 1000000",
    ),
    "negative": (set_in_layer(2, filters=-3), "Keras cannot load"),
    "wrong-type": (set_in_layer(2, filters={"a": "b"}), "Keras cannot load"),
    "unknown-setting": (set_in_layer(2, surprise=1), "Keras cannot load"),
    "no-layers": (lambda config: config["config"].pop("layers"), "Keras cannot load"),
}


@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_hostile_descriptions_are_refused(name: str, good: Path, tmp_path: Path) -> None:
    """Names outside stock Keras, huge sizes and nonsense are one-line errors."""
    edit, reason = HOSTILE_CONFIGS[name]
    hostile = models.edited(tmp_path / "hostile.keras", good, edit)
    with pytest.raises(ModelError, match=reason) as caught:
        modelfile.load(hostile)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("depth", "reason"), [(100, "nested more than 64 deep"), (100_000, "not readable JSON")]
)
def test_deep_descriptions_are_refused(depth: int, reason: str, good: Path, tmp_path: Path) -> None:
    """A description nested without end does not exhaust the stack."""
    content = models.members(good)
    config = content["config.json"].replace(b'"name": "tiny"', b'"name": ' + b"[" * depth + b"]" * depth)
    hostile = models.write(tmp_path / "deep.keras", {**content, "config.json": config})
    with pytest.raises(ModelError, match=reason):
        modelfile.load(hostile)


def test_large_outputs_are_refused_before_they_are_computed(tmp_path: Path) -> None:
    """A layer that blows images up is found from its shape."""
    inputs = keras.Input((32, 32, 3))
    large = keras.layers.UpSampling2D(64)(inputs)
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalAveragePooling2D()(large))
    keras.Model(inputs, outputs).save(tmp_path / "large.keras")
    with pytest.raises(ModelError, match=r"puts out \(2048, 2048, 3\)"):
        modelfile.load(tmp_path / "large.keras")


def test_foreign_files_are_named(good: Path, tmp_path: Path) -> None:
    """What is no Keras archive is refused by what it is."""
    models.tiny().save_weights(tmp_path / "model.weights.h5")
    cases = {
        "model.weights.h5": (
            None,
            r"HDF5 file of weights without their network; .*cifarcnn import .* --arch",
        ),
        "model.h5": (
            b"\x89HDF\r\n\x1a\n",
            r"HDF5 file; make a \.keras file of it: cifarcnn import .*model\.h5 --o",
        ),
        "model.keras": (pickle.dumps({"a": 1}), "a pickle"),
        "text.keras": (b"hello there\n", "a text file"),
        "empty.keras": (b"", "empty"),
        "picture.keras": (b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture"),
        "model.tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "not opened"),
        "noise.keras": (bytes(range(128, 256)), "no Keras file"),
        "cut.keras": (good.read_bytes()[:-100], "cut short"),
        "more.keras": (good.read_bytes() + b"more", "foreign data at its end"),
        "flipped.keras": (good.read_bytes().replace(b'"filters": 8', b'"filters": 9'), "damaged"),
    }
    for name, (content, reason) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=reason):
            modelfile.load(tmp_path / name)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A FIFO without a writer and a device are refused instead of waited for."""
    os.mkfifo(tmp_path / "fifo.keras")
    for path in (tmp_path / "fifo.keras", Path("/dev/zero")):
        with pytest.raises(ModelError, match="not a regular file"):
            modelfile.load(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../../outside.txt", b"x"),
        ("/tmp/outside.txt", b"x"),
        ("assets/vocabulary.txt", b"x"),
        ("model.weights.npz", b"x"),
    ],
)
def test_other_members_are_refused(name: str, content: bytes, good: Path, tmp_path: Path) -> None:
    """An archive holds what ours hold, so nothing can be unpacked elsewhere."""
    hostile = models.write(tmp_path / "hostile.keras", {**models.members(good), name: content})
    with pytest.raises(ModelError, match="not opened"):
        modelfile.load(hostile)
    assert os.listdir(tmp_path) == ["hostile.keras"]


def test_bombs_are_not_unpacked(good: Path, tmp_path: Path) -> None:
    """Members that unpack to far more than they take, and directories of many members, are refused."""
    content = models.members(good)
    bomb = {**content, "model.weights.h5": bytes(64 << 20)}
    with pytest.raises(ModelError, match="too much to open safely"):
        modelfile.load(models.write(tmp_path / "bomb.keras", bomb, zipfile.ZIP_DEFLATED))
    large = {**content, "config.json": os.urandom(17 << 20)}
    with pytest.raises(ModelError, match="too much to open safely"):
        modelfile.load(models.write(tmp_path / "large.keras", large))
    many = models.write(tmp_path / "many.keras", {f"{number}": b"" for number in range(2000)})
    with pytest.raises(ModelError, match="outsized archive directory"):
        modelfile.load(many)


def test_twofold_and_missing_members_are_refused(good: Path, tmp_path: Path) -> None:
    """Two members of one name could show a checker one and Keras the other."""
    content = models.members(good)
    path = models.write(tmp_path / "twice.keras", content)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", content["config.json"])
    with pytest.raises(ModelError, match="a member twice"):
        modelfile.load(path)
    del content["model.weights.h5"]
    with pytest.raises(ModelError, match=r"lacks model\.weights\.h5"):
        modelfile.load(models.write(tmp_path / "less.keras", content))


def hostile_weights(path: Path, name: str) -> None:
    """Write HDF5 weights with one trick in them."""
    with h5py.File(path, "w") as file:
        if name == "link":
            file["layers"] = h5py.ExternalLink("/etc/passwd", "/")
        elif name == "soft":
            file["layers"] = h5py.SoftLink("/elsewhere")
        elif name == "loop":
            file.create_group("layers")["again"] = file["/"]
        elif name == "external":
            file.create_dataset("0", (4,), "u1", external=[("/etc/passwd", 0, 4)])
        elif name == "huge":
            file.create_dataset("0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024), compression="gzip")
        elif name == "chunk":
            file.create_dataset("0", (10,), "f4", maxshape=(None,), chunks=(1 << 28,), compression="gzip")
        elif name == "objects":
            file.create_dataset("0", (1,), h5py.string_dtype())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("link", "lie outside it"),
        ("soft", "lie outside it"),
        ("external", "lie outside it"),
        ("loop", "too many weights"),
        ("huge", "too many weights"),
        ("chunk", "too many weights"),
        ("objects", "are not numbers"),
        ("nothing", "Keras cannot load"),
    ],
)
def test_hostile_weights_are_refused(name: str, reason: str, good: Path, tmp_path: Path) -> None:
    """Weights that point elsewhere, never end, would take terabytes or are missing do not load."""
    hostile_weights(tmp_path / "weights.h5", name)
    content = {**models.members(good), "model.weights.h5": (tmp_path / "weights.h5").read_bytes()}
    with pytest.raises(ModelError, match=reason):
        modelfile.load(models.write(tmp_path / "hostile.keras", content))


Mutation = list[tuple[float, int, bool]]
MUTATIONS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.booleans()), min_size=1, max_size=6)
MEMBERS = st.sampled_from([None, modelguard.CONFIG, modelguard.WEIGHTS, modelguard.OUR_METADATA])


def mutate(data: bytes, mutations: Mutation) -> bytes:
    """Replace single bytes, or cut from there to the same distance before the end."""
    changed = bytearray(data)
    for place, value, cut in mutations:
        at = int(place * (len(changed) - 1))
        changed[at : at + (value if cut else 1)] = [] if cut else [value]
    return bytes(changed)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations=MUTATIONS, member=MEMBERS)
def test_damaged_models_are_answers_or_reasons(good: Path, mutations: Mutation, member: str | None) -> None:
    """Random damage to a file, or to one member of a sound archive, never ends in a traceback."""
    damaged = good.parent / "damaged.keras"
    if member is None:
        damaged.write_bytes(mutate(good.read_bytes(), mutations))
    else:
        content = models.members(good)
        models.write(damaged, {**content, member: mutate(content[member], mutations)})
    result: tuple[int, ...] | str
    try:
        result = modelfile.load(damaged).probabilities(models.pixels(2)).shape
    except ModelError as problem:
        result = str(problem)
    assert result == (2, 10) or (isinstance(result, str) and "\n" not in result)


def declare(path: Path, name: str, size: int) -> Path:
    """Let a zip's directory claim that a member unpacks to so many bytes."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))
    data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    path.write_bytes(data)
    return path


def test_a_member_is_unpacked_no_further_than_it_declares(good: Path, tmp_path: Path) -> None:
    """A bomb that lies about its size costs what it declares, not what it holds."""
    content = {**models.members(good), "config.json": bytes(64 << 20)}
    path = models.write(tmp_path / "liar.keras", content, zipfile.ZIP_DEFLATED)
    declare(path, "config.json", 10)
    tracemalloc.start()
    with pytest.raises(ModelError):
        modelguard.read_members(path, "config.json")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_damaged_compression_is_one_line(good: Path, tmp_path: Path) -> None:
    """Whichever byte of a packed member is changed, it is read or refused."""
    path = models.write(tmp_path / "packed.keras", models.members(good), zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    refused = 0
    for position in range(60, 160):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            modelguard.read_members(path, *modelguard.LARGEST_MEMBER)
        except ModelError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_metadata_that_is_no_json_is_refused(number: str, good: Path, tmp_path: Path) -> None:
    """Python would read it, and then could not show it in a document."""
    content = {**models.members(good), "cifarcnn.json": f'{{"note": {number}}}'.encode()}
    with pytest.raises(ModelError, match=r"cifarcnn\.json is not readable JSON"):
        modelfile.read_metadata(models.write(tmp_path / "odd.keras", content))
