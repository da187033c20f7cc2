"""Statistics: γ and σ² of every size and sign, ε that is the node's own."""

from __future__ import annotations

import numpy as np
import onnx

from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net
from tests.traps.table import IMAGE, trap


def _with(net: Net, **replaced: list[float]) -> onnx.ModelProto:
    """Conv → BN of 5 channels, some of γ, β, μ, σ² given."""
    x = net.conv("x", 3, 5, 3, 3)
    names = dict(zip(("gamma", "beta", "mean", "var"), net.statistics(5), strict=True))
    for key, values in replaced.items():
        names[key] = net.const(np.array(values))
    return net.build(IMAGE, net.op("BatchNormalization", x, *names.values(), epsilon=1e-5))


trap("γ = 0 in some channels")(lambda n: _with(n, gamma=[0.0, -2.0, 0.0, 1.5, 3.0]))
trap("γ < 0 everywhere")(lambda n: _with(n, gamma=[-0.5, -2.0, -7.0, -1.5, -3.0]))
trap("variance far below ε")(lambda n: _with(n, var=[1e-12, 0.0, 1e-7, 1.0, 30.0], mean=[0.1, 0, 0.2, 1, 2]))
trap("variance slightly negative, ε saves it")(lambda n: _with(n, var=[-5e-6, 1, 1, 2, 3], mean=[0.0] * 5))
trap("variance + ε = 0", Reason.INVALID_STATISTICS, runs=False)(lambda n: _with(n, var=[-1e-5, 1, 1, 2, 3]))
trap("variance + ε < 0", Reason.INVALID_STATISTICS, runs=False)(lambda n: _with(n, var=[-1.0, 1, 1, 2, 3]))
trap("NaN in μ", Reason.INVALID_STATISTICS, runs=False)(lambda n: _with(n, mean=[float("nan"), 1, 1, 2, 3]))
trap("infinite γ", Reason.INVALID_STATISTICS, runs=False)(
    lambda n: _with(n, gamma=[float("inf"), 1, 1, 2, 3])
)


@trap("variance + default ε = 0", Reason.INVALID_STATISTICS, runs=False)
def _(net: Net) -> onnx.ModelProto:
    x, stats = net.conv("x", 3, 5, 3, 3), net.statistics(5)
    stats[3] = net.const(np.array([-1e-5, 1, 1, 2, 3]))
    return net.build(IMAGE, net.op("BatchNormalization", x, *stats))


@trap("ε is the node's")
def _(net: Net) -> onnx.ModelProto:
    x = net.conv("x", 3, 5, 3, 3)
    return net.build(IMAGE, net.op("BatchNormalization", x, *net.statistics(5), epsilon=0.7))


@trap("γ = 0 goes forward into a Gemm")
def _(net: Net) -> onnx.ModelProto:
    stats = net.statistics(4)
    stats[0] = net.const(np.array([0.0, -2, 3, 0]))
    x = net.op("Gemm", net.op("BatchNormalization", "x", *stats), net.weight(4, 7, fan_in=4))
    return net.build({"x": ("N", 4)}, x)
