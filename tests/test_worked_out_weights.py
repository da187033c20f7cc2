"""Weights and parameters that a file holds as subgraphs of constants, through the command line.

Exporters leave them: parameters unsqueezed to lie along the channels, weight normalisation, low-rank
updates, masks. They are folded into as if they were stored, and the result is compared in onnxruntime,
its own graph optimisation off. All axes of a value are of one size where a fold along another axis would
otherwise not fit, and so go unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.command import optimized
from tests.onnx_graphs import Net, Shape, assert_equal

IMAGE: dict[str, Shape] = {"x": ("N", 3, 7, 6)}
CUBE: dict[str, Shape] = {"x": (2, 3, 4, 4)}
Made = Callable[[Net, str], str]


def listed(net: Net, op: str, x: str, axes: list[int], opset: int, since: int) -> str:
    """An operator whose axes are an attribute below an operator set, an operand from it on."""
    if opset < since:
        return net.op(op, x, axes=axes)
    return net.op(op, x, net.const(np.array(axes)))


# --- constants that lie along an axis -----------------------------------------------------------------------

AXES = [
    [a - s, b - t]
    for a, b in permutations(range(3), 2)
    for s, t in ((0, 0), (3, 0), (0, 3), (3, 3))
]  # fmt: skip


@pytest.mark.parametrize("opset", [7, 11, 12, 13, 21])
def test_unsqueezed_scales_and_shifts_lie_where_the_runtime_puts_them(opset: int, tmp_path: Path) -> None:
    """Every pair of axes, in every order and with every sign: only [C, 1, 1] lies along the channels."""
    net, outputs, along = Net(opset + 1), [], 0
    for axes in AXES:
        y = net.conv("x", 3, 4, 1, 1)
        for op in ("Mul", "Add"):
            constant = net.const(net.factors(4, positive=True))
            y = net.op(op, y, listed(net, "Unsqueeze", constant, axes, opset, 13))
        outputs.append(net.op("Tanh", y))
        along += {a % 3 for a in axes} == {1, 2}
    made = net.build(CUBE, outputs, opset=opset, ir_version=7)
    done = optimized(made, tmp_path, proof="skipped")
    assert done.operators.get("Mul", 0) == done.operators.get("Add", 0) == len(AXES) - along
    assert_equal(done.before, done.after)


# --- weights ------------------------------------------------------------------------------------------------


def _norm(net: Net, w: str) -> str:
    opset = net_opset(net)
    length = listed(net, "ReduceL2", w, [-1, 1, -2], opset, 18)
    unit = net.op("Div", w, length)
    return net.op("Mul", unit, net.const(net.factors(4).reshape(4, 1, 1, 1)))


def _standardised(net: Net, w: str) -> str:
    opset = net_opset(net)
    mean = listed(net, "ReduceMean", w, [3, 1, 2], opset, 18)
    centred = net.op("Sub", w, mean)
    spread = listed(net, "ReduceMean", net.op("Mul", centred, centred), [-3, -1, -2], opset, 18)
    root = net.op("Sqrt", net.op("Add", spread, net.const(np.array(1e-3))))
    return net.op("Div", centred, root)


def _low_rank(net: Net, w: str) -> str:
    flat = net.op("Reshape", w, net.const(np.array([4, -1])))
    update = net.op("MatMul", net.weight(4, 2, fan_in=2), net.weight(2, 12, fan_in=2))
    return net.op("Reshape", net.op("Add", flat, update), net.const(np.array([4, 3, 2, 2])))


def _gemm(net: Net, w: str) -> str:
    update = net.op(
        "Gemm", net.weight(2, 4, fan_in=2), net.weight(12, 2, fan_in=2), transA=1, transB=1, alpha=0.5
    )
    return net.op("Add", w, net.op("Reshape", update, net.op("Shape", w)))


def _flipped(net: Net, w: str) -> str:
    bounds = [net.const(np.array(v)) for v in ([-1, 9], [-9, -9], [-1, 2], [-1, -1])]
    return net.op("Slice", w, *bounds)


def _masked(net: Net, w: str) -> str:
    keep = net.op("Less", net.op("Abs", w), net.const(np.array(0.4)))
    return net.op("Where", keep, w, net.const(np.array(0.0)))


def _parts(net: Net, w: str) -> str:
    net.op("Split", w, net.const(np.array([1, 3])), out=["front", "back"], axis=-4)
    turned = net.op("Gather", "back", net.const(np.array([-1, 0, 1])), axis=0)
    return net.op("Concat", net.op("Neg", turned), "front", axis=-4)


def _padded(net: Net, w: str) -> str:
    inner = net.op("Slice", w, *(net.const(np.array(v)) for v in ([0], [1], [-1])))
    return net.op("Pad", inner, net.const(np.array([0, 0, 0, 1, 0, 0, 0, 0])), mode="constant")


def _tiled(net: Net, w: str) -> str:
    one = net.op("Slice", w, *(net.const(np.array(v)) for v in ([2], [3], [0])))
    many = net.op("Tile", one, net.const(np.array([4, 1, 1, 1])))
    return net.op(
        "Max", net.op("Exp", many), w, net.op("Expand", net.op("Reciprocal", one), net.op("Shape", w))
    )


def _through_half(net: Net, w: str) -> str:
    return net.op("Cast", net.op("Cast", w, to=TensorProto.FLOAT16), to=TensorProto.FLOAT)


def _turned(net: Net, w: str) -> str:
    back = net.op("Transpose", net.op("Transpose", w, perm=[2, 3, 1, 0]), perm=[3, 2, 1, 0])
    return net.op("Pow", back, net.const(np.array(3.0)))


def _unit(net: Net, w: str) -> str:
    return net.op("LpNormalization", w, axis=-3, p=1)


def _scattered(net: Net, w: str) -> str:
    at = net.const(np.array([[0, 1], [-1, 2], [2, 0]]))
    some = net.op("ScatterND", w, at, net.weight(3, 2, 2, fan_in=12))
    index = net.const(np.broadcast_to(np.array([2, -4, 1, 3]).reshape(4, 1, 1, 1), (4, 3, 2, 2)))
    return net.op("GatherElements", some, index, axis=0)


def _contracted(net: Net, w: str) -> str:
    return net.op("Einsum", w, net.weight(3, 3, fan_in=3), equation="oikl,ij->ojkl")


def _halved(net: Net, w: str) -> str:
    other = net.op("Relu", net.op("Log", net.op("Abs", w)))
    return net.op("Mean", w, other, net.op("CumSum", w, net.const(np.array(-3))))


def _dequantised(net: Net, w: str) -> str:
    q = net.const(net.rng.integers(-127, 128, 4).astype(np.int8))
    zero = net.const(net.rng.integers(-9, 9, 4).astype(np.int8))
    gain = net.op("DequantizeLinear", q, net.const(net.rng.uniform(0.005, 0.02, 4)), zero, axis=0)
    return net.op("Mul", net.op("Reshape", gain, net.const(np.array([4, 1, 1, 1]))), w)


def _upper(net: Net, w: str) -> str:
    return net.op("Trilu", w, net.const(np.array(-1)), upper=0) if net_opset(net) > 13 else net.op("Relu", w)


WEIGHTS: dict[str, Made] = {
    "unit length": _unit,
    "scattered and gathered": _scattered,
    "contracted by Einsum": _contracted,
    "a mean": _halved,
    "times a dequantised vector": _dequantised,
    "a triangle": _upper,
    "weight normalisation": _norm,
    "standardised": _standardised,
    "low-rank update": _low_rank,
    "low-rank update by Gemm": _gemm,
    "flipped by Slice": _flipped,
    "masked": _masked,
    "of parts": _parts,
    "padded": _padded,
    "tiled": _tiled,
    "through float16": _through_half,
    "turned": _turned,
}
_OPSETS: dict[int, int] = {}


def net_opset(net: Net) -> int:
    """The operator set that a net is to be built for."""
    return _OPSETS[id(net)]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("made", WEIGHTS.values(), ids=WEIGHTS)
def test_a_weight_that_is_worked_out(made: Made, opset: int, tmp_path: Path) -> None:
    """Conv → BN → Tanh: the new weight is stored, and nothing of the subgraph is left."""
    net = Net(opset + 1)
    _OPSETS[id(net)] = opset
    y = net.op("Conv", "x", made(net, net.weight(4, 3, 2, 2, fan_in=12)))
    done = optimized(net.build(IMAGE, net.op("Tanh", net.bn(y, 4)), opset=opset), tmp_path)
    assert done.operators == {"Conv": 1, "Tanh": 1}
    assert_equal(done.before, done.after)


def test_parameters_by_shape_cast_and_expand(tmp_path: Path) -> None:
    """What an exporter leaves that does not optimise: ones and zeros as large as the mean."""
    net = Net(3)
    mean, variance = net.vector(4), net.const(net.factors(4, positive=True))
    shape = net.op("Shape", mean)
    ones, zeros = (net.op("Expand", net.op("CastLike", net.const(np.array(v)), mean), shape) for v in (1, 0))
    y = net.op("BatchNormalization", net.conv("x", 3, 4, 2, 3), ones, zeros, mean, variance)
    done = optimized(net.build(IMAGE, net.op("Tanh", y), opset=20, ir_version=9), tmp_path)
    assert done.operators == {"Conv": 1, "Tanh": 1}
    assert_equal(done.before, done.after)


def test_a_bn_in_nine_operators(tmp_path: Path) -> None:
    """As some exporters write it: √(variance + ε) and all that follows is computed from constants."""
    net = Net(4)
    gamma, beta, mean = (net.const(net.factors(5).reshape(1, 1, 1, 5)) for _ in range(3))
    variance = net.op("Reshape", net.const(net.factors(5, positive=True)), net.const(np.array([1, 1, 1, 5])))
    root = net.op("Sqrt", net.op("Add", variance, net.const(np.array(1e-3))))
    a = net.op("Mul", net.op("Div", net.const(np.array(1.0)), root), gamma)
    c = net.op("Add", net.op("Mul", net.op("Neg", mean), a), beta)
    x = net.op("Transpose", net.conv("x", 3, 5, 2, 3), perm=[0, 2, 3, 1])
    y = net.op("Tanh", net.op("Add", net.op("Mul", x, a), c))
    done = optimized(net.build(IMAGE, y), tmp_path)
    assert done.operators == {"Conv": 1, "Transpose": 1, "Tanh": 1}
    assert_equal(done.before, done.after)


# --- what Constant nodes may say ----------------------------------------------------------------------------


def _sparse(values: np.ndarray, rows: bool) -> onnx.SparseTensorProto:
    flat = np.flatnonzero(values)
    at = np.stack(np.unravel_index(flat, values.shape), 1) if rows else flat
    stored = numpy_helper.from_array(values.reshape(-1)[flat])
    return helper.make_sparse_tensor(stored, numpy_helper.from_array(at.astype(np.int64)), values.shape)


@pytest.mark.parametrize("rows", [False, True], ids=["positions", "rows of indices"])
def test_sparse_constants(rows: bool, tmp_path: Path) -> None:
    net = Net(5)
    w = net.rng.standard_normal((3, 4)).astype(np.float32)
    w[net.rng.random(w.shape) < 0.5] = 0
    net.op("Constant", out="w", sparse_value=_sparse(w, rows))
    net.op("Constant", out="half", value_float=0.5)
    net.op("Constant", out="shape", value_ints=[-1, 4])
    net.op("Constant", out="four", value_floats=[1.5, -2.0, 0.25, 3.0])
    net.op("Constant", out="axis", value_int=1)
    y = net.op("Reshape", net.op("MatMul", "x", "w"), "shape")
    y = net.op("Mul", net.op("Mul", net.bn(y, 4), "four"), "half")
    done = optimized(net.build({"x": (5, 3)}, net.op("Tanh", y)), tmp_path)
    assert set(done.operators) <= {"Gemm", "MatMul", "Add", "Constant", "Reshape", "Tanh"}
    assert_equal(done.before, done.after)


@pytest.mark.parametrize("rows", [False, True], ids=["positions", "rows of indices"])
def test_sparse_initializers(rows: bool, tmp_path: Path) -> None:
    """Weight and statistics; the weight's other reader keeps the sparse one."""
    net = Net(8)
    w = net.rng.standard_normal((3, 4)).astype(np.float32)
    w[net.rng.random(w.shape) < 0.5] = 0
    gamma = np.array([1.5, 0, -2.0, 0], np.float32)
    x = net.op("BatchNormalization", net.op("MatMul", "x", "w"), "gamma", *net.statistics(4)[1:], name="bn")
    net.op("Tanh", x, out="y")
    net.op("MatMul", "x", "w", out="z", name="other")
    made = net.build({"x": (5, 3)}, ["y"])
    made.graph.output.add().CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, [5, 4]))
    for name, array in (("w", w), ("gamma", gamma)):
        sparse = made.graph.sparse_initializer.add()
        sparse.CopyFrom(_sparse(array, rows))
        sparse.values.name = name
    done = optimized(made, tmp_path)
    after = onnx.load(done.after)
    assert sorted(n.op_type for n in after.graph.node) == ["Gemm", "MatMul", "Tanh"]
    assert [t.values.name for t in after.graph.sparse_initializer] == ["w"]
    assert_equal(done.before, done.after)


