"""BatchNormalization as every version of ONNX wrote it, and in every float type, through the command line.

Numbers are compared by a route of their own (``numpy_route``, float64), since onnxruntime runs
neither the operator sets below 7 nor bfloat16; where it can, it has proved the result as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.reasons import Reason
from tests.command import call, optimized
from tests.numpy_route import Floats, evaluate
from tests.onnx_graphs import Net, Shape, assert_equal

IMAGE: dict[str, Shape] = {"x": ("N", 3, 8, 9)}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Version:
    """An operator set with the IR version of its time, and what a BN for inference had to say in it."""

    opset: int
    ir: int
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether onnxruntime has a BatchNormalization of this version."""
        return self.opset >= 7

    def build(self, net: Net, inputs: dict[str, Shape], output: str, rank: int) -> onnx.ModelProto:
        """The model; before IR 4 every initializer had to be an input too."""
        made = net.build(inputs, output, opset=self.opset, ir_version=self.ir, ranks={output: rank})
        for tensor in made.graph.initializer if self.ir < 4 else ():
            listed = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            made.graph.input.append(listed)
        return made


VERSIONS = [
    Version(1, 3, {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]}),
    Version(6, 3, {"is_test": 1}),
    Version(7, 3),
    Version(8, 3),
    Version(8, 3, {"spatial": 1}),
    Version(9, 4, {"momentum": 0.5}),
    Version(14, 7),
    Version(15, 8, {"training_mode": 0}),
    Version(22, 10),
]
SPACES = {"rank 2": (), "1-D": (9,), "2-D": (8, 7), "3-D": (7, 5, 8)}


def _linear(net: Net, x: str, cin: int, cout: int, rank: int, opset: int) -> str:
    if rank > 2:
        return net.conv(x, cin, cout, *(3, 2, 3)[: rank - 2])
    legacy: dict[str, Any] = {"broadcast": 1} if opset < 7 else {}
    return net.op("Gemm", x, net.weight(cin, cout, fan_in=cin), net.vector(cout), **legacy)


def _spans(want: list[Floats], got: list[Floats]) -> float:
    """The largest difference, in units of its output's range."""
    for array in want:
        assert np.isfinite(array).all() and np.ptp(array) > 0.1
    return max(float(np.abs(a - b).max() / np.ptp(a)) for a, b in zip(want, got, strict=True))


def _inputs(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape) * 1.5 + 0.4


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: f"opset {v.opset} {v.attributes or ''}".strip())
def test_folds_in_every_version_and_rank(version: Version, space: tuple[int, ...], tmp_path: Path) -> None:
    """BN → linear → Relu → linear → BN: the first goes forward, the second backward."""
    net, rank = Net(version.opset), 2 + len(space)
    x = _linear(net, net.bn("x", 3, **version.attributes), 3, 5, rank, version.opset)
    x = _linear(net, net.op("Relu", x), 5, 4, rank, version.opset)
    made = version.build(net, {"x": ("N", 3, *space)}, net.bn(x, 4, **version.attributes), rank)
    done = optimized(made, tmp_path, proof="equal" if version.runs else "skipped")
    assert list(done.decisions.values()) == [None, None]
    assert "BatchNormalization" not in done.operators
    before, after = onnx.load(done.before), onnx.load(done.after)
    assert (after.ir_version, after.opset_import) == (version.ir, before.opset_import)
    assert {v.name for v in after.graph.input} == (
        {"x"} | ({t.name for t in after.graph.initializer} if version.ir < 4 else set())
    )
    fed = {"x": _inputs(2, 3, *space)}
    assert _spans(evaluate(before, fed), evaluate(after, fed)) < 1e-6
    if version.runs:
        assert_equal(done.before, done.after)


@pytest.mark.parametrize("c", ["matrix", "run time"])
def test_an_old_gemm_adds_a_whole_matrix(c: str, tmp_path: Path) -> None:
    """BN → Gemm → BN, opset 6: a matrix takes a shift in every row, what is computed leaves it to the BN."""
    net = Net(10)
    more = net.weight(4, 5, fan_in=1) if c == "matrix" else net.op("MatMul", "z", net.weight(3, 5, fan_in=3))
    x = net.op("Gemm", net.bn("x", 3, is_test=1), net.weight(3, 5, fan_in=3), more, alpha=0.7, beta=-1.5)
    made = Version(6, 3).build(net, {"x": (4, 3), "z": (4, 3)}, net.bn(x, 5, is_test=1), 2)
    done = optimized(made, tmp_path, proof="skipped")
    assert done.operators.get("BatchNormalization", 0) == (0 if c == "matrix" else 1)
    fed = {"x": _inputs(4, 3), "z": _inputs(4, 3, seed=1)}
    assert _spans(evaluate(onnx.load(done.before), fed), evaluate(onnx.load(done.after), fed)) < 1e-6


