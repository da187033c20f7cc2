"""Which onnx and onnxruntime are here: some tests ask of them what came later than what bnfuse needs."""

from __future__ import annotations

from functools import cache

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

ORT = tuple(int(number) for number in onnxruntime.__version__.split(".")[:2])
ONNX = tuple(int(number) for number in onnx.__version__.split(".")[:2])

# Before, it took one function for all of a name (findings/onnxruntime-function-overloads.sh), and
# ended the process over functions that call each other.
TELLS_FUNCTIONS_APART = ORT >= (1, 27)
tells_functions_apart = pytest.mark.skipif(not TELLS_FUNCTIONS_APART, reason="onnxruntime before 1.27")

# Whether its MatMulNBits takes weights of two bits.
TWO_BITS = ORT >= (1, 24)

# Before, it ended the process where integers are divided by zero.
divides_by_zero = pytest.mark.skipif(ORT < (1, 26), reason="onnxruntime before 1.26")

# Cases of the table of operators, by how their names begin, and the version (of those tried) that runs them.
_RUN_FROM = {
    "DeformConv": (1, 26),
    "Resize, of two axes": (1, 29),
    "com.microsoft.MatMulNBits, 2 bits": (1, 24),
}


def runs_case(name: str) -> bool:
    """Whether this onnxruntime has the operator of a case of ``test_table_rows``."""
    return all(since <= ORT for start, since in _RUN_FROM.items() if name.startswith(start))


@cache
def runs_opset(opset: int) -> bool:
    """Whether onnxruntime takes models of this version of ONNX's operator set."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions share no base class
        return False
    return True
