"""Weights behind a Quant: which factors they take, by the published definition of Quant in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.decisions import Fold
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from tests.command import call
from tests.onnx_graphs import Folded, fold_model, why
from tests.qonnx_route import integers, run

C = 4
REAL = Path(__file__).resolve().parents[2] / "shared" / "models" / "onnx"  # beside the project
_QONNX, _BREVITAS = "qonnx.custom_op.general", "onnx.brevitas"


@dataclass(frozen=True)
class Case:
    """One operator whose weight comes out of a Quant, a BatchNormalization behind it or in front of it."""

    name: str
    op: str = "Conv"
    scales: str = "axis 0"
    gamma: str = "positive"
    zero: float = 0.0
    bits: float = 4.0
    signed: int = 1
    narrow: int = 1
    mode: str = "ROUND"
    kind: str = "Quant"
    domain: str = _QONNX
    behind: bool = True
    groups: int = 1
    pads: tuple[int, ...] = (0, 0, 0, 0)
    reason: Reason | None = None
    extremes: bool = False
    floats: str = "float32"


_SHARED, _UNREAD = Reason.QUANTISED_WEIGHT, Reason.WEIGHT_NOT_CONSTANT
CASES = [
    Case("per channel"),
    Case("of Brevitas", domain=_BREVITAS, gamma="mixed"),
    Case("IntQuant", kind="IntQuant", gamma="mixed"),
    Case("signs", gamma="mixed"),
    Case("zeros", gamma="zeros"),
    Case("padded", gamma="mixed", pads=(1, 1, 1, 1)),
    Case("per tensor becomes per channel", scales="tensor", gamma="mixed"),
    Case("per tensor, a scalar", scales="scalar"),
    Case("a wide grid, −8 stays", narrow=0, gamma="mixed", extremes=True, reason=_SHARED),
    Case("a wide grid, −8 where nothing is mirrored", narrow=0, extremes=True),
    Case("a wide grid without −8", narrow=0, gamma="mixed"),
    Case("unsigned, no sign", signed=0, narrow=0),
    Case("unsigned, a sign", signed=0, narrow=0, gamma="mixed", reason=_SHARED),
    Case("unsigned around 7, a sign", signed=0, zero=7.0, gamma="mixed"),
    Case("unsigned around 7, zeros", signed=0, zero=7.0, gamma="zeros"),
    Case("2 bits", bits=2.0, gamma="mixed"),
    Case("16 bits", bits=16.0, gamma="mixed"),
    Case("16 bits, gone", bits=16.0, gamma="gone"),
    Case("in float64", floats="float64", gamma="mixed"),
    *(Case(f"rounded {mode}", mode=mode, gamma="mixed")
      for mode in ("CEIL", "floor", "UP", "DOWN", "ROUND_TO_ZERO", "HALF_UP", "HALF_DOWN", "HALF_EVEN")),
    Case("as good as gone", gamma="gone"),
    Case("grouped", groups=2, gamma="mixed"),
    Case("depthwise", groups=4, gamma="mixed"),
    Case("Gemm", "Gemm", gamma="mixed"),
    Case("MatMul", "MatMul", scales="axis 1", gamma="mixed"),
    Case("along the inputs", scales="axis 1", reason=_SHARED),
    Case("before: along the inputs", scales="axis 1", behind=False, gamma="mixed"),
    Case("before: per tensor", scales="tensor", behind=False, gamma="mixed"),
    Case("before: along the outputs", behind=False, reason=_SHARED),
    Case("along two axes", scales="both", gamma="mixed"),
    # no such weight
    Case("1 bit, signed", bits=1.0, reason=_UNREAD),
    Case("a bit and a half", bits=1.5, reason=_UNREAD),
    Case("a zero point beside the grid", zero=9.0, reason=_UNREAD),
    Case("a zero point between integers", zero=0.5, reason=_UNREAD),
    Case("a rounding that nobody knows", mode="STOCHASTIC", reason=_UNREAD),
    Case("another domain", domain="my.ops", reason=_UNREAD),
]  # fmt: skip
IDS = [case.name for case in CASES]


def _gamma(kind: str, rng: np.random.Generator) -> np.ndarray:
    factors = {"mixed": [1, -1, 1, -1], "zeros": [1, 0, 1, 1], "gone": [1, 1e-38, 1, 1]}
    return rng.uniform(0.5, 2, C) * np.asarray(factors.get(kind, [1] * C), np.float64)


def build(case: Case) -> onnx.ModelProto:
    """x → (BN →) op with a weight out of a Quant (→ BN) → y; weights lie off the ties of rounding."""
    rng = np.random.default_rng(IDS.index(case.name))
    dtype = np.dtype(case.floats)
    image = case.op == "Conv"
    shape = (C, C // case.groups, 3, 3) if image else (C, C)
    rank = len(shape)
    axes = {"tensor": (), "scalar": (), "both": (0, 1)}.get(case.scales, (int(case.scales[-1]),) if
                                                           case.scales[-1].isdigit() else ())  # fmt: skip
    scale = rng.uniform(0.5, 2.0, [n if k in axes else 1 for k, n in enumerate(shape)]) / 2**case.bits
    half = 2 ** (max(2, int(case.bits)) - 1)
    low, high = (1 - half, half) if case.signed else (1, 2 * half - 1)
    q = rng.integers(low, high, shape).astype(float)
    if case.extremes:
        q[:, 0] = -half
    if case.signed or case.zero:
        q[:, -1] = case.zero
    w = ((q - case.zero + rng.uniform(-0.4, 0.4, shape)) * scale).astype(dtype)
    scale = scale.astype(dtype).reshape(() if case.scales == "scalar" else scale.shape)
    floats = {
        "w": w, "scale": scale, "zero": np.full((1,) * rank if case.scales == "tensor" else (), case.zero),
        "bits": np.array(case.bits), "bias": rng.normal(size=C), "gamma": _gamma(case.gamma, rng),
        "beta": rng.normal(size=C), "mean": rng.normal(size=C), "var": rng.uniform(0.5, 2, C),
    }  # fmt: skip
    flags: dict[str, Any] = {"signed": case.signed, "narrow": case.narrow, "rounding_mode": case.mode}
    if case.op == "MatMul":
        del floats["bias"]
    ends = ("x", "c", "y") if case.behind else ("n", "y", "n")
    quant = helper.make_node(case.kind, ["w", "scale", "zero", "bits"], ["wq"], name="quant",
                             domain=case.domain, **flags)  # fmt: skip
    more: dict[str, Any] = {"group": case.groups, "pads": case.pads} if image else {}
    bias = [] if case.op == "MatMul" else ["bias"]
    more |= {"transB": 1} if case.op == "Gemm" else {}
    op = helper.make_node(case.op, [ends[0], "wq", *bias], [ends[1]], name="op", **more)
    read = "c" if case.behind else "x"
    bn = helper.make_node("BatchNormalization", [read, "gamma", "beta", "mean", "var"], [ends[2]], name="bn",
                          epsilon=1e-3)  # fmt: skip
    size = [2, C, 6, 5] if image else [3, C]
    of = helper.np_dtype_to_tensor_dtype(dtype)
    out: list[int | None] = [2, C, None, None] if image else [3, C]
    infos = [helper.make_tensor_value_info(name, of, shape) for name, shape in (("x", size), ("y", out))]
    graph = helper.make_graph(
        [quant, op, bn] if case.behind else [quant, bn, op], "g", infos[:1], infos[1:],
        [numpy_helper.from_array(np.asarray(a, dtype), n) for n, a in floats.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 13), helper.make_opsetid(case.domain, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _compared(before: onnx.ModelProto, after: onnx.ModelProto, x: np.ndarray) -> float:
    """The error of y over its range."""
    old, new = run(before, x)["y"], run(after, x)["y"]
    assert np.isfinite(old).all() and np.ptp(old) > 0.1
    return float(np.abs(old - new).max() / np.abs(old).max())


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_weight_behind_a_quant(case: Case, tmp_path: Path) -> None:
    model = build(case)
    folded = fold_model(model, tmp_path)
    (decision,) = folded.plan.decisions
    if case.reason is not None:
        assert case.reason in why(decision)
        return
    assert isinstance(decision, Fold), decision.message
    made = folded.proto
    assert [n.op_type for n in made.graph.node] == [case.kind, "Gemm" if case.op == "MatMul" else case.op]
    quant = next(n for n in made.graph.node if n.op_type == case.kind)
    assert quant.domain == case.domain
    stored = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    assert (stored[quant.input[1]] > np.finfo(case.floats).tiny).all()
    assert set(stored) == {name for n in made.graph.node for name in n.input} - {"x", "wq_folded"}
    size = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(size)
    assert _compared(model, made, x) <= 4 * np.finfo(case.floats).eps
    _assert_the_same_integers(model, made, case)


def _assert_the_same_integers(before: onnx.ModelProto, after: onnx.ModelProto, case: Case) -> None:
    """As they were, mirrored where the factor is negative, the zero point where it is (as good as) zero."""
    found = []
    for model in (before, after):
        stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        quant = next(n for n in model.graph.node if n.op_type == case.kind)
        flags = {a.name: helper.get_attribute_value(a) for a in quant.attribute}
        x, scale, zero, bits = (stored[name] for name in quant.input)
        found.append(integers(x, scale, zero, float(bits), flags) - zero)
    signs = np.sign(_gamma(case.gamma, np.random.default_rng(0)))
    if case.gamma == "gone":
        signs[1] = 0.0
    axis = int(case.behind) if case.op == "MatMul" else 1 - int(case.behind)
    signs = signs.reshape([C if k == axis else 1 for k in range(found[0].ndim)])
    np.testing.assert_array_equal(found[1], found[0] * signs)


def test_one_that_others_read_is_copied(tmp_path: Path) -> None:
    """Two convolutions share what a Quant makes; only one has a BatchNormalization behind it."""
    model = build(CASES[IDS.index("signs")])
    model.graph.node.append(helper.make_node("Conv", ["x", "wq"], ["z"], name="other"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, C, 4, 3]))
    folded = fold_model(model, tmp_path)
    assert folded.operators(folded.after).count("Quant") == 2
    x = np.random.default_rng(1).standard_normal((2, C, 6, 5))
    assert _compared(model, folded.proto, x) <= 1e-6
    np.testing.assert_array_equal(run(model, x)["z"], run(folded.proto, x)["z"])


def test_a_bias_behind_a_quant_becomes_a_float_bias(tmp_path: Path) -> None:
    """A shift is no whole step of it."""
    model = build(CASES[IDS.index("signs")])
    names = ["bias", "bias_scale", "zero", "bits"]
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.25, np.float32), "bias_scale"))
    model.graph.node.insert(0, helper.make_node("Quant", names, ["bq"], domain=_QONNX, narrow=0))
    next(n for n in model.graph.node if n.name == "op").input[2] = "bq"
    folded = fold_model(model, tmp_path)
    assert folded.operators(folded.after) == ["Quant", "Conv"]
    x = np.random.default_rng(1).standard_normal((2, C, 6, 5))
    assert _compared(model, folded.proto, x) <= 1e-6


def test_what_is_not_finite_is_no_weight(tmp_path: Path) -> None:
    model = build(CASES[0])
    broken = numpy_helper.to_array(model.graph.initializer[0]).copy()
    broken[1, 1, 1, 1] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(broken, "w"))
    folded = fold_model(model, tmp_path)
    assert why(folded.plan.decisions[0]) >= {_UNREAD}


def test_a_function_of_the_model_counts(tmp_path: Path) -> None:
    """A Quant that the model itself defines, as a doubling."""
    model = build(CASES[0])
    body = [helper.make_node("Add", ["a", "a"], ["y"])]
    names = ["a", "b", "c", "d"]
    imports = [helper.make_opsetid("", 13)]
    flags = ["signed", "narrow", "rounding_mode"]
    function = helper.make_function(_QONNX, "Quant", names, ["y"], body, imports, flags)
    model.functions.append(function)
    folded = fold_model(model, tmp_path)
    assert folded.plan.counts(batchnorm=True)[1] == 1
    written = {t.name: numpy_helper.to_array(t) for t in folded.proto.graph.initializer}
    gamma, var = (np.asarray(numpy_helper.to_array(t), np.float64) for t in model.graph.initializer
                  if t.name in ("gamma", "var"))  # fmt: skip
    w = numpy_helper.to_array(model.graph.initializer[0])
    a = (gamma / np.sqrt(var + 1e-3)).reshape(-1, 1, 1, 1)
    assert any(v.shape == w.shape and np.allclose(v, 2 * w * a, rtol=1e-6) for v in written.values())


def _unrun(path: Path, folder: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Folded by the command, which cannot prove it."""
    target = folder / "out.onnx"
    refused = call("optimize", path, "-o", target, "--no-bench")
    assert refused.exit_code == 4 and "it has no operator Quant" in refused.stderr
    assert not target.exists()
    ran = call("optimize", path, "-o", target, "--no-bench", "--no-verify")
    assert ran.exit_code == 0, ran.output
    return onnx.load(path), onnx.load(target)


