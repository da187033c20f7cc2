"""What tools of this kind get wrong: tables of what must fold, what must stay and why, and what is kept.

Every model, folded or not, is compared with its original in onnxruntime, its own optimisation off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.decisions import Fold
from bnfuse.core.reasons import Reason
from bnfuse.errors import BnfuseError, UnreadableModel, UnsafeModel
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.onnx_graphs import Net, assert_equal, body, feeds, fold, fold_model, session, why

Build = Callable[[Net], onnx.ModelProto]
FOLD = None
IMAGE = {"x": ("N", 3, 8, 9)}


@dataclass(frozen=True)
class Trap:
    """``decisions``: FOLD or a reason, per candidate in graph order."""

    name: str
    decisions: tuple[Reason | None, ...] | None  # None: nothing folds, whatever counts as a candidate
    build: Build
    dtype: str = "float32"
    options: ReadOptions = field(default_factory=ReadOptions)
    runs: bool = True  # whether onnxruntime runs the original


TRAPS: list[Trap] = []


def trap(
    name: str,
    *decisions: Reason | None,
    nothing: bool = False,
    dtype: str = "float32",
    runs: bool = True,
    options: ReadOptions | None = None,
) -> Callable[[Build], Build]:
    """Add a trap: one BN that folds unless told otherwise; ``nothing`` where nothing may be folded."""
    expected = None if nothing else decisions or (FOLD,)

    def add(build: Build) -> Build:
        TRAPS.append(Trap(name, expected, build, dtype, options or ReadOptions(), runs))
        return build

    return add


# --- statistics (2, 15) ---------------------------------------------------------------------------


def _with(net: Net, **replaced: list[float]) -> onnx.ModelProto:
    """Conv → BN of 5 channels, some of γ, β, μ, σ² given."""
    x = net.conv("x", 3, 5, 3, 3)
    names = dict(zip(("gamma", "beta", "mean", "var"), net.statistics(5), strict=True))
    for key, values in replaced.items():
        names[key] = net.const(np.array(values))
    return net.build(IMAGE, net.op("BatchNormalization", x, *names.values(), epsilon=1e-5))


trap("γ = 0 in some channels")(lambda n: _with(n, gamma=[0.0, -2.0, 0.0, 1.5, 3.0]))
trap("γ < 0 everywhere")(lambda n: _with(n, gamma=[-0.5, -2.0, -7.0, -1.5, -3.0]))
trap("variance far below ε")(lambda n: _with(n, var=[1e-12, 0.0, 1e-7, 1.0, 30.0], mean=[0.1, 0, 0.2, 1, 2]))
trap("variance slightly negative, ε saves it")(lambda n: _with(n, var=[-5e-6, 1, 1, 2, 3], mean=[0.0] * 5))
trap("variance + ε = 0", Reason.INVALID_STATISTICS, runs=False)(lambda n: _with(n, var=[-1e-5, 1, 1, 2, 3]))
trap("variance + ε < 0", Reason.INVALID_STATISTICS, runs=False)(lambda n: _with(n, var=[-1.0, 1, 1, 2, 3]))
trap("NaN in μ", Reason.INVALID_STATISTICS, runs=False)(lambda n: _with(n, mean=[float("nan"), 1, 1, 2, 3]))
trap("infinite γ", Reason.INVALID_STATISTICS, runs=False)(
    lambda n: _with(n, gamma=[float("inf"), 1, 1, 2, 3])
)


@trap("variance + default ε = 0", Reason.INVALID_STATISTICS, runs=False)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    stats[3] = net.const(np.array([-1e-5, 1, 1, 2, 3]))
    return net.build(IMAGE, net.op("BatchNormalization", x, *stats))


@trap("ε is the node's")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, net.op("BatchNormalization", x, *net.statistics(5), epsilon=0.7))


@trap("γ = 0 goes forward into a Gemm")
def _(net: Net) -> onnx.ModelProto:
    stats = net.statistics(4)
    stats[0] = net.const(np.array([0.0, -2, 3, 0]))
    x = net.op("Gemm", net.op("BatchNormalization", "x", *stats), net.weight(4, 7, fan_in=4))
    return net.build({"x": ("N", 4)}, x)


# --- who else reads or writes (10, 11, 18) -----------------------------------------------------------


@trap("one weight, two convolutions, two BNs", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    w, b = net.weight(5, 3, 3, 3, fan_in=27), net.vector(5)
    outs = [net.bn(net.op("Conv", "x", w, b), 5) for _ in range(2)]
    return net.build(IMAGE, outs)


@trap("one weight, only one of its convolutions has a BN")
def _(net: Net) -> onnx.ModelProto:
    w, b = net.weight(5, 3, 3, 3, fan_in=27), net.vector(5)
    return net.build(IMAGE, [net.op("Conv", "x", w, b), net.bn(net.op("Conv", "x", w, b), 5)])


@trap("γ and β shared by two BNs, σ² is another's weight", FOLD, FOLD)
def _(net: Net) -> onnx.ModelProto:
    stats = net.statistics(5)
    outs = [net.op("BatchNormalization", net.conv("x", 3, 5, 3, 3), *stats) for _ in range(2)]
    return net.build(IMAGE, [*outs, net.op("Mul", net.op("GlobalAveragePool", "x"), stats[3])])


@trap("the tensor before BN is read by a Sigmoid too", Reason.NONLINEAR)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, [net.op("Sigmoid", x), net.bn(x, 5)])


@trap("the tensor before BN is a graph output", Reason.GRAPH_OUTPUT)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, [x, net.bn(x, 5)])


@trap("the tensor before BN is read by a Shape alone")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, [net.op("Cast", net.op("Shape", x), to=TensorProto.FLOAT), net.bn(x, 5)])


@trap("the tensor before BN is captured by an If body", Reason.CAPTURED)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3, pads=[1] * 4)
    then, other = Net(1), Net(2)
    a = then.op("Neg", x, out="then_y")
    b = other.op("Sigmoid", x, out="else_y")
    y = net.op("If", "cond", then_branch=body(then, a, "then"), else_branch=body(other, b, "else"))
    return net.build({"cond": (), **IMAGE}, [y, net.bn(x, 5)], ranks={y: 4})


@trap("the weight of the convolution is captured by an If body")
def _(net: Net) -> onnx.ModelProto:
    net.const(net.rng.standard_normal((5, 3, 3, 3)), "w")
    then, other = Net(1), Net(2)
    a = then.op("Conv", "x", "w", out="then_y")
    b = other.op("Neg", "x", out="else_y")
    y = net.op("If", "cond", then_branch=body(then, a, "then"), else_branch=body(other, b, "else"))
    return net.build({"cond": (), **IMAGE}, [y, net.bn(net.op("Conv", "x", "w"), 5)], ranks={y: 4})


@trap("a Relu's output is read by a BN and by the convolution beside it", Reason.SHIFT_THROUGH_ACTIVATION)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Relu", net.conv("x", 3, 5, 3, 3))
    return net.build(IMAGE, [net.op("Sigmoid", net.bn(x, 5)), net.conv(x, 5, 2, 1, 1)])


@trap("siblings that take the inverse: scale and shift")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, [net.op("Sigmoid", net.bn(x, 5)), net.conv(x, 5, 4, 3, 2)])


# --- inputs (12) -------------------------------------------------------------------------------------


def _listed(net: Net, names: Callable[[str], bool], ir_version: int) -> onnx.ModelProto:
    """Conv → BN whose initializers are inputs as far as ``names`` says."""
    made = net.build(IMAGE, net.bn(net.conv("x", 3, 5, 3, 3), 5), ir_version=ir_version, opset=8)
    for tensor in made.graph.initializer:
        if names(tensor.name):
            made.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return made


def _everything(name: str) -> bool:
    return True


trap("IR 3: all initializers must be inputs")(lambda n: _listed(n, _everything, 3))
trap("IR 4: all initializers are inputs")(lambda n: _listed(n, _everything, 4))
trap("IR 4: γ may be overridden", Reason.PARAMETER_OVERRIDABLE)(lambda n: _listed(n, {"c2"}.__contains__, 4))
trap("IR 4: the weight may be overridden", Reason.WEIGHT_NOT_CONSTANT)(
    lambda n: _listed(n, {"c0"}.__contains__, 4)
)
trap("IR 4: γ and weight are frozen", options=ReadOptions(freeze_inputs=True))(
    lambda n: _listed(n, {"c0", "c2"}.__contains__, 4)
)


# --- constants in other clothes (6, 13) ----------------------------------------------------------------


@trap("BN parameters through Constant, Identity, ConstantOfShape and Unsqueeze → Squeeze")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    gamma = net.op("Constant", value=numpy_helper.from_array(net.factors(5).astype(np.float32)))
    beta = net.op("Identity", net.vector(5))
    mean = net.op("Squeeze", net.op("Unsqueeze", net.vector(5), net.const(np.array([0]))))
    fill = numpy_helper.from_array(np.array([3.5], np.float32))
    variance = net.op("ConstantOfShape", net.const(np.array([5])), value=fill)
    return net.build(IMAGE, net.op("BatchNormalization", x, gamma, beta, mean, variance))


@trap("the weight is a Constant node behind an Identity, the Mul's factor behind Unsqueeze", FOLD)
def _(net: Net) -> onnx.ModelProto:
    array = net.rng.standard_normal((5, 3, 3, 3)).astype(np.float32)
    w = net.op("Identity", net.op("Constant", value=numpy_helper.from_array(array)))
    factor = net.op("Unsqueeze", net.const(net.factors(5)), net.const(np.array([1, 2])))
    return net.build(IMAGE, net.op("Mul", factor, net.op("Conv", "x", w)))


@trap("γ is computed at run time", Reason.PARAMETER_NOT_CONSTANT)
def _(net: Net) -> onnx.ModelProto:
    stats = net.statistics(3)
    pooled = net.op("ReduceMean", "x", axes=[0, 2, 3], keepdims=0)
    x = net.conv("x", 3, 3, 3, 3)
    return net.build(IMAGE, net.op("BatchNormalization", x, pooled, *stats[1:]))


@trap("a constant of [C] that meets W = C", Reason.GRAPH_OUTPUT)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 7, 3, 3)  # N, 7, 6, 7
    return net.build(IMAGE, net.op("Mul", x, net.const(net.factors(7))))


@trap("a constant that raises the rank of a Gemm's output", nothing=True)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Gemm", "x", net.weight(4, 7, fan_in=4))
    return net.build({"x": ("N", 4)}, net.op("Mul", x, net.const(net.factors(7).reshape(1, 1, 7))))


@trap("a constant that raises the rank of a Conv's output", nothing=True)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, net.op("Add", net.const(net.factors(5).reshape(1, 1, 5, 1, 1)), x))


@trap("a constant that stretches one channel into five", nothing=True)
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 1, 3, 3)
    return net.build(IMAGE, net.op("Mul", x, net.const(net.factors(5).reshape(5, 1, 1))))


@trap("a constant divided by x", nothing=True)
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Exp", net.conv("x", 3, 5, 3, 3))
    return net.build(IMAGE, net.op("Div", net.const(net.factors(5).reshape(5, 1, 1)), x))


# --- modes, outputs, opsets, ranks (9, 19) ------------------------------------------------------------


@trap("training_mode = 1", Reason.TRAINING_MODE)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    y = net.op("BatchNormalization", x, *stats, out=["y", "m", "v"], training_mode=1)
    return net.build(IMAGE, y, opset=15)


@trap("live extra outputs in training", Reason.TRAINING_MODE)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    net.op("BatchNormalization", x, *stats, out=["y", "m", "v"], training_mode=1)
    return net.build(IMAGE, ["y", "m", "v"], opset=15)


@trap("live extra outputs below opset 14", Reason.LIVE_STATISTICS, runs=False)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    net.op("BatchNormalization", x, *stats, out=["y", "m"])
    return net.build(IMAGE, ["y", "m"], opset=9, ranks={"y": 4, "m": 1})


@trap("dead extra outputs below opset 14", runs=False)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    net.op("BatchNormalization", x, *stats, out=["y", "m", "v", "sm", "sv"])
    return net.build(IMAGE, "y", opset=9, ranks={"y": 4})


@trap("empty extra outputs", runs=False)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    return net.build(IMAGE, net.op("BatchNormalization", x, *stats, out=["y", "", ""]), opset=9)


def _in_opset(net: Net, opset: int) -> onnx.ModelProto:
    return net.build(IMAGE, net.bn(net.conv("x", 3, 5, 3, 3), 5), opset=opset)


for _opset in (7, 9, 14, 15):
    trap(f"opset {_opset}")(partial(_in_opset, opset=_opset))


@trap("BN of a rank-2 input")
def _(net: Net) -> onnx.ModelProto:
    return net.build({"x": ("N", 4)}, net.op("Gemm", net.bn("x", 4), net.weight(4, 7, fan_in=4)))


# --- dtypes and quantisation (16, 17) ------------------------------------------------------------------

trap("float16", dtype="float16")(lambda net: net.build(IMAGE, net.bn(net.conv("x", 3, 5, 3, 3), 5)))


@trap("float64", dtype="float64")
def _(net: Net) -> onnx.ModelProto:
    x = net.op("Gemm", "x", net.weight(4, 7, fan_in=4), net.vector(7), alpha=0.3)
    return net.build({"x": ("N", 4)}, net.bn(x, 7))


@trap("float16 convolution, float32 statistics", dtype="float16")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    net.dtype = np.dtype("float32")
    return net.build(IMAGE, net.op("BatchNormalization", x, *net.statistics(5)), opset=15)


@trap("float16 weights that would overflow", Reason.OVERFLOW, dtype="float16")
def _(net: Net) -> onnx.ModelProto:
    w = net.const(np.linspace(-300, 300, 15).reshape(5, 3, 1, 1))
    stats = [np.full(5, 50.0), np.ones(5), np.zeros(5), np.full(5, 0.04)]  # a = 250
    x = net.op("Conv", "x", net.const(1e-3 * net.rng.standard_normal((3, 3, 1, 1))))
    x = net.op("Conv", net.op("Tanh", x), w)
    return net.build(IMAGE, net.op("BatchNormalization", x, *[net.const(v) for v in stats]))


@trap("QuantizeLinear → DequantizeLinear on the weight", Reason.WEIGHT_NOT_CONSTANT)
def _(net: Net) -> onnx.ModelProto:
    scale, zero = net.const(np.array(0.02)), net.const(np.array(0, np.int8))
    q = net.op("QuantizeLinear", net.weight(5, 3, 3, 3, fan_in=27), scale, zero)
    x = net.op("Conv", "x", net.op("DequantizeLinear", q, scale, zero))
    return net.build(IMAGE, net.bn(x, 5))


@trap("DequantizeLinear of a stored int8 weight", Reason.WEIGHT_NOT_CONSTANT)
def _(net: Net) -> onnx.ModelProto:
    stored = net.const(net.rng.integers(-127, 127, (5, 3, 3, 3)).astype(np.int8))
    w = net.op("DequantizeLinear", stored, net.const(np.array(0.02)), net.const(np.array(0, np.int8)))
    return net.build(IMAGE, net.bn(net.op("Conv", "x", w), 5))


@pytest.mark.parametrize("case", TRAPS, ids=lambda t: t.name)
def test_trap(case: Trap, tmp_path: Path) -> None:
    made = case.build(Net(sum(case.name.encode()), case.dtype))
    folded = fold_model(made, tmp_path, case.options)
    decisions = folded.plan.decisions
    if case.decisions is None:
        assert not folded.plan.order
    else:
        assert len(decisions) == len(case.decisions), [d.message for d in decisions]
    for decision, reason in zip(decisions, case.decisions or (), strict=False):
        if reason is FOLD:
            assert isinstance(decision, Fold), decision.message
        else:
            assert reason in why(decision), decision.message
    assert len(folded.operators(folded.after)) <= len(folded.operators(folded.before))
    if case.runs:
        assert_equal(folded.before, folded.after)


# --- options and what is kept (12, 18, 20) --------------------------------------------------------------


def _plain(seed: int = 0, opset: int = 17) -> onnx.ModelProto:
    net = Net(seed)
    return net.build(IMAGE, net.bn(net.conv("x", 3, 5, 3, 3), 5, out="answer"), opset=opset)


def test_strict_inputs_refuses_a_model_whose_initializers_are_all_inputs(tmp_path: Path) -> None:
    with pytest.raises(UnsafeModel, match="--strict-inputs"):
        fold_model(_listed(Net(), _everything, 4), tmp_path, ReadOptions(strict_inputs=True))


@pytest.mark.parametrize(
    ("names", "options", "noted"),
    [
        (_everything, ReadOptions(), "leave the inputs"),
        ({"c0"}.__contains__, ReadOptions(), "--freeze-inputs"),
        ({"c0"}.__contains__, ReadOptions(freeze_inputs=True), "leave the inputs"),
    ],
)
def test_initializers_that_are_inputs_are_reported(
    names: Callable[[str], bool], options: ReadOptions, noted: str, tmp_path: Path
) -> None:
    folded = fold_model(_listed(Net(), names, 4), tmp_path, options)
    assert any(noted in note for note in folded.notes)
    left = {v.name for v in folded.proto.graph.input} - {"x"}
    assert left == (set() if noted == "leave the inputs" else {"c0"})


def test_an_override_still_reaches_what_it_reached(tmp_path: Path) -> None:
    folded = fold_model(_listed(Net(), {"c2"}.__contains__, 4), tmp_path)
    old, new = session(folded.before), session(folded.after)
    fed = feeds(old, 0) | {"c2": np.array([3, -1, 4, -1, 5], np.float32)}
    np.testing.assert_allclose(new.run(None, fed)[0], old.run(None, fed)[0], rtol=0, atol=1e-6)


def test_the_graph_output_a_bn_made_keeps_its_name(tmp_path: Path) -> None:
    folded = fold_model(_plain(), tmp_path)
    assert [n.output[0] for n in folded.proto.graph.node] == ["answer"]


def test_all_that_is_not_arithmetic_is_kept(tmp_path: Path) -> None:
    made = _plain(opset=13)
    made.producer_name, made.producer_version, made.domain = "maker", "7.1", "org.example"
    made.model_version, made.doc_string, made.ir_version = 42, "a doc", 7
    made.metadata_props.add(key="licence", value="none <b>")
    made.opset_import.add(domain="com.example", version=3)
    made.graph.doc_string = "graph doc"
    made.graph.node[0].doc_string = "conv doc"
    made.graph.node[0].attribute.append(helper.make_attribute("dilations", [1, 1]))
    extra = helper.make_node(
        "Strange", ["answer"], ["z"], domain="com.example", name="odd", knob=0.25, tag="é"
    )
    made.graph.node.append(extra)
    made.graph.output.add().CopyFrom(
        helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", "a", 6, None])
    )
    new = fold_model(made, tmp_path).proto
    assert len(new.graph.node) == 2
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(new, name) == getattr(made, name)
    assert list(new.metadata_props) == list(made.metadata_props)
    assert list(new.opset_import) == list(made.opset_import)
    assert (new.graph.name, new.graph.doc_string) == ("net", "graph doc")
    assert list(new.graph.input) == list(made.graph.input)
    assert list(new.graph.output) == list(made.graph.output)
    assert new.graph.node[1] == extra
    conv = new.graph.node[0]
    assert (conv.name, conv.doc_string) == ("conv0", "conv doc")
    assert list(conv.attribute) == list(made.graph.node[0].attribute)


def test_new_names_do_not_collide(tmp_path: Path) -> None:
    net = Net()
    w = net.weight(5, 3, 3, 3, fan_in=27)
    first, second = (net.bn(net.op("Conv", "x", w), 5) for _ in range(2))
    taken = [
        net.op("Neg", first, out=f"{w}{end}")
        for end in ("_1", "_fused", ".fused", "_folded", "_bias", "_copy")
    ]
    folded = fold_model(net.build(IMAGE, [first, second, *taken]), tmp_path)
    graph = folded.proto.graph
    names = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output]
    assert len(names) == len(set(names))
    assert_equal(folded.before, folded.after)


def test_the_weights_are_those_of_the_equation(tmp_path: Path) -> None:
    made = _plain(3)
    old = {t.name: numpy_helper.to_array(t).astype("f8") for t in made.graph.initializer}
    w, b, gamma, beta, mean, variance = (old[f"c{i}"] for i in range(6))
    a = gamma / np.sqrt(variance + float(np.float32(1e-3)))
    folded = fold_model(made, tmp_path)
    conv = folded.proto.graph.node[0]
    new = {t.name: numpy_helper.to_array(t) for t in folded.proto.graph.initializer}
    np.testing.assert_array_equal(new[conv.input[1]], (w * a[:, None, None, None]).astype("f4"))
    np.testing.assert_allclose(new[conv.input[2]], a * (b - mean) + beta, rtol=1e-7, atol=1e-7)
    assert len(new) == 2, "the statistics are gone from the file"


@pytest.mark.parametrize("case", [t for t in TRAPS if t.runs], ids=lambda t: t.name)
def test_folding_twice_finds_nothing_and_two_runs_are_identical(case: Trap, tmp_path: Path) -> None:
    made = case.build(Net(1, case.dtype))
    first = fold_model(made, tmp_path, case.options)
    again = fold(first.before, tmp_path / "again" / "after.onnx", case.options)
    assert first.after.read_bytes() == again.after.read_bytes()
    assert not fold(first.after, tmp_path / "twice.onnx", case.options).plan.order


# --- large files and external data (28) -------------------------------------------------------------------


def _large() -> onnx.ModelProto:
    """17 MiB: one large Gemm that a BN follows, one large weight that stays as it is."""
    net = Net(5)
    x = net.op("Gemm", "x", net.weight(1100, 3000, fan_in=1100), net.vector(3000))
    x = net.op("Relu", net.bn(x, 3000))
    return net.build({"x": ("N", 1100)}, net.op("MatMul", x, net.weight(3000, 400, fan_in=3000)))


def test_a_large_file_is_streamed_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "before.onnx"
    onnx.save(_large(), path)
    assert path.stat().st_size > 1 << 24
    streamed = fold(path)
    monkeypatch.setattr("bnfuse.formats.onnx.read._WHOLE_BYTES", 1 << 40)
    whole = fold(path, tmp_path / "whole.onnx")
    assert isinstance(streamed.plan.decisions[0], Fold)
    assert streamed.plan == whole.plan
    a, b = onnx.load(streamed.after), onnx.load(whole.after)
    assert list(a.graph.node) == list(b.graph.node)
    arrays = [{t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (a, b)]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name])
    assert not streamed.written.side_files
    assert_equal(path, streamed.after, seeds=[0])


def _external(folder: Path, location: str = "weights.bin") -> Path:
    """Conv → BN with all data in one sidecar."""
    path = folder / "before.onnx"
    onnx.save_model(_plain(), path, save_as_external_data=True, location=location, size_threshold=0)
    (folder / location).chmod(0o644)
    return path


def _repoint(path: Path, key: str, value: str, which: int = 0) -> None:
    """Change one entry of one tensor's external data."""
    made = onnx.load(path, load_external_data=False)
    tensor = made.graph.initializer[which]
    kept = [(e.key, e.value) for e in tensor.external_data if e.key != key]
    del tensor.external_data[:]
    for k, v in [*kept, (key, value)]:
        tensor.external_data.add(key=k, value=v)
    path.write_bytes(made.SerializeToString())


