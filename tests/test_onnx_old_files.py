"""IR 3 files that do not list their initializers as inputs: they fold as the same file of IR 4 does.

onnx's shape inference knows no weight's shape in such a file, onnxruntime does. What is beside the folds
here follows channels through reshapes, which takes shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfuse.formats.onnx.file import parse as reading
from tests.command import optimized
from tests.onnx_graphs import Net, Shape, assert_equal

IMAGE: dict[str, Shape] = {"x": (2, 3, 9, 8)}
Build = Callable[[Net], tuple[str, int]]


def _flattened(net: Net) -> tuple[str, int]:
    x = net.op("MaxPool", net.op("Relu", net.conv("x", 3, 5, 2, 3)), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("MatMul", net.op("Flatten", net.bn(x, 5)), net.weight(60, 4, fan_in=60))
    return net.op("Tanh", x), 2


def _arithmetic(net: Net) -> tuple[str, int]:
    x = net.conv("x", 3, 5, 2, 3)
    x = net.op("Mul", x, net.const(net.factors(5).reshape(1, 5, 1, 1)))
    x = net.op("Add", x, net.const(net.factors(5).reshape(1, 5, 1, 1)))
    return net.op("Tanh", x), 4


def _split(net: Net) -> tuple[str, int]:
    net.op("Split", net.conv("x", 3, 6, 2, 3), out=["left", "right"], axis=1, split=[2, 4])
    x = net.op("Concat", net.bn("right", 4), "left", axis=1)
    return net.op("Sigmoid", x), 4


def _reshaped(net: Net) -> tuple[str, int]:
    x = net.op("Reshape", net.conv("x", 3, 6, 2, 3), net.const(np.array([0, 0, -1])))
    x = net.op("Transpose", net.bn(x, 6), perm=[0, 2, 1])
    return net.op("Tanh", net.op("MatMul", x, net.weight(6, 4, fan_in=6))), 3


def _dense(net: Net) -> tuple[str, int]:
    x = net.op("ReduceMean", net.conv("x", 3, 5, 2, 3), axes=[2, 3], keepdims=0)
    x = net.op("Gemm", net.bn(x, 5), net.weight(5, 4, fan_in=5), net.vector(4))
    return net.op("Tanh", net.bn(x, 4)), 2


def _one_bias(net: Net) -> tuple[str, int]:
    """One number for all channels, which becomes one for each: where it is listed, that is declared anew."""
    x = net.op("ReduceMean", net.conv("x", 3, 5, 2, 3), axes=[2, 3], keepdims=0)
    x = net.op("Gemm", x, net.weight(5, 4, fan_in=5), net.const(np.array([0.3])))
    return net.op("Tanh", net.bn(x, 4)), 2


BUILDS: dict[str, Build] = {
    b.__name__.strip("_"): b for b in (_flattened, _arithmetic, _split, _reshaped, _dense, _one_bias)
}


def made_as(build: Build, ir_version: int, *, listed: bool = False, opset: int = 8) -> onnx.ModelProto:
    """The same model in a version of the file format; whether its initializers are inputs too."""
    net = Net(opset)
    output, rank = build(net)
    made = net.build(IMAGE, output, opset=opset, ir_version=ir_version, ranks={output: rank})
    if listed:
        for tensor in made.graph.initializer:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            made.graph.input.append(info)
    return made


@pytest.fixture(params=[1 << 24, 0], ids=["parsed", "skimmed"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large files inference sees a skeleton without the large tensors."""
    monkeypatch.setattr(reading, "_WHOLE_BYTES", request.param)
    monkeypatch.setattr("bnfuse.formats.onnx.file.wire.LARGE_BYTES", 1 << 8)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("listed", [False, True], ids=["not inputs", "inputs"])
@pytest.mark.parametrize("opset", [7, 8])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_ir_3_folds_as_ir_4_does(build: Build, opset: int, listed: bool, tmp_path: Path) -> None:
    outcomes = []
    for ir_version in (3, 4):
        folder = tmp_path / str(ir_version)
        folder.mkdir()
        made = made_as(build, ir_version, listed=listed and ir_version == 3, opset=opset)
        done = optimized(made, folder, proof="skipped")
        assert_equal(done.before, done.after)
        assert onnx.load(done.after).ir_version == ir_version
        outcomes.append((done.decisions, done.operators))
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0][0].values()) == {None}


@pytest.mark.parametrize("opset", [8, 11])
def test_in_bodies_too(opset: int, tmp_path: Path) -> None:
    """All lies in a branch, weights too. onnxruntime takes this from IR 4 on, so there it is compared."""
    inner = Net(3)
    inner.const = lambda array, name="": Net.const(inner, array, f"b{len(inner.initializers)}")  # type: ignore[method-assign]
    result, _ = _flattened(inner)
    for node in inner.nodes:
        node.output[0] = f"b_{node.output[0]}"
        node.input[:] = [f"b_{n}" if n.startswith("v") else n for n in node.input]
    result = f"b_{result}"
    info = helper.make_tensor_value_info(result, 1, None)
    branch = helper.make_graph(inner.nodes, "branch", [], [info], inner.initializers)
    net = Net(4)
    y = net.op("If", "cond", then_branch=branch, else_branch=branch)
    made = net.build({"cond": (), **IMAGE}, y, opset=opset, ir_version=3, ranks={y: 2})
    done = optimized(made, tmp_path, proof="skipped")
    assert set(done.decisions.values()) == {None}
    assert "BatchNormalization" not in done.operators
    for path in (done.before, done.after):
        stored = onnx.load(path)
        stored.ir_version = 4
        onnx.save(stored, path)
    assert_equal(done.before, done.after)