def test_a_published_network(tmp_path: Path) -> None:
    """ESPCN of the qonnx repository: 3 of 3 fold; behind the first convolution nothing is rounded yet."""
    path = REAL / "qonnx_espcn_quant_nodes.onnx"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    before, after = _unrun(path, tmp_path)
    assert [n.op_type for n in after.graph.node].count("BatchNormalization") == 0
    x = np.random.default_rng(2).uniform(0, 1, (1, 3, 9, 8)).astype(np.float32)
    old, new = run(before, x), run(after, x)
    first = next(n for n in before.graph.node if n.op_type == "BatchNormalization").output[0]
    np.testing.assert_allclose(new[first], old[first], rtol=0, atol=1e-6 * np.abs(old[first]).max())
    ends = old[before.graph.output[0].name], new[after.graph.output[0].name]
    step = 1 / 255  # of the last Quant: a value that lies on the edge may fall to either side
    assert np.ptp(ends[0]) > 20 * step
    assert np.mean(np.abs(ends[0] - ends[1]) > step / 2) < 0.01


def test_no_batchnorm_is_left_between_quantisers(tmp_path: Path) -> None:
    """A Quant of a value of run time: onnx knows no shapes behind it, and a vector lies along channels."""
    model = build(CASES[0])
    quant = helper.make_node("Quant", ["x", "zero_scale", "zero", "bits"], ["xq"], domain=_QONNX)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.3, np.float32), "zero_scale"))
    del model.graph.node[:2]
    model.graph.node.insert(0, quant)
    model.graph.node[1].input[0] = "xq"
    folded: Folded = fold_model(model, tmp_path, ReadOptions(target="no-bn"))
    assert folded.operators(folded.after) == ["Quant", "Mul", "Add"]
