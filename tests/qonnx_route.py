"""Networks with Quant nodes in numpy, float64: onnxruntime has no Quant, so folds are held against this.

Quant follows the published definition (qonnx, docs/qonnx-custom-ops/intquant_v1.md): the integers are found
in the type of its input, as every implementation does; what they stand for is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ROUND": np.round,
    "HALF_EVEN": np.round,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda v: np.sign(v) * np.ceil(np.abs(v)),
    "DOWN": lambda v: np.sign(v) * np.floor(np.abs(v)),
    "ROUND_TO_ZERO": lambda v: np.sign(v) * np.floor(np.abs(v)),
    "HALF_UP": lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5),
    "HALF_DOWN": lambda v: np.sign(v) * np.ceil(np.abs(v) - 0.5),
}


def integers(
    x: np.ndarray, scale: np.ndarray, zero: np.ndarray, bits: float, attributes: Mapping[str, Any]
) -> np.ndarray:
    """clip, then round."""
    signed, narrow = attributes.get("signed", 1), attributes.get("narrow", 0)
    lowest = -(2 ** (bits - 1)) + narrow if signed else 0
    highest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    mode = attributes.get("rounding_mode", b"ROUND").decode().upper()
    return _ROUNDINGS[mode](np.clip(x / scale + zero, lowest, highest))


def _conv(x: np.ndarray, w: np.ndarray, b: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Stride 1, no dilation: (N, G·I, H, W) to (N, G·O, H', W')."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    groups = attributes.get("group", 1)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    seen = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    seen = seen.reshape(x.shape[0], groups, -1, *seen.shape[2:])
    y = np.einsum("ngihwkl,goikl->ngohw", seen, w.reshape(groups, -1, *w.shape[1:]))
    return y.reshape(x.shape[0], -1, *y.shape[3:]) + b.reshape(-1, 1, 1)


def _spread(x: np.ndarray, block: int) -> np.ndarray:
    """DepthToSpace, mode CRD."""
    n, c, h, w = x.shape
    x = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // block**2, h * block, w * block)


def run(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of a network of the operators above; x is its first input."""
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    known: dict[str, np.ndarray] = {name: np.asarray(a, np.float64) for name, a in stored.items()}
    known[model.graph.input[0].name] = x.astype(np.float64)
    for node in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        v = [known[name] for name in node.input]
        match node.op_type:
            case "Quant" | "IntQuant":
                given = [stored.get(name, known[name]) for name in node.input]
                q = integers(given[0], given[1], given[2], float(given[3]), attributes)
                made = (q.astype(np.float64) - v[2]) * v[1]
            case "BipolarQuant":
                made = np.where(stored[node.input[0]] >= 0.0, 1.0, -1.0) * v[1]
            case "Conv":
                made = _conv(v[0], v[1], v[2] if len(v) > 2 else np.zeros(1), attributes)
            case "MatMul":
                made = v[0] @ v[1]
            case "Gemm":
                made = v[0] @ (v[1].T if attributes.get("transB", 0) else v[1]) + v[2]
            case "Add":
                made = v[0] + v[1]
            case "Relu":
                made = np.maximum(v[0], 0.0)
            case "DepthToSpace":
                made = _spread(v[0], attributes["blocksize"])
            case "BatchNormalization":
                gamma, beta, mean, var = (each.reshape(-1, *[1] * (v[0].ndim - 2)) for each in v[1:])
                made = (v[0] - mean) * gamma / np.sqrt(var + attributes["epsilon"]) + beta
            case _:
                raise AssertionError(node.op_type)
        known[node.output[0]] = made
    return known
