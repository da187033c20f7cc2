"""Where all weights of an ONNX model are shaken, those of bodies and functions are, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.formats.base import Probe
from bnfuse.formats.onnx.runtime.probe import probed

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
WEIGHT = np.random.default_rng(0).uniform(1.0, 2.0, (4, 5))


def product(dtype: np.dtype[Any], *, constant: bool) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """y = x @ w, with w a Constant or an initializer."""
    stored = numpy_helper.from_array(WEIGHT.astype(dtype), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return (
        ([helper.make_node("Constant", [], ["w"], value=stored), *nodes], [])
        if constant
        else (nodes, [stored])
    )


def of_function(dtype: np.dtype[Any]) -> onnx.ModelProto:
    nodes, _ = product(dtype, constant=True)
    function = helper.make_function("local", "Linear", ["x"], ["y"], nodes, OPSETS[:1])
    return saved([helper.make_node("Linear", ["x"], ["y"], domain="local")], dtype, [function])


def of_inner_function(dtype: np.dtype[Any]) -> onnx.ModelProto:
    """A function that calls another one."""
    nodes, _ = product(dtype, constant=True)
    inner = helper.make_function("local", "Inner", ["x"], ["y"], nodes, OPSETS[:1])
    call = helper.make_node("Inner", ["x"], ["y"], domain="local")
    outer = helper.make_function("local", "Outer", ["x"], ["y"], [call], OPSETS)
    return saved([helper.make_node("Outer", ["x"], ["y"], domain="local")], dtype, [inner, outer])


def of_loop(dtype: np.dtype[Any]) -> onnx.ModelProto:
    """One round, which puts out what it computes."""
    nodes, stored = product(dtype, constant=False)
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    yes = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    count = helper.make_tensor_value_info("count", TensorProto.INT64, [])
    made = helper.make_tensor_value_info("y", kind, [3, 5])
    nodes = [*nodes, helper.make_node("Identity", ["go"], ["on"])]
    body = helper.make_graph(nodes, "body", [count, yes[0]], [yes[1], made], stored)
    one = numpy_helper.from_array(np.array(1), "one")
    axes = numpy_helper.from_array(np.array([0]), "axes")
    around = [
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("Constant", [], ["axes"], value=axes),
        helper.make_node("Loop", ["one", ""], ["rounds"], body=body),
        helper.make_node("Squeeze", ["rounds", "axes"], ["y"]),
    ]
    return saved(around, dtype, [])


def of_body(dtype: np.dtype[Any], *, constant: bool) -> onnx.ModelProto:
    """Both branches of an If compute the same."""
    nodes, stored = product(dtype, constant=constant)
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    body = helper.make_graph(nodes, "body", [], [helper.make_tensor_value_info("y", kind, [3, 5])], stored)
    yes = numpy_helper.from_array(np.array(True), "yes")
    made = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)
    return saved([helper.make_node("Constant", [], ["yes"], value=yes), made], dtype, [])


def saved(nodes: list[onnx.NodeProto], dtype: np.dtype[Any], functions: list[Any]) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    ends = [helper.make_tensor_value_info(n, kind, [3, size]) for n, size in (("x", 4), ("y", 5))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=OPSETS, functions=functions, ir_version=8)


KINDS: dict[str, Callable[[np.dtype[Any]], onnx.ModelProto]] = {
    "a function's Constant": of_function,
    "a Constant of a function in a function": of_inner_function,
    "a Loop's initializer": of_loop,
    "a body's Constant": lambda dtype: of_body(dtype, constant=True),
    "a body's initializer": lambda dtype: of_body(dtype, constant=False),
}


def ran(model: bytes, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_inside_move_by_their_last_place(kind: str, dtype: np.dtype[Any], tmp_path: Path) -> None:
    """Rows of the identity: what comes out is the weight itself."""
    path = tmp_path / "m.onnx"
    onnx.save(KINDS[kind](dtype), path)
    x = np.eye(3, 4, dtype=dtype)
    plain = ran(path.read_bytes(), x)
    assert np.array_equal(plain, WEIGHT[:3].astype(dtype))
    steps = []
    for seed in (1, 2):
        moved = ran(probed(path, Probe(shakes_all=True, seed=seed)).model, x)
        steps.append((moved - plain) / np.spacing(plain))
        assert set(np.unique(steps[-1])) == {-1.0, 1.0}
    assert not np.array_equal(*steps)
    assert np.array_equal(
        ran(probed(path, Probe(shaken=("w",), seed=1)).model, x), plain
    )  # the main graph's only
