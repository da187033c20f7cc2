"""``verify``: honest folds pass in every dtype, planted defects do not.

The folded models are made by ``tiny_models`` from the equation, not by the product.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.formats.onnx.run import load
from bnfuse.proof.deviation import LIMIT
from bnfuse.results import Status
from bnfuse.verify import verify
from tests.tiny_models import Layer, layer, model, net, save
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
    found = compare(tmp_path, a, b, inputs=tmp_path / "data.npz", samples=1)
    (output,) = found.outputs
    assert found.status is DIFFERENT
    assert found.samples == 1
    assert output.max_abs == pytest.approx(1e-3, rel=1e-3)
    assert output.max_rel == pytest.approx(1e-3 / 4.0, rel=1e-3)
    assert output.snr_db == pytest.approx(10 * math.log10((9 + 16 + 0.25) / 1e-6), abs=0.01)
    assert output.argmax_agreement == 1.0


def _one_channel(values: np.ndarray, change: float) -> np.ndarray:
    """Channel 5 changed: one that the Relu behind it does not always cut off."""
    return np.where(np.arange(values.size) == 5, values + change, values)


DEFECTS: list[tuple[str, Callable[[Layer], Layer]]] = [
    ("one channel's shift", lambda one: replace(one, mean=_one_channel(one.mean, 0.5))),
    ("one channel's small shift", lambda one: replace(one, beta=_one_channel(one.beta, 1e-2))),
    ("one channel's scale", lambda one: replace(one, gamma=_one_channel(one.gamma, 0.05))),
    ("epsilon 1e-3 for 1e-5", lambda one: replace(one, epsilon=1e-3)),
    ("swapped axis", lambda one: replace(one, weight=np.swapaxes(one.weight, 0, 1))),
    ("flipped sign", lambda one: replace(one, gamma=-one.gamma)),
    ("bias left out", lambda one: replace(one, bias=np.zeros_like(one.bias))),
]


@pytest.mark.parametrize("kind", [convnet, mlp])
@pytest.mark.parametrize("where", [1, 2])
@pytest.mark.parametrize(("name", "plant"), DEFECTS, ids=[d[0] for d in DEFECTS])
def test_a_defect_in_one_layer_is_different(
    tmp_path: Path, kind: Callable[[], list[Layer]], where: int, name: str, plant: Callable[[Layer], Layer]
) -> None:
    layers = kind()
    bad = [plant(one) if index == where else one for index, one in enumerate(layers)]
    found = compare(tmp_path, net(layers, folded=False), net(bad, folded=True))
    assert found.status is DIFFERENT
    assert found.outputs[0].max_rel > 10 * found.outputs[0].tolerance
    assert "'y'" in found.detail


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_lost_shift_is_different_in_other_dtypes(tmp_path: Path, dtype: str) -> None:
    layers = mlp()
    bad = [*layers[:2], replace(layers[2], mean=_one_channel(layers[2].mean, 0.5))]
    found = compare(tmp_path, net(layers, folded=False, dtype=dtype), net(bad, folded=True, dtype=dtype))
    assert found.status is DIFFERENT


def test_a_lost_shift_behind_a_softmax_is_different(tmp_path: Path) -> None:
    layers = mlp()
    bad = [layers[0], replace(layers[1], mean=_one_channel(layers[1].mean, 0.5)), layers[2]]
    pair = net(layers, folded=False, softmax=True), net(bad, folded=True, softmax=True)
    assert compare(tmp_path, *pair).status is DIFFERENT


def test_a_border_defect_is_different(tmp_path: Path) -> None:
    """A shift folded forward through zero padding is right inside and wrong at the borders."""
    rng = np.random.default_rng(0)
    one = layer(rng, 4, 3, 3, 3)
    kernel = rng.standard_normal((5, 4, 3, 3)).astype(np.float32)
    a = one.gamma / np.sqrt(one.var + 1e-5)
    c = one.beta - one.mean * a
    weight, bias = kernel * a[None, :, None, None], np.einsum("oihw,i->o", kernel, c)
    inits = {name: getattr(one, name).astype(np.float32) for name in ("gamma", "beta", "mean", "var")}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 6, 5])

    def arrays(named: dict[str, np.ndarray]) -> list[onnx.TensorProto]:
        return [numpy_helper.from_array(v.astype(np.float32), k) for k, v in named.items()]

    bn = helper.make_node("BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["n"])
    before = model(
        [bn, helper.make_node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1])],
        [x],
        [y],
        arrays({**inits, "w": kernel}),
    )
    after = model(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
        [x],
        [y],
        arrays({"w": weight, "b": bias}),
    )
    assert compare(tmp_path, before, after).status is DIFFERENT


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
    """A weight beyond float16's 65504, where BN's small γ had kept the product small."""
    one = mlp(depth=1)[0]
    before = net([one], folded=False, dtype="float16")
    weight, bias = one.folded()
    weight[0, 0] = 1e6
    after = net([one], folded=True, dtype="float16")
    with np.errstate(over="ignore"):
        arrays = [numpy_helper.from_array(v.astype(np.float16), n) for v, n in ((weight, "w0"), (bias, "b0"))]
    del after.graph.initializer[:]
    after.graph.initializer.extend(arrays)
    found = compare(tmp_path, before, after)
    assert found.status is DIFFERENT
    assert "not finite where the original's are" in found.detail


def test_a_candidate_that_does_not_load_is_different(tmp_path: Path) -> None:
    good = save(net(mlp(), folded=False), tmp_path / "a.onnx")
    bad = tmp_path / "b.onnx"
    bad.write_bytes(b"garbage")
    found = verify(good, bad, load=load)
    assert found.status is DIFFERENT
    assert "cannot be loaded" in found.detail
