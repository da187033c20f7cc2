#!/usr/bin/env bash
# onnxruntime before 1.27: of two functions of one name and domain that only their overloads tell apart (ONNX IR 10),
# every call takes one and the same, without a word. 1.27 tells them apart, as the specification and onnx's own
# evaluator do.
# Exits 0 where that is still so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/run.py" <<'PYTHON'
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
functions = [
    helper.make_function(
        "local", "F", ["v"], ["out"], [helper.make_node(op, ["v"], ["out"])], imports[:1], overload=overload
    )
    for overload, op in (("", "Neg"), ("exp", "Exp"))
]
infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xyz"]
nodes = [
    helper.make_node("F", ["x"], ["y"], domain="local"),
    helper.make_node("F", ["x"], ["z"], domain="local", overload="exp"),
]
graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
model = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)
onnx.checker.check_model(model)
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
x = np.array([1, 2], np.float32)
y, z = session.run(None, {"x": x})
print("onnxruntime", ort.__version__, "F (Neg) and F:exp (Exp) of", x, "give", y, "and", z)
apart = np.allclose(y, -x) and np.allclose(z, np.exp(x))
sys.exit(not (apart if sys.argv[1] == "apart" else np.array_equal(y, z)))
PYTHON
for pinned in "1.26.0 alike" "1.32.0 apart"; do
    set -- $pinned
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/pip" install --quiet "onnxruntime==$1" onnx==1.19.1 numpy==2.2.6
    "$folder/$1/bin/python" "$folder/run.py" "$2"
done