def test_external_data_of_many_files_goes_to_one_sidecar_named_after_the_result(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Sigmoid", net.bn(net.conv("x", 3, 5, 3, 3), 5))
    path = tmp_path / "before.onnx"
    made = net.build(IMAGE, net.conv(x, 5, 4, 3, 3))
    onnx.save_model(made, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    kept = {p: p.read_bytes() for p in tmp_path.iterdir()}
    assert len(kept) == 9
    folded = fold(path, tmp_path / "out" / "small.onnx")
    assert isinstance(folded.plan.decisions[0], Fold)
    assert folded.written.side_files == (tmp_path / "out" / "small.onnx.data",)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"small.onnx", "small.onnx.data"}
    places = {e.value for t in folded.proto.graph.initializer for e in t.external_data if e.key == "location"}
    assert places == {"small.onnx.data"}
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == kept
    assert_equal(path, folded.after)


Attack = Callable[[Path], None]


def _place(value: str) -> Attack:
    return lambda path: _repoint(path, "location", value)


def _absolute(path: Path) -> None:
    _repoint(path, "location", str(path.parent / "weights.bin"))


def _symlink_out(path: Path) -> None:
    (path.parent / "weights.bin").rename(path.parent.parent / "secret.bin")
    (path.parent / "weights.bin").symlink_to(path.parent.parent / "secret.bin")


def _folder_symlink_out(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.mkdir()
    (path.parent / "weights.bin").rename(outside / "weights.bin")
    (path.parent / "link").symlink_to(outside)
    for which in range(6):
        _repoint(path, "location", "link/weights.bin", which)


def _hard_link(path: Path) -> None:
    os.link(path.parent / "weights.bin", path.parent.parent / "elsewhere.bin")


def _cut(path: Path) -> None:
    os.truncate(path.parent / "weights.bin", (path.parent / "weights.bin").stat().st_size - 1)


ATTACKS: list[tuple[str, type[BnfuseError], Attack]] = [
    ("../x", UnsafeModel, _place("../x")),
    ("sub/../../x", UnsafeModel, _place("sub/../../x")),
    ("absolute", UnsafeModel, _absolute),
    ("/etc/passwd", UnsafeModel, _place("/etc/passwd")),
    ("windows drive", UnsafeModel, _place("C:\\x")),
    ("backslashes", UnsafeModel, _place("..\\x")),
    ("empty", UnsafeModel, _place("")),
    ("symbolic link out", UnsafeModel, _symlink_out),
    ("symbolic link of the folder out", UnsafeModel, _folder_symlink_out),
    ("hard link", UnsafeModel, _hard_link),
    ("a folder", UnsafeModel, _place(".")),
    ("missing", UnreadableModel, _place("nothing.bin")),
    ("range past the end", UnreadableModel, lambda p: _repoint(p, "offset", str(1 << 40))),
    ("negative offset", UnreadableModel, lambda p: _repoint(p, "offset", "-4")),
    ("offset is no number", UnreadableModel, lambda p: _repoint(p, "offset", "ten")),
    ("length too small", UnreadableModel, lambda p: _repoint(p, "length", "8")),
    ("length too large", UnreadableModel, lambda p: _repoint(p, "length", str(5 * 3 * 9 * 4 + 4))),
    ("truncated", UnreadableModel, _cut),
]


@pytest.mark.parametrize(("error", "attack"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_external_data_is_contained(error: type[BnfuseError], attack: Attack, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "x").write_bytes(bytes(4096))
    path = _external(home)
    attack(path)
    with pytest.raises(error) as caught:
        fold(path, tmp_path / "out" / "after.onnx")
    assert "before.onnx" in str(caught.value)


def test_a_symbolic_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "real.bin")
    (tmp_path / "weights.bin").symlink_to("real.bin")
    assert isinstance(fold(path, tmp_path / "out" / "after.onnx").plan.decisions[0], Fold)


def test_a_model_without_batchnormalization_is_written_as_it_is(tmp_path: Path) -> None:
    net = Net()
    made = net.build(IMAGE, net.op("Relu", net.conv("x", 3, 5, 3, 3)))
    folded = fold_model(made, tmp_path)
    assert folded.plan.decisions == ()
    assert folded.proto == made


def test_reading_runs_nothing_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "before.onnx"
    onnx.save(_plain(), path)
    bytes_before = path.read_bytes()
    FORMAT.read(path, ReadOptions())
    fold(path)
    assert path.read_bytes() == bytes_before
