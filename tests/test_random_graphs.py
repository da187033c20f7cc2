"""Random small ONNX graphs, folded and compared in onnxruntime with its own optimiser off.

Each graph is a chain with branches, gates, concatenations and rearrangements; BatchNormalizations
have mixed-sign, partly zero γ. ``BNFUSE_FUZZ=5000`` tries as many graphs instead of the usual few.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold
from bnfuse.core.plan import plan
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT

_EXAMPLES = int(os.environ.get("BNFUSE_FUZZ", "150"))
_TOLERANCE = 1e-4
# What decomposed affines may look like: a constant as operand 0, and one number for all channels.
_CONSTANT_FIRST = True
_SINGLE_NUMBERS = True
_MAX_ELEMENTS = 4000  # per value, so that a graph takes milliseconds

Shape = tuple[int, ...]
Dice = Callable[[int], int]  # dice(n) draws one of 0..n-1; simplest is 0


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, and its shape with the batch size written out."""

    name: str
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[1]


@dataclass
class Net:
    """A graph under construction."""

    dice: Dice
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def const(self, array: np.ndarray) -> str:
        """A new initializer; floats are stored as float32."""
        name = f"c{len(self.constants)}"
        stored = array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)
        self.constants.append(numpy_helper.from_array(stored, name))
        return name

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def ints(self, *numbers: int) -> str:
        return self.const(np.array(numbers, np.int64))

    def node(self, op: str, inputs: list[str], shape: Shape, **attributes: Any) -> Value:
        """Append a node with one output of this shape."""
        made = Value(f"v{len(self.nodes)}", shape)
        self.nodes.append(helper.make_node(op, inputs, [made.name], name=f"n{len(self.nodes)}", **attributes))
        self.values.append(made)
        return made


Step = Callable[[Net, Value], "Value | None"]  # None: does not apply to this value


