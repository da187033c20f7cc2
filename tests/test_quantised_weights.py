"""Weights behind a DequantizeLinear: which factors they take, and what onnxruntime makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason
from bnfuse.core.weights.linear import linear_form
from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import ArrayTensor, whole
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.command import FAST, call
from tests.onnx_graphs import session

LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-(2**15), 2**15 - 1), "int4": (-8, 7),
          "int2": (-2, 1), "uint2": (0, 3)}  # fmt: skip


# ---- the arithmetic ---------------------------------------------------------------------------------


WEIGHTS: list[tuple[tuple[int, ...], str, int]] = [
    ((6, 2, 3), "go i k*", 2), ((2, 6, 3), "k* i go", 3), ((4, 3), "i o", 1), ((6, 1, 2), "go i k*", 6),
]  # fmt: skip


@given(
    st.sampled_from(WEIGHTS),
    st.sampled_from("oi"),
    st.sampled_from(["tensor", "axis 0", "axis 1", "blocks"]),
    st.sampled_from(["plain", "one", "mixed", "zeros"]),
    st.integers(0, 2**16),
)
def test_factors_go_into_scales_and_integers(
    weight: tuple[tuple[int, ...], str, int], letter: str, kind: str, sort: str, seed: int
) -> None:
    """By the definition in float64: (q' − zero)·scale' is the old weight times them, or they are refused."""
    rng = np.random.default_rng(seed)
    shape, layout, groups = weight
    scales = [1] * len(shape)
    if kind == "blocks":
        scales = [shape[0] // 2, *shape[1:]]
    elif kind != "tensor":
        scales[int(kind[-1])] = shape[int(kind[-1])]
    q, scale = rng.integers(-127, 128, shape).astype(np.int16), rng.uniform(0.01, 0.1, scales)
    zero = rng.integers(-9, 10, scales)
    tensor = QuantisedTensor(ArrayTensor(q), scale, zero, -300, 300)
    form = linear_form(shape, layout, groups)
    factors = rng.uniform(0.5, 2.0, form.channels_out if letter == "o" else form.channels_in)
    if sort == "one":
        factors[:] = factors[0]
    elif sort == "mixed":
        factors *= rng.choice((-1.0, 1.0), factors.size)
    elif sort == "zeros":
        factors[rng.integers(factors.size)] = 0.0
    if tensor.refuses(form, [form.broadcast(factors, letter)]):
        assert sort != "one"
        return
    made = tensor.rescaled(form, [form.broadcast(factors, letter)])
    stored = q if made.stored is None else made.stored

    def everywhere(values: np.ndarray) -> np.ndarray:
        for axis, size in enumerate(shape):
            values = values.repeat(size // values.shape[axis], axis=axis)
        return values

    after = (stored - everywhere(zero)) * everywhere(made.scale)
    wanted = ((q - everywhere(zero)) * everywhere(scale)).reshape(form.dims) * form.broadcast(factors, letter)
    np.testing.assert_allclose(after.reshape(form.dims), wanted, rtol=1e-12, atol=0)
    np.testing.assert_allclose(whole(tensor), (q - everywhere(zero)) * everywhere(scale), rtol=1e-12)


@pytest.mark.parametrize(
    ("lowest", "sign", "goes"), [(-127, -1.0, True), (-128, -1.0, False), (-128, 1.0, True)]
)
def test_an_integer_that_cannot_be_mirrored(lowest: int, sign: float, goes: bool) -> None:
    q = np.array([[5, 100, -7], [3, lowest, 1], [1, 2, 3]], np.int8)
    tensor = QuantisedTensor(ArrayTensor(q), np.ones((3, 1)), np.zeros((3, 1), np.int32), -128, 127)
    form = linear_form((3, 3), "o i")
    why = tensor.refuses(form, [form.broadcast(np.array([1.0, sign, 1.0]), "o")])
    assert why == ("" if goes else "in channel 1 of axis 0 an integer would leave its type")


# ---- in files ---------------------------------------------------------------------------------------


class Case(Struct, frozen=True):
    """One operator with one kind of quantised weight, a BatchNormalization behind it or in front of it."""

    name: str
    op: str = "Conv"
    stored: str = "int8"
    scales: str = "axis 0"
    gamma: str = "positive"
    zero: int | None = 0
    opset: int = 21
    floats: str = "float32"
    behind: bool = True
    groups: int = 1
    goes: bool = True
    extremes: bool = False


CASES = [
    Case("per channel"),
    Case("per channel, signs", gamma="mixed"),
    Case("per channel, zeros", gamma="zeros"),
    Case("per channel, −128 stays", gamma="mixed", extremes=True, goes=False),
    Case("per channel, −128 where nothing is mirrored", extremes=True),
    Case("per tensor becomes per channel", scales="tensor", opset=13),
    Case("per tensor, signs", scales="tensor", gamma="mixed"),
    Case("per tensor, before there were channels", scales="tensor", opset=12, goes=False),
    Case("per tensor, one factor, before there were channels", scales="tensor", gamma="one", opset=12),
    Case("without a zero point", zero=None, gamma="mixed"),
    Case("unsigned around 128", stored="uint8", zero=128, gamma="mixed"),
    Case("unsigned around 128, 0 stays", stored="uint8", zero=128, gamma="mixed", extremes=True, goes=False),
    Case("unsigned per tensor", stored="uint8", zero=120, scales="tensor"),
    Case("16 bits", stored="int16", gamma="mixed"),
    Case("4 bits", stored="int4", gamma="mixed"),
    Case("2 bits", stored="int2", gamma="mixed", opset=25),
    Case("2 bits, −2 stays", stored="int2", gamma="mixed", extremes=True, opset=25, goes=False),
    Case("2 bits, unsigned", stored="uint2", zero=2, gamma="mixed", opset=25),
    Case("2 bits in blocks", "MatMul", stored="int2", scales="blocks 0", opset=25),
    Case("in float16", floats="float16", gamma="mixed"),
    Case("grouped", groups=2, gamma="mixed"),
    Case("depthwise", groups=4, gamma="mixed"),
    Case("along the inputs", scales="axis 1", goes=False),
    Case("before: along the inputs", scales="axis 1", behind=False, gamma="mixed"),
    Case("before: per tensor", scales="tensor", behind=False),
    Case("before: along the outputs", behind=False, goes=False),
    Case("ConvTranspose", "ConvTranspose", scales="axis 1", gamma="mixed"),
    Case("Gemm", "Gemm", scales="axis 1", gamma="mixed"),
    Case("MatMul", "MatMul", scales="axis 1", gamma="mixed"),
    Case("MatMul per tensor, in front", "MatMul", scales="tensor", behind=False),
    Case("MatMul in blocks along the inputs", "MatMul", scales="blocks 0", gamma="mixed"),
    Case("MatMul in blocks along the outputs", "MatMul", scales="blocks 1", goes=False),
    Case("MatMul in blocks, 4 bits", "MatMul", stored="int4", scales="blocks 0"),
]  # fmt: skip
IDS = [case.name for case in CASES]
C = 4


def build(case: Case) -> onnx.ModelProto:
    """x → (BN →) op with an unpacked weight (→ BN) → y."""
    rng = np.random.default_rng(IDS.index(case.name))
    dtype = np.dtype(case.floats)
    image = case.op.startswith("Conv")
    shape = (C, C // (1 if case.op == "ConvTranspose" else case.groups), 3, 3) if image else (C, C)
    low, high = LIMITS[case.stored]
    q = rng.integers(low + 1 if low else 1, high + 1, shape)
    if case.extremes:
        q[:, 0] = low
    kind = getattr(TensorProto, case.stored.upper())
    scale_shape: tuple[int, ...] = ()
    attributes: dict[str, int] = {}
    if case.scales.startswith("axis"):
        attributes["axis"] = int(case.scales[-1])
        scale_shape = (shape[attributes["axis"]],)
    elif case.scales.startswith("blocks"):
        axis = int(case.scales[-1])
        attributes |= {"axis": axis, "block_size": 2}
        scale_shape = tuple(n // 2 if k == axis else n for k, n in enumerate(shape))
    gamma = rng.uniform(0.5, 2, C)
    gamma = {
        "positive": gamma,
        "one": np.ones(C),
        "mixed": gamma * [1, -1, 1, -1],
        "zeros": gamma * [1, 0, 1, 1],
    }[case.gamma]
    var = np.ones(C) if case.gamma == "one" else rng.uniform(0.5, 2, C)
    floats = {
        "scale": rng.uniform(0.5, 2.0, scale_shape) / high, "gamma": gamma, "beta": rng.normal(size=C),
        "mean": rng.normal(size=C), "var": var, "bias": rng.normal(size=C),
    }  # fmt: skip
    inits = [numpy_helper.from_array(np.asarray(a, dtype), n) for n, a in floats.items()]
    inits.append(helper.make_tensor("q", kind, shape, q.ravel().tolist()))
    unpacked = ["q", "scale"]
    if case.zero is not None:
        points = np.full(scale_shape, case.zero).ravel().tolist()
        inits.append(helper.make_tensor("zero", kind, scale_shape, points))
        unpacked.append("zero")
    given = {"Conv": ["w", "bias"], "ConvTranspose": ["w"], "Gemm": ["w", "bias"], "MatMul": ["w"]}[case.op]

    ends = ("x", "c", "y") if case.behind else ("n", "y", "n")
    op = helper.make_node(case.op, [ends[0], *given], [ends[1]], name="op")
    if image and case.groups > 1:
        op.attribute.append(helper.make_attribute("group", case.groups))
    read = "c" if case.behind else "x"
    bn = helper.make_node("BatchNormalization", [read, "gamma", "beta", "mean", "var"], [ends[2]], name="bn")
    nodes = [helper.make_node("DequantizeLinear", unpacked, ["w"], name="unpack")]
    nodes[0].attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    nodes += [op, bn] if case.behind else [bn, op]
    size = [2, C, 6, 5] if image else [3, C]
    out: list[int | None] = [2, C, None, None] if image else [3, C]
    of = helper.np_dtype_to_tensor_dtype(dtype)
    infos = [helper.make_tensor_value_info(name, of, shape) for name, shape in (("x", size), ("y", out))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], inits)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=13 if case.opset > 24 else 10
    )


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_quantised_weight(case: Case, tmp_path: Path) -> None:
    path, target = tmp_path / "m.onnx", tmp_path / "out.onnx"
    if not hasattr(TensorProto, case.stored.upper()):
        pytest.skip(f"onnx {onnx.__version__} has no {case.stored}")
    onnx.save(build(case), path)
    opened = FORMAT.read(path, ReadOptions())
    planned = plan(opened.graph)
    (decision,) = planned.plan.decisions
    assert isinstance(decision, Fold) is case.goes, decision.message
    if not isinstance(decision, Fold):
        assert Reason.QUANTISED_WEIGHT in {refusal.reason for refusal in decision.refusals}
        return
    opened.write(apply(opened.graph, planned), target)
    made = onnx.load(target)
    onnx.checker.check_model(made, full_check=True)
    ops = [node.op_type for node in made.graph.node]
    assert ops.count("BatchNormalization") == 0
    assert ops.count("DequantizeLinear") == 1
    stored = {t.name: t for t in made.graph.initializer}
    old = next(t for t in onnx.load(path).graph.initializer if t.name == "q")
    unpack = next(node for node in made.graph.node if node.op_type == "DequantizeLinear")
    assert stored[unpack.input[0]].data_type == old.data_type
    unread = stored.keys() - {name for node in made.graph.node for name in node.input}
    assert unread <= {"bias"}  # which is there for some operators only
    x = (
        np.random.default_rng(1)
        .standard_normal([d.dim_value for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim])
        .astype(case.floats)
    )
    before, after = (session(each).run(None, {"x": x})[0] for each in (path, target))
    unit = float(np.finfo(case.floats).eps)
    assert np.abs(before - after).max() <= 16 * unit * np.abs(before).max()


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
@pytest.mark.parametrize("scales", ["tensor", "axis"])
def test_one_between_two(op: str, scales: str, tmp_path: Path) -> None:
    """BN → op → BN: a scale for each output takes what comes behind; with what comes before it is refused."""
    along = 0 if op == "Conv" else 1
    case = replace(CASES[IDS.index(op if op == "MatMul" else "per channel")], scales=f"axis {along}")
    case = case if scales == "axis" else replace(case, scales="tensor")
    proto = build(case)
    first = helper.make_node("BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["n"], name="first")
    proto.graph.node.insert(0, first)
    proto.graph.node[2].input[0] = "n"
    path, target = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(proto, path)
    opened = FORMAT.read(path, ReadOptions())
    planned = plan(opened.graph)
    goes = {decision.node: isinstance(decision, Fold) for decision in planned.plan.decisions}
    assert sorted(goes.values()) == [False, True]
    opened.write(apply(opened.graph, planned), target)
    size = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    before, after = (session(each).run(None, {"x": x})[0] for each in (path, target))
    assert np.abs(before - after).max() <= 2e-6 * np.abs(before).max()


def test_one_that_a_single_fold_comes_to_from_both_sides(tmp_path: Path) -> None:
    """BN(x + op(x)): x is held in another way, and so is what op makes of it: two factors at once."""
    proto = build(replace(CASES[IDS.index("MatMul per tensor, in front")], behind=True))
    graph = proto.graph
    graph.node.insert(0, helper.make_node("MatMul", ["x", "first"], ["r"], name="writer"))
    graph.initializer.append(numpy_helper.from_array(np.eye(C, dtype=np.float32) * 0.5, "first"))
    graph.node[2].input[0] = "r"
    graph.node.insert(3, helper.make_node("Add", ["c", "r"], ["sum"], name="sum"))
    graph.node[4].input[0] = "sum"
    path, target = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(proto, path)
    opened = FORMAT.read(path, ReadOptions())
    planned = plan(opened.graph)
    (decision,) = planned.plan.decisions
    assert Reason.QUANTISED_WEIGHT in {refusal.reason for refusal in getattr(decision, "refusals", ())}
    opened.write(apply(opened.graph, planned), target)
    x = np.random.default_rng(1).standard_normal((3, C)).astype(np.float32)
    before, after = (session(each).run(None, {"x": x})[0] for each in (path, target))
    np.testing.assert_array_equal(before, after)


def test_one_that_others_read_is_copied(tmp_path: Path) -> None:
    """Two convolutions share an unpacked weight; only one has a BatchNormalization behind it."""
    proto = build(CASES[1])
    graph = proto.graph
    graph.node.append(helper.make_node("Conv", ["x", "w"], ["z"], name="other"))
    graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, C, 4, 3]))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    ran = call("optimize", path, "--no-bench", *FAST[:2])
    assert ran.exit_code == 0, ran.output
    made = onnx.load(tmp_path / "m.fused.onnx").graph
    assert [node.op_type for node in made.node].count("DequantizeLinear") == 2
    x = np.random.default_rng(1).standard_normal((2, C, 6, 5)).astype(np.float32)
    before, after = (session(tmp_path / name).run(None, {"x": x}) for name in ("m.onnx", "m.fused.onnx"))
    np.testing.assert_array_equal(before[1], after[1])
    assert np.abs(before[0] - after[0]).max() <= 2e-6 * np.abs(before[0]).max()


def test_what_is_no_such_weight(tmp_path: Path) -> None:
    """Scales that are computed at run time, and of float8: as before, no constant."""
    proto = build(CASES[0])
    graph = proto.graph
    graph.node.insert(0, helper.make_node("ReduceMean", ["x"], ["mean_of_x"], keepdims=0))
    graph.node.insert(1, helper.make_node("Mul", ["scale", "mean_of_x"], ["scale_now"]))
    graph.node[2].input[1] = "scale_now"
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    (decision,) = plan(FORMAT.read(path, ReadOptions()).graph).plan.decisions
    reasons: set[Any] = {refusal.reason for refusal in getattr(decision, "refusals", ())}
    assert Reason.WEIGHT_NOT_CONSTANT in reasons