def test_a_sparse_initializer_that_a_caller_may_override(tmp_path: Path) -> None:
    net = Net(9)
    x = net.op("BatchNormalization", net.conv("x", 3, 4, 2, 2), "gamma", *net.statistics(4)[1:], name="bn")
    made = net.build({**IMAGE, "gamma": (4,)}, net.op("Tanh", x))
    sparse = made.graph.sparse_initializer.add()
    sparse.CopyFrom(_sparse(np.array([1.5, 0, -2.0, 0], np.float32), False))
    sparse.values.name = "gamma"
    done = optimized(made, tmp_path, proof="skipped")
    assert done.decisions == {"bn": "PARAMETER_NOT_CONSTANT"}
    assert done.before.read_bytes() == done.after.read_bytes()


def test_a_computed_weight_that_others_see_stays(tmp_path: Path) -> None:
    """It is an output of the model, and what it is made of has another reader."""
    net = Net(10)
    v = net.weight(4, 3, 2, 2, fan_in=12)
    w = net.op("Div", v, net.op("ReduceL2", v, axes=[1, 2, 3]), out="w")
    y = net.op("Tanh", net.bn(net.op("Conv", "x", w), 4, name="bn"))
    made = net.build(IMAGE, [y, net.op("Conv", "x", v)], opset=13)
    made.graph.output.add().CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 2, 2]))
    done = optimized(made, tmp_path)
    assert done.decisions == {"bn": None}
    assert done.operators == {"Conv": 2, "Tanh": 1, "Div": 1, "ReduceL2": 1}
    assert_equal(done.before, done.after)


