"""``--round-bias``: a bias of 32-bit integers stays one, rounded by at most half a step, and told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.formats.base import ReadOptions
from tests.command import call
from tests.onnx_graphs import Folded, fold_model, session
from tests.report_schema import assert_fits

C, X_STEP = 4, 0.02


def build(
    op: str = "Conv", *, vary: bool = True, zero: int | None = None, gamma: float = 1.0, q: int = 900
) -> onnx.ModelProto:
    """x → Q → DQ → op with unpacked weight and bias → BN → y; ``vary``: a step of W for each channel."""
    rng = np.random.default_rng(5)
    shape = (C, C, 3, 3) if op == "Conv" else (C, C)
    w_step = rng.uniform(0.5, 2.0, C if vary else ()).astype(np.float32) / 100
    floats = {
        "x_step": np.array(X_STEP), "w_step": w_step, "b_step": w_step * X_STEP, "mean": rng.normal(size=C),
        "gamma": gamma * np.array([1.5, -0.5, 0.0, 0.8]), "beta": rng.normal(size=C), "var": np.ones(C),
    }  # fmt: skip
    inits = [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in floats.items()]
    whole: dict[str, np.ndarray] = {
        "x_zero": np.array(0, np.int8), "wq": rng.integers(-127, 128, shape).astype(np.int8),
        "bq": rng.integers(-q, q + 1, C).astype(np.int32),
    }  # fmt: skip
    if zero is not None:
        whole["b_zero"] = np.full(w_step.shape, zero, np.int32)
    inits += [numpy_helper.from_array(a, n) for n, a in whole.items()]
    steps = ["bq", "b_step", *(["b_zero"] if zero is not None else [])]
    op_node = helper.make_node(op, ["xd", "w", "b"], ["c"], name="op")
    if op == "Gemm":
        op_node.attribute.append(helper.make_attribute("transB", 1))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_step", "x_zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_step", "x_zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "w_step"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", steps, ["b"], axis=0),
        op_node,
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"], epsilon=0.0),
    ]
    size = [2, C, 6, 5] if op == "Conv" else [3, C]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in
             (("x", size), ("y", [2, C, 4, 3] if op == "Conv" else size))]  # fmt: skip
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bias_of(model: onnx.ModelProto, op: str) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
    """(q, step) where the bias is one of whole steps, else its floats."""
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    name = next(n for n in model.graph.node if n.op_type == op).input[2]
    if name in stored:
        return stored[name]
    unpack = next(n for n in model.graph.node if name in n.output)
    return stored[unpack.input[0]], stored[unpack.input[1]]


def folded(model: onnx.ModelProto, folder: Path, *, rounds: bool = True) -> Folded:
    made = fold_model(model, folder, ReadOptions(round_bias=rounds))
    assert made.plan.counts(batchnorm=True)[1] == 1
    onnx.checker.check_model(made.proto, full_check=True)
    return made


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
@pytest.mark.parametrize("vary", [True, False])
@pytest.mark.parametrize("zero", [None, 0])
def test_a_bias_of_whole_steps_stays_so(op: str, vary: bool, zero: int | None, tmp_path: Path) -> None:
    """By hand in float64: b' = a·b + c is within half a step, and the steps keep to those of x and W."""
    model = build(op, vary=vary, zero=zero)
    made = folded(model, tmp_path)
    found = bias_of(made.proto, op)
    assert isinstance(found, tuple)
    q, step = found
    assert q.dtype == np.int32
    stored = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    a, c = stored["gamma"], stored["beta"] - stored["mean"] * stored["gamma"]
    wanted = a * stored["bq"] * stored["b_step"] + c
    scales = np.where(a == 0.0, 1.0, np.abs(a)) * stored["b_step"]
    np.testing.assert_allclose(step, scales, rtol=1e-6)
    error = np.abs(q * step.astype(np.float64) - wanted)
    assert (error <= step / 2 * (1 + 1e-6)).all() and (error > 0).any()
    (told,) = made.written.rounded
    assert told.node == "op"
    assert told.error == pytest.approx(error.max(), rel=1e-4)
    assert told.error <= told.bound == pytest.approx(step.max() / 2, rel=1e-6)
    weights = {t.name: numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    unpack = next(n for n in made.proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] != "xq"
                  and weights[n.input[0]].dtype == np.int8)  # fmt: skip
    np.testing.assert_allclose(step, weights[unpack.input[1]] * np.float32(X_STEP), rtol=1e-6)
    x = np.random.default_rng(1).standard_normal([2, C, 6, 5] if op == "Conv" else [3, C]).astype(np.float32)
    old, new = (session(path).run(None, {"x": x})[0].astype(np.float64) for path in (made.before, made.after))
    errors = np.moveaxis(np.abs(old - new), 1, 0).reshape(C, -1).max(axis=1)
    assert (errors <= error + 1e-5 * np.abs(old).max()).all()
    assert (errors[error > 1e-5] > error[error > 1e-5] / 2).all()  # it is that error, not less by chance


def test_what_takes_more_than_32_bits_becomes_a_bias_of_floats(tmp_path: Path) -> None:
    """A scale that is nearly nothing, and a shift that stays: it takes 10¹² such steps."""
    made = folded(build(gamma=1e-10), tmp_path)
    assert isinstance(bias_of(made.proto, "Conv"), np.ndarray)
    assert made.written.rounded == ()


def test_without_being_asked_nothing_is_rounded(tmp_path: Path) -> None:
    made = folded(build(), tmp_path, rounds=False)
    assert isinstance(bias_of(made.proto, "Conv"), np.ndarray)
    assert made.written.rounded == ()


def test_the_command_tells_and_proves_the_rest(tmp_path: Path) -> None:
    """The proof is of the result before rounding, which alone is exact; two runs write the same bytes."""
    path, out, report = tmp_path / "m.onnx", tmp_path / "out.onnx", tmp_path / "r.json"
    onnx.save(build(), path)
    wanted = ["optimize", path, "-o", out, "--no-bench", "--round-bias", "--report", report, "--force"]
    ran = call(*wanted)
    assert ran.exit_code == 0, ran.output
    assert isinstance(bias_of(onnx.load(out), "Conv"), tuple)
    told = json.loads(report.read_text())
    assert_fits(told)
    assert told["verification"]["status"] == "equal"
    (each,) = told["rounded_biases"]
    assert each["node"] == "op" and 0.0 < each["error"] <= each["bound"]
    (note,) = (n for n in told["notes"] if "rounded" in n)
    assert note.startswith("as asked for, 1 bias was rounded to whole steps: by at most ")
    assert "(in 'op', where half a step is " in note and note.endswith(
        "the proof is of the result before that"
    )
    first = out.read_bytes()
    assert call(*wanted).exit_code == 0
    assert out.read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "out.onnx", "r.json"]
    unproved = call("optimize", path, "-o", out, "--no-bench", "--no-verify", "--round-bias", "--force")
    assert (
        "was rounded to whole steps" in " ".join(unproved.stdout.split())
        and "proof is of" not in unproved.stdout
    )
    assert out.read_bytes() == first
