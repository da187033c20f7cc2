"""What activations let through where their bounds may move (``ReadOptions.activations``): cases."""

from __future__ import annotations

import numpy as np

from bnfuse.core.reasons import Reason
from tests.random_nets import Net, Value
from tests.table_cases import ALL, Build, Table, outcomes, refused, simple

CLAMPS = Table()
case = CLAMPS.case
_LOW, _HIGH = np.array(-0.4), np.array(0.7)


def _attributes(**bounds: float) -> Build:
    return lambda net, x: net.node("Clip", [x.name], x.shape, **bounds)


def _both(net: Net, x: Value) -> Value:
    """Two readers of one value: both are clamped alike, or neither moves."""
    first = simple("Relu")(net, x)
    second = simple("Clip", _LOW, None)(net, x)
    return net.node("Add", [first.name, second.name], x.shape)


case("Relu", simple("Relu"), ALL, ALL)
case("Relu, opset 8", simple("Relu"), ALL, ALL, opset=8)
case("Relu, of tokens", simple("Relu"), ALL, ALL, shape=(2, 4, 5))
case("Relu, of rows", simple("Relu"), ALL, ALL, shape=(2, 4))
case("Clip, below", simple("Clip", _LOW), ALL, ALL)
case("Clip, above", simple("Clip", None, _HIGH), ALL, ALL)
case("Clip, both", simple("Clip", _LOW, _HIGH), ALL, ALL)
case("Clip, neither", simple("Clip"), ALL, ALL)
case("Clip, attributes", _attributes(min=-0.4, max=0.7), ALL, ALL, opset=8)
case("Clip, attribute", _attributes(max=0.7), ALL, ALL, opset=10)
case("Clip, opset 7", _attributes(min=-0.4, max=0.7), *(refused(Reason.NONLINEAR),) * 2, opset=7)
case("Clip, empty", simple("Clip", _HIGH, _LOW), *(refused(Reason.NONLINEAR),) * 2)
case("Relu, twice", _both, outcomes(negative=Reason.NO_GAIN, zero=Reason.ZERO_SCALE), None)
