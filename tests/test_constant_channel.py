"""``--target no-bn``: a shift before zero padding goes by a channel that is constant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfuse.core.decisions import Fold, Keep, Split
from bnfuse.formats.base import ReadOptions
from tests import bordered_nets as nets
from tests.bordered_nets import SHAPE, Build, Net
from tests.command import call
from tests.onnx_graphs import TOLERANCE, Folded, fold_model, session
from tests.report_schema import assert_fits

_NO_BN = ReadOptions(target="no-bn")


def error(before: Path, after: Path) -> float:
    """The largest of all outputs, over their range."""
    loaded = session(before), session(after)
    x = (
        np.random.default_rng(1)
        .standard_normal(SHAPE)
        .astype(
            {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}[
                loaded[0].get_inputs()[0].type
            ]
        )
    )
    found = []
    for old, new in zip(*(each.run(None, {"x": x}) for each in loaded), strict=True):
        assert old.shape == new.shape and np.isfinite(old).all()
        found.append(np.abs(old.astype(float) - new.astype(float)).max() / np.abs(old.astype(float)).max())
    return float(max(found))


def folded(model: onnx.ModelProto, folder: Path) -> Folded:
    made = fold_model(model, folder, _NO_BN)
    onnx.checker.check_model(made.proto, full_check=True)
    assert error(made.before, made.after) <= TOLERANCE["float32"]
    return made


def shapes(made: Folded, op: str = "Conv") -> list[tuple[int, ...]]:
    stored = {t.name: tuple(t.dims) for t in made.proto.graph.initializer}
    return [stored[n.input[1]] for n in made.proto.graph.node if n.op_type == op]


_CURVES = ("Sigmoid", "Tanh", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Mish", "Gelu", "Erf", "Exp",
           "Softplus", "Softsign", "Swish")  # fmt: skip
_LIKE: list[tuple[str, dict[str, Any]]] = [
    *((op, {}) for op in _CURVES),
    ("Elu", {"alpha": 0.3}),
    ("Selu", {"alpha": 1.2, "gamma": 0.7}),
    ("Celu", {"alpha": 2.0}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.1}),
    ("Gelu", {"approximate": "tanh"}),
    ("Swish", {"alpha": 1.7}),
]
_LIKE = [(op, attributes) for op, attributes in _LIKE if op != "Swish" or nets.NEWEST >= 24]


@pytest.mark.parametrize(("op", "attributes"), _LIKE, ids=[f"{op} {a or ''}".strip() for op, a in _LIKE])
def test_past_every_activation(op: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    """As many nodes as before but the BatchNormalization; a convolution of 5 channels becomes one of 6.

    Behind a Sigmoid, so that it is asked for the value of another number than 1.
    """
    net = Net(np.random.default_rng(3))
    x = net.op(op, net.op("Sigmoid", net.conv("x", 3, 5)), **attributes)
    made = folded(net.model(net.conv(net.bn(x, 5), 5, 4)), tmp_path)
    (decision,) = made.plan.decisions
    assert isinstance(decision, Fold) and decision.split is Split.CONSTANT
    assert decision.becomes == ((net.nodes[0].name, "one channel wider"),)
    assert made.operators(made.after) == ["Conv", "Sigmoid", op, "Conv"]
    assert shapes(made) == [(6, 3, 3, 3), (4, 6, 3, 3)]


def test_at_the_borders_by_hand(tmp_path: Path) -> None:
    """In float64 numpy: what the padded convolution reads beside the image is nothing, and not the shift."""
    net = Net(np.random.default_rng(4), "float64")
    x = net.op("Tanh", net.conv("x", 3, 5, bias=False))
    y = net.conv(net.bn(x, 5), 5, 4, bias=False)
    made = fold_model(net.model(y), tmp_path, _NO_BN)
    w1, gamma, beta, mean, var, w2 = (net.arrays[f"k{k}"] for k in range(6))
    image = np.random.default_rng(1).standard_normal(SHAPE)

    def convolved(v: np.ndarray, w: np.ndarray) -> np.ndarray:
        seen = np.lib.stride_tricks.sliding_window_view(
            np.pad(v, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3)
        )
        return np.einsum("nihwkl,oikl->nohw", seen, w)

    def along(v: np.ndarray) -> np.ndarray:
        return v.reshape(-1, 1, 1)

    inner = np.tanh(convolved(image, w1))
    epsilon = float(np.float32(1e-5))
    z = (inner - along(mean)) * along(gamma) / np.sqrt(along(var) + epsilon) + along(beta)
    wanted = convolved(z, w2)
    stored = {t.name: numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    first, _, last = made.proto.graph.node
    bias = stored[first.input[2]]
    assert list(bias) == [0.0] * 5 + [1.0]
    got = convolved(np.tanh(convolved(image, stored[first.input[1]]) + along(bias)), stored[last.input[1]])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())


_THROUGH: list[tuple[Build, list[tuple[int, ...]]]] = [
    (nets.pooled, [(6, 3, 3, 3), (4, 6, 3, 3)]),
    (nets.read_twice, [(6, 3, 3, 3), (4, 6, 3, 3), (4, 6, 3, 3)]),
    (nets.joined, [(5, 3, 3, 3), (4, 11, 3, 3)]),
    (nets.row, [(6, 3, 3, 3), (5, 6, 3, 3), (3, 5, 3, 3)]),
    (nets.transposed, [(4, 6, 3, 3)]),
    (nets.scaled_before, [(6, 3, 3, 3), (4, 6, 3, 3)]),
    (nets.scaled_behind, [(6, 3, 3, 3), (4, 6, 3, 3)]),
    (nets.joined_with_zeros, [(4, 3, 3, 3), (4, 7, 3, 3)]),
]


@pytest.mark.parametrize(("build", "wanted"), _THROUGH, ids=[b.__name__ for b, _ in _THROUGH])
@pytest.mark.parametrize("infos", [False, True])
def test_through_what_lies_between(
    build: Build, wanted: list[tuple[int, ...]], infos: bool, tmp_path: Path
) -> None:
    """Whether the file tells the shapes of its values, which are others then, or not."""
    net = Net(np.random.default_rng(5))
    made = folded(net.model(build(net), infos=infos), tmp_path)
    assert "BatchNormalization" not in made.operators(made.after)
    assert "Mul" not in made.operators(made.after)
    assert shapes(made) == wanted


def test_a_channel_that_is_cut_off_is_used(tmp_path: Path) -> None:
    """γ = 0: nothing of it is read, so no channel is added."""
    net = Net(np.random.default_rng(6))
    x = net.bn(net.op("Elu", net.conv("x", 3, 5, bias=False)), 5, zero=2)
    made = folded(net.model(net.conv(x, 5, 4)), tmp_path)
    (decision,) = made.plan.decisions
    assert isinstance(decision, Fold) and decision.becomes == ()
    assert shapes(made) == [(5, 3, 3, 3), (4, 5, 3, 3)]
    stored = {t.name: numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    first = made.proto.graph.node[0]
    assert list(stored[first.input[2]]) == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert not stored[first.input[1]][2].any()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_in_other_types(dtype: str, tmp_path: Path) -> None:
    net = Net(np.random.default_rng(7), dtype)
    x = net.bn(net.op("Tanh", net.conv("x", 3, 5)), 5)
    made = fold_model(net.model(net.conv(x, 5, 4)), tmp_path, _NO_BN)
    assert isinstance(made.plan.decisions[0], Fold)
    assert {t.data_type for t in made.proto.graph.initializer} == {
        helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    }
    if dtype == "float16":  # onnxruntime convolves no float64
        assert error(made.before, made.after) <= TOLERANCE[dtype]


_STAY = (
    nets.read_by_others, nets.put_out_in_between, nets.grouped_reader, nets.depthwise_writer,
    nets.another_reader, nets.counted_zeros, nets.mixes_channels, nets.no_writer, nets.unknown_curve,
    nets.not_above_zero,
)  # fmt: skip


@pytest.mark.parametrize("build", _STAY, ids=[b.__name__ for b in _STAY])
def test_elsewhere_it_is_spelled_out(build: Build, tmp_path: Path) -> None:
    net = Net(np.random.default_rng(8))
    made = folded(net.model(build(net)), tmp_path)
    (decision,) = (d for d in made.plan.decisions if d.is_batchnorm)
    assert isinstance(decision, Keep) and decision.becomes in (("Mul", "Add"), ("Add",))


@pytest.mark.parametrize("value", ["v0", "v1", "v2"])
def test_what_the_model_puts_out_keeps_its_channels(value: str, tmp_path: Path) -> None:
    """What the writer writes, the activation, or the BatchNormalization itself."""
    net = Net(np.random.default_rng(11))
    y = net.conv(net.bn(net.op("Elu", net.conv("x", 3, 5)), 5), 5, 4)
    made = folded(net.model(y, value), tmp_path)
    (decision,) = made.plan.decisions
    assert isinstance(decision, Keep) and decision.becomes in (("Mul", "Add"), ("Add",))


def test_where_bounds_have_moved_it_is_spelled_out(tmp_path: Path) -> None:
    made = folded(Net(np.random.default_rng(15)).of(nets.moved_bounds), tmp_path)
    first, second = made.plan.decisions
    assert isinstance(first, Fold) and dict(first.becomes)
    assert isinstance(second, Keep) and second.becomes == ("Add",)


def test_a_convolution_of_other_channels_is_none(tmp_path: Path) -> None:
    """A file that makes no sense is planned for like any other."""
    net = Net(np.random.default_rng(16))
    model = net.model(net.conv(net.bn(net.op("Elu", net.conv("x", 3, 5)), 5), 6, 4))
    made = fold_model(model, tmp_path, _NO_BN)
    assert isinstance(made.plan.decisions[0], Keep)


def test_in_a_body_it_is_spelled_out(tmp_path: Path) -> None:
    net, inner = Net(np.random.default_rng(12)), Net(np.random.default_rng(12))
    y = inner.conv(inner.bn(inner.op("Elu", inner.conv("x", 3, 5)), 5), 5, 4)
    ends = [onnx.ValueInfoProto(name=y)]
    body = helper.make_graph(inner.nodes, "body", [], ends)
    net.arrays = inner.arrays
    net.nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body),
    ]
    made = folded(net.model("y"), tmp_path)
    assert [made.operators(made.after).count(op) for op in ("Mul", "Add")] == [0, 2]
    assert shapes(made) == []  # none of the main graph


def test_a_kernel_that_does_not_fit_float16(tmp_path: Path) -> None:
    """A shift of 60000 fits, and the sum of some of them does not: it is found when the weights are made."""
    net = Net(np.random.default_rng(13), "float16")
    gamma = np.array([1.0, 1.0, 1.0])
    each = gamma, np.full(3, 6e4), np.zeros(3), np.ones(3)
    x = net.op("Tanh", net.conv("x", 3, 3))
    x = net.op("BatchNormalization", x, *map(net.const, each))
    w = net.const(np.ones((4, 3, 3, 3)))
    y = net.op("Conv", x, w, pads=[1] * 4)
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(net.model(y), path)
    ran = call("optimize", path, "-o", out, "--target", "no-bn", "--no-bench", "--no-verify", "--json")
    assert ran.exit_code == 0, ran.output
    decision = next(d for d in json.loads(ran.stdout)["decisions"] if d["op"] == "BatchNormalization")
    becomes = {decision["name"]: "Mul and Add"}
    assert (decision["action"], decision["becomes"]) == ("keep", becomes)
    assert "OVERFLOW" in {refusal["reason"] for refusal in decision["refusals"]}


def test_a_long_way_is_not_gone(tmp_path: Path) -> None:
    """As far as 32 nodes; from a thousand on Python itself would not follow."""
    for n, kind in ((31, Fold), (32, Keep), (1500, Keep)):
        net = Net(np.random.default_rng(14))
        x = net.op("Elu", net.conv("x", 3, 5))
        for _ in range(n):
            x = net.op("Identity", x)
        made = fold_model(net.model(net.conv(net.bn(x, 5), 5, 4)), tmp_path, _NO_BN)
        assert isinstance(made.plan.decisions[0], kind), n


def test_not_without_the_target(tmp_path: Path) -> None:
    net = Net(np.random.default_rng(9))
    made = fold_model(net.model(nets.row(net)), tmp_path, ReadOptions(activations="move"))
    assert all(isinstance(d, Keep) for d in made.plan.decisions)


@pytest.mark.parametrize("ir_version", [3, 10])
def test_the_command_proves_and_tells_it(ir_version: int, tmp_path: Path) -> None:
    """Where constants are inputs of the file, too; a second run finds nothing, two write the same bytes."""
    net = Net(np.random.default_rng(10))
    model = net.model(nets.row(net), opset=10, infos=True)
    model.ir_version = ir_version
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    wanted = ["optimize", path, "-o", out, "--target", "no-bn", "--no-bench", "--json", "--force"]
    ran = call(*wanted)
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert_fits(report)
    assert report["verification"]["status"] == "equal"
    assert report["batchnorms"] == {"found": 2, "folded": 2, "kept": 0}
    assert {d["split"] for d in report["decisions"]} == {"constant-channel"}
    assert report["decisions"][0]["becomes"] == {net.nodes[0].name: "one channel wider"}
    made = onnx.load(out)
    onnx.checker.check_model(made, full_check=True)
    assert error(path, out) <= TOLERANCE["float32"]
    told = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in made.graph.input}
    stored = {t.name: list(t.dims) for t in made.graph.initializer}
    assert {name: dims for name, dims in told.items() if name != "x"} == (stored if ir_version == 3 else {})
    first = out.read_bytes()
    assert call(*wanted).exit_code == 0
    assert out.read_bytes() == first
    again = call("optimize", out, "--target", "no-bn", "--check")
    assert again.exit_code == 0, again.output
