"""A Keras network as LiteRT, ONNX or SavedModel, its kernels in half precision, our metadata in the result.

Keras's own exporters do the work. What is written here takes raw pixels of any number of images, as the
network does. Whether it answers as the network does is checked by ``exporting``.
"""

import io
import json
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cifarcnn.errors import ModelError, first_line
from cifarcnn.models import modelguard
from cifarcnn.models.exported import LITERT_MARK
from cifarcnn.models.exportformats import FORMATS
from cifarcnn.models.runtimes import import_onnx

if TYPE_CHECKING:
    import keras

Kernel = npt.NDArray[np.float32]

FLOAT16_DEQUANTIZE = 3
"""The version of LiteRT's operation DEQUANTIZE that takes float16."""


def convert(network: "keras.Model", kind: str, path: Path) -> None:
    """Write a network in one of the formats of ``exportformats.FORMATS``.

    Raises:
        ModelError: a package is missing, or Keras cannot convert this network.
    """
    if kind == "onnx":
        for module in ("onnx", "tf2onnx", "onnxruntime"):
            import_onnx(module)
        _teach_erfc()
    try:
        with warnings.catch_warnings():
            # What converters say of NumPy's and TensorFlow's coming versions is nothing a user can mend.
            warnings.simplefilter("ignore")
            network(np.zeros((1, 32, 32, 3), np.float32))  # a network that was never called is refused
            network.export(str(path), format=FORMATS[kind].keras_name, verbose=False)
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
            shape, kind = ctx.get_shape(node.output[0]), ctx.get_dtype(node.output[0])
            erf = ctx.make_node("Erf", node.input, shapes=[shape], dtypes=[kind])
            one = ctx.make_const(f"{node.name}_one", np.array(1, np.float32))
            ctx.remove_node(node.name)
            ctx.make_node(
                "Sub",
                [one.output[0], erf.output[0]],
                name=node.name,
                outputs=node.output,
                shapes=[shape],
                dtypes=[kind],
            )

    tf_op("Erfc")(Erfc)


def attach(kind: str, path: Path, metadata: dict[str, Any]) -> None:
    """Put our metadata into an exported model, where the format has room for it.

    In LiteRT that is a zip behind the flatbuffer, in ONNX a property, in a SavedModel an extra asset.
    """
    text = json.dumps(metadata, indent=1, sort_keys=True, allow_nan=False)
    if kind == "saved-model":
        (path / "assets.extra").mkdir()
        (path / "assets.extra" / modelguard.OUR_METADATA).write_text(text, encoding="utf-8")
    elif kind == "onnx":
        onnx = import_onnx("onnx")
        model = onnx.load(path, load_external_data=False)
        onnx.helper.set_model_props(model, {modelguard.OUR_METADATA: text})
        path.write_bytes(model.SerializeToString(deterministic=True))
    else:
        path.write_bytes(with_metadata(path.read_bytes(), text))


def with_metadata(flatbuffer: bytes, text: str) -> bytes:
    """Append a zip with our metadata to a LiteRT flatbuffer; equal arguments give equal bytes."""
    whole = io.BytesIO(flatbuffer)
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr(zipfile.ZipInfo(modelguard.OUR_METADATA), text)
    return whole.getvalue()


