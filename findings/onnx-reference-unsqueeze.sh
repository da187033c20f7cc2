#!/usr/bin/env bash
# onnx's ReferenceEvaluator: Unsqueeze of operator sets 1 to 12 with several negative axes is wrong, silently.
#
# axes=[-2, -1] of a vector of 4 gives (4, 1, 1) by the specification (axes are those of the output) and in
# onnxruntime; the reference gives (1, 4, 1). Exits 0 where that is still so, 1 where the behaviour changed.
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
from onnx import helper
from onnx.reference import ReferenceEvaluator

info = [helper.make_tensor_value_info("x", 1, [4]), helper.make_tensor_value_info("y", 1, None)]
graph = helper.make_graph([helper.make_node("Unsqueeze", ["x"], ["y"], axes=[-2, -1])], "g", info[:1], info[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
x = np.arange(4, dtype=np.float32)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
(runtime,) = session.run(None, {"x": x})
(reference,) = ReferenceEvaluator(model).run(None, {"x": x})
print("onnx", onnx.__version__, "ReferenceEvaluator:", reference.shape)
print("onnxruntime", onnxruntime.__version__, runtime.shape)
sys.exit((runtime.shape, reference.shape) != ((4, 1, 1), (1, 4, 1)))
PYTHON
