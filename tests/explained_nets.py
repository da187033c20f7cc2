"""Small ONNX models for the tests of ``--explain``, each with one way open or shut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from bnfuse.core.explanation import Explanation
from bnfuse.use_cases.explain import explain as explain_file
from tests.onnx_graphs import Net


def _padded(net: Net) -> onnx.ModelProto:
    """x(2,3,8,7) → Conv → Relu → BN → Conv with zero padding: the shift has nowhere to go."""
    value = net.op("Relu", net.conv("x", 3, 5, 3, 3, name="first"), name="relu")
    value = net.bn(value, 5, positive=True, name="bn")
    value = net.conv(value, 5, 4, 3, 3, pads=[1, 1, 1, 1], name="second")
    return net.build({"x": (2, 3, 8, 7)}, value)


def _plain(net: Net) -> onnx.ModelProto:
    """x(2,3,8,7) → Conv → BN → Relu → Conv: goes up; γ has both signs, so it cannot go down."""
    value = net.bn(net.conv("x", 3, 6, 3, 3, name="first"), 6, name="bn")
    value = net.conv(net.op("Relu", value, name="relu"), 6, 4, 3, 3, name="second")
    return net.build({"x": (2, 3, 8, 7)}, value)


def _between(net: Net) -> onnx.ModelProto:
    """x(2,3,8,7) → Conv → BN → MaxPool → Conv without padding: all ways are open."""
    value = net.bn(net.conv("x", 3, 6, 3, 3, name="first"), 6, positive=True, name="bn")
    value = net.op("MaxPool", value, kernel_shape=[2, 2], name="pool")
    value = net.conv(value, 6, 4, 2, 2, name="second")
    return net.build({"x": (2, 3, 8, 7)}, value)


def _preactivation(net: Net) -> onnx.ModelProto:
    """A stream whose stem takes nothing and whose branch takes a shift, read by a BN with γ > 0."""
    stem = net.op("Sigmoid", net.conv("x", 3, 5, 1, 1), name="stem", out="stem_out")
    branch = net.conv(stem, 5, 5, 1, 1, name="branch", out="branch_out")
    stream = net.op("Add", stem, branch, name="sum")
    value = net.op("Relu", net.bn(stream, 5, positive=True, name="bn"), name="relu")
    return net.build({"x": (2, 3, 6, 7)}, net.conv(value, 5, 4, 3, 3, name="last"))


def _chained(net: Net) -> onnx.ModelProto:
    """Relu → BN → BN → Relu: the first goes down into the second, which stays with new numbers."""
    value = net.op("Relu", net.conv("x", 3, 5, 3, 3), name="relu")
    value = net.bn(net.bn(value, 5, name="one"), 5, name="two")
    return net.build({"x": (2, 3, 6, 7)}, net.op("Relu", value, name="end"))


def _runtime(net: Net) -> onnx.ModelProto:
    """The scale is computed from the input."""
    scale = net.op("Relu", net.op("ReduceMean", "x", axes=[0, 2, 3], keepdims=0))
    others = net.statistics(3)[1:]
    return net.build({"x": (2, 3, 6, 7)}, net.op("BatchNormalization", "x", scale, *others, name="bn"))


NETS = {
    "padded": _padded,
    "plain": _plain,
    "between": _between,
    "preactivation": _preactivation,
    "chained": _chained,
    "runtime": _runtime,
}


def saved(name: str, folder: Path, seed: int = 0) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(NETS[name](Net(seed)), path)
    return path


def explained(path: Path, node: str = "bn") -> Explanation:
    (found,) = explain_file(path, node)
    return found


def affine_of(path: Path, node: str) -> tuple[np.ndarray, np.ndarray]:
    """a and c of a BN, straight from the formula and the file's own numbers."""
    graph = onnx.load(path).graph
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    norm = next(n for n in graph.node if n.name == node)
    gamma, beta, mean, variance = (arrays[name] for name in norm.input[1:])
    a = gamma / np.sqrt(variance + norm.attribute[0].f)
    return a, beta - mean * a


def outcome(explanation: Explanation, split: str) -> str:
    trial = next(t for t in explanation.trials if t.split.value == split)
    return "taken" if trial.taken else "refused" if trial.refusal else "possible"
