"""What an activation makes of one positive number, held against onnxruntime in float32."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from bnfuse.formats.onnx.graph.attribute_values import attribute_value
from bnfuse.formats.onnx.rows.curves import curve
from tests.onnx_graphs import Net, session
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
    made = [y for x in NUMBERS if (y := curve(view, float(x))) is not None]
    assert len(made) == len(NUMBERS)
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


_WINDOW: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
_PADDED: dict[str, Any] = {**_WINDOW, "pads": [1, 1, 1, 1]}
# What a node makes of an image that is 0.4 everywhere; None where it is not that number everywhere.
CONSTANTS: list[tuple[str, dict[str, Any], int, float | None]] = [
    *(
        (op, {}, 17, 0.4)
        for op in ("Identity", "LeakyRelu", "Abs", "Relu", "GlobalMaxPool", "GlobalAveragePool")
    ),
    ("MaxPool", _PADDED, 17, 0.4),
    ("AveragePool", _PADDED, 17, 0.4),
    ("AveragePool", {**_PADDED, "count_include_pad": 1}, 17, None),
    ("AveragePool", {**_WINDOW, "count_include_pad": 1}, 17, 0.4),
    ("LpPool", _WINDOW, 17, None),
    ("Softmax", {}, 17, None),
    ("Acos", {}, 17, None),
    ("Softsign", {}, 7, 0.4 / 1.4),
    ("Softsign", {}, 6, None),
]


@pytest.mark.parametrize(("op", "attributes", "opset", "wanted"), CONSTANTS)
def test_of_an_image_of_one_number(
    op: str, attributes: dict[str, Any], opset: int, wanted: float | None, tmp_path: Path
) -> None:
    net = Net()
    made = net.build({"x": (1, 2, 6, 4)}, net.op(op, "x", **attributes), opset=opset)
    onnx.save(made, tmp_path / "m.onnx")
    with closing(FORMAT.read(tmp_path / "m.onnx", ReadOptions())) as opened:
        (node,) = opened.graph.nodes
        assert opened.graph.constant_through(node, 0.4) == (None if wanted is None else pytest.approx(wanted))
        assert opened.graph.constant_through(node, 0.0) is None
        assert opened.graph.constant_through(node, -1.0) is None
    if wanted is not None and opset > 6:
        (y,) = session(tmp_path / "m.onnx").run(None, {"x": np.full((1, 2, 6, 4), 0.4, np.float32)})
        np.testing.assert_allclose(y, wanted, rtol=1e-6)


def test_of_two_numbers_nothing_is_told(tmp_path: Path) -> None:
    """Nor where a pool tells the places of its maxima."""
    net = Net()
    y = net.op("MaxPool", "x", out=["y", "where"], kernel_shape=[2, 2])
    onnx.save(net.build({"x": (1, 2, 6, 4)}, y), tmp_path / "m.onnx")
    with closing(FORMAT.read(tmp_path / "m.onnx", ReadOptions())) as opened:
        assert opened.graph.constant_through(opened.graph.nodes[0], 0.4) is None
