"""LiteRT files: asked as they can be; hostile and damaged ones refused in one line, this process alive."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import exports
import models
from cifarcnn.errors import ModelError
from cifarcnn.models import exporting, litert, modelfile, pretrained

pytestmark = exports.QUIET_CONVERTERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small network, ``good.tflite``."""
    folder = tmp_path_factory.mktemp("litert")
    exporting.convert(models.tiny(), "litert", folder / "good.tflite")
    exporting.attach("litert", folder / "good.tflite", {"arch": "tiny"})
    return folder


def refused(path: Path, reason: str) -> None:
    """Check that a model is refused in one line, for the reason given."""
    with pytest.raises(ModelError, match=reason) as caught:
        modelfile.load(path)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(folder: Path, tmp_path: Path) -> None:
    """Noise, nothing, a part of a file, and files that only pretend."""
    whole = (folder / "good.tflite").read_bytes()
    noise = np.random.default_rng(1).bytes(5000)
    for name, content in {
        "noise.tflite": noise,
        "empty.tflite": b"",
        "cut.tflite": whole[: len(whole) // 2],
        "start.tflite": b"\x1c\0\0\0TFL3" + noise,
        "start": b"\x1c\0\0\0TFL3" + bytes(100),
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, name)
        if name in ("noise.tflite", "empty.tflite"):  # refused without a runtime, too
            with pytest.raises(ModelError, match=name):
                modelfile.read_metadata(tmp_path / name)
    assert modelfile.read_metadata(folder / "good.tflite") == {"arch": "tiny"}
    os.mkfifo(tmp_path / "fifo.tflite")
    refused(tmp_path / "fifo.tflite", "not a regular file")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: models.tiny(side=28), r"maps float32 \(28, 28, 3\) .* per image; expected float32 \(32, 32"),
        (lambda: models.tiny(keras.layers.Dense(1, activation="sigmoid")), r"and float32 \(1,\) per image"),
        (lambda: models.tiny(keras.layers.Dense(10)), "not probabilities"),
        (lambda: models.tiny(keras.layers.Dense(10, activation="sigmoid")), "not probabilities"),
    ],
    ids=["side", "one", "logits", "sigmoid"],
)
def test_other_tasks_are_refused(network: Callable[[], keras.Model], reason: str, tmp_path: Path) -> None:
    """Other images, a single output, and scores that are no probabilities."""
    refused(exports.litert(network(), tmp_path / "other.tflite"), reason)


def concrete(path: Path, function: Callable[[tf.Tensor], tf.Tensor], batch: int | None = None) -> Path:
    """Convert a TensorFlow function of images, or of batches of a fixed size, to LiteRT."""
    spec = tf.TensorSpec((batch, 32, 32, 3), tf.float32)
    signature = tf.function(function, input_signature=[spec])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([signature.get_concrete_function()])
    path.write_bytes(converter.convert())
    return path


