"""Rows of the op table: what reads several tensors, as layers and as functions."""

from __future__ import annotations

from collections.abc import Callable

from bnfuse.core.axes import Shape as Sizes
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Rule, Sign
from bnfuse.core.rules.joint import ConcatSplit, Product, Select
from bnfuse.core.rules.operands import Operand, operands
from bnfuse.core.rules.weighted_sum import WeightedSum
from bnfuse.formats.keras.graph.network import Call, Layer, Shape
from bnfuse.formats.keras.rows.kind import LayerKind, Trait
from bnfuse.formats.keras.rows.site import Site
from bnfuse.formats.keras.rows.sizes import UNKNOWN, Inputs, Outputs, Size, broadcast_size, checked, several
from bnfuse.formats.keras.rows.variables import Config
from bnfuse.formats.table import known


def total(signs: Callable[[int], tuple[float, ...]]) -> Callable[[Site], Rule]:
    """Add, Subtract, Average."""
    return lambda site: joined(site, lambda lie: WeightedSum(signs(len(site.inputs)), lie))


def product(site: Site) -> Rule:
    """Multiply: gates."""
    return joined(site, lambda lie: Product((1,) * len(site.inputs), lie))


def chosen(site: Site) -> Rule:
    """Maximum, Minimum: one of the inputs, element by element."""

    def alike(lie: tuple[Operand, ...]) -> Rule:
        if any(operand.stretched for operand in lie):
            return Opaque(Reason.BROADCAST)
        return Select(tuple(range(len(site.inputs))), Sign.NONNEGATIVE)

    return joined(site, alike)


def joined(site: Site, make: Callable[[tuple[Operand, ...]], Rule]) -> Rule:
    """Operands of one rank only: layers broadcast other ranks in a way of their own."""
    ranks = {None if s is None else len(s) for s in site.shapes}
    if len(site.inputs) < 2 or len(ranks) != 1 or (site.call is not None and site.call.constants):
        return Opaque(Reason.SHAPE_UNKNOWN if None in ranks else Reason.BROADCAST)
    name = named_apart if site.layer.function else _named
    *named, out = (name(s, j) for j, s in enumerate((*site.shapes, site.out_shapes[0])))
    lie = operands(named, out)
    return make(known(lie))


def _named(shape: Sizes | None, operand: int) -> Sizes | None:
    """The batch is the same for all operands."""
    return None if shape is None else ("batch", *shape[1:])


def named_apart(shape: Sizes | None, operand: int) -> Sizes | None:
    """Nor are two sizes the same that are not known: one may be 1."""
    if shape is None:
        return None
    return ("batch", *(f"{operand}.{a}" if n is None else n for a, n in enumerate(shape[1:], 1)))


def concatenate(site: Site) -> Rule:
    """Side by side along ``axis``."""
    rank = site.rank()
    axis = site.config.get("axis", -1)
    if rank is None or not isinstance(axis, int) or len(site.inputs) < 2:
        return Opaque(Reason.SHAPE_UNKNOWN)
    at = site.axis(axis, rank)
    sizes = tuple(_size(s, at) for s in site.shapes)
    return ConcatSplit(~0, tuple(range(len(sizes))), at, sizes)


def _size(shape: tuple[int | str | None, ...] | None, axis: int) -> int | None:
    dim = None if shape is None or axis >= len(shape) else shape[axis]
    return dim if isinstance(dim, int) else None


def _elementwise(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    """Add and its kin: broadcast, but the batch axis stays the first (missing axes come after it)."""
    if layer.function:
        return (checked(broadcast(inputs)),)
    known = [shape for shape in inputs if shape is not None]
    if len(known) != len(inputs) or not known or min(map(len, known)) == 0:
        return UNKNOWN
    rank = max(map(len, known))
    result, *others = ((shape[0], *(1,) * (rank - len(shape)), *shape[1:]) for shape in known)
    for shape in others:
        result = _broadcast(result, shape)
    return (checked(result),)


def broadcast(shapes: Inputs) -> Shape | None:
    """NumPy's broadcasting."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known:
        return None
    rank = max(map(len, known))
    result, *others = ((1,) * (rank - len(shape)) + tuple(shape) for shape in known)
    for shape in others:
        result = _broadcast(result, shape)
    return result


def _broadcast(one: Shape, two: Shape) -> Shape:
    return tuple(broadcast_size(a, b) for a, b in zip(one, two, strict=True))


def _side_by_side(config: Config, inputs: Inputs) -> Shape | None:
    known = [shape for shape in inputs if shape is not None]
    if not known:
        return None
    rank, axis = len(known[0]), config.get("axis", -1)
    if any(len(shape) != rank for shape in known) or not -rank <= axis < rank:
        return None
    every = [(None,) * rank if shape is None else shape for shape in inputs]
    sizes: list[Size] = []
    for k in range(rank):
        column = [shape[k] for shape in every]
        if k == axis % rank:
            sizes.append(None if None in column else sum(size for size in column if size is not None))
        else:
            sizes.append(next((size for size in column if size is not None), None))
    return tuple(sizes)


def _dot(config: Config, inputs: Inputs) -> Shape | None:
    first, second = inputs
    if first is None or second is None:
        return None
    axes = config["axes"]
    one, two = (axes, axes) if isinstance(axes, int) else axes
    one, two = one % len(first), two % len(second)
    left = [size for k, size in enumerate(first) if k != one]
    right = [size for k, size in enumerate(second) if k not in (0, two)]
    return (*left, *right) if len(left) + len(right) > 1 else (*left, 1)


_SUM = Trait.MERGES | Trait.JOINT
ROWS = (
    LayerKind(("Add",), total(lambda n: (1.0,) * n), _elementwise, traits=_SUM),
    LayerKind(("Subtract",), total(lambda n: (1.0, -1.0)), _elementwise, traits=_SUM),
    LayerKind(("Average",), total(lambda n: (1.0 / n,) * n), _elementwise, traits=Trait.MERGES),
    LayerKind(("Multiply",), product, _elementwise, traits=Trait.MERGES),
    LayerKind(("Maximum", "Minimum"), chosen, _elementwise, traits=Trait.MERGES),
    LayerKind(("Concatenate",), concatenate, several(_side_by_side), traits=Trait.JOINS | Trait.JOINT),
    # not looked into
    LayerKind(("Dot",), shapes=several(_dot)),
    LayerKind(("Merge",)),
)
