"""LiteRT models. A hostile file may crash the runtime or keep it busy for ever, so every file but the
pretrained one is first checked and run in a process with limits: ``python -m cifarcnn.models.litert NAME
COPY`` prints ``{"error": null}`` or the reason why the model is refused.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from cifarcnn.errors import CifarCNNError, ModelError, first_line
from cifarcnn.formatting import count
from cifarcnn.machine import backend, devices
from cifarcnn.metrics import Array
from cifarcnn.models import modelguard, pretrained
from cifarcnn.models.modelguard import LARGEST_ACTIVATION, MOST_PARAMETERS

SUFFIX = ".tflite"
MARK = b"TFL3"
"""Bytes 5 to 8 of every LiteRT file."""

SANDBOX_SECONDS = 300
SANDBOX_LIMITS = {"RLIMIT_AS": 4 << 30, "RLIMIT_CPU": 120, "RLIMIT_FSIZE": 1 << 20, "RLIMIT_CORE": 0}
"""What the sandbox may take, as far as the platform has such limits."""

TRIED_BATCH = 500
"""Images that the sandbox asks about at once: as many as a step of evaluation has."""

MOST_ITEMS = 20_000
OPERATIONS = frozenset(
    word
    for line in (
        "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CAST CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE DIV",
        "ELU EXP EXPAND_DIMS FULLY_CONNECTED GELU HARD_SWISH L2_NORMALIZATION LEAKY_RELU LOG LOGISTIC",
        "LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG PACK PAD PADV2 POW PRELU",
        "QUANTIZE REDUCE_MAX REDUCE_PROD RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR RSQRT SHAPE SLICE SOFTMAX SPLIT SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE",
        "STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV",
    )
    for word in line.split()
)
"""The arithmetic of image classifiers: no custom operations, no loops, nothing that draws or remembers."""


class LiteRT:
    """An opened model, which answers like a Keras model; ``outputs`` is its number of classes."""

    def __init__(self, name: str, data: bytes) -> None:
        """Open a model.

        Raises:
            ModelError: its input or output is not that of an image classifier.
            ValueError, RuntimeError: LiteRT cannot open it.
        """
        from ai_edge_litert import interpreter

        self.cpus = devices.usable_cpus()
        with backend.quiet_stderr():
            self.interpreter = interpreter.Interpreter(model_content=data, num_threads=self.cpus)
            inputs, outputs = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        takes, gives = (
            [f"{end['dtype'].__name__} {tuple(end['shape'].tolist()[1:])}" for end in ends[:3]]
            for ends in (inputs, outputs)
        )
        self.outputs = int(outputs[0]["shape"][-1]) if gives else 0
        if takes != ["float32 (32, 32, 3)"] or gives != [f"float32 ({self.outputs},)"] or self.outputs < 2:
            raise ModelError(
                f"the model {name} maps {', '.join(takes)} and {', '.join(gives)} per image; expected "
                "float32 (32, 32, 3) to float32 (classes,)"
            )
        self.input, self.output = inputs[0]["index"], outputs[0]["index"]
        signature = inputs[0]["shape_signature"].tolist()
        self.fixed_batch = signature[0] if signature[:1] != [-1] else None
        self.batch = 0

    def predict_on_batch(self, images: Array) -> Array:
        """Take pixels (n, 32, 32, 3), 0-255; return float32 probabilities (n, classes)."""
        size = self.fixed_batch or len(images)
        missing = -len(images) % size
        padded = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))).astype(np.float32)
        rows = [self._invoke(padded[start : start + size]) for start in range(0, len(padded), size)]
        return np.concatenate(rows)[: len(images)]

    def _invoke(self, images: Array) -> Array:
        if len(images) != self.batch:
            with backend.quiet_stderr():
                self.interpreter.resize_tensor_input(self.input, list(images.shape))
                self.interpreter.allocate_tensors()
            self.batch = len(images)
        self.interpreter.set_tensor(self.input, images)
        self.interpreter.invoke()
        rows: Array = self.interpreter.get_tensor(self.output)
        return rows

    def inference(self) -> str:
        """Say what computes, and in which arithmetic."""
        return f"LiteRT, {count(self.cpus, 'core')}, float32"


def is_litert(path: Path) -> bool:
    """Tell a LiteRT file by its name or its first bytes."""
    if path.suffix.lower() == SUFFIX:
        return True
    with modelguard.open_regular(path) as file:
        return file.read(8)[4:] == MARK


def read_metadata(path: Path) -> bytes | None:
    """Read our member of the zip that may follow the flatbuffer; None where there is none."""
    data = modelguard.read_whole(path)
    if data[4:8] != MARK:
        raise ModelError(f"{path} is damaged, or not a LiteRT model; export it again")
    if b"PK\x05\x06" not in data[-(1 << 16) :]:
        return None
    modelguard.check_zip_end(path, data[-42:])
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            member = archive.NameToInfo.get(modelguard.OUR_METADATA)
            if member is None:
                return None
            large = member.file_size > modelguard.LARGEST_MEMBER[modelguard.OUR_METADATA]
            if large or member.flag_bits & 1 or member.compress_type not in modelguard.PACKINGS:
                raise ModelError(f"the model {path} has metadata of absurd size or packing; not opened")
            return modelguard.unpacked(archive, member)
    except modelguard.DAMAGE as problem:
        raise ModelError(f"the model {path} is damaged: {first_line(problem)}; copy it again") from problem
    except (NotImplementedError, RuntimeError) as problem:
        raise ModelError(f"the model {path} is packed as ours never are; not opened") from problem


def with_metadata(flatbuffer: bytes, text: str) -> bytes:
    """Append a zip with our metadata to a flatbuffer; equal arguments give equal bytes."""
    whole = io.BytesIO(flatbuffer)
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr(zipfile.ZipInfo(modelguard.OUR_METADATA), text)
    return whole.getvalue()


def load(path: Path) -> LiteRT:
    """Open a LiteRT file that the sandbox passed, or raise ModelError."""
    data = checked(path)
    try:
        return LiteRT(str(path), data)
    except (RuntimeError, ValueError) as problem:
        raise ModelError(f"the model {path} cannot be opened: {first_line(problem)}") from problem


def checked(path: Path) -> bytes:
    """Return the content of a LiteRT file which the sandbox passed, unless it is the pretrained model."""
    data = modelguard.read_whole(path)
    if not pretrained.is_pretrained(data):
        # The sandbox gets a copy of exactly what is opened here, and no file that may change meanwhile.
        with modelguard.place_to_try(path) as directory:
            place = directory / "model.tflite"
            place.write_bytes(data)
            _run_sandbox(path, place)
    return data


def _run_sandbox(path: Path, place: Path) -> None:
    """Have a child process check and ask the model; refuse it where that fails, crashes or never ends."""
    # -P: whatever lies in the working directory must not be taken for a module.
    command = [sys.executable, "-P", "-m", __name__, str(path), str(place)]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=SANDBOX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise ModelError(
            f"the model {path} gave no answer within {SANDBOX_SECONDS} s in a process of its own; not opened"
        ) from problem
    try:
        error = json.loads(done.stdout)["error"]
    except ValueError as problem:
        ended = f"by signal {-done.returncode}" if done.returncode < 0 else f"with code {done.returncode}"
        raise ModelError(
            f"the model {path} is damaged or too large: trying it in a process of its own ended {ended}; "
            "not opened"
        ) from problem
    if error is not None:
        raise ModelError(error)


def check_graph(name: str, data: bytes) -> None:
    """Refuse a flatbuffer with other operations, several graphs, data elsewhere, or large tensors.

    Malformed flatbuffers raise whatever the reader of the format raises.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {code: word for word, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.Model.GetRootAs(data, 0)
    if model.SubgraphsLength() != 1 or model.ExternalBufferGroupsLength() or model.ExternalBuffersLength():
        raise ModelError(f"the model {name} has several graphs, or data outside itself; not opened")
    graph = model.Subgraphs(0)
    for number in _bounded(name, model.OperatorCodesLength()):
        code = model.OperatorCodes(number)
        word = names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), "?")
        if word not in OPERATIONS:
            shown = (code.CustomCode() or word.encode()).decode(errors="replace")[:80]
            raise ModelError(
                f"the model {name} has the operation {shown!r}, which no image classifier of ours needs; "
                "not opened"
            )
    for number in _bounded(name, graph.OperatorsLength()):
        if graph.Operators(number).LargeCustomOptionsSize():
            raise ModelError(f"the model {name} has a custom operation; not opened")
    for number in _bounded(name, model.BuffersLength()):
        if model.Buffers(number).Offset() > 1:
            raise ModelError(f"the model {name} has data outside its flatbuffer; not opened")
    for number in _bounded(name, graph.TensorsLength()):
        tensor = graph.Tensors(number)
        if tensor.IsVariable() or tensor.Type() in (schema.TensorType.RESOURCE, schema.TensorType.VARIANT):
            raise ModelError(f"the model {name} has a memory of its own; not opened")
        constant = model.Buffers(tensor.Buffer()).DataLength() > 0
        size, most = 1, MOST_PARAMETERS if constant else LARGEST_ACTIVATION
        for place in _bounded(name, tensor.ShapeLength()):
            size *= max(1, abs(tensor.Shape(place)))
            if size > most:
                raise ModelError(f"the model {name} has a tensor of more than {most:,} numbers; not opened")


