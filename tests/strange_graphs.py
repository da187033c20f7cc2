"""Graphs of which a stranger may send a large one: what many candidates share, and long rows of them.

Each is made of ``n`` pieces, some nodes each, on images of ``C`` channels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.onnx_graphs import Net

C = 2
Kind = Callable[[Net, int], str]


def _bn(net: Net, x: str, n: int = C) -> str:
    return net.bn(x, n, positive=True)


def _closed(net: Net) -> str:
    """What no scale and no shift passes."""
    return net.op("Tanh", "x")


def into_a_concat(net: Net, n: int) -> str:
    return net.op("Tanh", net.op("Concat", *[_bn(net, net.op("Relu", "x")) for _ in range(n)], axis=1))


def through_a_concat(net: Net, n: int) -> str:
    """All of them fold into one layer, edit by edit."""
    joined = net.op("Concat", *[_bn(net, _closed(net)) for _ in range(n)], axis=1)
    return net.op("Tanh", net.op("Conv", joined, net.weight(1, C * n, 1, 1, fan_in=n)))


def through_a_concat_and_a_clamp(net: Net, n: int) -> str:
    joined = net.op("Concat", *[_bn(net, _closed(net)) for _ in range(n)], axis=1)
    return net.op("Tanh", net.op("Conv", net.op("Relu", joined), net.weight(1, C * n, 1, 1, fan_in=n)))


def out_of_a_split(net: Net, n: int) -> str:
    x = net.op("Conv", "x", net.weight(C * n, C, 1, 1, fan_in=C))
    parts = [f"part{k}" for k in range(n)]
    net.op("Split", x, net.const(np.full(n, C, np.int64)), out=parts, axis=1)
    return [net.op("Tanh", _bn(net, part)) for part in parts][-1]


def into_a_sum(net: Net, n: int) -> str:
    return net.op("Tanh", net.op("Sum", *[_bn(net, net.op("Relu", "x")) for _ in range(n)]))


def shifts_into_a_sum(net: Net, n: int) -> str:
    """Each has as many ways to go as the sum has inputs."""
    shift = net.const(np.reshape([1.0, 2.0], (C, 1, 1)))
    return net.op("Tanh", net.op("Sum", *[net.op("Add", net.op("Relu", "x"), shift) for _ in range(n)]))


def in_a_row(net: Net, n: int) -> str:
    x = _closed(net)
    for _ in range(n):
        x = _bn(net, x)
    return net.op("Tanh", x)


def on_a_stream(net: Net, n: int) -> str:
    x = _closed(net)
    for _ in range(n):
        x = net.op("Add", x, net.op("Relu", _bn(net, x)))
    return x


def gates(net: Net, n: int) -> str:
    x = _closed(net)
    for _ in range(n):
        x = net.op("Mul", x, _bn(net, x))
    return x


def behind_one(net: Net, n: int) -> str:
    x = _bn(net, _closed(net))
    return [net.op("Tanh", net.conv(x, C, C, 1, 1)) for _ in range(n)][-1]


def plain_row(net: Net, n: int) -> str:
    """One BatchNormalization, and much behind it."""
    x = _bn(net, net.conv("x", C, C, 1, 1))
    for _ in range(n):
        x = net.op("Relu", x)
    return x


def closed_in(net: Net, n: int) -> str:
    """None of them goes."""
    x = _closed(net)
    for _ in range(n):
        x = net.op("Tanh", _bn(net, x))
    return x


def in_layers(net: Net, n: int) -> str:
    """All of them go."""
    x = "x"
    for _ in range(n):
        x = net.op("Tanh", _bn(net, net.conv(x, C, C, 1, 1)))
    return x


KINDS: tuple[Kind, ...] = (
    plain_row,
    in_layers,
    closed_in,
    in_a_row,
    on_a_stream,
    gates,
    behind_one,
    into_a_concat,
    through_a_concat,
    through_a_concat_and_a_clamp,
    out_of_a_split,
    into_a_sum,
    shifts_into_a_sum,
)
