"""What random graphs found that is not wrong but could be better: as small as each case gets.

Every test here is one graph whose fold is right, and the better one that it should be.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from bnfuse.core.apply import apply
from bnfuse.core.planning.plan import plan
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.onnx_graphs import Net, assert_equal, fold_model


def _left(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Operators after folding, which must compute the same."""
    folded = fold_model(model, folder)
    assert_equal(folded.before, folded.after)
    return sorted(folded.operators(folded.after))


def test_a_shift_passes_a_product_that_has_no_bias(tmp_path: Path) -> None:
    """BN → W·x (no bias) → Conv: the shift goes through the product into the convolution's bias."""
    net = Net(3)
    y = net.op("MatMul", net.weight(4, 4, fan_in=4), net.bn("x", 4))
    model = net.build({"x": (2, 4, 7)}, net.conv(y, 4, 3, 1))
    assert _left(model, tmp_path) == ["Conv", "MatMul"]


def test_a_sum_of_a_value_beside_the_value(tmp_path: Path) -> None:
    """s = BN(x); [s, M − Identity(s)] → Conv: all parts are scaled alike."""
    net = Net(4)
    s = net.bn("x", 4, shift=False)
    y = net.op("Sub", net.const(net.rng.standard_normal((4, 5, 3))), net.op("Identity", s))
    model = net.build({"x": (2, 4, 5, 3)}, net.conv(net.op("Concat", s, y, axis=1), 8, 3, 1, 1))
    assert "BatchNormalization" not in _left(model, tmp_path)


def test_a_division_takes_no_zero_scale(tmp_path: Path) -> None:
    """BN with a zero → Div → Sigmoid: the plan must not need a constant that is infinite."""
    net = Net(5)
    statistics = [net.const(v) for v in (np.array([1.5, 0.0, 0.7]), np.zeros(3), np.zeros(3), np.ones(3))]
    y = net.op("BatchNormalization", "x", *statistics)
    y = net.op("Sigmoid", net.op("Div", y, net.const(np.array([[2.0], [0.5], [3.0]]))))
    (tmp_path / "a.onnx").write_bytes(net.build({"x": (2, 3, 5)}, y).SerializeToString())
    opened = FORMAT.read(tmp_path / "a.onnx", ReadOptions())
    opened.write(apply(opened.graph, plan(opened.graph)), tmp_path / "b.onnx")
    assert_equal(tmp_path / "a.onnx", tmp_path / "b.onnx")
