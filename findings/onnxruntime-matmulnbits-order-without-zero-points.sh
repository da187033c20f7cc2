#!/usr/bin/env bash
# onnxruntime, CPU: MatMulNBits that is given g_idx takes no notice of its zero_points, silently.
#
# By its definition W = (q - zero_point)*scale, with the block of each column from g_idx where that is given. On
# the CPU, with 4 bits, the scales are those of g_idx, but every zero point is 8, the default, whatever the file
# says; without g_idx the zero points count. So a weight that was quantised with zero points and in another order
# of columns computes something else, without an error. Exits 0 where that is still so, 1 where it changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

N, K, BLOCK = 6, 64, 32
rng = np.random.default_rng(0)
q, zero = rng.integers(0, 16, (N, K)), rng.integers(0, 16, (N, 2))
scale = rng.uniform(0.05, 0.2, (N, 2)).astype(np.float32)
place = np.arange(K) // BLOCK
order = rng.permutation(place).astype(np.int32)
stored = {
    "B": (q[:, ::2] | q[:, 1::2] << 4).astype(np.uint8).reshape(N, 2, BLOCK // 2),
    "scales": scale,
    "zero_points": (zero[:, 0] | zero[:, 1] << 4).astype(np.uint8),
    "g_idx": order,
}


def weight(*given: str) -> np.ndarray:
    """W as the runtime has it: what it makes of the identity."""
    inputs = ["x", *(name if name in given else "" for name in stored)]
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", K=K, N=N, bits=4, block_size=BLOCK)
    info = [helper.make_tensor_value_info("x", 1, ["M", K]), helper.make_tensor_value_info("y", 1, ["M", N])]
    constants = [numpy_helper.from_array(stored[name], name) for name in given]
    graph = helper.make_graph([node], "g", info[:1], info[1:], constants)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"x": np.eye(K, dtype=np.float32)})
    return made.T


def gap(made: np.ndarray, points: np.ndarray | int, at: np.ndarray) -> float:
    return float(np.abs(made - (q - points) * scale[:, at]).max())


plain, ordered = weight("B", "scales", "zero_points"), weight("B", "scales", "zero_points", "g_idx")
print("onnxruntime", onnxruntime.__version__)
print(f"without g_idx: {gap(plain, zero[:, place], place):.1e} from the definition")
print(f"with g_idx: {gap(ordered, zero[:, order], order):.1e} from the definition, "
      f"{gap(ordered, 8, order):.1e} from zero points of 8")  # fmt: skip
agrees = gap(plain, zero[:, place], place) < 1e-6
sys.exit(not (agrees and gap(ordered, zero[:, order], order) > 0.1 and gap(ordered, 8, order) < 1e-6))
PYTHON
