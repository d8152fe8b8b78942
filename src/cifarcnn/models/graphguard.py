"""What an exported model must be before a runtime may see it.

An exported model is a graph of operations: a LiteRT flatbuffer, an ONNX protobuf or a TensorFlow SavedModel.
Some operations read and write files, call Python or never end, and a graph may point to data elsewhere. Only
the arithmetic of an image classifier passes here. These checks run in the child process of
``exported``, because what they parse may be hostile too.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cifarcnn.errors import ModelError
from cifarcnn.models.modelguard import LARGEST_ACTIVATION, MOST_PARAMETERS

MOST_OPERATIONS = 20_000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LITERT_OPERATIONS = _words("""
    ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CAST CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE DIV ELU EXP
    EXPAND_DIMS FULLY_CONNECTED GELU HARD_SWISH L2_NORMALIZATION LEAKY_RELU LOG LOGISTIC LOG_SOFTMAX MAXIMUM
    MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_MAX REDUCE_PROD
    RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SHAPE SLICE
    SOFTMAX SPLIT SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV
""")

ONNX_OPERATIONS = _words("""
    Abs Add AveragePool BatchNormalization Cast Clip Concat Constant Conv ConvTranspose DequantizeLinear Div
    Dropout Elu Erf Exp Flatten Gather Gelu Gemm GlobalAveragePool GlobalMaxPool GroupNormalization
    HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax MatMul
    Max MaxPool Min Mish Mul Neg PRelu Pad Pow Reciprocal ReduceMax ReduceMean ReduceProd ReduceSum Relu
    Reshape Resize Selu Shape Sigmoid Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Transpose
    Unsqueeze
""")

TENSORFLOW_OPERATIONS = _words("""
    Abs Add AddN AddV2 AvgPool BatchMatMulV2 BiasAdd Cast ConcatV2 Const Conv2D Conv2DBackpropInput
    DepthwiseConv2dNative DisableCopyOnRead Elu Erf Erfc Exp ExpandDims FusedBatchNormV3 GatherV2 Identity
    IdentityN L2Loss LeakyRelu Log LogSoftmax MatMul Max MaxPool Maximum Mean Min Minimum MirrorPad Mul Neg
    NoOp Pack Pad PadV2 PartitionedCall Placeholder Pow Prod ReadVariableOp RealDiv Reciprocal Relu Relu6
    Reshape ResizeBilinear ResizeNearestNeighbor Rsqrt Selu Shape Sigmoid Slice Softmax Softplus Sqrt Square
    SquaredDifference Squeeze StatefulPartitionedCall StopGradient StridedSlice Sub Sum Tanh Transpose
""")
TENSORFLOW_BOOKKEEPING = _words("""
    AssignVariableOp MergeV2Checkpoints RestoreV2 SaveV2 Select ShardedFilename StaticRegexFullMatch
    StringJoin VarHandleOp VarIsInitializedOp
""")
"""Operations that save and restore variables. Every SavedModel has them, beside what we load and call."""

CONTAINERS = _words("""
    _generic_user_object signature_map trackable_dict_wrapper trackable_list_wrapper trackable_tuple_wrapper
""")
"""Kinds of object that hold others and do nothing."""


def check_litert(path: str, data: bytes) -> None:
    """Refuse a flatbuffer with other operations, several graphs, data elsewhere, or large tensors.

    Raises:
        ModelError: as said. Malformed flatbuffers raise whatever the reader of the format raises.
    """
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.Model.GetRootAs(data, 0)
    if model.SubgraphsLength() != 1 or model.ExternalBufferGroupsLength() or model.ExternalBuffersLength():
        raise ModelError(f"the model {path} has several graphs, or data outside itself; not opened")
    for number in range(_few(path, model.OperatorCodesLength())):
        code = model.OperatorCodes(number)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = (code.CustomCode() or b"custom").decode(errors="replace")
        _check_operation(path, names.get(builtin, "?") if builtin != 32 else name, LITERT_OPERATIONS)
    graph = model.Subgraphs(0)
    for number in range(_few(path, graph.OperatorsLength())):
        if graph.Operators(number).LargeCustomOptionsSize():
            raise ModelError(f"the model {path} has a custom operation; not opened")
    for number in range(_few(path, model.BuffersLength())):
        if model.Buffers(number).Offset() > 1:
            raise ModelError(f"the model {path} has data outside its flatbuffer; not opened")
    for number in range(_few(path, graph.TensorsLength())):
        tensor = graph.Tensors(number)
        if tensor.IsVariable() or tensor.Type() in (schema.TensorType.RESOURCE, schema.TensorType.VARIANT):
            raise ModelError(f"the model {path} has a memory of its own; not opened")
        shape = [tensor.Shape(place) for place in range(_few(path, tensor.ShapeLength()))]
        constant = model.Buffers(tensor.Buffer()).DataLength() > 0
        _check_size(path, shape, MOST_PARAMETERS if constant else LARGEST_ACTIVATION)


def check_onnx(path: str, data: bytes) -> None:
    """Refuse an ONNX model with other operations, subgraphs, functions, or data outside the file.

    Raises:
        ModelError: as said, or it is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as problem:
        raise ModelError(f"{path} is damaged, or not an ONNX model; export it again") from problem
    if model.functions or model.training_info or not model.graph.node:
        raise ModelError(f"the model {path} has no graph, or functions of its own; not opened")
    _few(path, len(model.graph.node))
    for message in _messages(model.graph):
        if isinstance(message, onnx.NodeProto):
            operation = message.op_type
            if message.domain not in ("", "ai.onnx"):
                operation = f"{message.domain}.{operation}"
            _check_operation(path, operation, ONNX_OPERATIONS)
        elif isinstance(message, onnx.TensorProto):
            if message.external_data or message.data_location != onnx.TensorProto.DEFAULT:
                raise ModelError(f"the model {path} has data outside the file; not opened")
            _check_size(path, message.dims, MOST_PARAMETERS)
        elif isinstance(message, onnx.GraphProto | onnx.SparseTensorProto):
            raise ModelError(f"the model {path} has a graph within its graph, or sparse data; not opened")


