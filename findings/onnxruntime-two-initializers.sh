#!/usr/bin/env bash
# onnxruntime: of two initializers with one name, which one counts depends on their size.
#
# ONNX (docs/IR.md) requires names to be unique within a graph; onnxruntime loads such a file all the same.
# It warns that it "will use the latest encountered initializer", which is so for tensors of 127 bytes or less;
# of larger ones it uses the first.
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


def used(n: int) -> str:
    first, last = (numpy_helper.from_array(np.full(n, v, np.float32), "w") for v in (1, 2))
    info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [n]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:1], info[1:], [first, last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.zeros(n, np.float32)})
    return {1.0: "first", 2.0: "last"}[float(y[0])]


print("onnxruntime", onnxruntime.__version__)
found = {n: used(n) for n in (4, 31, 32, 5000)}
for n, which in found.items():
    print(f"{n:5} floats ({4 * n:5} bytes): the {which} one is used")
sys.exit(found != {4: "last", 31: "last", 32: "first", 5000: "first"})
PYTHON
