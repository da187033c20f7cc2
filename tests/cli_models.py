"""A small convnet for tests of the command line, and what it computes by another route."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def convnet(*, norm: bool = True, relu_first: bool = False) -> onnx.ModelProto:
    """x(N,3,9,7) → Conv(5, 3×3, padded) → [Relu] → [BN] → y; statistics far from the identity."""
    rng = np.random.default_rng(7)
    arrays = {
        "w": rng.standard_normal((5, 3, 3, 3)),
        "b": rng.standard_normal(5),
        "gamma": rng.uniform(0.5, 2, 5) * np.array([1, -1, 1, 1, -1]),
        "beta": rng.standard_normal(5),
        "mean": rng.standard_normal(5),
        "var": rng.uniform(0.1, 5, 5),
    }
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1])]
    last = "c"
    if relu_first:
        nodes.append(helper.make_node("Sigmoid", [last], ["s"], name="sigmoid"))
        last = "s"
    if norm:
        nodes.append(
            helper.make_node("BatchNormalization", [last, "gamma", "beta", "mean", "var"], ["n"], name="bn")
        )
        last = "n"
    nodes.append(helper.make_node("Softsign", [last], ["y"], name="out"))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 9, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 9, 7])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items() if k in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def outputs_of(path: Path, x: np.ndarray) -> np.ndarray:
    """What onnx's own reference implementation computes; onnxruntime is not asked."""
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(onnx.load(path))
    return np.asarray(evaluator.run(None, {"x": x})[0])
