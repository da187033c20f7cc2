"""``verify``: honest folds pass in every dtype, planted defects do not.

The folded models are made by ``tiny_models`` from the equation, not by the product.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.formats.onnx.runtime.run import load
from bnfuse.proof.deviation import LIMIT
from bnfuse.results import Status
from bnfuse.use_cases.verify import verify
from tests.planted import DEFECTS, border, lost_shift, overflow, spoiled
from tests.tiny_models import Layer, model, net, save
from tests.verify_nets import compare, convnet, mlp

EQUAL, DIFFERENT, INCONCLUSIVE = Status.EQUAL, Status.DIFFERENT, Status.INCONCLUSIVE


HONEST = [
    (kind, dtype, depth)
    for dtype in ("float32", "float16", "float64")
    for kind in (convnet, mlp)
    for depth in (1, 3, 12)
    if (kind, dtype) != (convnet, "float64")  # onnxruntime has no float64 Conv
]


@pytest.mark.parametrize(
    ("kind", "dtype", "depth"), HONEST, ids=[f"{k.__name__}-{t}-{d}" for k, t, d in HONEST]
)
def test_honest_folds_are_equal(
    tmp_path: Path, kind: Callable[[int, int], list[Layer]], dtype: str, depth: int
) -> None:
    for seed in range(3):
        layers = kind(seed, depth)
        found = compare(
            tmp_path, net(layers, folded=False, dtype=dtype), net(layers, folded=True, dtype=dtype)
        )
        assert (found.status, found.detail) == (EQUAL, "")
        assert found.samples == 8
        (output,) = found.outputs
        assert 0.0 < output.max_rel <= output.tolerance <= LIMIT[dtype]
        assert output.max_abs > 0.0
        assert output.snr_db > (30 if dtype == "float16" else 90)
        assert "optimisation off" in found.evidence


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_false_alarm_over_many_honest_folds(tmp_path: Path, dtype: str) -> None:
    """Statistics of mixed signs and sizes, 1 to 10 layers."""
    wrong = []
    for seed in range(100):
        layers = (convnet if seed % 2 else mlp)(1000 + seed, 1 + seed % 10)
        pair = net(layers, folded=False, dtype=dtype), net(layers, folded=True, dtype=dtype)
        found = compare(tmp_path, *pair, seed=seed)
        if found.status is not EQUAL:
            wrong.append((seed, found.detail))
    assert wrong == []


def test_the_same_file_agrees_to_the_bit(tmp_path: Path) -> None:
    proto = net(convnet(), folded=False)
    (output,) = compare(tmp_path, proto, proto).outputs
    assert (output.max_abs, output.max_rel, output.snr_db) == (0.0, 0.0, math.inf)
    assert output.argmax_agreement == 1.0


def test_the_figures_are_those_of_the_definition(tmp_path: Path) -> None:
    """y = x against y = x + 1e-3 on the user's data, so that every figure is known by hand."""
    x = np.array([[3.0, -4.0, 0.5]], np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("x", "y")]
    shift = numpy_helper.from_array(np.array([0.0, 1e-3, 0.0], np.float32), "c")
    a = model([helper.make_node("Identity", ["x"], ["y"])], [info[0]], [info[1]])
    b = model([helper.make_node("Add", ["x", "c"], ["y"])], [info[0]], [info[1]], [shift])
    found = compare(tmp_path, a, b, inputs=tmp_path / "data.npz", samples=0)
    (output,) = found.outputs
    assert found.status is DIFFERENT
    assert found.samples == 1
    assert output.max_abs == pytest.approx(1e-3, rel=1e-3)
    assert output.max_rel == pytest.approx(1e-3 / 4.0, rel=1e-3)
    assert output.snr_db == pytest.approx(10 * math.log10((9 + 16 + 0.25) / 1e-6), abs=0.01)
    assert output.argmax_agreement == 1.0


# One that no Relu cuts off for every input in any of these networks: there no defect could show.
CHANNEL = 2


