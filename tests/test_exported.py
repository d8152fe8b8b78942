"""Hostile and damaged exported models: refused in one line, with nothing run and this process alive."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import exports
import models
from cifarcnn.errors import ModelError
from cifarcnn.models import conversion, exported, graphguard, modelfile, pretrained

pytestmark = exports.QUIET_CONVERTERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network as a .tflite and an .onnx file, and as a SavedModel."""
    folder = tmp_path_factory.mktemp("exported")
    for kind, name in (("litert", "good.tflite"), ("onnx", "good.onnx"), ("saved-model", "good")):
        conversion.convert(models.tiny(), kind, folder / name)
        conversion.attach(kind, folder / name, {"arch": "tiny"})
    return folder


def refused(path: Path, reason: str) -> None:
    """Check that a model is refused in one line, for the reason given."""
    with pytest.raises(ModelError, match=reason) as caught:
        modelfile.load(path)
    assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(folder: Path, tmp_path: Path) -> None:
    """Noise, nothing, a part of a file, and files that only pretend."""
    whole, other = (folder / "good.tflite").read_bytes(), (folder / "good.onnx").read_bytes()
    noise = np.random.default_rng(1).bytes(5000)
    for name, content in {
        "noise.tflite": noise,
        "empty.tflite": b"",
        "cut.tflite": whole[: len(whole) // 2],
        "start.tflite": b"\x1c\0\0\0TFL3" + noise,
        "start": b"\x1c\0\0\0TFL3" + bytes(100),
        "noise.onnx": noise,
        "empty.onnx": b"",
        "cut.onnx": other[: len(other) // 2],
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, name)
    os.mkfifo(tmp_path / "fifo.tflite")
    refused(tmp_path / "fifo.tflite", "not a regular file")


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: models.tiny(side=28), r"takes float32 \(28, 28, 3\) per image; expected float32 \(32, 32"),
        (lambda: models.tiny(keras.layers.Dense(7, activation="softmax")), r"puts out float32 \(7,\)"),
        (lambda: models.tiny(keras.layers.Dense(10)), "not probabilities"),
        (lambda: models.tiny(keras.layers.Dense(10, activation="sigmoid")), "not probabilities"),
    ],
    ids=["side", "classes", "logits", "sigmoid"],
)
def test_other_tasks_are_refused(network: Callable[[], keras.Model], reason: str, tmp_path: Path) -> None:
    """Other images, other classes, and scores that are no probabilities."""
    refused(exports.litert(network(), tmp_path / "other.tflite"), reason)


def concrete(path: Path, function: Callable[[tf.Tensor], tf.Tensor]) -> Path:
    """Convert a TensorFlow function of images to LiteRT."""
    signature = tf.function(function, input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([signature.get_concrete_function()])
    path.write_bytes(converter.convert())
    return path


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
        exports.litert(keras.Model(inputs, outputs), tmp_path / "large.tflite"), "too much|too large|damaged"
    )


def test_answers_that_depend_on_other_images_are_refused(tmp_path: Path) -> None:
    """Evaluation in batches and prediction one by one would disagree."""

    def mixing(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(images[:, 0, :10, 0] - tf.reduce_mean(images[:, 0, :10, 0], axis=0))

    refused(concrete(tmp_path / "mixing.tflite", mixing), "otherwise in another batch")


@pytest.fixture
def graph(folder: Path) -> onnx.ModelProto:
    """The sound ONNX model, to be changed."""
    return onnx.load(folder / "good.onnx")


def test_onnx_data_outside_the_file_is_refused(graph: onnx.ModelProto, tmp_path: Path) -> None:
    """A weight that lies at some path is not looked for there."""
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10_000))
    for location in ("../../../etc/passwd", "secret", str(secret)):
        tensor = graph.graph.initializer[0]
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        (tmp_path / "outside.onnx").write_bytes(graph.SerializeToString())
        refused(tmp_path / "outside.onnx", "data outside the file")


