"""Rows of the op table: pooling, padding, reshaping, merging: what moves or averages elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bnfuse.core.axes import Chain, Permute, Relabel, regroup
from bnfuse.core.joint import ConcatSplit, Product, Select
from bnfuse.core.operands import Operand, operands
from bnfuse.core.reasons import Reason
from bnfuse.core.rules import Opaque, Pass, Rule, Sign
from bnfuse.core.weighted_sum import WeightedSum
from bnfuse.formats.base import Malformed
from bnfuse.formats.keras.rows.site import Part, Site, opaque, single


def same(site: Site) -> Sequence[Part]:
    """The identity at inference."""
    return single(site, Pass())


def dropout(site: Site) -> Sequence[Part]:
    """Dropout and noise: the identity, unless the call asks for training."""
    return single(site, opaque(Reason.TRAINING_MODE) if site.training else Pass())


def pool(site: Site, n: int, sign: Sign = Sign.ANY) -> Sequence[Part]:
    """Max: monotone. Average: over valid elements only ('same' does not count its padding)."""
    spatial = site.spatial_axes(n + 2 + site.lead)
    one = set(site.window("pool_size", n, 2)) == {1}
    return single(site, Pass(Sign.ANY if one else sign, mixes=spatial.__contains__))


def global_pool(site: Site, n: int, sign: Sign = Sign.ANY) -> Sequence[Part]:
    """Mean or maximum over all of space."""
    rank = n + 2 + site.lead
    gone = set(site.spatial_axes(rank))
    if site.config.get("keepdims"):
        return single(site, Pass(sign, mixes=gone.__contains__, mixed_out=gone))
    return single(site, Pass(sign, mixes=gone.__contains__, axes=_dropping(rank, gone)))


def _dropping(rank: int, gone: set[int]) -> Relabel:
    kept = [a for a in range(rank) if a not in gone]
    return Relabel(tuple(kept.index(a) if a in kept else None for a in range(rank)), len(kept))


def zero_padding(site: Site, n: int) -> Sequence[Part]:
    """Zeros at the borders refuse a shift; all paddings 0 pass it."""
    spatial = site.spatial_axes(n + 2 + site.lead)
    padded = any(_flat(site.config.get("padding", 1)))
    return single(site, Pass(shift=Reason.ZERO_PADDING if padded else None, mixes=spatial.__contains__))


def _flat(value: Any) -> list[int]:
    if isinstance(value, (list, tuple)):
        return [n for inner in value for n in _flat(inner)]
    if type(value) is not int:
        raise Malformed(f"padding {value}")
    return [value]


def spatial(site: Site, n: int) -> Sequence[Part]:
    """Cropping."""
    return single(site, Pass(mixes=site.spatial_axes(n + 2 + site.lead).__contains__))


def upsampling(site: Site, n: int) -> Sequence[Part]:
    """Nearest and bilinear: weights that sum to 1."""
    mode = site.config.get("interpolation", "nearest")
    if mode not in ("nearest", "bilinear"):
        return single(site, opaque(Reason.UNSUPPORTED_OP, f"interpolation '{mode}'"))
    return spatial(site, n)


def flatten(site: Site) -> Sequence[Part]:
    """All axes behind the batch become one; channels-first data is first brought to channels last."""
    before, after = site.shapes[0], site.out_shapes[0]
    if before is None or after is None:
        return single(site, opaque(Reason.SHAPE_UNKNOWN))
    rank = len(before)
    if not site.channels_first or rank <= 2 + site.lead:
        return single(site, Pass(axes=regroup(before, after)))
    first = 1 + site.lead
    perm = (*range(first), *range(first + 1, rank), first)
    moved = tuple(before[a] for a in perm)
    return single(site, Pass(axes=Chain((Permute(perm), regroup(moved, after)))))


def reshape(site: Site) -> Sequence[Part]:
    """Runs of axes become other runs; the batch stays the batch."""
    before, after = site.shapes[0], site.out_shapes[0]
    if before is None or after is None or len(before) < 1:
        return single(site, opaque(Reason.SHAPE_UNKNOWN))
    return single(site, Pass(axes=regroup(("batch", *before[1:]), ("batch", *after[1:]))))


def permute(site: Site) -> Sequence[Part]:
    """``dims`` counts from 1 and leaves the batch out."""
    dims = site.config.get("dims")
    if not isinstance(dims, (list, tuple)) or not all(type(d) is int for d in dims):
        return single(site, opaque(Reason.BAD_PARAMETERS))
    if sorted(dims) != list(range(1, len(dims) + 1)):
        return single(site, opaque(Reason.BAD_PARAMETERS))
    perm = (*range(1 + site.lead), *(int(d) + site.lead for d in dims))
    return single(site, Pass(axes=Permute(perm)))


def repeat(site: Site) -> Sequence[Part]:
    """(batch, channels) becomes (batch, n, channels)."""
    new = 1 + site.lead
    target = (*range(new), new + 1)
    return single(site, Pass(axes=Relabel(target, new + 2), mixed_out={new}))


def total(signs: Callable[[int], tuple[float, ...]]) -> Callable[[Site], Sequence[Part]]:
    """Add, Subtract, Average."""
    return lambda site: single(site, _joined(site, lambda lie: WeightedSum(signs(len(site.inputs)), lie)))


def product(site: Site) -> Sequence[Part]:
    """Multiply: gates."""
    return single(site, _joined(site, lambda lie: Product((1,) * len(site.inputs), lie)))


def chosen(site: Site) -> Sequence[Part]:
    """Maximum, Minimum: one of the inputs, element by element."""

    def alike(lie: tuple[Operand, ...]) -> Rule:
        if any(o.offset or o.stretched for o in lie):
            return Opaque(Reason.BROADCAST)
        return Select(tuple(range(len(site.inputs))), Sign.NONNEGATIVE)

    return single(site, _joined(site, alike))


def _joined(site: Site, make: Callable[[tuple[Operand, ...]], Rule]) -> Rule:
    """Operands of one rank only: Keras broadcasts other ranks in a way of its own."""
    ranks = {None if s is None else len(s) for s in site.shapes}
    if len(site.inputs) < 2 or len(ranks) != 1 or (site.call is not None and site.call.constants):
        return Opaque(Reason.SHAPE_UNKNOWN if None in ranks else Reason.BROADCAST)
    lie = operands([_named(s) for s in site.shapes], _named(site.out_shapes[0]))
    return Opaque(Reason.SHAPE_UNKNOWN) if lie is None else make(lie)


def _named(shape: tuple[int | str | None, ...] | None) -> tuple[int | str | None, ...] | None:
    """The batch is the same for all operands."""
    return None if shape is None else ("batch", *shape[1:])


def concatenate(site: Site) -> Sequence[Part]:
    """Side by side along ``axis``."""
    rank = site.rank()
    axis = site.config.get("axis", -1)
    if rank is None or not isinstance(axis, int) or len(site.inputs) < 2:
        return single(site, opaque(Reason.SHAPE_UNKNOWN))
    at = site.axis(axis, rank)
    sizes = tuple(_size(s, at) for s in site.shapes)
    return single(site, ConcatSplit(~0, tuple(range(len(sizes))), at, sizes))


def _size(shape: tuple[int | str | None, ...] | None, axis: int) -> int | None:
    dim = None if shape is None or axis >= len(shape) else shape[axis]
    return dim if isinstance(dim, int) else None