STAYS = {
    "is_test = 0": (Version(6, 3, {"is_test": 0}), 5, Reason.TRAINING_MODE),
    "no is_test in opset 1": (Version(1, 3, {"consumed_inputs": [0, 0, 0, 1, 1]}), 5, Reason.TRAINING_MODE),
    "training_mode = 1": (Version(14, 7, {"training_mode": 1}), 5, Reason.TRAINING_MODE),
    "statistics per feature": (Version(8, 3, {"spatial": 0}), (5, 6, 8), Reason.AXIS),
    "spatial = 0, one number per channel": (Version(7, 3, {"spatial": 0}), 5, Reason.BAD_PARAMETERS),
    "spatial = 1, statistics per feature": (Version(8, 3), (5, 6, 8), Reason.BAD_PARAMETERS),
}


@pytest.mark.parametrize(("version", "size", "reason"), STAYS.values(), ids=STAYS)
def test_stays_with_a_reason(
    version: Version, size: int | tuple[int, ...], reason: Reason, tmp_path: Path
) -> None:
    """Conv → BN that does not compute one number per channel, or might not; the BN beside it folds."""
    net = Net(3)
    x = net.conv("x", 3, 5, 3, 2)
    stats = [net.const(np.abs(_inputs(*np.atleast_1d(size), seed=k)) + 0.1) for k in range(4)]
    y = net.op("BatchNormalization", x, *stats, name="odd", **version.attributes)
    fine = next(v.attributes for v in VERSIONS if v.opset == version.opset)
    y = net.bn(net.conv(net.op("Tanh", y), 5, 4, 1, 1), 4, name="even", **fine)
    done = optimized(version.build(net, IMAGE, y, 4), tmp_path, proof="skipped")
    assert done.decisions == {"odd": reason.name, "even": None}
    before, after = onnx.load(done.before), onnx.load(done.after)
    kept = next(n for n in after.graph.node if n.name == "odd")
    assert kept == next(n for n in before.graph.node if n.name == "odd")
    if reason is not Reason.TRAINING_MODE and size != 5:
        fed = {"x": _inputs(2, 3, 8, 9)}
        assert _spans(evaluate(before, fed), evaluate(after, fed)) < 1e-6


def test_spatial_0_of_a_matrix_is_per_channel_all_the_same(tmp_path: Path) -> None:
    net = Net(4)
    x = _linear(net, "x", 3, 5, 2, 8)
    made = Version(8, 3).build(net, {"x": ("N", 3)}, net.bn(x, 5, spatial=0), 2)
    done = optimized(made, tmp_path, proof="skipped")
    assert list(done.decisions.values()) == [None]
    fed = {"x": _inputs(4, 3)}
    assert _spans(evaluate(onnx.load(done.before), fed), evaluate(onnx.load(done.after), fed)) < 1e-6


# --- arithmetic below opset 7: the second operand begins at an axis of the first -------------------------

LEGACY: dict[str, tuple[str, list[int], dict[str, Any], bool]] = {
    "axis 1 of three": ("Mul", [4], {"broadcast": 1, "axis": 1}, False),
    "axis 2 of three": ("Mul", [4], {"broadcast": 1, "axis": 2}, True),
    "the last axis": ("Div", [4], {"broadcast": 1}, True),
    "one number, which cannot become a vector there": ("Mul", [1], {"broadcast": 1}, False),
}


@pytest.mark.parametrize(("kind", "shape", "attributes", "folds"), LEGACY.values(), ids=LEGACY)
def test_legacy_broadcasting_goes_by_its_axis(
    kind: str, shape: list[int], attributes: dict[str, Any], folds: bool, tmp_path: Path
) -> None:
    """x (2, 4, 3) · W (3, 4), both axes of size 4: only the last is the MatMul's own."""
    net = Net(6)
    x = net.op("MatMul", "x", net.weight(3, 4, fan_in=3))
    constant = net.const(np.resize(net.factors(4), shape))
    y = net.op("Tanh", net.op(kind, x, constant, **attributes))
    done = optimized(Version(6, 3).build(net, {"x": (2, 4, 3)}, y, 3), tmp_path, proof="skipped")
    assert (kind not in done.operators) is folds
    fed = {"x": _inputs(2, 4, 3)}
    assert _spans(evaluate(onnx.load(done.before), fed), evaluate(onnx.load(done.after), fed)) < 1e-6


@pytest.mark.parametrize("first", ["Add", "Mul"])
def test_what_precedes_a_bn_broadcasts_by_its_axis_too(first: str, tmp_path: Path) -> None:
    """x (2, 4, 4) · W → a constant along axis 1 → a Mul along axis 2, which folds into W or stays."""
    net = Net(7)
    x = net.op("MatMul", "x", net.weight(3, 4, fan_in=3))
    x = net.op(first, x, net.const(net.factors(4)), broadcast=1, axis=1)
    x = net.op("Tanh", net.op("Mul", x, net.const(net.factors(4)), broadcast=1, axis=2))
    done = optimized(Version(6, 3).build(net, {"x": (2, 4, 3)}, x, 3), tmp_path, proof="skipped")
    fed = {"x": _inputs(2, 4, 3)}
    assert _spans(evaluate(onnx.load(done.before), fed), evaluate(onnx.load(done.after), fed)) < 1e-6