def check_saved_model(path: str, directory: Path) -> None:
    """Refuse a SavedModel that could do more than arithmetic when it is loaded or called.

    Loading runs no node of the graph itself; it makes the objects and functions that the object graph names.
    These, and all that they call, may hold arithmetic alone. What saves and restores variables is allowed
    where nothing but the graph itself names it.

    Raises:
        ModelError: as said, or it is no SavedModel of TensorFlow 2.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import node_def_pb2, tensor_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        model = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    except DecodeError as problem:
        raise ModelError(f"the SavedModel {path} is damaged; export it again") from problem
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise ModelError(f"the SavedModel {path} is not one that Keras 3 or TensorFlow 2 exports; not opened")
    graph = model.meta_graphs[0]
    if graph.asset_file_def:
        raise ModelError(f"the SavedModel {path} has assets; not opened")
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    # A function of the name of an operation could pass for it.
    if not all(name.startswith("__inference_") for name in functions):
        raise ModelError(f"the SavedModel {path} has functions that no tracing made; not opened")
    called = _reachable(functions, set(graph.object_graph_def.concrete_functions))
    for name, function in functions.items():
        allowed = TENSORFLOW_OPERATIONS if name in called else TENSORFLOW_OPERATIONS | TENSORFLOW_BOOKKEEPING
        for node in function.node_def:
            _check_operation(path, node.op, allowed | functions.keys())
    for node in graph.graph_def.node:
        _check_operation(path, node.op, TENSORFLOW_OPERATIONS | TENSORFLOW_BOOKKEEPING)
    count = 0
    for message in _messages(graph.graph_def):
        if isinstance(message, node_def_pb2.NodeDef):
            count = _few(path, count + 1)
        elif isinstance(message, tensor_pb2.TensorProto):
            _check_size(path, [side.size for side in message.tensor_shape.dim], MOST_PARAMETERS)
    _check_objects(path, graph.object_graph_def)


def _check_objects(path: str, objects: Any) -> None:
    """Refuse objects other than containers, functions and variables of bearable size."""
    parameters = 0
    for item in objects.nodes:
        kind = item.WhichOneof("kind")
        if item.registered_name or item.registered_saver or item.saveable_objects:
            raise ModelError(f"the SavedModel {path} has objects with loaders of their own; not opened")
        if kind == "user_object" and item.user_object.identifier not in CONTAINERS:
            name = item.user_object.identifier[:80]
            raise ModelError(f"the SavedModel {path} has an object of the kind {name!r}; not opened")
        if kind == "variable":
            sides = [side.size for side in item.variable.shape.dim]
            _check_size(path, sides, MOST_PARAMETERS)
            parameters += math.prod(sides)
        elif kind not in ("user_object", "function", "bare_concrete_function", "captured_tensor", "constant"):
            raise ModelError(f"the SavedModel {path} has an object of the kind {kind!r}; not opened")
    # Keras exports list every variable once, however often they are named.
    if parameters > MOST_PARAMETERS:
        raise ModelError(f"the SavedModel {path} declares {parameters:,} parameters; not opened")


def _reachable(functions: dict[str, Any], roots: set[str]) -> set[str]:
    """Name all functions that those named, or these in their turn, mention."""
    reached: set[str] = set()
    pending = list(roots)
    while pending:
        name = pending.pop()
        if name in reached or name not in functions:
            continue
        reached.add(name)
        for node in functions[name].node_def:
            pending.append(node.op)
            for value in node.attr.values():
                pending += [message.name for message in _messages(value) if hasattr(message, "name")]
        pending += [message.name for message in _messages(functions[name].attr) if hasattr(message, "name")]
    return reached


def _messages(message: Any) -> Iterator[Any]:
    """Walk the messages within a protobuf message, however deep; the parser has bounded the depth."""
    if not hasattr(message, "ListFields"):  # a map
        for value in message.values():
            yield value
            yield from _messages(value)
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = value.values() if hasattr(value, "values") else ()
        else:
            inner = value if field.is_repeated else (value,)
        for part in inner:
            if hasattr(part, "ListFields"):
                yield part
                yield from _messages(part)


def _check_operation(path: str, name: str, allowed: frozenset[str] | set[str]) -> None:
    if name not in allowed:
        raise ModelError(
            f"the model {path} has the operation {name[:80]!r}, which is not among the arithmetic of an "
            "image classifier; it could do more, so it is not opened"
        )


def _few(path: str, count: int) -> int:
    """Return a count, or refuse it before anything is done that often."""
    if count > MOST_OPERATIONS:
        raise ModelError(f"the model {path} declares more than {MOST_OPERATIONS:,} parts; not opened")
    return count


def _check_size(path: str, shape: Any, most: int) -> None:
    """Refuse a tensor of negative or more than bearable size. Sides of -1 are the batch."""
    sides = [int(side) for side in shape]
    if any(side < -1 for side in sides) or math.prod(max(side, 1) for side in sides) > most:
        raise ModelError(f"the model {path} declares a tensor of shape {sides[:8]}; that is too much to open")
