"""What an activation makes of one positive number, held against onnxruntime in float32."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfuse.formats.onnx.graph.attribute_values import attribute_value
from bnfuse.formats.onnx.rows.curves import curve
from tests.onnx_graphs import session
from tests.runtime_versions import runs_opset

NUMBERS = np.array([0.05, 0.7, 1.0, 2.9, 3.1, 8.0], np.float32)
CURVES: list[tuple[str, dict[str, Any]]] = [
    *((op, {}) for op in ("Sigmoid", "Tanh", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Mish",
                          "Gelu", "Erf", "Exp", "Sqrt", "Softplus", "Softsign", "Swish")),
    ("Elu", {"alpha": 0.3}),
    ("Selu", {"alpha": 1.2, "gamma": 0.7}),
    ("Celu", {"alpha": 2.0}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.1}),
    ("HardSigmoid", {"alpha": -0.3, "beta": 0.7}),
    ("Gelu", {"approximate": "tanh"}),
    ("Swish", {"alpha": 1.7}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attributes"), CURVES, ids=[f"{op} {a or ''}".strip() for op, a in CURVES])
def test_as_the_runtime(op: str, attributes: dict[str, Any], tmp_path: Path) -> None:
    node = helper.make_node(op, ["x"], ["y"], **attributes)
    view: Any = SimpleNamespace(
        node=SimpleNamespace(op=op),
        attr=lambda name, default: next(
            (attribute_value(a) for a in node.attribute if a.name == name), default
        ),
    )
    made = [curve(view, float(x)) for x in NUMBERS]
    assert None not in made
    opset = {"Swish": 24, "Gelu": 20}.get(op, 18)
    if not runs_opset(opset):
        return
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(NUMBERS)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(NUMBERS)])],
    )
    imports = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "m.onnx")
    (want,) = session(tmp_path / "m.onnx").run(None, {"x": NUMBERS})
    np.testing.assert_allclose(made, want, rtol=2e-6, atol=1e-7)


def test_what_has_no_formula() -> None:
    view: Any = SimpleNamespace(node=SimpleNamespace(op="Softmax"))
    assert curve(view, 1.0) is None
