"""onnx's shape inference, in a process of its own where it could end the one that asks, or take too much.

It takes the bounds of a Slice for granted, and builds of onnx that check what the C++ library asserts end the
process where sizes make no sense, as in damaged files. And what some operators make has more axes, or more
numbers that are followed, than what they read: a row of them doubles it at each step, so that a file of a
kilobyte asks for all memory there is. A process of its own costs some 40 ms, and nothing is lost but the
shapes where it ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator

import onnx
from onnx import onnx_cpp2py_export
from onnx.onnx_cpp2py_export.checker import ValidationError
from onnx.onnx_cpp2py_export.shape_inference import InferenceError, infer_shapes

from bnfuse.formats.onnx.graph.functions import all_nodes

# What these make has no more axes than the most that they read, or than a list of the file has numbers.
# fmt: off
_TAME = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "CastLike",
    "Ceil", "Celu", "Clip", "Constant", "Conv", "ConvTranspose", "CumSum", "DepthToSpace",
    "DequantizeLinear", "Div", "Dropout", "DynamicQuantizeLinear", "Elu", "Equal", "Erf", "Exp",
    "Flatten", "Floor", "GRU", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater",
    "GreaterOrEqual", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual",
    "Log", "LogSoftmax", "LpNormalization", "MatMul", "MatMulInteger", "Max", "MaxPool", "Mean",
    "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow",
    "QLinearConv", "QLinearMatMul", "QuantizeLinear", "RNN", "Reciprocal", "ReduceL1", "ReduceL2",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu",
    "Reshape", "Resize", "Round", "ScatterElements", "Selu", "Sigmoid", "Sign", "Softmax", "Softplus",
    "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "ThresholdedRelu",
    "Tile", "Transpose", "Upsample", "Where", "Xor",
})
# fmt: on
# What these make has no more axes, or numbers, than all that they read together, and one more.
_ADDING = frozenset({"Concat", "ConstantOfShape", "Expand", "Gather", "Shape", "Unsqueeze"})
_MOST_AXES, _MOST_SYMBOLS = 64, 256  # of a value, and characters of what stands for its sizes
# What the process may take: seconds, and bytes for each byte of the model.
_LEAST_S, _BYTES_A_S = 3, 250_000
_LEAST_BYTES, _MOST_TIMES = 1 << 28, 64
_LEAST_RESULT, _MOST_RESULT_TIMES = 1 << 20, 16
# Nothing but onnx's own library is imported there.
_WORKER = """
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
path, follows, seconds, room = sys.argv[1:]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    resource.setrlimit(resource.RLIMIT_DATA, (int(room), int(room)))
except (ImportError, OSError, ValueError):
    pass
spec = spec_from_file_location("onnx.onnx_cpp2py_export", path, loader=ExtensionFileLoader("onnx", path))
library = module_from_spec(spec)
spec.loader.exec_module(library)
model = sys.stdin.buffer.read()
sys.stdout.buffer.write(library.shape_inference.infer_shapes(model, False, False, bool(follows)))
"""


def infer(model: onnx.ModelProto, *, follows_values: bool) -> bytes | None:
    """A serialized ModelProto with the shapes that onnx finds; None where it cannot digest it.

    ``follows_values`` also follows the values of shape arithmetic, which costs half as much again.
    """
    if any(map(_is_outlandish, (*model.graph.input, *model.graph.value_info, *model.graph.output))):
        return None
    grows = bool(model.functions) or _may_grow(model.graph, follows_values)
    return (_apart if grows else _here)(model.SerializeToString(), follows_values)


def _may_grow(graph: onnx.GraphProto, follows_values: bool) -> bool:
    """Whether a value could come to have more axes, or as a list more numbers, than there are axes."""
    tame = _TAME if follows_values else _TAME | {"Concat"}
    nodes = list(all_nodes(graph.node))
    tensors = (*graph.initializer, *_told(nodes))
    if any(_length(tensor) > _MOST_AXES for tensor in tensors):
        return True
    if tame.issuperset(operators := {node.op_type for node in nodes}):
        return False
    if not operators <= tame | _ADDING:
        return True
    lengths = {info.name: len(info.type.tensor_type.shape.dim) for info in (*graph.input, *graph.value_info)}
    lengths |= {tensor.name: _length(tensor) for tensor in graph.initializer}
    for node in nodes:  # one that reads what comes later, or from elsewhere, may read anything
        read = [lengths.get(name, _MOST_AXES) for name in node.input if name]
        lists = [len(a.ints) or _length(a.t) for a in node.attribute]
        made = max([1, *read, *lists]) if node.op_type in tame else 1 + sum(read) + sum(lists)
        if made > _MOST_AXES:
            return True
        lengths |= {name: max(made, lengths.get(name, 0)) for name in node.output}
    return False


def _here(model: bytes, follows_values: bool) -> bytes | None:
    """As ``onnx.shape_inference`` does, which would have the whole package imported."""
    try:
        return infer_shapes(model, False, False, follows_values)
    except (InferenceError, ValidationError, ValueError, RuntimeError):
        return None


def _is_outlandish(info: onnx.ValueInfoProto) -> bool:
    """Whether no runtime knows such a shape; inference hands it on from node to node."""
    dims = info.type.tensor_type.shape.dim
    return len(dims) > _MOST_AXES or sum(len(dim.dim_param) for dim in dims) > _MOST_SYMBOLS


def _told(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """The tensors of Constant nodes."""
    return (a.t for node in nodes if node.op_type == "Constant" for a in node.attribute)


def _length(tensor: onnx.TensorProto) -> int:
    """How many axes it has, or as a list could say."""
    dims = tensor.dims
    lists = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) and len(dims) == 1
    return max(len(dims), dims[0]) if lists else len(dims)


def _apart(model: bytes, follows_values: bool) -> bytes | None:
    seconds = _LEAST_S + len(model) // _BYTES_A_S
    limits = str(seconds), str(_LEAST_BYTES + _MOST_TIMES * len(model))
    library = str(onnx_cpp2py_export.__file__)
    follows = "follows" if follows_values else ""
    command = [sys.executable, "-I", "-S", "-c", _WORKER, library, follows, *limits]
    try:
        ran = subprocess.run(
            command, input=model, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10.0 * seconds
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    usual = len(ran.stdout) <= _LEAST_RESULT + _MOST_RESULT_TIMES * len(model)
    return ran.stdout if ran.returncode == 0 and usual else None
