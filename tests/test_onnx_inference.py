"""Shape inference in a process of its own: the same shapes, and nothing but them is lost where it ends."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bnfuse import inspect
from bnfuse.formats.onnx.graph import inference
from tests.onnx_graphs import Net


def _sliced() -> onnx.ModelProto:
    """Conv → Slice → Gather → BatchNormalization, which wants to know how many channels the Gather reads."""
    net = Net(3)
    x = net.conv("x", 4, 6, 1, 1)
    x = net.op("Slice", x, *(net.const(np.array([n], np.int64)) for n in (0, 5, 2, 1)))
    x = net.op("Gather", x, net.const(np.array([2, 0, -2], np.int64)), axis=1)
    return net.build({"x": (2, 4, 6, 8)}, net.bn(x, 3))


def test_shapes_are_the_same_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnx's own function finds them in this process."""
    model = _sliced()
    apart = inference.infer(model, follows_values=True)
    monkeypatch.setattr(inference, "_TAME", {*inference._TAME, "Slice", "Gather"})
    monkeypatch.setattr(inference, "_apart", None)
    assert apart is not None and apart == inference.infer(model, follows_values=True)
    found = onnx.ModelProto.FromString(apart).graph.value_info
    assert [d.dim_value for d in found[1].type.tensor_type.shape.dim] == [2, 6, 5, 8]


def test_where_inference_ends_its_process_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that aborts, as onnx's does: the shapes are unknown, and the model is read all the same."""
    path = tmp_path / "net.onnx"
    onnx.save(_sliced(), path)
    assert inspect(path).plan.left == ()
    monkeypatch.setattr(inference, "_WORKER", "import os; os.abort()")
    assert inspect(path).plan.left != ()


class _Started(Exception):
    """A process was."""


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises where one is started."""

    def refused(*_args: Any, **_named: Any) -> None:
        raise _Started

    monkeypatch.setattr(subprocess, "run", refused)


def _infer(x: tuple[int | str, ...], follows_values: bool = False, **constants: list[int]) -> bytes | None:
    net = Net(3)
    for numbers in constants.values():
        net.const(np.array(numbers, np.int64))
    return inference.infer(net.build({"x": x}, net.op("Relu", "x")), follows_values=follows_values)


@pytest.mark.usefixtures("no_process")
def test_models_whose_shapes_cannot_grow_cost_no_process() -> None:
    """They are looked at here."""
    assert _infer((2, "n"), shape=[1, 2, 3]) is not None


def _model(grown: Callable[[Net], str]) -> onnx.ModelProto:
    """Written down as it is: ``Net.build`` would have onnx follow it here and now."""
    net = Net(3)
    net.const(np.array([0]), "axes")
    y = grown(net)
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 3, 4, 5))
    out = onnx.helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(net.nodes, "net", [x], [out], net.initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def _doubled(net: Net) -> str:
    """Four numbers, eight, sixteen…: each step is some bytes of the file."""
    sizes = net.op("Shape", "x")
    for _ in range(40):
        sizes = net.op("Concat", sizes, sizes, axis=0)
    return net.op("Reshape", "x", sizes)


def _deepened(net: Net) -> str:
    """4 axes, 7, 13…"""
    x = net.op("Cast", "x", to=onnx.TensorProto.INT64)
    for _ in range(40):
        x = net.op("Gather", x, x)
    return x


def _raised(net: Net, steps: int = 2000) -> str:
    """One axis at a time: the square of the nodes in all."""
    x = "x"
    for _ in range(steps):
        x = net.op("Unsqueeze", x, "axes")
    return x


def _flattened(net: Net) -> str:
    """As exporters spell it: some of the sizes of x side by side, and a vector of as many as x has."""
    sizes = net.op("Shape", "x")
    first = net.op("Unsqueeze", net.op("Gather", sizes, net.const(np.array(0)), axis=0), "axes")
    rest = net.op("Constant", value_ints=[-1])
    x = net.op("Reshape", net.op("Relu", "x"), net.op("Concat", first, rest, axis=0))
    return net.op("Add", x, net.op("ConstantOfShape", net.const(np.array([1, 60]))))


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("grown", [_flattened, partial(_raised, steps=30)])
def test_shapes_that_grow_a_little_cost_no_process(grown: Callable[[Net], str]) -> None:
    """Each step may add two: the axis, and the length of the list that says where it is."""
    model = _model(grown)
    inferred = inference.infer(model, follows_values=True)
    assert inferred is not None
    told = {info.name: info for info in onnx.ModelProto.FromString(inferred).graph.value_info}
    last = told[model.graph.node[-2].output[0]].type.tensor_type.shape.dim
    assert len(last) == (2 if grown is _flattened else 4 + 29)


@pytest.mark.usefixtures("no_process")
def test_what_is_written_later_may_have_any_length() -> None:
    model = _model(partial(_raised, steps=2))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    with pytest.raises(_Started):
        inference.infer(model, follows_values=False)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("grown", [_doubled, _deepened, _raised, partial(_raised, steps=31)])
def test_shapes_that_could_grow_are_followed_apart(grown: Callable[[Net], str]) -> None:
    """Where limits hold."""
    with pytest.raises(_Started):
        inference.infer(_model(grown), follows_values=grown is _doubled)


@pytest.mark.usefixtures("no_process")
def test_a_list_that_could_say_many_axes_is_followed_apart() -> None:
    """A Reshape by it would make them, and each node behind hand them on."""
    with pytest.raises(_Started):
        _infer((2, 4), shape=[1] * 65)


@pytest.mark.parametrize("shape", [(1,) * 65, ("n" * 300, 2)], ids=["axes", "symbols"])
def test_shapes_that_no_runtime_knows_are_not_handed_on(shape: tuple[int | str, ...]) -> None:
    """Each node would get a copy of what the file says once."""
    assert _infer(shape) is None


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are Linux's")
@pytest.mark.parametrize("grown", [_doubled, _deepened])
def test_what_grows_without_end_is_given_up(grown: Callable[[Net], str]) -> None:
    """At a limit that is the file's, not the machine's."""
    assert inference.infer(_model(grown), follows_values=True) is None
