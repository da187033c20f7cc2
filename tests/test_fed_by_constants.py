"""Values that no node's output feeds: what an operator makes of a constant cannot be held another way.

A scale or shift that is sent up such a path would be lost without a trace.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.onnx_graphs import Net, Shape, assert_equal, fold_model

IMAGE: dict[str, Shape] = {"x": ("N", 4, 6, 5)}
Feed = Callable[[Net], str]

# Operators that are no constants themselves (they are not computed when a model is read).
FEEDS: dict[str, Feed] = {
    "GlobalAveragePool": lambda net: net.op("GlobalAveragePool", net.weight(1, 4, 6, 5, fan_in=1)),
    "Resize": lambda net: net.op(
        "Resize", net.weight(1, 4, 3, 5, fan_in=1), "", net.const(np.array([1.0, 1, 2, 1]))
    ),
    "MaxPool": lambda net: net.op("MaxPool", net.weight(1, 4, 6, 5, fan_in=1), kernel_shape=[1, 1]),
    "LeakyRelu": lambda net: net.op("LeakyRelu", net.weight(1, 4, 6, 5, fan_in=1), alpha=0.2),
    "PRelu whose slope runs": lambda net: net.op(
        "PRelu", net.weight(1, 4, 6, 5, fan_in=1), net.op("Abs", "x")
    ),
}


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
def test_a_bn_of_what_comes_from_a_constant(feed: Feed, tmp_path: Path) -> None:
    net = Net(5)
    y = net.bn(feed(net), 4, positive=True, shift=False)
    made = net.build(IMAGE, net.op("Tanh", net.op("Add", "x", y)), ranks={"out": 4})
    folded = fold_model(made, tmp_path)
    assert_equal(folded.before, folded.after)


def test_a_bn_of_a_sparse_initializer(tmp_path: Path) -> None:
    """Half the elements are stored; onnxruntime makes a dense constant of them."""
    net = Net(6)
    y = net.bn("sparse", 4, positive=True)
    made = net.build({**IMAGE, "sparse": (1, 4, 6, 5)}, net.op("Tanh", net.op("Add", "x", y)))
    del made.graph.input[1:]
    values = net.rng.standard_normal(60).astype(np.float32)
    indices = np.sort(net.rng.choice(120, 60, replace=False)).astype(np.int64)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values, "sparse"), numpy_helper.from_array(indices, "at"), [1, 4, 6, 5]
    )
    made.graph.sparse_initializer.append(sparse)
    folded = fold_model(made, tmp_path)
    assert_equal(folded.before, folded.after)


def test_a_sum_takes_a_constant_along(tmp_path: Path) -> None:
    """A constant that is an operand itself absorbs its share."""
    net = Net(7)
    x = net.op("Add", net.conv("x", 4, 4, 1, 1), net.weight(1, 4, 6, 5, fan_in=1))
    made = net.build(IMAGE, net.op("Tanh", net.bn(x, 4)))
    folded = fold_model(made, tmp_path)
    assert [n.op_type for n in onnx.load(folded.after).graph.node] == ["Conv", "Add", "Tanh"]
    assert_equal(folded.before, folded.after)