@pytest.mark.parametrize("kind", [convnet, mlp])
@pytest.mark.parametrize(("depth", "where"), [(3, 1), (3, 2), (1, 0), (12, 0), (12, 6)])
@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_in_one_layer_is_different(
    tmp_path: Path, kind: Callable[[int, int], list[Layer]], depth: int, where: int, name: str
) -> None:
    layers = kind(0, depth)
    bad = spoiled(layers, where, DEFECTS[name], CHANNEL)
    found = compare(tmp_path, net(layers, folded=False), net(bad, folded=True))
    assert found.status is DIFFERENT
    assert found.outputs[0].max_rel > 5 * found.outputs[0].tolerance
    assert "'y'" in found.detail
    assert found.failing_sets


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_lost_shift_is_different_in_other_dtypes(tmp_path: Path, dtype: str) -> None:
    layers = mlp()
    bad = [*layers[:2], lost_shift(layers[2], CHANNEL)]
    found = compare(tmp_path, net(layers, folded=False, dtype=dtype), net(bad, folded=True, dtype=dtype))
    assert found.status is DIFFERENT


def test_a_lost_shift_behind_a_softmax_is_different(tmp_path: Path) -> None:
    layers = mlp()
    bad = [layers[0], lost_shift(layers[1], CHANNEL), layers[2]]
    pair = net(layers, folded=False, softmax=True), net(bad, folded=True, softmax=True)
    assert compare(tmp_path, *pair).status is DIFFERENT


@pytest.mark.parametrize("seed", range(4))
def test_a_shift_through_zero_padding_is_different(tmp_path: Path, seed: int) -> None:
    """It is right inside and wrong at the borders; made right, it passes."""
    wrong, right = border(seed=seed), border(honest=True, seed=seed)
    found = compare(tmp_path, wrong.before, wrong.after)
    assert found.status is DIFFERENT
    assert found.outputs[0].max_rel > 100 * found.outputs[0].tolerance
    assert compare(tmp_path, right.before, right.after).status is EQUAL


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _renamed(proto: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    copy = _copy(proto)
    for node in copy.graph.node:
        node.input[:] = [new if n == old else n for n in node.input]
        node.output[:] = [new if n == old else n for n in node.output]
    for value in (*copy.graph.input, *copy.graph.output):
        value.name = new if value.name == old else value.name
    return copy


def _fixed_batch(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = _copy(proto)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return copy


INTERFACES: list[tuple[str, Callable[[list[Layer]], onnx.ModelProto], str]] = [
    ("output renamed", lambda it: net(it, folded=True, output="z"), "output 'y' is missing"),
    ("input renamed", lambda it: _renamed(net(it, folded=True), "x", "w"), "input 'x' is missing"),
    (
        "dtype changed",
        lambda it: net(it, folded=True, dtype="float64"),
        "float64, where the original has float32",
    ),
    ("free batch lost", lambda it: _fixed_batch(net(it, folded=True)), r"declared as \[1, 5\]"),
]


@pytest.mark.parametrize(("name", "build", "detail"), INTERFACES, ids=[i[0] for i in INTERFACES])
def test_a_changed_interface_is_different(
    tmp_path: Path, name: str, build: Callable[[list[Layer]], onnx.ModelProto], detail: str
) -> None:
    layers = mlp()
    found = compare(tmp_path, net(layers, folded=False), build(layers))
    assert found.status is DIFFERENT
    assert (found.samples, found.evidence.endswith(", 0 input sets")) == (0, True)
    assert found.outputs == ()
    assert re.search(detail, found.detail)


def test_outputs_in_another_order_are_different(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("a", "b")]
    nodes = [helper.make_node("Identity", ["x"], ["a"]), helper.make_node("Identity", ["x"], ["b"])]
    found = compare(tmp_path, model(nodes, [x], outs), model(nodes, [x], outs[::-1]))
    assert found.status is DIFFERENT
    assert "another order" in found.detail


def test_overflow_to_infinity_is_different(tmp_path: Path) -> None:
    pair = overflow()
    found = compare(tmp_path, pair.before, pair.after)
    assert found.status is DIFFERENT
    assert "not finite where the original's are" in found.detail
    assert found.outputs[0].max_rel == found.outputs[0].rms == math.inf


def test_a_candidate_that_does_not_load_is_different(tmp_path: Path) -> None:
    good = save(net(mlp(), folded=False), tmp_path / "a.onnx")
    bad = tmp_path / "b.onnx"
    bad.write_bytes(b"garbage")
    found = verify(good, bad, load=load)
    assert found.status is DIFFERENT
    assert "cannot be loaded" in found.detail
