"""MatMulNBits: what goes into its scales and its bias, held against its definition and onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfuse.core.decisions import Fold
from bnfuse.core.reasons import Reason
from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import ArrayTensor, whole
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.extents import Sizes
from bnfuse.formats.onnx.graph.extents.call import ExtentCall
from bnfuse.formats.onnx.graph.nbits import blocked_weight
from bnfuse.formats.onnx.rows.ops import output_extents
from tests.command import call
from tests.onnx_graphs import fold, fold_model, session, why
from tests.random_nets import Net, Value, feeds, model_of
from tests.random_quantised import packed_matmul

N = 6


def _started(k: int = 36, seed: int = 3) -> tuple[Net, Value]:
    net = Net(False, 21, np.random.default_rng(seed))
    net.static = True
    x = Value("x", (2, k))
    net.values.append(x)
    return net, x


def _normalised(net: Net, x: Value, gamma: np.ndarray | None = None, shifts: bool = True) -> Value:
    c = x.channels
    gamma = net.mixed(c) if gamma is None else gamma
    statistics = (gamma, net.normal(c) * shifts, net.normal(c) * shifts, np.ones(c))
    return net.node("BatchNormalization", [x.name, *map(net.const, statistics)], x.shape, epsilon=0.0)


# ---- the weight that it stands for ------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero", ["", "packed", "fractions"])
@pytest.mark.parametrize("k", [16, 36, 48])
def test_the_weight_by_its_definition(bits: int, zero: str, k: int) -> None:
    """Read whole and in parts; a last block that is not full, zero points that do not fill a byte."""
    net, x = _started(k)
    _, wanted = packed_matmul(net, x, N, bits=bits, zero=zero)
    stored = dict(net.constants)
    given = [stored[name] if name else None for name in [*net.nodes[-1].input, ""][1:4]]
    tensors = [None if a is None else ArrayTensor(a.astype(np.float32) if a.dtype == float else a)
               for a in given]  # fmt: skip
    packed, scale, points = tensors
    assert packed is not None and scale is not None
    weight = blocked_weight(packed, scale, points, (N, k), bits, 16)
    assert isinstance(weight, QuantisedTensor)
    np.testing.assert_allclose(whole(weight), wanted, rtol=2e-6, atol=1e-9)
    for start, stop in ((0, 1), (k - 1, k + 3), (5, 5), (2 * k + 7, 6 * k)):
        np.testing.assert_array_equal(weight.read(start, stop), whole(weight).ravel()[start:stop])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"bits": 3}, "bits that do not fill bytes"),
        ({"block": 8}, "a block that is too small"),
        ({"block": 24}, "a block of no power of two"),
        ({"shape": (N, 52)}, "K of another number of blocks"),
        ({"shape": (0, 36)}, "no outputs"),
        ({"packed": np.zeros((N, 0, 8), np.uint8)}, "a weight that is left out"),
        ({"packed": np.zeros((N, 3, 8), np.int8)}, "signed bytes"),
        ({"scale": np.ones(N * 2, np.float32)}, "scales that do not fit"),
        ({"scale": np.ones(N * 3, np.int32)}, "scales of whole numbers"),
        ({"zero": np.zeros(N * 3, np.uint8)}, "zero points that do not fit"),
        ({"zero": np.zeros(N * 3, np.float16)}, "zero points of another type"),
    ],
)
def test_what_is_no_such_weight(change: dict[str, Any], what: str) -> None:
    sound: dict[str, Any] = {
        "packed": np.zeros((N, 3, 8), np.uint8), "scale": np.ones(N * 3, np.float32), "zero": None,
        "shape": (N, 36), "bits": 4, "block": 16,
    }  # fmt: skip

    def made(**given: Any) -> QuantisedTensor | None:
        tensors = [None if given[k] is None else ArrayTensor(given[k]) for k in ("packed", "scale", "zero")]
        packed, scale, zero = tensors
        assert packed is not None and scale is not None
        return blocked_weight(packed, scale, zero, given["shape"], given["bits"], given["block"])

    assert made(**sound) is not None
    assert made(**sound | change) is None, what


# ---- in files ---------------------------------------------------------------------------------------


def _error(before: onnx.ModelProto, folder: Path) -> float:
    fed = feeds(before, 1)
    old, new = (session(folder / f"{name}.onnx").run(None, fed)[0] for name in ("before", "after"))
    assert np.ptp(old) > 0.1
    return float(np.abs(old - new).max() / np.abs(old).max())


def _in_front(factors: Callable[[np.random.Generator], np.ndarray], **how: Any) -> onnx.ModelProto:
    """x → BN → MatMulNBits, with these γ."""
    net, x = _started()
    shifts = how.pop("shifts", True)
    y, _ = packed_matmul(net, _normalised(net, x, factors(net.rng), shifts), N, **how)
    return model_of(net, x.shape, [y])


def _by_block(rng: np.random.Generator) -> np.ndarray:
    """K = 36 in blocks of 16: one factor for each, of both signs, one of them zero."""
    return np.repeat([1.5, -0.5, 0.0], [16, 16, 4])


@pytest.mark.parametrize("zero", ["", "packed", "fractions"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_factor_that_a_block_shares_goes_in_front(zero: str, bias: bool, tmp_path: Path) -> None:
    model = _in_front(_by_block, zero=zero, bias=bias)
    folded = fold_model(model, tmp_path)
    assert isinstance(folded.plan.decisions[0], Fold)
    assert folded.operators(folded.after) == ["MatMulNBits", *([] if bias else ["Add"])]
    assert _error(model, tmp_path) <= 2e-6
    old, new = ({t.name: numpy_helper.to_array(t) for t in each.graph.initializer}
                for each in (model, folded.proto))  # fmt: skip
    b, scales = model.graph.node[1].input[1:3]
    np.testing.assert_array_equal(new[b], old[b])
    np.testing.assert_allclose(new[scales], old[scales] * [1.5, -0.5, 0.0], rtol=1e-6)


def test_one_that_varies_within_a_block_stays(tmp_path: Path) -> None:
    folded = fold_model(_in_front(lambda rng: rng.uniform(0.5, 2.0, 36)), tmp_path)
    assert Reason.QUANTISED_WEIGHT in why(folded.plan.decisions[0])


@pytest.mark.parametrize("shifts", [False, True])
def test_where_activations_are_rounded_no_shift_comes_in(shifts: bool, tmp_path: Path) -> None:
    model = _in_front(lambda rng: np.repeat([1.5, 0.5, 2.0], [16, 16, 4]), accuracy_level=4, shifts=shifts)
    folded = fold_model(model, tmp_path)
    (decision,) = folded.plan.decisions
    if shifts:
        assert Reason.SHIFT_REFUSED in why(decision)
    else:
        assert isinstance(decision, Fold), decision.message
        assert _error(model, tmp_path) <= 2e-6


def _behind(k: int = 36, out: int = N, **how: Any) -> onnx.ModelProto:
    """x → MatMulNBits → BN, γ of both signs and one zero."""
    net, x = _started(k)
    y, _ = packed_matmul(net, x, out, **how)
    gamma = net.mixed(out) * (np.arange(out) != 2)
    return model_of(net, x.shape, [_normalised(net, y, gamma)])


def test_in_float16(tmp_path: Path) -> None:
    model = _behind(bias=True)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            halves = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(halves, tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    folded = fold_model(model, tmp_path)
    assert folded.operators(folded.after) == ["MatMulNBits"]
    x = np.random.default_rng(1).standard_normal((2, 36)).astype(np.float16)
    old, new = (session(tmp_path / f"{name}.onnx").run(None, {"x": x})[0] for name in ("before", "after"))
    assert np.abs(old.astype(float) - new.astype(float)).max() <= 8 * 2.0**-11 * np.abs(old).max()


def test_what_another_reads_is_copied(tmp_path: Path) -> None:
    """Two products share B and its scales; the scales of one change, in the one dimension that they have."""
    model = _behind(bias=True)
    graph = model.graph
    scales = next(t for t in graph.initializer if t.name == graph.node[0].input[2])
    del scales.dims[:]
    scales.dims.append(N * 3)
    names = [*graph.node[0].input[:3], "", "", graph.node[0].input[5]]
    graph.node.append(helper.make_node("MatMulNBits", names, ["z"], domain="com.microsoft", K=36, N=N,
                                       bits=4, block_size=16))  # fmt: skip
    graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [2, N]))
    folded = fold_model(model, tmp_path)
    stored = {t.name: t for t in folded.proto.graph.initializer}
    first, second = (n for n in folded.proto.graph.node if n.op_type == "MatMulNBits")
    assert first.input[1] == second.input[1] and first.input[2] != second.input[2]
    assert list(stored[first.input[2]].dims) == [N * 3]
    fed = feeds(model, 1)
    old, new = (session(tmp_path / f"{name}.onnx").run(None, fed) for name in ("before", "after"))
    np.testing.assert_array_equal(old[1], new[1])
    assert np.abs(old[0] - new[0]).max() <= 2e-6 * np.abs(old[0]).max()


def _with_order(model: onnx.ModelProto) -> None:
    node = model.graph.node[0]
    node.input.extend([""] * (4 - len(node.input)))
    node.input.append("order")
    order = (np.arange(36) // 16).astype(np.int32)[::-1]
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(order), "order"))


def _prepacked(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("weight_prepacked", 1))


def _left_out(model: onnx.ModelProto) -> None:
    empty = numpy_helper.from_array(np.zeros((N, 0, 8), np.uint8), model.graph.node[0].input[1])
    model.graph.initializer[0].CopyFrom(empty)


def _overridable(at: int) -> Callable[[onnx.ModelProto], None]:
    def spoil(model: onnx.ModelProto) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name == model.graph.node[0].input[at])
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )

    return spoil


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_what_a_caller_may_override(at: int, tmp_path: Path) -> None:
    model = _behind(zero="packed", bias=True)
    _overridable(at)(model)
    (decision,) = fold_model(model, tmp_path).plan.decisions
    assert Reason.WEIGHT_NOT_CONSTANT in why(decision) and "a caller may override" in decision.message


def test_the_size_that_a_weight_asks_for() -> None:
    """Of the last axis; what comes out has as many numbers as the weight has rows."""
    node = _behind().graph.node[0]
    sizes = Sizes(1)
    call = ExtentCall(node, 21, sizes, [(2, 5, sizes.axis(0)), None, None], [None] * 3)
    assert output_extents(call) == (2, 5, N)
    assert sizes.only() == 36


def _at_run_time(at: int) -> Callable[[onnx.ModelProto], None]:
    """An input of the node is one of the model."""

    def spoil(model: onnx.ModelProto) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name == model.graph.node[0].input[at])
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(info)
        model.graph.initializer.remove(tensor)

    return spoil


def _without(name: str) -> Callable[[onnx.ModelProto], None]:
    def spoil(model: onnx.ModelProto) -> None:
        (attribute,) = (a for a in model.graph.node[0].attribute if a.name == name)
        model.graph.node[0].attribute.remove(attribute)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        *((_at_run_time(at), Reason.WEIGHT_NOT_CONSTANT) for at in (1, 2, 3)),
        *((_without(name), Reason.BAD_PARAMETERS) for name in ("N", "K", "block_size")),
        (_with_order, Reason.UNSUPPORTED_OP),
        (_prepacked, Reason.UNSUPPORTED_OP),
        (_left_out, Reason.BAD_PARAMETERS),
    ],
)
def test_what_is_not_looked_into(
    spoil: Callable[[onnx.ModelProto], None], reason: Reason, tmp_path: Path
) -> None:
    one = {"out": 1, "k": 1} if spoil.__qualname__.startswith("_without") else {}
    model = _behind(zero="packed", **one)
    spoil(model)
    folded = fold_model(model, tmp_path)
    assert reason in why(folded.plan.decisions[0])


def test_four_bits_unless_told(tmp_path: Path) -> None:
    model = _behind(bias=True)
    _without("bits")(model)
    folded = fold_model(model, tmp_path)
    assert folded.operators(folded.after) == ["MatMulNBits"]
    assert _error(model, tmp_path) <= 2e-6


def test_of_an_input_of_unknown_rank(tmp_path: Path) -> None:
    model = _behind()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    folded = fold_model(model, tmp_path)
    assert Reason.SHAPE_UNKNOWN in why(folded.plan.decisions[0])


def test_one_block_for_one_output_takes_no_vector(tmp_path: Path) -> None:
    """One scale in all: no axis to lay factors of the inputs along."""
    net, x = _started(16)
    y, _ = packed_matmul(net, _normalised(net, x, net.rng.uniform(0.5, 2.0, 16)), 1)
    folded = fold_model(model_of(net, x.shape, [y]), tmp_path)
    assert Reason.QUANTISED_WEIGHT in why(folded.plan.decisions[0])


def test_names_of_ours_are_nobody_elses(tmp_path: Path) -> None:
    """What shapes are found out with takes no name of the model: behind it they are known all the same."""
    net, _ = _started(32)
    y, _ = packed_matmul(net, Value("x", (2, 5, 32)), 7, bias=True)
    net.node("Mul", [y.name, net.const(net.mixed(7))], y.shape)
    net.nodes[0].output[0] = net.nodes[1].input[0] = ":matrix1"
    model = model_of(net, (2, 5, 32), [net.values[-1]])
    folded = fold_model(model, tmp_path)
    assert folded.operators(folded.after) == ["MatMulNBits"]
    assert _error(model, tmp_path) <= 2e-6


def test_a_network_of_them_by_the_command(tmp_path: Path) -> None:
    """Proved; onnx knows no shapes behind them, and yet what stands there folds: a Mul by the last axis."""
    net, _ = _started(32)
    y, _ = packed_matmul(net, Value("x", (2, 5, 32)), 20, bits=8)
    y = net.node("Mul", [y.name, net.const(net.mixed(20))], y.shape)
    y = net.node("Relu", [net.node("Add", [y.name, net.const(net.normal(20))], y.shape).name], y.shape)
    y, _ = packed_matmul(net, y, 7, bias=True)
    y = net.node("Mul", [y.name, net.const(net.mixed(7))], y.shape)
    path = tmp_path / "m.onnx"
    onnx.save(model_of(net, (2, 5, 32), [y]), path)
    assert fold(path, options=ReadOptions()).plan.counts(batchnorm=False)[1] == 2
    ran = call("optimize", path, "-o", tmp_path / "out.onnx", "--no-bench")
    assert ran.exit_code == 0, ran.output
    assert "equal" in ran.stdout
    ops = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert ops == ["MatMulNBits", "Add", "Relu", "MatMulNBits"]
