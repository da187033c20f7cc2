"""Rows of the op table: what reads several tensors: arithmetic, sums, products, Concat and Split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Rule, Sign, Source
from bnfuse.core.rules.joint import ConcatSplit, Product, Select
from bnfuse.core.rules.operands import Operand, operands
from bnfuse.core.rules.weighted_sum import WeightedSum
from bnfuse.formats.onnx.graph.extents.layout import concat as concatenated
from bnfuse.formats.onnx.graph.extents.rules import broadcast, same
from bnfuse.formats.onnx.rows.affine_ops import arithmetic
from bnfuse.formats.onnx.rows.kind import EVERY, OpKind
from bnfuse.formats.onnx.rows.stored import ArithmeticStore, TableStore
from bnfuse.formats.onnx.rows.view import View
from bnfuse.formats.table import known


def _over(view: View, make: Callable[[int, tuple[Operand, ...]], Rule], first: int = 0) -> Rule:
    """What ``make`` says of n run-time tensors, those from ``first`` on, as they lie in the output."""
    if view.opset < 7 and view.attr("axis") is not None:
        return Opaque(Reason.BROADCAST)  # the second operand lies where `axis` says, not on the right
    ports = range(first, len(view.proto.input))
    lie = operands([view.shape(i) for i in ports], view.out_shape())
    return make(len(ports), known(lie))


def _total(view: View, signs: Callable[[int], tuple[float, ...]] = lambda n: (1,) * n) -> Rule:
    """Add, Sub, Sum, Neg, Mean."""
    return _over(view, lambda n, lie: WeightedSum(signs(n), lie))


def _product(view: View, second: int = 1) -> Rule:
    """Mul, Div."""
    return _over(view, lambda _, lie: Product((1, second), lie))


def _alike(view: View, first: int = 0, sign: Sign = Sign.NONNEGATIVE) -> Rule:
    """Max, Min, and Where with its condition: inputs of the output's own shape."""

    def alike(n: int, lie: tuple[Operand, ...]) -> Rule:
        stretched = any(o.offset or o.stretched for o in lie)
        return Opaque(Reason.BROADCAST) if stretched else Select(tuple(range(first, first + n)), sign)

    return _over(view, alike, first)


def _concat(view: View) -> Rule:
    axis = view.axis(view.attr("axis", 1))
    if axis < 0:
        return Opaque(Reason.SHAPE_UNKNOWN)
    sizes = tuple(_size(view, i, axis) for i in range(len(view.proto.input)))
    return ConcatSplit(~0, tuple(range(len(sizes))), axis, sizes)


def _size(view: View, i: int, axis: int) -> int | None:
    shape = view.shape(i)
    dim = None if shape is None or axis >= len(shape) else shape[axis]
    return dim if isinstance(dim, int) else None


def _split(view: View) -> Rule:
    axis = view.axis(view.attr("axis", 0))
    if axis < 0:
        return Opaque(Reason.SHAPE_UNKNOWN)
    n = len(view.proto.output)
    given = view.attr("split") or view.ints(1)
    if given is None and (dim := _size(view, 0, axis)) is not None:
        step = -(-dim // n)
        given = [min(step, dim - step * k) for k in range(n)]
    sizes: tuple[int | None, ...] = tuple(given) if given is not None and len(given) == n else (None,) * n
    return ConcatSplit(0, tuple(~j for j in range(n)), axis, sizes)


def constant(view: View) -> Rule:
    """A constant operand, written into the model under its own name."""
    assert view.handle.operand is not None
    tensor = view.const(view.handle.operand)
    floats = tensor is not None and tensor.dtype.kind in "fV"
    return Source(tensor) if tensor is not None and floats else Opaque(Reason.WEIGHT_NOT_CONSTANT)


def _arithmetic(op: str, otherwise: Callable[[View], Rule]) -> OpKind:
    """With a per-channel constant a ChannelAffine; else a sum or a product."""
    stored = ArithmeticStore(op)
    return OpKind(
        (op,), lambda view: arithmetic(view) or otherwise(view), broadcast, stored, EVERY, removable=True
    )


OPERAND = OpKind(("Constant",), constant, stored=TableStore())
ROWS = (
    _arithmetic("Mul", _product),
    _arithmetic("Div", partial(_product, second=-1)),
    _arithmetic("Add", _total),
    _arithmetic("Sub", partial(_total, signs=lambda n: (1, -1))),
    OpKind(("Sum",), _total, broadcast, operands=EVERY),
    OpKind(("Neg",), partial(_total, signs=lambda n: (-1,)), same),
    OpKind(("Mean",), partial(_total, signs=lambda n: (1.0 / n,) * n), broadcast, operands=EVERY),
    OpKind(("Max", "Min"), _alike, broadcast, operands=EVERY),
    OpKind(("Where",), partial(_alike, first=1, sign=Sign.ANY), broadcast, operands=EVERY),
    OpKind(("Concat",), _concat, concatenated, operands=EVERY),
    OpKind(("Split",), _split),
    # not looked into
    OpKind(
        ("Mod", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor"),
        extents=broadcast,
    ),
)  # fmt: skip
