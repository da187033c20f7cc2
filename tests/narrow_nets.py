"""Networks whose outputs hide the rounding inside: narrow types, integers at the ends, jumps, saturation.

Each is a function of a seed; sizes differ along every axis, statistics are random with mixed signs. Used by
the tests of the proof and by ``benchmarks/proof_power.py``, which fold them honestly and expect "equal".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.tiny_models import layer, model

Build = Callable[[int], onnx.ModelProto]


class _Net:
    """Nodes and constants as they are added; ``value`` is what the next node reads."""

    def __init__(self, seed: int, dtype: str = "float32") -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.value = "x"

    def op(self, kind: str, *operands: np.ndarray, **attributes: Any) -> _Net:
        """A node that reads the value, then constants; made-up names."""
        names = []
        for array in operands:
            names.append(f"c{len(self.constants)}")
            self.constants.append(numpy_helper.from_array(np.asarray(array), names[-1]))
        made = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.value, *names], [made], **attributes))
        self.value = made
        return self

    def cast(self, dtype: str) -> _Net:
        """A change of type."""
        self.dtype = dtype
        return self.op("Cast", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def folds(self, depth: int, into: int, *kernel: int, out: int = 8) -> _Net:
        """Linear layers, each with a BatchNormalization and a Relu behind it."""
        for _ in range(depth):
            one = layer(self.rng, out, into, *kernel)
            names = ("gamma", "beta", "mean", "var")
            statistics = [getattr(one, name).astype(self.dtype) for name in names]
            weight, bias = one.weight.astype(self.dtype), one.bias.astype(self.dtype)
            linear: dict[str, int] = {} if kernel else {"transB": 1}
            self.op("Conv" if kernel else "Gemm", weight, bias, **linear)
            self.op("BatchNormalization", *statistics).op("Relu")
            into = out
        return self

    def done(self, shape: list[int | str], element: int = TensorProto.FLOAT, out: int = 0) -> onnx.ModelProto:
        """The model, its last value called "y"."""
        self.nodes[-1].output[0] = "y"
        x = helper.make_tensor_value_info("x", element, shape)
        y = helper.make_tensor_value_info("y", out or TensorProto.FLOAT, None)
        return model(self.nodes, [x], [y], self.constants)


_IMAGE: list[int | str] = ["N", 3, 16, 15]


def half_body(seed: int) -> onnx.ModelProto:
    """float16 inside, float32 in and out."""
    return _Net(seed).cast("float16").folds(1 + seed % 4, 3, 3, 3).cast("float32").done(_IMAGE)


def half_body_single_head(seed: int) -> onnx.ModelProto:
    """float16 body, float32 head that folds, too."""
    net = _Net(seed).cast("float16").folds(1 + seed % 3, 3, 3, 3).op("GlobalAveragePool").op("Flatten")
    return net.cast("float32").folds(1, 8, out=5).done(_IMAGE)


def half_body_softmax(seed: int) -> onnx.ModelProto:
    """float16 body, a softmax of large logits in float32."""
    net = _Net(seed).cast("float16").folds(1 + seed % 3, 3, 3, 3).op("GlobalAveragePool").op("Flatten")
    return net.cast("float32").op("Mul", np.float32(40)).op("Softmax", axis=1).done(_IMAGE)


def single_inside_double(seed: int) -> onnx.ModelProto:
    """float32 inside float64."""
    net = _Net(seed, "float64").cast("float32").folds(1 + seed % 4, 5, out=7).cast("float64")
    return net.done(["N", 5], TensorProto.DOUBLE, TensorProto.DOUBLE)


def tokens(seed: int) -> onnx.ModelProto:
    """Integer inputs that are looked up, a saturated softmax: nothing to move at the input."""
    net = _Net(seed)
    table = net.rng.standard_normal((113, 12)).astype(np.float32)
    net.constants.append(numpy_helper.from_array(table, "table"))
    net.nodes.append(helper.make_node("Gather", ["table", "x"], ["e"]))
    net.value = "e"
    net.op("ReduceMean", np.array([1], np.int64), keepdims=0).folds(1 + seed % 3, 12, out=9)
    return net.op("Mul", np.float32(30)).op("Softmax", axis=1).done(["N", 16], TensorProto.INT64)


def rounded(seed: int) -> onnx.ModelProto:
    """Integer outputs by Round and Cast."""
    net = _Net(seed).folds(1 + seed % 4, 3, 3, 3).op("Mul", np.float32(2000)).op("Round")
    return net.op("Cast", to=TensorProto.INT32).done(_IMAGE, out=TensorProto.INT32)


def classes(seed: int) -> onnx.ModelProto:
    """The number of the largest channel."""
    net = _Net(seed).folds(1 + seed % 4, 3, 3, 3).op("ArgMax", axis=1)
    return net.done(_IMAGE, out=TensorProto.INT64)


def quantised_between(seed: int) -> onnx.ModelProto:
    """A DynamicQuantizeLinear in the middle: every later number jumps with the largest one."""
    net = _Net(seed).folds(1 + seed % 2, 3, 3, 3)
    quantised = ["q", "s", "z"]
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", [net.value], quantised))
    net.nodes.append(helper.make_node("DequantizeLinear", quantised, ["d"]))
    net.value = "d"
    return net.folds(1 + seed % 2, 8, 3, 3).done(_IMAGE)


def threshold(seed: int) -> onnx.ModelProto:
    """Booleans: where a value lies above a number."""
    net = _Net(seed).folds(1 + seed % 4, 3, 3, 3).op("Greater", np.float32(0.3))
    return net.done(_IMAGE, out=TensorProto.BOOL)


NARROW: dict[str, Build] = {
    build.__name__: build
    for build in (
        half_body,
        half_body_single_head,
        half_body_softmax,
        single_inside_double,
        tokens,
        rounded,
        classes,
        quantised_between,
        threshold,
    )
}