def conv(net: Net, x: Value, out: int | None = None, same: bool = False) -> Value | None:
    """Conv of 1, 2 (or 3) dimensions: groups, strides, asymmetric pads, auto_pad, with or without bias."""
    if x.rank not in (3, 4):
        return None
    space = x.shape[2:]
    k = (1, 3)[net.dice(2)] if min(space) >= 3 or same else 1
    mode = 0 if same else net.dice(4)  # 0 symmetric pads, 1 none, 2 asymmetric, 3 auto_pad
    stride = 1 if same else 1 + net.dice(2) * (min(space) > 3)
    out = out or (x.channels, 3, 6)[net.dice(3)]
    groups = x.channels if net.dice(3) == 2 and out % x.channels == 0 else 1
    before, after = {0: (k // 2, k // 2), 1: (0, 0), 2: (0, k // 2), 3: (0, 0)}[mode]
    if mode == 3:
        sizes = tuple(-(-n // stride) for n in space)
        padding: dict[str, Any] = {"auto_pad": "SAME_UPPER"}
    else:
        sizes = tuple((n + before + after - k) // stride + 1 for n in space)
        padding = {"pads": [before] * len(space) + [after] * len(space)}
    if min(sizes) < 1:
        return None
    per = x.channels // groups
    w = net.normal(out, per, *[k] * len(space)) / np.sqrt(per * k ** len(space))
    inputs = [x.name, net.const(w)] + ([net.const(net.normal(out))] if net.dice(2) else [])
    shape = (x.shape[0], out, *sizes)
    return net.node("Conv", inputs, shape, group=groups, strides=[stride] * len(space), **padding)


def conv_transpose(net: Net, x: Value) -> Value | None:
    """ConvTranspose with groups and strides."""
    if x.rank != 4 or prod(x.shape) > _MAX_ELEMENTS // 4:
        return None
    groups = 2 if net.dice(2) and x.channels % 2 == 0 else 1
    k, stride = (1, 2, 3)[net.dice(3)], 1 + net.dice(2)
    per = 1 + net.dice(3)
    w = net.normal(x.channels, per, k, k) / np.sqrt(x.channels * k)
    inputs = [x.name, net.const(w)] + ([net.const(net.normal(per * groups))] if net.dice(2) else [])
    h, v = ((n - 1) * stride + k for n in x.shape[2:])
    return net.node(
        "ConvTranspose", inputs, (x.shape[0], per * groups, h, v), group=groups, strides=[stride, stride]
    )


def gemm(net: Net, x: Value) -> Value | None:
    """Gemm with α, β, transB, with or without C (a vector or one number)."""
    if x.rank != 2:
        return None
    out, turned = (4, 7, x.channels)[net.dice(3)], net.dice(2)
    w = net.normal(x.channels, out) / np.sqrt(x.channels)
    c = [[], [net.const(net.normal(out))], [net.const(net.normal(1))]][net.dice(3)]
    alpha, beta = ((1.0, 1.0), (0.5, 2.0))[net.dice(2)]
    inputs = [x.name, net.const(w.T if turned else w), *c]
    return net.node("Gemm", inputs, (x.shape[0], out), transB=turned, alpha=alpha, beta=beta)


def matmul(net: Net, x: Value) -> Value:
    """MatMul over the last axis, alone or with an Add of a bias."""
    n, out = x.shape[-1], (5, x.shape[-1])[net.dice(2)]
    y = net.node("MatMul", [x.name, net.const(net.normal(n, out) / np.sqrt(n))], (*x.shape[:-1], out))
    if net.dice(2):
        pair = [y.name, net.const(net.normal(out))]
        y = net.node("Add", pair[:: 1 - 2 * net.dice(2)], y.shape)
    return y


def batchnorm(net: Net, x: Value) -> Value:
    """BatchNormalization; γ positive, of mixed signs, or with zeros."""
    c = x.channels
    gamma = np.exp(0.5 * net.normal(c))
    kind = net.dice(3)
    if kind >= 1:
        gamma *= net.rng.choice((-1.0, 1.0), c)
    if kind == 2:
        gamma[net.rng.integers(c)] = 0.0
    statistics = (gamma, net.normal(c), net.normal(c), np.exp(net.normal(c)))
    names = [net.const(v) for v in statistics]
    return net.node("BatchNormalization", [x.name, *names], x.shape, epsilon=(1e-5, 1e-3)[net.dice(2)])


def arithmetic(net: Net, x: Value) -> Value:
    """A decomposed BN or a piece of one: Mul, Add, Sub, Div by a constant, which may be operand 0."""
    op = ("Mul", "Add", "Sub", "Div")[net.dice(4)]
    shape = ((x.channels, *[1] * (x.rank - 2)), (x.shape[-1],), (1,))[net.dice(3 if _SINGLE_NUMBERS else 2)]
    factor = np.exp(0.4 * net.normal(*shape)) * net.rng.choice((-1.0, 1.0), shape)
    pair = [x.name, net.const(factor)]
    return net.node(
        op,
        pair[::-1] if op in ("Mul", "Add", "Sub") and net.dice(3) == 2 and _CONSTANT_FIRST else pair,
        x.shape,
    )


def unary(net: Net, x: Value) -> Value:
    """An activation or another elementwise op."""
    op, attributes = (
        ("Relu", {}),
        ("LeakyRelu", {"alpha": 0.1}),
        ("Identity", {}),
        ("Neg", {}),
        ("Sigmoid", {}),
        ("HardSwish", {}),
    )[net.dice(6)]
    return net.node(op, [x.name], x.shape, **attributes)


def prelu(net: Net, x: Value) -> Value:
    """PRelu with one slope per channel."""
    slope = net.const(np.abs(net.normal(x.channels, *[1] * (x.rank - 2))))
    return net.node("PRelu", [x.name, slope], x.shape)


def pool(net: Net, x: Value) -> Value | None:
    """MaxPool or AveragePool, with and without (counted) padding."""
    if x.rank != 4 or min(x.shape[2:]) < 2:
        return None
    pad, stride = net.dice(2), 1 + net.dice(2)
    shape = (*x.shape[:2], *((n + 2 * pad - 2) // stride + 1 for n in x.shape[2:]))
    window: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [stride] * 2, "pads": [pad] * 4}
    if net.dice(2):
        return net.node("AveragePool", [x.name], shape, count_include_pad=net.dice(2), **window)
    return net.node("MaxPool", [x.name], shape, **window)


def shrink(net: Net, x: Value) -> Value | None:
    """Pooling over all of space: GlobalAveragePool, GlobalMaxPool, ReduceMean, ReduceMax."""
    if x.rank != 4:
        return None
    kind, keep = net.dice(4), net.dice(2)
    if kind < 2:
        return net.node(("GlobalAveragePool", "GlobalMaxPool")[kind], [x.name], (*x.shape[:2], 1, 1))
    shape = (*x.shape[:2], 1, 1) if keep else x.shape[:2]
    return net.node(("ReduceMean", "ReduceMax")[kind - 2], [x.name, net.ints(2, 3)], shape, keepdims=keep)


def residual(net: Net, x: Value) -> Value | None:
    """Add or Sub of an earlier value of the same shape, or of a branch with a Conv (and BN) of its own."""
    op = ("Add", "Sub")[net.dice(2)]
    others = [v for v in net.values if v.shape == x.shape]
    other: Value | None = others[net.dice(len(others))]
    if net.dice(2):
        other = conv(net, x, out=x.channels, same=True) if x.rank in (3, 4) else gemm(net, x)
        if other is not None and net.dice(2):
            other = batchnorm(net, other)
    if other is None or other.shape != x.shape:
        return None
    return net.node(op, [x.name, other.name], x.shape)


def concat(net: Net, x: Value) -> Value | None:
    """Concat on axis 1 with an earlier value, or with itself."""
    others = [v for v in net.values if v.shape[:1] + v.shape[2:] == x.shape[:1] + x.shape[2:]]
    other = others[net.dice(len(others))]
    shape = (x.shape[0], x.channels + other.channels, *x.shape[2:])
    if prod(shape) > _MAX_ELEMENTS:
        return None
    return net.node("Concat", [x.name, other.name], shape, axis=(1, 1 - x.rank)[net.dice(2)])


def gate(net: Net, x: Value) -> Value | None:
    """Squeeze and excite: x · sigmoid(conv(mean(x))); for rank 2, x · sigmoid(x)."""
    g: Value | None = x
    if x.rank == 4:
        g = net.node("GlobalAveragePool", [x.name], (*x.shape[:2], 1, 1))
        g = conv(net, g, out=x.channels, same=True)
    elif x.rank != 2:
        return None
    assert g is not None
    g = net.node("Sigmoid", [g.name], g.shape)
    pair = [x.name, g.name]
    return net.node("Mul", pair[::-1] if net.dice(2) else pair, x.shape)


def transpose(net: Net, x: Value) -> Value | None:
    """Transpose that keeps the batch in front."""
    known: dict[int, list[tuple[int, ...]]] = {3: [(0, 2, 1)], 4: [(0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2)]}
    orders = known.get(x.rank)
    if orders is None:
        return None
    perm = orders[net.dice(len(orders))]
    return net.node("Transpose", [x.name], tuple(x.shape[p] for p in perm), perm=perm)


def flatten(net: Net, x: Value) -> Value | None:
    """Flatten to (N, rest), or Reshape (N, C, H, W) to (N, C, H·W)."""
    if x.rank == 2:
        return None
    n = x.shape[0]
    if net.dice(2) and x.rank == 4:
        shape = (n, x.channels, prod(x.shape[2:]))
        return net.node("Reshape", [x.name, net.ints(0, 0, -1)], shape)
    return net.node("Flatten", [x.name], (n, prod(x.shape[1:])))


def shuffle(net: Net, x: Value) -> Value | None:
    """Channel shuffle: Reshape, Transpose, Reshape. Or DepthToSpace."""
    n, c = x.shape[:2]
    if x.rank != 4 or c % 2:
        return None
    if c % 4 == 0 and net.dice(2):
        shape = (n, c // 4, 2 * x.shape[2], 2 * x.shape[3])
        return net.node("DepthToSpace", [x.name], shape, blocksize=2, mode=("DCR", "CRD")[net.dice(2)])
    h, w = x.shape[2:]
    y = net.node("Reshape", [x.name, net.ints(-1, 2, c // 2, h, w)], (n, 2, c // 2, h, w))
    y = net.node("Transpose", [y.name], (n, c // 2, 2, h, w), perm=[0, 2, 1, 3, 4])
    return net.node("Reshape", [y.name, net.ints(-1, c, h, w)], x.shape)


def pad(net: Net, x: Value) -> Value | None:
    """Pad of space: zeros, another constant, edge or reflect."""
    if x.rank != 4 or min(x.shape[2:]) < 2:
        return None
    kind = net.dice(4)
    inputs = [x.name, net.ints(0, 0, 1, 0, 0, 0, 0, 1)]
    inputs += [net.const(np.array(0.7))] if kind == 1 else []
    shape = (*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1)
    return net.node("Pad", inputs, shape, mode=("constant", "constant", "edge", "reflect")[kind])


def split(net: Net, x: Value) -> Value | None:
    """Split of channels; the parts are joined again in the other order, or one is dropped."""
    if x.channels < 3:
        return None
    a, b = 1, x.channels - 1
    number, rest = len(net.nodes), x.shape[2:]
    parts = [Value(f"v{number}a", (x.shape[0], a, *rest)), Value(f"v{number}b", (x.shape[0], b, *rest))]
    names = [p.name for p in parts]
    net.nodes.append(helper.make_node("Split", [x.name, net.ints(a, b)], names, name=f"n{number}", axis=1))
    net.values += parts
    if net.dice(2):
        return parts[1]
    first = batchnorm(net, parts[0]) if net.dice(2) else parts[0]
    return net.node("Concat", [parts[1].name, first.name], x.shape, axis=1)


def slice_channels(net: Net, x: Value) -> Value | None:
    """Slice or Gather of channels."""
    if x.channels < 3:
        return None
    shape = (x.shape[0], x.channels - 1, *x.shape[2:])
    if net.dice(2):
        picks = net.ints(*net.rng.permutation(x.channels)[:-1])
        return net.node("Gather", [x.name, picks], shape, axis=1)
    return net.node("Slice", [x.name, net.ints(1), net.ints(x.channels), net.ints(1)], shape)


def resize(net: Net, x: Value) -> Value | None:
    """Nearest or linear upsampling by 2."""
    if x.rank != 4 or prod(x.shape) > _MAX_ELEMENTS // 4:
        return None
    shape = (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    scales = net.const(np.array([1.0, 1.0, 2.0, 2.0]))
    return net.node("Resize", [x.name, "", scales], shape, mode=("nearest", "linear")[net.dice(2)])


def norm(net: Net, x: Value) -> Value | None:
    """LayerNormalization over the last axis or InstanceNormalization."""
    if net.dice(2) or x.rank < 3 or prod(x.shape[2:]) < 2:
        n = x.shape[-1]
        inputs = [x.name, net.const(net.normal(n)), net.const(net.normal(n))]
        return net.node("LayerNormalization", inputs, x.shape, axis=-1) if n > 2 else None
    inputs = [x.name, net.const(net.normal(x.channels)), net.const(net.normal(x.channels))]
    return net.node("InstanceNormalization", inputs, x.shape, epsilon=1e-2)


# Listed as often as they should come up.
_STEPS: tuple[Step, ...] = (
    *[batchnorm] * 8,
    *[conv] * 4,
    *[unary] * 3,
    *[residual] * 3,
    *[gemm, matmul, arithmetic, concat] * 2,
    conv_transpose,
    prelu,
    pool,
    shrink,
    gate,
    transpose,
    flatten,
    shuffle,
    pad,
    split,
    slice_channels,
    resize,
    norm,
)


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """A valid model of 2 to 12 steps on an input of rank 2, 3 or 4, with one or two outputs."""
    net = Net(lambda n: draw(st.integers(0, n - 1)), np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    shape = draw(st.sampled_from([(2, 4, 7, 5), (2, 6, 5), (2, 8), (2, 2, 6, 9)]))
    x = Value("x", shape)
    net.values.append(x)
    for step in draw(st.lists(st.sampled_from(_STEPS), min_size=2, max_size=12)):
        if net.dice(8) == 7:  # go on from an earlier value: siblings
            x = net.values[net.dice(len(net.values))]
        x = step(net, x) or x
    if not net.nodes:
        x = batchnorm(net, x)
    x = net.values[-1] if x.name == "x" else x
    outputs = [x] + ([net.values[-1 - net.dice(len(net.values) - 1)]] if net.dice(5) == 4 else [])
    batch: int | str = ("N", 2)[net.dice(2)]
    graph = helper.make_graph(
        net.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape[1:]])],
        [
            helper.make_tensor_value_info(v.name, TensorProto.FLOAT, [batch, *v.shape[1:]])
            for v in dict.fromkeys(outputs)
        ],
        net.constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs, with onnxruntime's graph optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def fold(source: Path, target: Path) -> int:
    """Fold a file into another and check what holds for every fold; how many nodes were removed."""
    model = FORMAT.read(source, ReadOptions())
    decided = plan(model.graph)
    assert decided == plan(FORMAT.read(source, ReadOptions()).graph), "two plans of one file differ"
    patch = apply(model.graph, decided)
    foretold = model.operators_after(patch)
    model.write(patch, target)
    after = FORMAT.read(target, ReadOptions())
    assert after.operators() == foretold
    assert sum(foretold.values()) <= sum(model.operators().values()), "the graph grew"
    again = [d for d in plan(after.graph).decisions if isinstance(d, Fold) and d.is_batchnorm]
    assert not again, f"a second fold would still remove {again}"
    return sum(isinstance(d, Fold) for d in decided.decisions)


def check(proto: onnx.ModelProto, folder: Path) -> int:
    """Fold a model and compare; how many nodes were removed."""
    source, target = folder / "a.onnx", folder / "b.onnx"
    source.write_bytes(proto.SerializeToString())
    removed = fold(source, target)
    onnx.checker.check_model(onnx.load(target))
    shape = [d.dim_value or 2 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    for wanted, got, info in zip(
        run(source, {"x": x}), run(target, {"x": x}), proto.graph.output, strict=True
    ):
        assert wanted.shape == got.shape and wanted.dtype == got.dtype
        assert np.isfinite(wanted).all()
        error, span = np.abs(wanted - got).max(), max(np.abs(wanted).max(), np.ptp(wanted))
        assert error <= _TOLERANCE * span, f"{info.name}: {error:.3g} of {span:.3g}"
    return removed


@settings(
    max_examples=_EXAMPLES,
    deadline=None,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
@given(proto=models())
def test_a_random_graph_computes_the_same_after_folding(proto: onnx.ModelProto) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(proto, Path(folder))
        except BaseException as e:
            e.add_note(onnx.printer.to_text(proto)) if hasattr(e, "add_note") else None
            raise


def test_random_graphs_do_fold() -> None:
    """The test above proves nothing if nothing ever folds."""
    removed: list[int] = []

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(proto=models())
    def count(proto: onnx.ModelProto) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.onnx"
            path.write_bytes(proto.SerializeToString())
            decided = plan(FORMAT.read(path, ReadOptions()).graph)
            removed.append(sum(isinstance(d, Fold) for d in decided.decisions))

    count()
    assert sum(n > 0 for n in removed) >= 10