def _bounded(name: str, number: int) -> range:
    """Return the range of a number of parts, if they can be walked in a bearable time."""
    if number > MOST_ITEMS:
        raise ModelError(
            f"the model {name} has {number:,} parts of a kind; at most {MOST_ITEMS:,} are opened"
        )
    return range(number)


def check_answers(name: str, model: LiteRT) -> None:
    """Refuse an opened model whose outputs are no probabilities, or depend on the other images of a batch."""
    images, few = modelguard.trial_images(TRIED_BATCH), modelguard.SMALLEST_BATCH
    rows = np.asarray(model.predict_on_batch(images[:few]))
    if rows.shape != (few, model.outputs):
        raise ModelError(f"the model {name} answers {few} images with {rows.shape}; not opened")
    modelguard.check_probabilities(name, rows)
    many = np.asarray(model.predict_on_batch(images[::-1]))
    if len(many) != TRIED_BATCH or not np.allclose(many[::-1][:few], rows, atol=1e-3):
        raise ModelError(f"the model {name} answers an image otherwise in another batch; not opened")


def main() -> None:
    """Be the sandbox: check the model, and say what came of it on the stdout that this process began with."""
    name, place = sys.argv[1:]
    answer = os.dup(1)
    os.dup2(2, 1)
    if sys.platform != "win32":  # which has no such limits
        import resource

        for word, most in SANDBOX_LIMITS.items():
            kind = getattr(resource, word)
            hard = resource.getrlimit(kind)[1]
            bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(kind, (bound, bound))
    error = None
    try:
        data = Path(place).read_bytes()
        check_graph(name, data)
        check_answers(name, LiteRT(name, data))
    except CifarCNNError as problem:
        error = str(problem)
    # The readers of the format promise no set of errors for a hostile file; none of them is a bug here.
    except Exception as problem:
        error = f"the model {name} is damaged, or cannot be run: {first_line(problem)}"
    os.write(answer, json.dumps({"error": error}).encode() + b"\n")
    # Native libraries may be in a state in which tidying up would crash.
    os._exit(0)


if __name__ == "__main__":
    main()
