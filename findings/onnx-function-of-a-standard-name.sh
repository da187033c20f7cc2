#!/usr/bin/env bash
# ONNX: what a model's own function means that bears a standard operator's domain and name depends on who reads it.
#
# onnx's checker takes such a model. Its inliner calls the function; its reference evaluator, and onnxruntime,
# take the standard operator, without a word: so inlining, which should change nothing, changes what is computed.
# Exits 0 where that is still so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, inliner
from onnx.reference import ReferenceEvaluator

imports = [helper.make_opsetid("", 17)]
negated = helper.make_function("", "Relu", ["v"], ["out"], [helper.make_node("Neg", ["v"], ["out"])], imports)
infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", infos[:1], infos[1:])
model = helper.make_model(graph, opset_imports=imports, functions=[negated], ir_version=8)
onnx.checker.check_model(model)
x = np.array([-1, 2, -3], np.float32)
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
(ran,) = session.run(None, {"x": x})
(evaluated,) = ReferenceEvaluator(model).run(None, {"x": x})
inlined = [node.op_type for node in inliner.inline_local_functions(model).graph.node]
print("onnxruntime", ort.__version__, "a function Relu(v) = -v of", x, "gives", ran)
print("onnx", onnx.__version__, "its evaluator gives", evaluated, "its inliner makes", inlined)
relu = np.maximum(x, 0)
sys.exit(not (np.array_equal(ran, relu) and np.array_equal(evaluated, relu) and inlined == ["Neg"]))
PYTHON
