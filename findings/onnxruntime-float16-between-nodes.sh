#!/usr/bin/env bash
# onnxruntime, CPU: with graph optimisation off, float16 values between two nodes are not float16.
#
# Where the CPU has no float16 kernel, onnxruntime runs a node in float32 between two Casts; a pair of Casts
# back and forth between two such nodes is dropped even with ORT_DISABLE_ALL. So the second node reads float32
# numbers that the file says nothing of: a model that is cut in two, its second half fed with the very float16
# values that the whole model shows between the halves, answers something else than the whole.
# Exits 0 where that is still so, 1 where the behaviour changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

rng = np.random.default_rng(0)


def session(dtype: str, weights: list[np.ndarray], show: str | None = None):
    """Convolutions of 3x3 in a row; ``show`` names a value inside that is an output too."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, value = [], "x"
    for k in range(len(weights)):
        nodes.append(helper.make_node("Conv", [value, f"w{k}"], [f"c{k}"]))
        value = f"c{k}"
    outputs = [helper.make_tensor_value_info(value, kind, None)]
    if show:
        outputs.append(helper.make_tensor_value_info(show, kind, None))
    channels = weights[0].shape[1]
    inputs = [helper.make_tensor_value_info("x", kind, [1, channels, None, None])]
    stored = [numpy_helper.from_array(w.astype(dtype), f"w{k}") for k, w in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def differs(dtype: str) -> float:
    """How far the second half alone is from the whole, over the range of the answer."""
    weights = [rng.standard_normal(shape) for shape in ((6, 3, 3, 3), (5, 6, 3, 3))]
    x = rng.standard_normal((1, 3, 12, 11)).astype(dtype)
    whole, between = session(dtype, weights, show="c0").run(None, {"x": x})
    (half,) = session(dtype, weights[1:]).run(None, {"x": between})
    gap = np.abs(whole.astype(np.float64) - half.astype(np.float64)).max()
    return float(gap / np.abs(whole.astype(np.float64)).max())


print("onnxruntime", onnxruntime.__version__, "graph optimisation off")
found = {dtype: differs(dtype) for dtype in ("float32", "float16")}
for dtype, gap in found.items():
    print(f"{dtype}: the second half differs from the whole by {gap:.1e} of the range")
sys.exit(found["float32"] != 0.0 or found["float16"] == 0.0)
PYTHON