def test_run_time_operands_broadcast_by_their_axis(tmp_path: Path) -> None:
    """x (2, 4, 4) + MatMul(z) (4,) along axis 1, then a Mul along axis 2: the sum spreads no such scale."""
    net = Net(9)
    x = net.op("MatMul", "x", net.weight(3, 4, fan_in=3))
    z = net.op("MatMul", "z", net.weight(3, 4, fan_in=3))
    total = net.op("Add", x, z, broadcast=1, axis=1)
    y = net.op("Tanh", net.op("Mul", total, net.const(net.factors(4)), broadcast=1, axis=2))
    made = Version(6, 3).build(net, {"x": (2, 4, 3), "z": (3,)}, y, 3)
    made.graph.value_info.add().CopyFrom(helper.make_tensor_value_info(z, TensorProto.FLOAT, [4]))
    made.graph.value_info.add().CopyFrom(helper.make_tensor_value_info(total, TensorProto.FLOAT, [2, 4, 4]))
    done = optimized(made, tmp_path, proof="skipped")
    fed = {"x": _inputs(2, 4, 3), "z": _inputs(3, seed=1)}
    assert _spans(evaluate(onnx.load(done.before), fed), evaluate(onnx.load(done.after), fed)) < 1e-6


# --- bfloat16 and float16 ---------------------------------------------------------------------------------


def _bfloat16(seed: int) -> Net:
    return Net(seed, ml_dtypes.bfloat16)


def _stored(model: onnx.ModelProto) -> dict[str, Floats]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}


@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_bfloat16_weights_are_the_equations_rounded_once(kind: str, tmp_path: Path) -> None:
    net = _bfloat16(8)
    x = _linear(net, "x", 3, 5, 4 if kind == "Conv" else 2, 15)
    made = net.build({"x": ("N", 3, 8, 9) if kind == "Conv" else ("N", 3)}, net.bn(x, 5), opset=15)
    done = optimized(made, tmp_path, proof="skipped")
    w, b, gamma, beta, mean, variance = (_stored(made)[f"c{i}"] for i in range(6))
    a = gamma / np.sqrt(variance + float(np.float32(1e-3)))
    wide = a.reshape(-1, 1, 1, 1) if kind == "Conv" else a
    (node,) = onnx.load(done.after).graph.node
    tensors = {t.name: t for t in onnx.load(done.after).graph.initializer}
    assert {t.data_type for t in tensors.values()} == {TensorProto.BFLOAT16}
    new = {name: numpy_helper.to_array(t).astype(np.float64) for name, t in tensors.items()}
    np.testing.assert_array_equal(new[node.input[1]], (w * wide).astype(BFLOAT16).astype(np.float64))
    want = (a * (b - mean) + beta).astype(BFLOAT16).astype(np.float64)
    np.testing.assert_array_equal(new[node.input[2]], want)


@pytest.mark.parametrize("forward", [False, True])
def test_bfloat16_outputs_agree_within_the_rounding_of_the_weights(forward: bool, tmp_path: Path) -> None:
    """|Δy| ≤ u · (Σ|W'|·|x| + |b'|) for new weights that are each off by half a unit, u = 2⁻⁹."""
    net = _bfloat16(9)
    x = net.conv(net.bn("x", 3) if forward else "x", 3, 5, 3, 2)
    made = net.build(IMAGE, x if forward else net.bn(x, 5), opset=15)
    done = optimized(made, tmp_path, proof="skipped")
    assert done.operators == {"Conv": 1}
    fed = {"x": _inputs(2, 3, 8, 9)}
    after = onnx.load(done.after)
    (want,), (got,) = evaluate(made, fed), evaluate(after, fed)
    for tensor in after.graph.initializer:
        values = np.abs(numpy_helper.to_array(tensor).astype(np.float64)).astype(BFLOAT16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    (most,) = evaluate(after, {"x": np.abs(fed["x"])})
    assert (np.abs(got - want) <= 2.0**-8 * most).all()
    assert np.abs(got - want).max() > 0.0
    assert np.abs(got - want).max() < 0.02 * np.ptp(want)


def test_what_no_runtime_runs_is_not_written_unless_asked_for(tmp_path: Path) -> None:
    net = _bfloat16(8)
    path = tmp_path / "model.onnx"
    onnx.save(net.build(IMAGE, net.bn(net.conv("x", 3, 5, 3, 3), 5), opset=15), path)
    refused = call("optimize", path, "--no-bench")
    assert refused.exit_code == 4
    assert "cannot be run" in refused.stderr and "--no-verify" in refused.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
