"""What every row of the ONNX op table must do with a scale or a shift: the expectations of test_table_rows.

A ``Case`` is one operator in one form. ``before`` says what happens when a BatchNormalization comes before
it (a demand at its input), ``behind`` when one follows (a demand at its output): each maps a kind of
BatchNormalization to the reason it stays for, or to None where it goes. They are written down from the
operators' definitions, not from the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.core.reasons import Reason
from tests.random_nets import Net, Shape, Value

Outcomes = Mapping[str, Reason | None]
KINDS = ("scale", "shift", "both", "negative", "zero")


def outcomes(
    shift: Reason | None = None, negative: Reason | None = None, zero: Reason | None = None
) -> Outcomes:
    """All go but what is named; a scale together with a shift stays where the shift does."""
    return {"scale": None, "shift": shift, "both": shift, "negative": negative, "zero": zero}


def refused(reason: Reason) -> Outcomes:
    """All stay."""
    return dict.fromkeys(KINDS, reason)


ALL = outcomes()
HOMOGENEOUS = outcomes(Reason.SHIFT_THROUGH_ACTIVATION, Reason.NEGATIVE_SCALE)
MONOTONE = outcomes(negative=Reason.NEGATIVE_SCALE)
POSITIVE_SCALE = outcomes(Reason.SHIFT_REFUSED, Reason.NEGATIVE_SCALE)
SCALE = outcomes(Reason.SHIFT_REFUSED)
# The other operands take the inverse, which a zero has not.
INVERTIBLE = outcomes(zero=Reason.ZERO_SCALE)
PADDED = outcomes(Reason.ZERO_PADDING)

UNSUPPORTED = refused(Reason.UNSUPPORTED_OP)

Build = Callable[[Net, Value], Value]


class Case(Struct, frozen=True):
    """One operator in one form.

    Attributes:
        name: the operator, and after a comma the form.
        build: adds it (and operands of its own) behind a value.
        before, behind: see the module; None where it cannot stand there.
        shape: of its input; no two axes have equal sizes.
        axis_in: which input axis becomes the output's axis 1.
        axis_out: which output axis the input's axis 1 becomes.
    """

    name: str
    build: Build
    before: Outcomes | None
    behind: Outcomes | None
    shape: Shape = (2, 4, 7, 5)
    axis_in: int = 1
    axis_out: int = 1
    opset: int = 18
    moves_bounds: bool = False

    @property
    def op(self) -> str:
        return self.name.split(",")[0]


class Table(list[Case]):
    """Cases as they are written down."""

    def case(
        self, name: str, build: Build, before: Outcomes | None, behind: Outcomes | None, **where: Any
    ) -> None:
        """One more; ``where`` are the other attributes of a ``Case``."""
        self.append(Case(name, build, before, behind, **where))


def linear(net: Net, x: Value, axis: int, out: int) -> Value:
    """A linear op with a bias over one axis of x, to ``out`` channels: Gemm, 1×1 Conv, or MatMul and Add."""
    n = x.shape[axis]
    sizes = (*x.shape[:axis], out, *x.shape[axis + 1 :])
    if axis == x.rank - 1:
        w = net.const(net.normal(n, out) / np.sqrt(n))
        if x.rank == 2:
            return net.node("Gemm", [x.name, w, net.const(net.normal(out))], sizes)
        y = net.node("MatMul", [x.name, w], sizes)
        return net.node("Add", [y.name, net.const(net.normal(out))], sizes)
    if axis == 1:
        w = net.const(net.normal(out, n, *[1] * (x.rank - 2)) / np.sqrt(n))
        return net.node("Conv", [x.name, w, net.const(net.normal(out))], sizes)
    back = [*range(axis), *range(axis + 1, x.rank), axis]
    y = net.node("Transpose", [x.name], tuple(x.shape[p] for p in back), perm=back)
    y = linear(net, y, x.rank - 1, out)
    there = [int(p) for p in np.argsort(back)]
    return net.node("Transpose", [y.name], sizes, perm=there)


def simple(
    op: str, *arrays: Any, shape: Callable[[Shape], Shape] | None = None, first: int = 0, **attributes: Any
) -> Build:
    """The operator with these constants; ``shape`` tells its output's shape, ``first`` x's place."""

    def build(net: Net, x: Value) -> Value:
        inputs = ["" if a is None else net.const(a(net, x) if callable(a) else a) for a in arrays]
        inputs.insert(first, x.name)
        return net.node(op, inputs, shape(x.shape) if shape else x.shape, **attributes)

    return build


def by_channel(net: Net, x: Value) -> np.ndarray:
    """Factors of both signs, one per channel."""
    return net.mixed(x.channels, *[1] * (x.rank - 2))


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def with_space(*sizes: int) -> Callable[[Shape], Shape]:
    return lambda shape: (*shape[:2], *sizes)


def to(*sizes: int) -> Callable[[Shape], Shape]:
    return lambda _: sizes
