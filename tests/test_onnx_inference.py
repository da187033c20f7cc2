"""Shape inference in a process of its own: the same shapes, and nothing but them is lost where it ends."""

import subprocess
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
    data = _sliced().SerializeToString()
    assert inference._RISKY in data
    apart = inference.infer(data, follows_values=True)
    monkeypatch.setattr(inference, "_RISKY", b"no operator's name")
    assert apart is not None and apart == inference.infer(data, follows_values=True)
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


def test_only_models_with_a_slice_cost_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other is looked at here."""

    def refused(*_args: Any, **_named: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refused)
    net = Net(3)
    data = net.build({"x": (2, 4)}, net.op("Relu", "x")).SerializeToString()
    assert inference.infer(data, follows_values=False) is not None