@pytest.mark.slow
def test_litert_graphs_of_other_operations_are_refused(tmp_path: Path) -> None:
    """A loop, chance, and a tensor that grows beyond measure."""

    def loop(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(
            tf.while_loop(lambda x: x[0, 0] < 1e30, lambda x: x * 1.0, [images[:, 0, :10, 0]])[0]
        )

    def chance(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(images[:, 0, :10, 0] + tf.random.uniform((10,)))

    refused(concrete(tmp_path / "loop.tflite", loop), "the operation|several graphs")
    refused(concrete(tmp_path / "chance.tflite", chance), "the operation")
    inputs = keras.Input((32, 32, 3))
    large = keras.layers.UpSampling2D(64, interpolation="bilinear")(inputs)
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalAveragePooling2D()(large))
    refused(
        exports.litert(keras.Model(inputs, outputs), tmp_path / "large.tflite"),
        "a tensor of more than|too large|damaged",
    )


def test_answers_that_depend_on_other_images_are_refused(tmp_path: Path) -> None:
    """Evaluation in batches and prediction one by one would disagree."""

    def mixing(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(images[:, 0, :10, 0] - tf.reduce_mean(images[:, 0, :10, 0], axis=0))

    refused(concrete(tmp_path / "mixing.tflite", mixing), "otherwise in another batch")


@pytest.mark.slow
def test_one_image_at_a_time(tmp_path: Path) -> None:
    """A model of a fixed batch is asked in batches of that size, and answers as a model of any batch does."""
    network = models.tiny()
    expected = network.predict_on_batch(exports.IMAGES[:21])
    for size in (1, 8):
        path = concrete(tmp_path / f"{size}.tflite", network, size)
        answers = modelfile.load(path).probabilities(exports.IMAGES[:21])
        np.testing.assert_allclose(answers, expected, atol=1e-5)


@pytest.mark.slow
def test_foreign_classes_are_numbered(tmp_path: Path) -> None:
    """A file without metadata has as many classes as outputs."""
    network = models.tiny(keras.layers.Dense(3, activation="softmax"))
    model = modelfile.load(exports.litert(network, tmp_path / "three.tflite"))
    assert model.classes == ("class 0", "class 1", "class 2")
    assert model.probabilities(exports.IMAGES[:2]).shape == (2, 3)


def edit_graph(source: Path, path: Path, change: Callable[[schema.ModelT], object]) -> Path:
    """Write a copy of a LiteRT file with something changed in its graph."""
    import flatbuffers

    model = schema.ModelT.InitFromPackedBuf(source.read_bytes(), 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), litert.MARK)
    path.write_bytes(bytes(builder.Output()))
    return path


def test_graphs_that_reach_beyond_themselves_are_refused(folder: Path, tmp_path: Path) -> None:
    """Custom operations, which are code of others, data elsewhere, memory, and tensors beyond measure."""

    def custom(model: schema.ModelT) -> None:
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = b"FlexWriteFile"

    def second(model: schema.ModelT) -> None:
        model.subgraphs.append(model.subgraphs[0])

    def outside(model: schema.ModelT) -> None:
        model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 1 << 40, 1 << 20

    def memory(model: schema.ModelT) -> None:
        model.subgraphs[0].tensors[0].isVariable = True

    def huge(model: schema.ModelT) -> None:
        model.subgraphs[0].tensors[-1].shape = [1 << 20, 1 << 20]

    for change, reason in (
        (custom, "the operation 'FlexWriteFile'"),
        (second, "several graphs"),
        (outside, "data outside its flatbuffer"),
        (memory, "memory of its own"),
        (huge, "a tensor of more than"),
    ):
        refused(edit_graph(folder / "good.tflite", tmp_path / f"{change.__name__}.tflite", change), reason)


def test_a_crash_or_a_hang_of_the_sandbox_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kills the process that tries a model, or keeps it busy, refuses the model."""
    stand_in = tmp_path / "python"
    monkeypatch.setattr("sys.executable", str(stand_in))
    monkeypatch.setattr(litert, "SANDBOX_SECONDS", 1)
    for script, reason in (
        ("kill -SEGV $$", "ended by signal 11"),
        ("exec sleep 60", "gave no answer within"),
    ):
        stand_in.write_text(f"#!/bin/sh\n{script}\n")
        stand_in.chmod(0o755)
        refused(folder / "good.tflite", reason)


def test_only_the_pretrained_bytes_skip_the_sandbox(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only bytes of the known checksum go without the child process, whatever the file is called."""
    probed: list[Path] = []
    monkeypatch.setattr(litert, "_run_sandbox", lambda path, *_: probed.append(path))
    modelfile.load(folder / "good.tflite")
    modelfile.load(pretrained.PATH)
    assert probed == [folder / "good.tflite"]


Mutation = list[tuple[float, int, int]]
MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 255), st.integers(0, 20)), min_size=1, max_size=6
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations=MUTATIONS)
def test_damaged_files_are_answers_or_reasons(folder: Path, mutations: Mutation) -> None:
    """Bytes replaced, now and then some cut out: opened, or refused in one line."""
    changed = bytearray((folder / "good.tflite").read_bytes())
    for place, value, cut in mutations:
        at = int(place * (len(changed) - 1))
        changed[at : at + (1 if cut else value)] = [value] if cut else []
    (folder / "damaged.tflite").write_bytes(changed)
    result: tuple[int, ...] | str
    try:
        result = modelfile.load(folder / "damaged.tflite").probabilities(exports.IMAGES[:2]).shape
    except ModelError as problem:
        result = str(problem)
    assert result == (2, 10) or (isinstance(result, str) and "\n" not in result)


@pytest.mark.parametrize("name", ["good.tflite", "good.keras"])
def test_no_room_for_a_copy_is_one_line(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk for temporary files is named, with what to do."""
    modelfile.save(models.tiny(), folder / "good.keras", {})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    refused(folder / name, "to try it: No space left on device; make room there, or name another")
