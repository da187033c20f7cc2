"""Networks in which a shift stands between an activation and zero padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.runtime_versions import runs_opset

SHAPE = (2, 3, 7, 6)
NEWEST = 24 if runs_opset(24) else 23


@dataclass
class Net:
    """A graph from x (2, 3, 7, 6) on; every method adds a node and returns its output's name."""

    rng: np.random.Generator
    dtype: str = "float32"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def const(self, array: Any) -> str:
        name = f"k{len(self.arrays)}"
        self.arrays[name] = np.asarray(array).astype(self.dtype)
        return name

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [out], name=name or f"{kind}_{out}", **attributes)
        )
        return out

    def conv(
        self, x: str, n_in: int, n_out: int, *, pads: int = 1, bias: bool = True, **attributes: Any
    ) -> str:
        groups = attributes.get("group", 1)
        w = self.rng.standard_normal((n_out, n_in // groups, 3, 3)) / np.sqrt(9 * n_in)
        inputs = [x, self.const(w), *([self.const(self.rng.standard_normal(n_out))] if bias else [])]
        return self.op("Conv", *inputs, pads=[pads] * 4, **attributes)

    def bn(self, x: str, n: int, *, zero: int | None = None, name: str = "") -> str:
        gamma = self.rng.uniform(0.5, 2.0, n) * np.where(np.arange(n) % 3 == 1, -1.0, 1.0)
        if zero is not None:
            gamma[zero] = 0.0
        each = gamma, self.rng.normal(size=n), self.rng.normal(size=n), self.rng.uniform(0.5, 2.0, n)
        return self.op("BatchNormalization", x, *map(self.const, each), name=name)

    def of(self, build: Callable[[Net], str]) -> onnx.ModelProto:
        """The model of what ``build`` adds."""
        return self.model(build(self))

    def model(self, *outputs: str, opset: int = NEWEST, infos: bool = False) -> onnx.ModelProto:
        of = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        x = helper.make_tensor_value_info("x", of, SHAPE)
        ends = [helper.make_tensor_value_info(name, of, [None] * 4) for name in outputs]
        stored = [numpy_helper.from_array(a, n) for n, a in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "g", [x], ends, stored)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        return onnx.shape_inference.infer_shapes(made) if infos else made


Build = Callable[[Net], str]


def pooled(net: Net) -> str:
    x = net.op(
        "MaxPool", net.op("Elu", net.conv("x", 3, 5)), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 0]
    )
    x = net.op("AveragePool", net.op("Softplus", x), kernel_shape=[2, 2], pads=[1, 0, 0, 1])
    return net.conv(net.bn(x, 5), 5, 4)


def read_twice(net: Net) -> str:
    x = net.bn(net.op("Elu", net.conv("x", 3, 5)), 5)
    return net.op("Add", net.conv(x, 5, 4), net.conv(x, 5, 4, bias=False, strides=[1, 1]))


def joined(net: Net) -> str:
    """The channel lies in the middle: the last branch has no convolution of its own."""
    parts = [net.op("Elu", net.op("Sigmoid", "x")), net.op("Tanh", net.conv("x", 3, 4)), net.op("Sin", "x")]
    return net.conv(net.bn(net.op("Concat", *parts, axis=1), 10), 10, 4)


def row(net: Net) -> str:
    """The convolution in the middle is given one channel at either side."""
    x = net.conv("x", 3, 5)
    for n_in, n_out in ((5, 4), (4, 3)):
        x = net.conv(net.bn(net.op("Elu", x), n_in), n_in, n_out)
    return x


def transposed(net: Net) -> str:
    w = net.const(net.rng.standard_normal((3, 5, 3, 3)) / 5)
    return net.conv(net.bn(net.op("Elu", net.op("ConvTranspose", "x", w, pads=[1] * 4)), 5), 5, 4)


def scaled_before(net: Net) -> str:
    """Another fold comes to the same convolutions first, from both sides."""
    x = net.conv(net.bn("x", 3), 3, 5, pads=0)
    x = net.bn(net.op("Elu", net.bn(x, 5)), 5)
    return net.bn(net.conv(x, 5, 4), 4)


def scaled_behind(net: Net) -> str:
    """Factors stand between: they go into the convolution first, which then reads what the shift is of."""
    x = net.bn(net.op("Elu", net.conv("x", 3, 5)), 5)
    factors = net.rng.uniform(0.5, 2.0, (5, 1, 1)) * np.array([1, -1, 1, 1, -1]).reshape(5, 1, 1)
    return net.conv(net.op("Mul", x, net.const(factors)), 5, 4)


def joined_with_zeros(net: Net) -> str:
    """Channels are cut off in a branch without a convolution, and in the one that has one."""
    parts = [net.op("Sin", "x"), net.op("Tanh", net.conv("x", 3, 4))]
    gamma = np.array([0.0, 1.0, 0.5, 1.5, -0.7, 0.0, 2.0])
    each = gamma, net.rng.normal(size=7), net.rng.normal(size=7), np.ones(7)
    x = net.op("Concat", *parts, axis=1)
    return net.conv(net.op("BatchNormalization", x, *map(net.const, each)), 7, 4)


def read_by_others(net: Net) -> str:
    x = net.op("Elu", net.conv("x", 3, 4))
    return net.op("Add", net.conv(net.bn(x, 4), 4, 4), x)


def put_out_in_between(net: Net) -> str:
    return net.op("Add", read_by_others(net), net.op("Identity", net.nodes[0].output[0]))


def grouped_reader(net: Net) -> str:
    return net.conv(net.bn(net.op("Elu", net.conv("x", 3, 4)), 4), 4, 4, group=2)


def depthwise_writer(net: Net) -> str:
    return net.conv(net.bn(net.op("Elu", net.conv("x", 3, 3, group=3)), 3), 3, 4)


def another_reader(net: Net) -> str:
    x = net.bn(net.op("Elu", net.conv("x", 3, 4)), 4)
    return net.op("Add", net.conv(x, 4, 4), net.op("Sigmoid", x))


def counted_zeros(net: Net) -> str:
    x = net.op("AveragePool", net.op("Elu", net.conv("x", 3, 4)), kernel_shape=[3, 3], pads=[1] * 4,
               count_include_pad=1)  # fmt: skip
    return net.conv(net.bn(x, 4), 4, 4)


def moved_bounds(net: Net) -> str:
    """The first goes through the ReLU into the second: a Max with a vector takes no channel more."""
    x = net.op("Relu", net.bn(net.op("Sigmoid", net.conv("x", 3, 4)), 4))
    return net.conv(net.bn(x, 4), 4, 4)


def mixes_channels(net: Net) -> str:
    return net.conv(net.bn(net.op("Softmax", net.conv("x", 3, 4), axis=1), 4), 4, 4)


def no_writer(net: Net) -> str:
    return net.conv(net.bn(net.op("Elu", "x"), 3), 3, 4)


def unknown_curve(net: Net) -> str:
    return net.conv(net.bn(net.op("Sin", net.conv("x", 3, 4)), 4), 4, 4)


def not_above_zero(net: Net) -> str:
    """What turns signs has no formula."""
    x = net.op("Sqrt", net.op("Exp", net.op("Neg", net.conv("x", 3, 4))))
    return net.conv(net.bn(x, 4), 4, 4)
