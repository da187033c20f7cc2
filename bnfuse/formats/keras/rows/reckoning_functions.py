"""Rows of the op table: functions that reckon: with constants, over axes, element by element.

A config holds the arguments of the call by the names that ``functions`` gives them; a constant is a variable.
Arithmetic with one takes on what its constant can hold. Where that cannot be rewritten it stays what it is:
what may pass goes through it.

Sources: keras/src/ops/numpy.py and the arithmetic of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from msgspec.structs import replace

from bnfuse.core.axes import AxisMap, Chain, Relabel, dropping
from bnfuse.core.reasons import Reason
from bnfuse.core.reparam import arithmetic_pair
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Pass, Rule, ShapeOnly, Sign, Source
from bnfuse.core.rules.counted import Through, Times
from bnfuse.core.rules.joint import Product, Select
from bnfuse.core.rules.operands import Operand, operands
from bnfuse.core.rules.weighted_sum import WeightedSum
from bnfuse.formats.keras.graph.call_constants import CallVariable
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Call, Layer, Shape
from bnfuse.formats.keras.rows import image_layers
from bnfuse.formats.keras.rows.activations import HOMOGENEOUS
from bnfuse.formats.keras.rows.bias_add import ADDS_ELSEWHERE, adds_along
from bnfuse.formats.keras.rows.kind import LayerKind, Trait
from bnfuse.formats.keras.rows.merging_layers import broadcast, joined, named_apart
from bnfuse.formats.keras.rows.placing_functions import OffBatch, of_one
from bnfuse.formats.keras.rows.site import FLOATS, Part, Parts, Site, single
from bnfuse.formats.keras.rows.sizes import UNKNOWN, Config, Inputs, Outputs, checked, one, product, same
from bnfuse.formats.keras.rows.stored import OperandStore, TableStore
from bnfuse.formats.table import Malformed, counted, known

_SIGNS = {"Add": (1.0, 1.0), "Subtract": (1.0, -1.0)}  # of x and the constant behind it
_KNOWN = ("float16", "float32", "float64")  # to numpy


# --- with a constant


def _arithmetic(site: Site) -> Parts:
    """y = a·x + c, told by the name of the operation and its constant."""
    shape, op = known(site.shapes[0]), site.config["op"]
    (operand,) = site.layer.variables
    assert isinstance(operand, CallVariable)
    k = _constant(operand.value, site.dtypes[0])
    if op == "Divide" and site.config["constant_first"]:
        raise Malformed("no map of that kind")
    a, c = arithmetic_pair(op, k, first=site.config["constant_first"])
    if not np.isfinite(a).all() or not np.isfinite(c).all() or not a.all():
        return Opaque(Reason.BAD_PARAMETERS, "it multiplies by zero, or by what is no number")
    long = {axis: n for axis, n in enumerate(k.shape, len(shape) - k.ndim) if n != 1}
    rank = len(shape) - site.lead
    if k.ndim > rank or any(axis <= site.lead or shape[axis] != n for axis, n in long.items()):
        return Opaque(Reason.BROADCAST)  # it makes the result larger
    if len(long) > 1:
        return _sum(site, len(shape) - k.ndim, k.shape)
    axes = tuple(long)
    a, c = (v.ravel() if long else v.reshape(()) for v in (a, c))
    is_bias = site.config["as_bias"]
    if is_bias and axes and not adds_along(shape, axes[0], k.size):
        return Opaque(Reason.UNSUPPORTED_OP, ADDS_ELSEWHERE)
    if site.locked:
        return Pass(axes=Through(a, c, axes[0] if axes else None))
    adds = op in ("Add", "Subtract")
    along = len(shape) - 1 if is_bias and not long else None
    rule = Affine(
        (a, c),
        axes,
        has_scale=not adds,
        has_shift=adds,
        stores_along=along,
        divides=op == "Divide",
        stored=np.dtype(site.dtypes[0] or "float32"),
    )
    stored = OperandStore(op=op, first=site.config["constant_first"])
    return single(site, rule, stored, is_affine=True)


def _sum(site: Site, offset: int, sizes: Sequence[int]) -> Parts:
    """x ± k for a constant along several axes: a table, which takes on what varies along any of them."""
    (operand,) = site.layer.variables
    table, signs = site.tensor(operand.name), _SIGNS.get(site.config["op"])
    if site.locked or table is None or signs is None:
        return Opaque(Reason.BROADCAST)
    repeated = {*range(offset), *(offset + axis for axis, n in enumerate(sizes) if n == 1)}
    laid = Operand(0, frozenset()), Operand(offset, frozenset(repeated))
    op, value = site.layer.class_name, f"{site.outputs[0]}/constant"
    source = Part(f"{op}.constant", (), (value,), Source(table), "constant", TableStore(operand.name))
    rule = WeightedSum(signs[::-1] if site.config["constant_first"] else signs, laid)
    return [source, Part(op, (*site.inputs, value), site.outputs, rule)]


def _constant(value: Any, dtype: str | None) -> np.ndarray:
    """A constant as the call computes with it, in float64.

    Raises:
        Malformed: it is none, or of another type than x, which it would widen.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.name != dtype:
            raise Malformed("a constant of another type")
    elif isinstance(value, list) and dtype not in (None, "float32"):
        raise Malformed("a constant of another type")
    if dtype is not None and dtype not in _KNOWN:
        raise Malformed(f"arithmetic in {dtype}")
    made = np.asarray(value)
    if made.dtype.kind not in "if":
        raise Malformed("no numbers")
    with np.errstate(over="ignore"):
        return made.astype(dtype or "float32").astype(np.float64)


