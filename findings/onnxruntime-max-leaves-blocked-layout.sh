#!/usr/bin/env bash
# onnxruntime: between convolutions a Relu, and a BatchNormalization with a Relu, stay in the blocked layout;
# a Max with one number for each channel, which computes as little, leaves it and comes back.
#
# With all optimisations on the CPU, Conv -> BatchNormalization -> Relu -> Conv becomes convolutions of
# com.microsoft.nchwc alone. Conv -> Max -> Conv gets a ReorderOutput and a ReorderInput around the Max: one
# node less in the file, two changes of layout more at run time. Exits 0 where that is still so, 1 where it
# changed, or where this processor has no blocked layout.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.2.6
cd "$folder" && "$folder/venv/bin/python" - <<'PYTHON'
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
arrays = {
    "w": rng.normal(size=(32, 32, 3, 3)), "v": rng.normal(size=(32, 32, 3, 3)),
    "scale": rng.uniform(0.5, 2, 32), "shift": rng.normal(size=32), "mean": rng.normal(size=32),
    "var": rng.uniform(0.5, 2, 32), "low": rng.normal(size=(32, 1, 1)),
}  # fmt: skip


def optimised(*middle: onnx.NodeProto) -> Counter[str]:
    """Operators after all of the runtime's own optimisations."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        *middle,
        helper.make_node("Conv", ["c", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 32, 16, 16]) for n in "xy"]
    used = {name for node in nodes for name in node.input}
    inits = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items() if n in used]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], inits)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.optimized_model_filepath = "optimised.onnx"
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load("optimised.onnx").graph.node)


norm = helper.make_node("BatchNormalization", ["b", "scale", "shift", "mean", "var"], ["n"])
normed = optimised(norm, helper.make_node("Relu", ["n"], ["c"]))
maxed = optimised(helper.make_node("Max", ["b", "low"], ["c"]))
reorders = [sum(n for op, n in ops.items() if op.startswith("Reorder")) for ops in (normed, maxed)]
print("onnxruntime", ort.__version__)
print("  Conv, MaxPool, BatchNormalization, Relu, Conv:", dict(normed))
print("  Conv, MaxPool, Max, Conv:                     ", dict(maxed))
sys.exit(not (reorders[0] == 2 and reorders[1] == 4 and maxed["Max"] == 1 and "Relu" not in normed))
PYTHON