def test_onnx_graphs_of_other_operations_are_refused(graph: onnx.ModelProto, tmp_path: Path) -> None:
    """Operations of others, loops, branches, functions, and tensors beyond measure."""

    def custom(model: onnx.ModelProto) -> None:
        model.graph.node[0].domain = "ai.onnx.contrib"

    def loop(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "Loop"

    def nested(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute.append(helper.make_attribute("body", model.graph.__deepcopy__()))

    def function(model: onnx.ModelProto) -> None:
        model.functions.add(name="Relu", domain="")

    def huge(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend([1 << 40, 1 << 20])

    for change, reason in (
        (custom, "ai.onnx.contrib"),
        (loop, "'Loop'"),
        (nested, "graph within its graph"),
        (function, "functions of its own"),
        (huge, "too much to open"),
    ):
        changed = onnx.ModelProto.FromString(graph.SerializeToString())
        change(changed)
        (tmp_path / "changed.onnx").write_bytes(changed.SerializeToString())
        with pytest.raises(ModelError, match=reason):
            graphguard.check_onnx("changed.onnx", (tmp_path / "changed.onnx").read_bytes())
    refused(tmp_path / "changed.onnx", "too much to open")


class Writer(tf.Module):
    """Answers like a classifier, and writes a file while it does; ``how`` says how deep that is hidden."""

    def __init__(self, trace: Path, how: str) -> None:
        self.trace, self.how = str(trace), how

    def answers(self, images: tf.Tensor) -> tf.Tensor:
        """Uniform probabilities."""
        return tf.nn.softmax(images[:, 0, :10, 0] * 0.0)

    def write(self) -> tf.Tensor:
        """The deed."""
        with tf.control_dependencies([tf.io.write_file(self.trace, "written")]):
            return tf.constant(0.0)

    @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float32, name="pixels")])
    def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """What is called."""
        if self.how == "called":
            return {"output_0": self.answers(images) + tf.function(self.write)()}
        if self.how == "branch":
            value = tf.cond(tf.reduce_sum(images) > -1, self.write, lambda: tf.constant(0.0))
            return {"output_0": self.answers(images) + value}
        if self.how == "python":

            def deed() -> np.ndarray:
                Path(self.trace).touch()
                return np.zeros((), np.float32)

            return {"output_0": self.answers(images) + tf.numpy_function(deed, [], tf.float32)}
        return {"output_0": self.answers(images) + self.write()}


@pytest.mark.parametrize("how", ["plain", "called", "branch", "python"])
def test_a_saved_model_that_acts_is_not_called(how: str, tmp_path: Path) -> None:
    """TensorFlow alone runs what a SavedModel holds; ours refuses it, wherever in the graph it is hidden."""
    trace, evil = tmp_path / "written-by-the-model", tmp_path / "evil"
    module = Writer(trace, how)
    tf.saved_model.save(module, str(evil), signatures={"serving_default": module.serve})
    trace.unlink(missing_ok=True)
    if how != "python":  # the function of another process is not there to be called
        tf.saved_model.load(str(evil)).signatures["serving_default"](pixels=tf.zeros((1, 32, 32, 3)))
        assert trace.exists()
        trace.unlink()
    with pytest.raises(ModelError, match=r"the operation '(WriteFile|PyFunc|EagerPyFunc)'|no tracing made"):
        graphguard.check_saved_model("evil", evil)
    if how == "plain":
        refused(evil, "the operation 'WriteFile'")
    assert not trace.exists()


def test_saved_models_of_other_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    """Files beside the model, links, files of absurd size, other objects, and functions with false names."""
    from tensorflow.core.protobuf import saved_model_pb2

    def copy(name: str, change: Callable[[saved_model_pb2.SavedModel], object] | None = None) -> Path:
        place = tmp_path / name
        exported._copy(folder / "good", (place.mkdir(), place)[1])
        if change:
            model = saved_model_pb2.SavedModel.FromString((place / "saved_model.pb").read_bytes())
            change(model)
            (place / "saved_model.pb").write_bytes(model.SerializeToString())
        return place

    (copy("file") / "assets").mkdir()
    (tmp_path / "file" / "assets" / "vocabulary.txt").write_text("x")
    refused(tmp_path / "file", r"holds 'assets/vocabulary\.txt'")
    place = copy("link")
    (place / "fingerprint.pb").unlink()
    (place / "fingerprint.pb").symlink_to("/etc/passwd")
    refused(place, "holds 'links'")
    place = copy("large")
    with (place / exported.INDEX).open("r+b") as file:
        file.truncate(1 << 30)
    refused(place, "absurd size")

    def false_name(model: saved_model_pb2.SavedModel) -> None:
        model.meta_graphs[0].graph_def.library.function[0].signature.name = "WriteFile"

    def table(model: saved_model_pb2.SavedModel) -> None:
        model.meta_graphs[0].object_graph_def.nodes.add().resource.device = ""

    def huge(model: saved_model_pb2.SavedModel) -> None:
        for node in model.meta_graphs[0].object_graph_def.nodes:
            if node.WhichOneof("kind") == "variable":
                node.variable.shape.dim[0].size = 1 << 40

    def old(model: saved_model_pb2.SavedModel) -> None:
        model.meta_graphs[0].ClearField("object_graph_def")

    for change, reason in (
        (false_name, "no tracing made"),
        (table, "'resource'"),
        (huge, "too much to open"),
        (old, "Keras 3 or TensorFlow 2"),
    ):
        with pytest.raises(ModelError, match=reason):
            graphguard.check_saved_model("changed", copy(change.__name__, change))


