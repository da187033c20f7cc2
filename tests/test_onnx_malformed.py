"""Models with wrong attributes, inputs, constants and shapes: never a traceback, never a wrong result.

Each of some twenty small models is damaged in some hundred ways (``onnx_mutants``). The outcome is
a result or a ``BnfuseError``; and where onnxruntime runs the damaged original, its optimisation
off, the folded one computes the same. ``BNFUSE_FUZZ=2000`` tries as many of each.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfuse.errors import BnfuseError
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.ops import ROWS
from tests.calls import optimize
from tests.command import call
from tests.onnx_graphs import Net, Shape, session
from tests.onnx_mutants import mutants

_MUTANTS = int(os.environ.get("BNFUSE_FUZZ", "40"))
# Damage may make a model lose digits; a wrong fold is off by more than this share of the range.
_TOLERANCE = 1e-3
_MOST_ELEMENTS = 1 << 16

MODELS: dict[str, Callable[[Net], onnx.ModelProto]] = {}
IMAGE: dict[str, Shape] = {"x": (2, 4, 6, 8)}


def model(build: Callable[[Net], onnx.ModelProto]) -> Callable[[Net], onnx.ModelProto]:
    """Add a model to damage; it folds as it is."""
    MODELS[build.__name__.strip("_")] = build
    return build


@model
def conv(net: Net) -> onnx.ModelProto:
    x = net.conv(net.bn("x", 4), 4, 6, 3, 2, group=2, strides=[1, 2], dilations=[2, 1])
    x = net.op("Relu", net.bn(x, 6))
    return net.build(IMAGE, net.bn(net.conv(x, 6, 3, 1, 1, pads=[1, 0, 0, 1]), 3))


@model
def conv1d_auto_pad(net: Net) -> onnx.ModelProto:
    x = net.bn(net.conv("x", 4, 4, 3, auto_pad="SAME_UPPER"), 4)
    return net.build({"x": (2, 4, 8)}, net.op("LeakyRelu", x, alpha=0.3))


@model
def conv_transpose(net: Net) -> onnx.ModelProto:
    x = net.op("ConvTranspose", "x", net.weight(4, 3, 2, 3, fan_in=8), net.vector(6), group=2, strides=[2, 1])
    return net.build(IMAGE, net.op("Tanh", net.bn(x, 6)))


@model
def gemm(net: Net) -> onnx.ModelProto:
    x = net.op("Gemm", "x", net.weight(5, 4, fan_in=4), net.vector(5), alpha=0.7, beta=1.5, transB=1)
    x = net.op("Dropout", net.bn(x, 5))
    return net.build({"x": (3, 4)}, net.op("Gemm", net.bn(x, 5), net.weight(5, 5, fan_in=5)))


@model
def matmul(net: Net) -> onnx.ModelProto:
    x = net.op("Add", net.op("MatMul", "x", net.weight(4, 5, fan_in=4)), net.vector(5))
    x = net.op("Transpose", net.bn(net.op("Transpose", x, perm=[0, 2, 1]), 5), perm=[0, 2, 1])
    return net.build({"x": (2, 6, 4)}, net.op("MatMul", x, net.weight(5, 5, fan_in=5)))


@model
def matmul_left(net: Net) -> onnx.ModelProto:
    x = net.op("MatMul", net.weight(5, 4, fan_in=4), "x")
    return net.build({"x": (2, 4, 4)}, net.op("Tanh", net.bn(x, 5)))


@model
def decomposed(net: Net) -> onnx.ModelProto:
    x = net.op("Mul", net.conv("x", 4, 6, 3, 2), net.const(net.factors(6).reshape(6, 1, 1)))
    x = net.op("Sub", net.const(net.factors(6).reshape(1, 6, 1, 1)), x)
    x = net.op("Add", net.op("Div", x, net.const(np.array(0.3))), net.const(net.factors(6).reshape(6, 1, 1)))
    return net.build(IMAGE, net.op("Tanh", x))


@model
def pooled(net: Net) -> onnx.ModelProto:
    x = net.op("MaxPool", net.conv("x", 4, 6, 3, 2), kernel_shape=[2, 2], pads=[1, 0, 0, 1])
    x = net.op("AveragePool", x, kernel_shape=[2, 1], strides=[2, 1], ceil_mode=1)
    return net.build(IMAGE, net.op("GlobalAveragePool", net.bn(x, 6, positive=True)))


@model
def flattened(net: Net) -> onnx.ModelProto:
    x = net.op("Flatten", net.bn(net.op("Relu", net.conv("x", 4, 3, 3, 2)), 3), axis=1)
    return net.build(IMAGE, net.op("Gemm", x, net.weight(84, 5, fan_in=84), net.vector(5)))


@model
def reshaped(net: Net) -> onnx.ModelProto:
    x = net.op("Reshape", net.conv("x", 4, 6, 1, 1), net.const(np.array([0, 3, 2, 48])))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3]), net.const(np.array([2, 6, 6, -1])))
    return net.build(IMAGE, net.op("Tanh", net.bn(x, 6)))


@model
def squeezed(net: Net) -> onnx.ModelProto:
    axes = net.const(np.array([3]))
    x = net.op("Squeeze", net.conv("x", 4, 6, 3, 8), axes)
    x = net.op("Unsqueeze", net.bn(x, 6), axes)
    return net.build(IMAGE, net.op("ReduceMean", net.conv(x, 6, 3, 1, 1), axes=[2, 3], keepdims=0))


@model
def residual(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 4, 4, 1, 1)
    y = net.bn(net.conv(net.op("Relu", net.bn(x, 4, positive=True)), 4, 4, 3, 3, pads=[1] * 4), 4)
    return net.build(IMAGE, net.conv(net.op("Add", x, y), 4, 3, 1, 1))


@model
def joined(net: Net) -> onnx.ModelProto:
    x = net.op("Concat", net.conv("x", 4, 3, 1, 1), net.conv("x", 4, 2, 1, 1), axis=1)
    net.op("Split", net.bn(x, 5), net.const(np.array([2, 3])), out=["left", "right"], axis=1)
    return net.build(IMAGE, [net.conv("left", 2, 3, 1, 1), net.conv("right", 3, 3, 1, 1)])


@model
def chosen(net: Net) -> onnx.ModelProto:
    ends = [net.const(np.array(v)) for v in ([1], [6], [1], [2])]
    x = net.op("Slice", net.conv("x", 4, 6, 1, 1), *ends)
    x = net.op("Gather", x, net.const(np.array([2, 0, -2])), axis=1)
    return net.build(IMAGE, net.op("Tanh", net.bn(x, 3)))


@model
def padded(net: Net) -> onnx.ModelProto:
    pads = net.const(np.array([0, 0, 1, 1, 0, 0, 0, 2]))
    x = net.op("Pad", net.bn(net.conv("x", 4, 3, 3, 2), 3), pads, mode="reflect")
    x = net.op("Pad", net.op("Relu", x), pads, net.const(np.array(0.0)))
    return net.build(IMAGE, net.op("Tanh", net.bn(x, 3)))


@model
def resized(net: Net) -> onnx.ModelProto:
    scales = net.const(np.array([1, 1, 2, 1.5]))
    net.initializers[-1].CopyFrom(onnx.numpy_helper.from_array(np.array([1, 1, 2, 1.5], np.float32), scales))
    x = net.op("Resize", net.conv("x", 4, 4, 1, 1), "", scales, mode="linear")
    x = net.op("DepthToSpace", net.bn(x, 4), blocksize=2, mode="CRD")
    return net.build(IMAGE, net.op("SpaceToDepth", x, blocksize=2))


@model
def normalised(net: Net) -> onnx.ModelProto:
    x = net.op("InstanceNormalization", "x", net.vector(4), net.vector(4))
    x = net.op("Transpose", net.bn(x, 4), perm=[0, 2, 3, 1])
    x = net.op("LayerNormalization", x, net.vector(4), net.vector(4), axis=-1)
    return net.build(IMAGE, net.op("Tanh", net.op("Mul", x, net.const(net.factors(4)))))


@model
def clipped(net: Net) -> onnx.ModelProto:
    x = net.op("Clip", net.bn(net.conv("x", 4, 5, 3, 2), 5), net.const(np.array(0.0)))
    slope = net.const(np.abs(net.factors(5)).reshape(5, 1, 1) / 10)
    x = net.op("PRelu", net.op("Mul", x, net.const(net.factors(5, positive=True).reshape(5, 1, 1))), slope)
    return net.build(IMAGE, net.bn(net.conv(x, 5, 3, 1, 1), 3))


@model
def old(net: Net) -> onnx.ModelProto:
    x = net.op("MaxPool", net.bn(net.conv("x", 4, 5, 3, 2), 5, spatial=1), kernel_shape=[1, 1])
    x = net.op("Pad", x, pads=[0, 0, 1, 0, 0, 0, 0, 0], value=0.0, mode="edge")
    x = net.op("Squeeze", net.op("ReduceMax", x, axes=[2], keepdims=1), axes=[2])
    return net.build(IMAGE, net.bn(net.op("Dropout", net.conv(x, 5, 3, 2)), 3), opset=7, ir_version=3)


def _run(path: Path) -> list[Any] | None:
    """All outputs for inputs of the declared shapes; None where onnxruntime refuses the model."""
    try:
        loaded = session(path)
        rng, fed = np.random.default_rng(0), {}
        for info in loaded.get_inputs():
            shape = [d if isinstance(d, int) and d > 0 else 3 for d in info.shape]
            if info.type != "tensor(float)" or np.prod(shape) > _MOST_ELEMENTS:
                return None
            fed[info.name] = (rng.standard_normal(shape) * 1.5 + 0.4).astype(np.float32)
        return list(loaded.run(None, fed))
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions share no base class: it refuses the model
        return None


def _differs(before: Path, after: Path) -> str:
    """What is wrong with the folded model, where the damaged original runs; else ""."""
    want = _run(before)
    if want is None or not all(a.size and np.isfinite(a).all() for a in want):
        return ""
    got = _run(after)
    if got is None:
        return "the folded model does not run"
    for a, b in zip(want, got, strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return f"{b.dtype}{b.shape} instead of {a.dtype}{a.shape}"
        wide = a.astype(np.float64)
        error = float(np.abs(b.astype(np.float64) - wide).max())
        if not error <= _TOLERANCE * max(float(np.abs(wide).max()), 1e-6):
            return f"off by {error:.3g}, where the largest value is {np.abs(wide).max():.3g}"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_damage_is_refused_or_harmless(name: str, tmp_path: Path) -> None:
    made = MODELS[name](Net(1))
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    ran = folded = 0
    for number, (what, damaged) in enumerate(mutants(made, 1, _MUTANTS)):
        before.write_bytes(damaged.SerializeToString())
        try:
            with warnings.catch_warnings():  # numpy's, about numbers that the damage made infinite
                warnings.simplefilter("ignore")
                report = optimize(before, after, verify=False, bench=False, force=True, hashes=False)
        except BnfuseError as error:
            assert "\n" not in str(error) and len(str(error)) > 20
            continue
        except Exception as error:
            raise AssertionError(f"mutant {number} ({what}) in {before}") from error
        ran += 1
        if report.plan.order:
            folded += 1
            wrong = _differs(before, after)
            assert not wrong, f"mutant {number} ({what}) in {before}: {wrong}"
    assert ran > _MUTANTS / 3 and folded > _MUTANTS / 10


@pytest.mark.parametrize("error", [TypeError, AttributeError, ValueError, KeyError, RecursionError])
def test_a_bug_of_a_row_is_not_blamed_on_the_file(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only what a row raises for the purpose is a fault of the file."""
    path = tmp_path / "model.onnx"
    onnx.save(conv(Net(1)), path)

    def row(*_: Any) -> Any:
        raise error("a bug")

    monkeypatch.setitem(ROWS, "Conv", OpKind(("Conv",), row))
    done = call("inspect", path)
    assert done.exit_code == 70
    assert f"internal error ({error.__name__}: " in done.stderr and "a bug" in done.stderr
    assert "damaged" not in done.stderr and "together" not in done.stderr


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Protobuf hands out bytes for them; inside a body they meet text."""
    inner = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["INNER"])], "b", [], [onnx.ValueInfoProto(name="INNER")]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    infos = [
        helper.make_tensor_value_info(n, t, s) for n, t, s in (("x", 1, [2]), ("c", 9, []), ("y", 1, [2]))
    ]
    made = helper.make_model(helper.make_graph([node], "g", infos[:2], infos[2:]), ir_version=8)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString().replace(b"INNER", b"IN\xff\xfeR"))
    done = call("inspect", path)
    assert done.exit_code == 3
    assert "a name in it is not text" in done.stderr and done.stderr.count("\n") == 1


NO_TEXT: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "a node": lambda m: setattr(m.graph.node[0], "name", "IN-TEXT"),
    "an operator": lambda m: setattr(m.graph.node[0], "op_type", "IN-TEXT"),
    "a domain": lambda m: setattr(m.graph.node[0], "domain", "IN-TEXT"),
    "a value": lambda m: m.graph.node[0].output.append("IN-TEXT"),
    "an attribute": lambda m: setattr(m.graph.node[1].attribute[0], "name", "IN-TEXT"),
    "a caller's attribute": lambda m: setattr(m.graph.node[1].attribute[0], "ref_attr_name", "IN-TEXT"),
    "an initializer": lambda m: setattr(m.graph.initializer[0], "name", "IN-TEXT"),
    "an axis": lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "IN-TEXT"),
    "a domain that is imported": lambda m: m.opset_import.add(domain="IN-TEXT", version=1),
    "a function": lambda m: m.functions.add(name="IN-TEXT", domain="own"),
    "a shape": lambda m: m.graph.value_info.add(name="IN-TEXT"),
}
HARMLESS: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "of the model": lambda m: setattr(m, "doc_string", "IN-TEXT"),
    "of the graph": lambda m: setattr(m.graph, "doc_string", "IN-TEXT"),
    "of a node": lambda m: setattr(m.graph.node[0], "doc_string", "IN-TEXT"),
    "of a weight that changes": lambda m: setattr(m.graph.initializer[0], "doc_string", "IN-TEXT"),
    "of the producer": lambda m: setattr(m, "producer_name", "IN-TEXT"),
    "of metadata": lambda m: m.metadata_props.add(key="k", value="IN-TEXT"),
}


@pytest.mark.parametrize("where", [*NO_TEXT, *HARMLESS])
def test_strings_that_are_no_text(where: str, tmp_path: Path) -> None:
    """A name is refused; a description is kept as it is."""
    net = Net(1)
    x = net.op("Sigmoid", "x")
    x = net.bn(net.conv(x, 4, 3, 1, 1, group=1), 3)
    made = net.build(IMAGE, net.op("Tanh", x))
    (NO_TEXT | HARMLESS)[where](made)
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    path.write_bytes(made.SerializeToString().replace(b"IN-TEXT", b"IN\xff\xfeEXT"))
    done = call("optimize", path, "-o", out, "--no-verify", "--no-bench")
    if where in HARMLESS:
        assert done.exit_code == 0 and "1 of 1" in done.stdout
        assert (b"IN\xff\xfeEXT" in out.read_bytes()) == ("weight" not in where)
    else:
        assert done.exit_code == 3 and "a name in it is not text" in done.stderr


def _type_64(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 64


def _ir_below_zero(model: onnx.ModelProto) -> None:
    """onnxruntime loads it, but not with an initializer that is also an input, as IR 3 asks for."""
    model.ir_version = -1


def _reference(model: onnx.ModelProto) -> None:
    """To what the caller of a function gives, outside of any function."""
    for attribute in model.graph.node[1].attribute:
        attribute.ref_attr_name = "given"


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (_type_64, 3, "a tensor has the unknown type 64"),
        (_ir_below_zero, 3, "is damaged: its IR version is -1"),
        (_reference, 0, "(the attribute group has no"),
    ],
)
def test_a_number_or_reference_that_means_nothing(
    spoil: Callable[[onnx.ModelProto], None], code: int, says: str, tmp_path: Path
) -> None:
    net = Net(1)
    x = net.bn(net.conv(net.op("Sigmoid", "x"), 4, 3, 1, 1, group=1), 3)
    made = net.build(IMAGE, net.op("Tanh", x))
    spoil(made)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    done = call("inspect", path)
    assert (done.exit_code, says in done.stdout + done.stderr) == (code, True)