def halve(flatbuffer: bytes) -> tuple[bytes, list[tuple[Kernel, Kernel]]]:
    """Store the kernels of a LiteRT model in float16; all else stays float32.

    Runtimes turn them back into float32 once, when they open the model.

    Returns:
        The smaller flatbuffer, and every kernel before and after rounding, in Keras's layout.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    operators = schema.BuiltinOperator
    model = schema.ModelT.InitFromPackedBuf(flatbuffer, 0)
    (graph,) = model.subgraphs
    codes = [code.builtinCode for code in model.operatorCodes]
    takes_kernel = (operators.CONV_2D, operators.DEPTHWISE_CONV_2D, operators.FULLY_CONNECTED)
    kernels: list[tuple[Kernel, Kernel]] = []
    unpacking = []
    done: set[int] = set()
    code = schema.OperatorCodeT(operators.DEQUANTIZE, None, FLOAT16_DEQUANTIZE, operators.DEQUANTIZE)
    for operator in graph.operators:
        number = int(operator.inputs[1]) if codes[operator.opcodeIndex] in takes_kernel else -1
        tensor = graph.tensors[number]
        content = model.buffers[tensor.buffer].data
        if number in done or number < 0 or content is None or tensor.type != schema.TensorType.FLOAT32:
            continue
        done.add(number)
        shape, depthwise = tuple(tensor.shape), codes[operator.opcodeIndex] == operators.DEPTHWISE_CONV_2D
        exact = np.frombuffer(content.tobytes(), "<f4").reshape(shape)
        small = exact.astype(np.float16)
        kernels.append((_keras_layout(exact, depthwise), _keras_layout(small.astype("<f4"), depthwise)))
        packed = schema.TensorT(
            shape, schema.TensorType.FLOAT16, len(model.buffers), tensor.name + b"_half", hasRank=True
        )
        model.buffers.append(schema.BufferT(np.frombuffer(small.tobytes(), np.uint8)))
        tensor.buffer = 0
        unpacking.append(
            schema.OperatorT(
                len(codes),
                np.array([len(graph.tensors)], np.int32),
                np.array([number], np.int32),
                schema.BuiltinOptions.DequantizeOptions,
                schema.DequantizeOptionsT(),
            )
        )
        graph.tensors.append(packed)
    model.operatorCodes.append(code)
    graph.operators = [*unpacking, *graph.operators]
    used = {tensor.buffer for tensor in graph.tensors} | {entry.buffer for entry in model.metadata or ()}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None
        buffer.Pack = _AlignedPacking(buffer)
    builder = flatbuffers.Builder(len(flatbuffer))
    builder.Finish(model.Pack(builder), LITERT_MARK)
    return bytes(builder.Output()), kernels


class _AlignedPacking:
    """Writes a buffer's bytes at a multiple of 16, as the format asks and its Python writer forgets."""

    def __init__(self, buffer: Any) -> None:
        self.data = buffer.data

    def __call__(self, builder: Any) -> int:
        from ai_edge_litert import schema_py_generated as schema

        vector = None
        if self.data is not None:
            content = bytes(self.data)
            builder.StartVector(1, len(content), 16)
            builder.head = builder.head - len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


def _keras_layout(kernel: Kernel, depthwise: bool) -> Kernel:
    """Turn a LiteRT kernel into the axes of Keras's: outputs last, not first."""
    return kernel[0] if depthwise else np.moveaxis(kernel, 0, -1)


def round_kernels(network: "keras.Model", kernels: list[tuple[Kernel, Kernel]]) -> None:
    """Give a network the kernels that its export in half precision stores.

    The converter multiplies kernels by what follows or precedes them, so the rounding is taken back through
    that factor, one for each output. A kernel for which none is found is rounded as it is.

    Args:
        network: is changed in place.
        kernels: what ``halve`` returned.
    """
    for weight in network.weights:
        if len(weight.shape) not in (2, 4):
            continue
        kernel = np.asarray(weight, np.float32)
        rounded = kernel.astype(np.float16).astype(np.float32)
        flat = kernel.reshape(-1, kernel.shape[-1])
        for exact, small in kernels:
            if exact.size != kernel.size or exact.shape[-1] != kernel.shape[-1]:
                continue
            stored = exact.reshape(flat.shape)
            factor = (flat * stored).sum(0) / np.maximum((flat * flat).sum(0), 1e-30)
            if np.abs(stored - flat * factor).max() <= 1e-5 * np.abs(stored).max():
                safe = np.where(factor == 0, 1, factor)
                back = np.where(factor == 0, flat, small.reshape(flat.shape) / safe)
                rounded = back.reshape(kernel.shape)
                break
        weight.assign(rounded)