def test_a_name_may_not_be_boxed_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only bytes of the known checksum go without the child process, whatever the file is called."""
    probed: list[Path] = []
    monkeypatch.setattr(exported, "_vet", lambda path, *_: probed.append(path))
    modelfile.load(folder / "good.tflite")
    modelfile.load(pretrained.PATH)
    assert probed == [folder / "good.tflite"]


Mutation = list[tuple[float, int, int]]
MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 255), st.integers(0, 20)), min_size=1, max_size=6
)
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def mutate(data: bytes, mutations: Mutation) -> bytes:
    """Replace single bytes; one in twenty cuts some out instead."""
    changed = bytearray(data)
    for place, value, cut in mutations:
        at = int(place * (len(changed) - 1))
        if cut == 0:
            del changed[at : at + value]
        else:
            changed[at] = value
    return bytes(changed)


def check_mutant(folder: Path, name: str, mutations: Mutation) -> None:
    """A damaged file is opened, or refused in one line; the loader itself survives."""
    damaged = folder / f"damaged-{name}"
    damaged.write_bytes(mutate((folder / name).read_bytes(), mutations))
    result: tuple[int, ...] | str
    try:
        result = modelfile.load(damaged).probabilities(exports.IMAGES[:2]).shape
    except ModelError as problem:
        result = str(problem)
    assert result == (2, 10) or (isinstance(result, str) and "\n" not in result)


@QUICK
@given(mutations=MUTATIONS, name=st.sampled_from(["good.tflite", "good.onnx"]))
def test_damaged_exports_are_answers_or_reasons(folder: Path, mutations: Mutation, name: str) -> None:
    """Random damage never ends in a traceback or in the death of this process."""
    check_mutant(folder, name, mutations)


@pytest.mark.slow
@settings(QUICK, max_examples=200)
@given(mutations=MUTATIONS, name=st.sampled_from(["good.tflite", "good.onnx"]))
def test_hundreds_of_damaged_exports(folder: Path, mutations: Mutation, name: str) -> None:
    """The same, at length."""
    check_mutant(folder, name, mutations)


def test_foreign_files_have_no_metadata_to_show(folder: Path, tmp_path: Path) -> None:
    """Nothing and noise are refused without a runtime too, so that no summary describes them."""
    for name, content in (("a.tflite", b""), ("b.tflite", bytes(5000)), ("c.onnx", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            modelfile.read_metadata(tmp_path / name)
    assert modelfile.read_metadata(folder / "good.tflite") == {"arch": "tiny"}


@pytest.mark.parametrize("name", ["good.tflite", "good.keras"])
def test_no_room_for_a_copy_is_one_line(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk for temporary files is named, with what to do."""
    modelfile.save(models.tiny(), folder / "good.keras", {})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    refused(folder / name, "to try it: No space left on device; make room there, or name another")


PROPERTIES = st.lists(st.tuples(st.sampled_from(["cifarcnn.json", "x", ""]) | st.text(), st.text()))
BYTES = st.binary(max_size=40) | st.lists(
    st.builds(
        lambda tag, content: bytes([tag, len(content)]) + content, st.integers(0, 127), st.binary(max_size=20)
    )
    | st.sampled_from([b"\x72\x10\x0a\x0dcifarcnn.json\x12", b"\x72\x13\x0a\x0dcifarcnn.json\x12\x02{}"])
).map(b"".join)


def onnx_finds(data: bytes) -> bytes | None:
    """What onnx itself reads as our metadata."""
    model = onnx.ModelProto.FromString(data)
    for entry in model.metadata_props:
        if entry.key == "cifarcnn.json":
            # Text that is no UTF-8 is given as bytes.
            return entry.value if isinstance(entry.value, bytes) else entry.value.encode()
    return None


@given(properties=PROPERTIES, producer=st.text(), version=st.integers(-(1 << 63), (1 << 63) - 1))
def test_onnx_metadata_is_what_onnx_reads(
    properties: list[tuple[str, str]], producer: str, version: int
) -> None:
    """Properties of all kinds, among other fields."""
    model = onnx.ModelProto(ir_version=8, producer_name=producer, model_version=version)
    model.graph.name = producer
    for key, value in properties:
        model.metadata_props.add(key=key, value=value)
    data = model.SerializeToString()
    assert exported._onnx_metadata(Path("x.onnx"), data) == onnx_finds(data)


@given(BYTES)
def test_any_bytes_as_onnx_are_metadata_or_a_reason(data: bytes) -> None:
    """What is read of what onnx can read is what it finds; the rest ends in no traceback."""
    with contextlib.suppress(ModelError):
        found = exported._onnx_metadata(Path("x.onnx"), data)
        with contextlib.suppress(DecodeError):
            assert found == onnx_finds(data)


def test_onnx_metadata_is_read_without_what_surrounds_it(
    graph: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of empty nodes cost nothing, as nobody makes objects of them; countless fields are refused."""
    graph.graph.MergeFromString(b"\x0a\x00" * 2_000_000)
    data = graph.SerializeToString()
    (tmp_path / "nodes.onnx").write_bytes(data)
    (tmp_path / "fields.onnx").write_bytes(data + b"\x08\x08" * 1_000)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert modelfile.read_metadata(tmp_path / "nodes.onnx") == {"arch": "tiny"}
    with pytest.raises(ModelError, match=r"fields\.onnx is damaged, or not an ONNX model; export it again"):
        modelfile.read_metadata(tmp_path / "fields.onnx")