def _with_constant(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    shape = inputs[0]
    known = [v.shape for v in layer.variables]  # of arithmetic
    operand = known[0] if known else np.shape(_the_constant(layer.config))
    return UNKNOWN if shape is None else (broadcast((shape, operand)),)


def _the_constant(config: Config) -> Any:
    left, right = config["left"], config["right"]
    return right if left is None else left


# --- over axes


def _reduce(config: Config, shape: Shape, sign: Sign = Sign.ANY, *, adds: bool = False) -> Rule:
    """Mean, Max, Min, Sum: what varies along other axes commutes as far as the function allows.

    A sum over n elements, where n is known, shifts n times as far.
    """
    gone, rank, keeps = _gone(config, shape), len(shape), bool(config["keepdims"])
    moved: AxisMap = Relabel(tuple(range(rank)), rank) if keeps else dropping(rank, gone)
    count = product([shape[axis] for axis in gone]) if adds else 1
    if count:
        moved = Chain((moved, Times(count)))
    shift = None if count else Reason.SHIFT_REFUSED
    return Pass(sign, shift, gone.__contains__, OffBatch(moved), gone if keeps else ())


def _gone(config: Config, shape: Shape) -> list[int]:
    given = config["axis"]
    if given == []:
        raise Malformed("no axes: over none, or over all")
    return list(range(len(shape))) if given is None else counted(given, len(shape))


def _reduced(config: Config, shape: Shape) -> Shape:
    gone = _gone(config, shape)
    if config["keepdims"]:
        return tuple(1 if a in gone else n for a, n in enumerate(shape))
    return tuple(n for a, n in enumerate(shape) if a not in gone)


def _along(config: Config, shape: Shape, sign: Sign = Sign.ANY, shift: Reason | None = None) -> Rule:
    """Sort, Cumsum: what varies along other axes than one."""
    return Pass(sign, shift, counted(config["axis"], len(shape)).__contains__)


# --- element by element


def _cast(site: Site) -> Rule:
    """To the same or a wider floating-point type: nothing is lost that the value had."""
    has, to = str(site.dtypes[0]), site.config["dtype"]
    widens = (has, to) != ("float16", "bfloat16") and FLOATS.index(has) <= FLOATS.index(to)
    return Pass() if widens else Opaque(Reason.OTHER_TYPE, f"cast to {to}")


def _where(site: Site) -> Rule:
    """One of two, as a condition says."""
    condition, *chosen = (named_apart(s, j) for j, s in enumerate(site.shapes))
    out = named_apart(site.out_shapes[0], len(chosen) + 1)
    lie = operands([condition, *chosen], out)
    stretched = any(operand.stretched for operand in known(lie)[1:])
    return Opaque(Reason.BROADCAST) if stretched else Select((1, 2), Sign.ANY)


def _resize(site: Site) -> Rule:
    """Without a data format it is that of whoever runs the model: the sizes tell where the file was made."""
    config = dict(site.config)
    if config.get("data_format") is None:
        size = config["height"], config["width"]
        config["data_format"] = _format(as_shape(site.shapes[0]), as_shape(site.out_shapes[0]), size)
    return image_layers.resizing(replace(site, layer=replace(site.layer, config=config)))


def _format(before: Shape | None, after: Shape | None, size: Shape) -> str:
    if before is None or after is None or len(before) != 4 or len(after) != 4:
        raise Malformed("no data format")
    last = before[3] == after[3] is not None and after[1:3] == size
    first = before[1] == after[1] is not None and after[2:4] == size
    if last == first:
        raise Malformed("no data format")
    return "channels_last" if last else "channels_first"


def _resized(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    if layer.config.get("data_format") is None:
        return UNKNOWN
    return next(kind for kind in image_layers.ROWS if "Resizing" in kind.classes).shapes(layer, inputs, call)


def _broadcast_all(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    return (checked(broadcast(inputs)),)


_REDUCED, _NONLINEAR = one(_reduced), Opaque(Reason.NONLINEAR)
FUNCTIONS: dict[str, LayerKind] = {
    "Arithmetic": LayerKind((), _arithmetic, _with_constant),
    "Negative": LayerKind((), Pass(axes=Times(-1)), same),
    "Divide": LayerKind((), lambda site: joined(site, lambda lie: Product((1, -1), lie)), _broadcast_all),
    "Where": LayerKind((), _where, _broadcast_all),
    "Mean": LayerKind((), of_one(_reduce), _REDUCED),
    "Sum": LayerKind((), of_one(partial(_reduce, adds=True)), _REDUCED),
    "Extreme": LayerKind((), of_one(partial(_reduce, sign=Sign.NONNEGATIVE)), _REDUCED),
    "Sort": LayerKind((), of_one(partial(_along, sign=Sign.NONNEGATIVE)), same),
    "Cumsum": LayerKind((), of_one(partial(_along, shift=Reason.SHIFT_REFUSED)), same),
    "Cast": LayerKind((), _cast, same, traits=Trait.HANDS_ON),
    "Homogeneous": LayerKind((), HOMOGENEOUS, same),
    "Nonlinear": LayerKind((), _NONLINEAR, same),
    "Nonlinear with a constant": LayerKind((), _NONLINEAR, _with_constant),
    "Resize": LayerKind((), _resize, _resized),
    "Shape": LayerKind((), ShapeOnly(), one(lambda config, shape: (len(shape),))),
    # not looked into
    "Pointwise": LayerKind((), None, _broadcast_all),
    "Pointwise with a constant": LayerKind((), None, _with_constant),
}
