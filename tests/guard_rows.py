"""A row of the tables of guards: a small model that is at the edge of what a row of the op table takes on.

It says what becomes of every BatchNormalization in it, and, where it stays, what is said of that. The numbers
are compared in onnxruntime, unless that refuses the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from msgspec import Struct
from onnx import helper

from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net, Shape

Given = Callable[[Net], str] | str  # an input of a node: what makes a constant, or a name
Build = Callable[[Net], onnx.ModelProto]
FOLD = None


class Guard(Struct, frozen=True):
    """One model.

    Attributes:
        name: what is at its edge.
        expected: FOLD or a reason, for each BatchNormalization.
        build: makes it.
        says: a part of what is said of the first one.
        runs: whether onnxruntime runs it.
    """

    name: str
    expected: tuple[Reason | None, ...]
    build: Build
    says: str = ""
    runs: bool = True


class Guards(list[Guard]):
    """Rows as they are written down."""

    def folds(self, name: str, build: Build, *, runs: bool = True) -> None:
        """One whose BatchNormalization goes."""
        self.append(Guard(name, (FOLD,), build, runs=runs))

    def stays(self, name: str, reason: Reason, build: Build, *, says: str = "", runs: bool = True) -> None:
        """One whose BatchNormalization stays."""
        self.append(Guard(name, (reason,), build, says, runs))


def model(
    net: Net,
    y: str,
    x: Shape,
    more: Mapping[str, Shape] | None = None,
    *,
    rank: int | None = None,
    opset: int = 17,
    overridden: str = "",
) -> onnx.ModelProto:
    """x and more inputs → y, of as many axes as x unless told; a caller may override a constant."""
    ranks = {y: len(x) if rank is None else rank}
    made = net.build(
        {"x": x, **(more or {})}, y, opset=opset, ir_version=10 if opset > 18 else 8, ranks=ranks
    )
    for tensor in made.graph.initializer:
        if tensor.name == overridden:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            made.graph.input.append(info)
    return made


def node(net: Net, op: str, *names: str, **attributes: Any) -> str:
    """One node, of a domain too: com.microsoft.FusedConv."""
    domain, _, kind = op.rpartition(".")
    return net.op(kind, *names, **({"domain": domain} if domain else {}), **attributes)


def behind(op: str, *given: Given, n: int = 5, x: Shape = (2, 4), more: Mapping[str, Shape] | None = None,
           overridden: int | None = None, rank: int | None = None, opset: int = 17,
           **attributes: Any) -> Build:  # fmt: skip
    """The operator → BN over n channels; a caller may override one of its inputs."""

    def build(net: Net) -> onnx.ModelProto:
        names = [each if isinstance(each, str) else each(net) for each in given]
        y = net.bn(node(net, op, *names, **attributes), n)
        free = "" if overridden is None else names[overridden]
        return model(net, y, x, more, rank=rank, opset=opset, overridden=free)

    return build


def before(op: str, *given: Given, x: Shape = (2, 4), more: Mapping[str, Shape] | None = None,
           shift: bool = True, positive: bool = False, rank: int | None = None, opset: int = 17,
           **attributes: Any) -> Build:  # fmt: skip
    """BN → the operator, where it reads "x"."""

    def build(net: Net) -> onnx.ModelProto:
        names = [each if isinstance(each, str) else each(net) for each in given]
        assert isinstance(x[1], int)
        normal = net.bn("x", x[1], shift=shift, positive=positive)
        y = node(net, op, *(normal if name == "x" else name for name in names), **attributes)
        return model(net, y, x, more, rank=rank, opset=opset)

    return build


def w(*shape: int) -> Callable[[Net], str]:
    """A constant of this shape."""
    return lambda net: net.weight(*shape, fan_in=4)


def whole(*shape: int) -> Callable[[Net], str]:
    """The same of integers."""
    return lambda net: net.const(np.arange(np.prod(shape)).reshape(shape))
