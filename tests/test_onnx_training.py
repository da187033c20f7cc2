"""Which BatchNormalizations train, by operator set, attributes and outputs: what onnxruntime says.

Between operator sets 7 and 13 nothing tells but the outputs: with all five named it uses the statistics
of each batch, whether anybody reads them or not. Such a one stays, what is beside it folds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.command import optimized
from tests.onnx_graphs import Net, Shape, assert_equal, session

IMAGE: dict[str, Shape] = {"x": (3, 4, 6, 5)}
STATISTICS = ("m", "v", "sm", "sv")


def odd(net: Net, x: str, extra: tuple[str, ...], **attributes: Any) -> str:
    """A BatchNormalization with names for more outputs than the first."""
    key = f"odd{len(net.nodes)}"
    names = [key, *(f"{key}_{name}" for name in extra)]
    return net.op("BatchNormalization", x, *net.statistics(4), out=names, name="odd", **attributes)


def trains(made: onnx.ModelProto, path: Path) -> bool:
    """Whether onnxruntime's answer for one sample depends on the rest of its batch."""
    onnx.save(made, path)
    loaded = session(path)
    x = np.random.default_rng(0).standard_normal((3, 4, 6, 5)).astype(np.float32)
    other = np.concatenate([x[:1], 5 * x[1:] + 2])
    (a, *_), (b, *_) = (loaded.run(None, {"x": fed}) for fed in (x, other))
    return not np.allclose(a[0], b[0], atol=1e-5)


MODES: list[tuple[int, tuple[str, ...], dict[str, Any], bool]] = [
    *((opset, (), {}, False) for opset in (7, 8, 9, 12, 13, 14, 15, 22)),
    *((opset, STATISTICS, {}, True) for opset in (7, 8, 9, 12, 13)),
    *((opset, STATISTICS[:2], {"training_mode": 1}, True) for opset in (14, 15, 22)),
]


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
@pytest.mark.parametrize(("opset", "extra", "attributes", "wanted"), MODES)
def test_what_trains_stays_and_the_rest_folds(
    opset: int, extra: tuple[str, ...], attributes: dict[str, Any], wanted: bool, read: bool, tmp_path: Path
) -> None:
    """BN → Tanh → Conv → BN; where the statistics are read, by a Tanh that is an output."""
    net = Net(opset)
    y = odd(net, "x", extra, **attributes)
    z = net.bn(net.conv(net.op("Tanh", y), 4, 3, 2, 2), 3, name="even")
    outputs = [net.op("Tanh", z)]
    if read and extra:
        outputs.append(net.op("Tanh", f"{y}_m", out="seen"))
    made = net.build(IMAGE, outputs, opset=opset, ir_version=7, ranks={outputs[0]: 4, "seen": 1})
    assert trains(made, tmp_path / "asked.onnx") is wanted
    done = optimized(made, tmp_path, proof="skipped")
    reason = "TRAINING_MODE" if wanted else done.decisions["odd"]
    assert done.decisions == {"odd": reason, "even": None}
    assert reason != "LIVE_STATISTICS"
    assert_equal(done.before, done.after)


def _in_if(net: Net, inner: list[onnx.NodeProto], result: str, constants: list[onnx.TensorProto]) -> str:
    then = helper.make_graph(inner, "then", [], [onnx.ValueInfoProto(name=result)], constants)
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["other"])], "other", [], [onnx.ValueInfoProto(name="other")]
    )
    return net.op("If", net.const(np.array(True)), then_branch=then, else_branch=other)


def _in_loop(net: Net, inner: list[onnx.NodeProto], result: str, constants: list[onnx.TensorProto]) -> str:
    go = helper.make_node("Identity", ["go_on"], ["goes_on"])
    inputs = [
        helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("go_on", 9, []), ("h", 1, None))
    ]
    outputs = [helper.make_tensor_value_info("goes_on", 9, []), onnx.ValueInfoProto(name=result)]
    outputs[1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    body = helper.make_graph([*inner, go], "body", inputs, outputs, constants)
    return net.op("Loop", net.const(np.array(2)), net.const(np.array(True)), "x", body=body)


BODIES: dict[str, Callable[..., str]] = {"If": _in_if, "Loop": _in_loop}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("opset", [9, 11, 13])
def test_it_stays_in_bodies_too(kind: str, opset: int, tmp_path: Path) -> None:
    net, inner = Net(opset), Net(opset + 1)
    inner.const = lambda array, name="": Net.const(inner, array, name or f"b{len(inner.initializers)}")  # type: ignore[method-assign]
    y = odd(inner, "x" if kind == "If" else "h", STATISTICS)
    z = inner.op("Tanh", inner.op("Tanh", y, out="t"), out="inner")
    y = BODIES[kind](net, inner.nodes, z, inner.initializers)
    y = net.bn(net.conv(y, 4, 3, 2, 2), 3, name="even")
    made = net.build(IMAGE, net.op("Tanh", y), opset=opset, ir_version=7, ranks={"v4": 4})
    done = optimized(made, tmp_path, proof="skipped")
    found = {name.rsplit("/", 1)[-1]: reason for name, reason in done.decisions.items()}
    assert found == {"odd": "TRAINING_MODE", "even": None}
    assert_equal(done.before, done.after)


def test_it_stays_in_functions_too(tmp_path: Path) -> None:
    net, inner = Net(1), Net(2)
    inner.op("Tanh", odd(inner, "h", STATISTICS), out="out")
    stored = [helper.make_node("Constant", [], [t.name], value=t) for t in inner.initializers]
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("local", 1)]
    block = helper.make_function("local", "Block", ["h"], ["out"], [*stored, *inner.nodes], imports[:1])
    net.bn(net.conv(net.op("Block", "x", domain="local"), 4, 3, 2, 2), 3, name="even", out="y")
    infos = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", [3, 4, 6, 5]), ("y", [None] * 4))]
    graph = helper.make_graph(net.nodes, "g", infos[:1], infos[1:], net.initializers)
    made = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=[block])
    done = optimized(made, tmp_path, proof="skipped")
    assert done.decisions == {"block0/odd": "TRAINING_MODE", "even": None}
    assert_equal(done.before, done.after)


@pytest.mark.parametrize("training", [0, 1])
@pytest.mark.parametrize("opset", [1, 6])
def test_is_test_decides_below_operator_set_7(opset: int, training: int, tmp_path: Path) -> None:
    """No runtime here runs these: the specification's ``is_test`` is all there is."""
    net = Net(opset)
    old = {"consumed_inputs": [0, 0, 0, 1, 1]} if opset == 1 else {}
    y = odd(net, net.conv("x", 4, 4, 2, 2), STATISTICS, is_test=1 - training, **old)
    made = net.build(IMAGE, net.op("Tanh", y), opset=opset, ir_version=4, ranks={"v2": 4})
    done = optimized(made, tmp_path, proof="skipped")
    assert done.decisions == {"odd": "TRAINING_MODE" if training else None}
