"""Small ONNX models for tests of the runtime side, with a fold done by hand beside each.

The folds here are written from the equation y = a·(W·x + b − μ) + β with a = γ/√(σ²+ε), apart from
the product's own code, so that verify is tested against an independent route.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ml_dtypes import bfloat16
from msgspec import Struct
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

ONNX_TYPE = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}


class Layer(Struct, frozen=True):
    """One linear layer and the BatchNormalization behind it; statistics far from the identity."""

    weight: np.ndarray  # Conv (o, i, kh, kw) or Gemm (o, i)
    bias: np.ndarray  # (o)
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    epsilon: float = 1e-5

    def stored(self, dtype: str) -> Layer:
        """As the file holds it: every array rounded to the dtype. A fold starts from these."""
        kind = bfloat16 if dtype == "bfloat16" else dtype
        names = ("weight", "bias", "gamma", "beta", "mean", "var")
        return replace(self, **{n: getattr(self, n).astype(kind).astype(np.float64) for n in names})

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """(W′, b′) in float64."""
        a = self.gamma / np.sqrt(self.var + float(np.float32(self.epsilon)))  # ONNX stores ε as float32
        shape = (-1,) + (1,) * (self.weight.ndim - 1)
        return self.weight * a.reshape(shape), a * (self.bias - self.mean) + self.beta


def layer(rng: np.random.Generator, out: int, into: int, *kernel: int, spread: float = 1.0) -> Layer:
    """Random weights of unit gain and BN statistics of mixed signs and sizes."""
    fan_in = into * int(np.prod(kernel, initial=1))
    return Layer(
        weight=rng.standard_normal((out, into, *kernel)) / np.sqrt(fan_in),
        bias=0.3 * rng.standard_normal(out),
        gamma=rng.uniform(0.4, 1.6, out) * rng.choice((-1.0, 1.0), out, p=(0.2, 0.8)),
        beta=0.5 * rng.standard_normal(out),
        mean=spread * rng.standard_normal(out),
        var=np.exp(spread * rng.standard_normal(out)),
    )


def _array(values: np.ndarray, dtype: str, name: str) -> onnx.TensorProto:
    cast = values.astype(bfloat16 if dtype == "bfloat16" else dtype)
    return numpy_helper.from_array(cast, name)


def net(
    layers: list[Layer],
    *,
    folded: bool,
    dtype: str = "float32",
    image: tuple[int, int] | None = (9, 7),
    output: str = "y",
    softmax: bool = False,
) -> onnx.ModelProto:
    """Layers with Relu between; Conv (padded) where weights have 4 axes, Gemm where 2.

    A Flatten-free net: all layers are of one kind. Input "x" is (N, i, h, w) or (N, i). Folded, what held
    the BatchNormalization's output keeps its name.
    """
    nodes, inits, value = [], [], "x"
    for index, one in enumerate(layers):
        weight, bias = one.stored(dtype).folded() if folded else (one.weight, one.bias)
        inits += [_array(weight, dtype, f"w{index}"), _array(bias, dtype, f"b{index}")]
        linear = "Conv" if weight.ndim == 4 else "Gemm"
        attributes: dict[str, Any] = {"pads": [1, 1, 1, 1]} if linear == "Conv" else {"transB": 1}
        made = f"n{index}" if folded else f"l{index}"
        nodes.append(helper.make_node(linear, [value, f"w{index}", f"b{index}"], [made], **attributes))
        value = made
        if not folded:
            names = [f"{part}{index}" for part in ("gamma", "beta", "mean", "var")]
            inits += [_array(getattr(one, n[: -len(str(index))]), dtype, n) for n in names]
            nodes.append(
                helper.make_node("BatchNormalization", [value, *names], [f"n{index}"], epsilon=one.epsilon)
            )
            value = f"n{index}"
        if index < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [value], [f"r{index}"]))
            value = f"r{index}"
    last_attributes: dict[str, Any] = {"axis": 1} if softmax else {}
    last = "Softmax" if softmax else "Identity"
    nodes.append(helper.make_node(last, [value], [output], **last_attributes))
    into, out = layers[0].weight.shape[1], layers[-1].weight.shape[0]
    spatial = list(image) if layers[0].weight.ndim == 4 and image else []
    return model(
        nodes,
        [helper.make_tensor_value_info("x", ONNX_TYPE[dtype], ["N", into, *spatial])],
        [helper.make_tensor_value_info(output, ONNX_TYPE[dtype], ["N", out, *spatial])],
        inits,
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 20,
    ml: bool = False,
) -> onnx.ModelProto:
    """A checked model around these nodes."""
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("ai.onnx.ml", 1)] if ml else [])
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def identity(element: int, path: Path, shape: list[Any] | None = None) -> Path:
    """x → y, as it is, saved; ``shape`` is (N, 3) unless told."""
    info = [helper.make_tensor_value_info(name, element, shape or ["N", 3]) for name in ("x", "y")]
    return save(model([helper.make_node("Identity", ["x"], ["y"])], [info[0]], [info[1]]), path)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    """Write the model and return its path."""
    path.write_bytes(proto.SerializeToString())
    return path
