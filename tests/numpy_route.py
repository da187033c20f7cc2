"""A second route to a model's outputs: each operator written from its definition, in float64.

For what onnxruntime does not run (bfloat16, operator sets below 7). Knows the few operators that
those tests use and shares no code with the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Floats = NDArray[np.float64]
Attributes = dict[str, Any]


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Floats]) -> list[Floats]:
    """All outputs of a model without bodies or functions."""
    opset = model.opset_import[0].version
    values: dict[str, Floats] = {"": np.zeros(0)}
    for tensor in model.graph.initializer:
        values[tensor.name] = numpy_helper.to_array(tensor).astype(np.float64)
    values |= {name: np.asarray(value, np.float64) for name, value in feeds.items()}
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] for name in node.input]
        values[node.output[0]] = _OPERATORS[node.op_type](inputs, attributes, opset)
    return [values[output.name] for output in model.graph.output]


def _conv(inputs: list[Floats], at: Attributes, opset: int) -> Floats:
    """y[n, o, p…] = Σ_{i, k…} W[o, i, k…] · x[n, i, p… + k…], unit strides, zeros around."""
    x, w = inputs[0], inputs[1]
    space, groups = x.ndim - 2, at.get("group", 1)
    pads = at.get("pads", [0] * 2 * space)
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:space], pads[space:], strict=True)])
    out = [n - k + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *out))
    per_out, per_in = w.shape[0] // groups, w.shape[1]
    for o in range(w.shape[0]):
        first = o // per_out * per_in
        for tap in product(*map(range, w.shape[2:])):
            window: tuple[Any, ...] = (..., *(slice(k, k + n) for k, n in zip(tap, out, strict=True)))
            here: tuple[Any, ...] = (..., *tap)
            y[:, o] += np.tensordot(x[:, first : first + per_in][window], w[o][here], axes=(1, 0))
    return y + inputs[2].reshape(-1, *[1] * space) if len(inputs) > 2 else y


def _batchnorm(inputs: list[Floats], at: Attributes, opset: int) -> Floats:
    """γ · (x − μ) / √(σ² + ε) + β; ε is stored in float32. One number per channel, or per feature."""
    x, gamma, beta, mean, variance = (
        v if i == 0 or v.ndim > 1 else v.reshape(-1, *[1] * (inputs[0].ndim - 2))
        for i, v in enumerate(inputs)
    )
    epsilon = float(np.float32(at.get("epsilon", 1e-5)))
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def _gemm(inputs: list[Floats], at: Attributes, opset: int) -> Floats:
    a = inputs[0].T if at.get("transA", 0) else inputs[0]
    b = inputs[1].T if at.get("transB", 0) else inputs[1]
    y = at.get("alpha", 1.0) * (a @ b)
    return y + at.get("beta", 1.0) * inputs[2] if len(inputs) > 2 else y


def _broadcast(operation: Callable[[Floats, Floats], Floats]) -> Callable[..., Floats]:
    """Below opset 7 the second operand begins at ``axis`` of the first, if ``broadcast`` is set."""

    def run(inputs: list[Floats], at: Attributes, opset: int) -> Floats:
        x, y = inputs
        if opset < 7:
            assert at.get("broadcast", 0) or x.shape == y.shape
            axis = at.get("axis", x.ndim - y.ndim)
            y = y.reshape(*y.shape, *[1] * (x.ndim - y.ndim - axis))
        return operation(x, y)

    return run


_OPERATORS: dict[str, Callable[[list[Floats], Attributes, int], Floats]] = {
    "Conv": _conv,
    "BatchNormalization": _batchnorm,
    "Gemm": _gemm,
    "MatMul": lambda inputs, at, opset: inputs[0] @ inputs[1],
    "Relu": lambda inputs, at, opset: np.maximum(inputs[0], 0.0),
    "Tanh": lambda inputs, at, opset: np.tanh(inputs[0]),
    "Identity": lambda inputs, at, opset: inputs[0],
    "Mul": _broadcast(np.multiply),
    "Add": _broadcast(np.add),
    "Sub": _broadcast(np.subtract),
    "Div": _broadcast(np.divide),
}