def test_random_numbers_are_no_constants(tmp_path: Path) -> None:
    net = Net(11)
    noise = net.op("RandomUniformLike", net.vector(4), low=0.5, high=1.5, seed=3.0)
    x = net.op("BatchNormalization", net.conv("x", 3, 4, 2, 2), noise, *net.statistics(4)[1:], name="bn")
    done = optimized(net.build(IMAGE, net.op("Tanh", x)), tmp_path, proof="skipped")
    assert done.decisions == {"bn": "PARAMETER_NOT_CONSTANT"}
    assert done.before.read_bytes() == done.after.read_bytes()


def test_what_is_too_large_is_not_worked_out(tmp_path: Path) -> None:
    """A few bytes that say 4 GiB: read in no time, in little memory, and left as they are."""
    net = Net(6)
    huge = net.op("Expand", net.const(net.factors(4).reshape(4, 1)), net.const(np.array([4, 1 << 28])))
    narrow = net.op("ReduceMax", huge, axes=[1], keepdims=0)
    y = net.op("BatchNormalization", net.conv("x", 3, 4, 2, 3), narrow, *net.statistics(4)[1:], name="bn")
    made = net.build(IMAGE, net.op("Tanh", y), opset=15)
    done = optimized(made, tmp_path, proof="skipped")
    assert done.decisions == {"bn": "PARAMETER_NOT_CONSTANT"}
    assert done.before.read_bytes() == done.after.read_bytes()
