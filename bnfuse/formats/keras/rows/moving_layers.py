"""Rows of the op table: the identity at inference, and what moves, pools or pads along axes."""

from __future__ import annotations

from functools import partial
from typing import Any

from bnfuse.core.axes import Chain, Permute, Relabel, dropping, regroup
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule, Sign
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.kind import LayerKind, Trait, spatial_kinds
from bnfuse.formats.keras.rows.site import Site
from bnfuse.formats.keras.rows.sizes import (
    Shapes,
    Size,
    join,
    one,
    per_axis,
    product,
    resized,
    same,
    split,
    windows,
)
from bnfuse.formats.keras.rows.variables import Config
from bnfuse.formats.table import Malformed, known


def dropout(site: Site) -> Rule:
    """Dropout and noise: the identity, unless the call asks for training."""
    return Opaque(Reason.TRAINING_MODE) if site.training else Pass()


def pool(site: Site, n: int, sign: Sign = Sign.ANY) -> Rule:
    """Max: monotone. Average: over valid elements only ('same' does not count its padding)."""
    spatial = site.spatial_axes(n + 2 + site.lead)
    one = set(site.window("pool_size", n, 2)) == {1}
    return Pass(Sign.ANY if one else sign, mixes=spatial.__contains__)


def windowed(site: Site, n: int, sign: Sign = Sign.ANY) -> Rule:
    """Cropping, and as many windows as asked for: of valid elements only."""
    return Pass(sign, mixes=site.spatial_axes(n + 2 + site.lead).__contains__)


def global_pool(site: Site, n: int, sign: Sign = Sign.ANY) -> Rule:
    """Mean or maximum over all of space."""
    rank = n + 2 + site.lead
    gone = set(site.spatial_axes(rank))
    if site.config.get("keepdims"):
        return Pass(sign, mixes=gone.__contains__, mixed_out=gone)
    return Pass(sign, mixes=gone.__contains__, axes=dropping(rank, gone))


def zero_padding(site: Site, n: int) -> Rule:
    """Zeros at the borders refuse a shift; all paddings 0 pass it."""
    spatial = site.spatial_axes(n + 2 + site.lead)
    padded = any(_flat(site.config.get("padding", 1)))
    return Pass(shift=Reason.ZERO_PADDING if padded else None, mixes=spatial.__contains__)


def _flat(value: Any) -> list[int]:
    if isinstance(value, (list, tuple)):
        return [n for inner in value for n in _flat(inner)]
    if type(value) is not int:
        raise Malformed(f"padding {value}")
    return [value]


def _pooled(config: Config, spatial: Shape) -> list[Size]:
    window = per_axis(config["pool_size"], len(spatial))
    strides = window if config.get("strides") is None else per_axis(config["strides"], len(spatial))
    padding = config.get("padding", "valid")
    return [windows(n, k, s, padding) for n, k, s in zip(spatial, window, strides, strict=True)]


def _globally_pooled(config: Config, shape: Shape) -> Shape:
    spatial, channels = split(config, shape)
    if config.get("keepdims"):
        return join(config, shape[0], (1,) * len(spatial), channels)
    return shape[0], channels


def _margins(config: Config, key: str, rank: int) -> list[int]:
    """Both margins of each spatial axis, added up: ``2``, ``[1, 2]`` or ``[[1, 2], [0, 1]]``."""
    value = config[key]
    if isinstance(value, int):
        return [2 * value] * rank
    if rank == 1:
        return [sum(per_axis(value, 2))] if as_shape(value) is not None else [sum(per_axis(value[0], 2))]
    return [sum(per_axis(margins, 2)) for margins in _pairs(value, rank)]


def _pairs(value: Any, rank: int) -> list[Any]:
    """The settings of ``rank`` axes, each an int or a pair.

    Raises:
        ValueError: there are not ``rank`` of them.
    """
    items = value.get("items") if isinstance(value, dict) else value
    if not isinstance(items, list | tuple) or len(items) != rank:
        raise ValueError(f"not {rank} margins")
    return list(items)


def _moved(key: str, sign: int) -> Shapes:
    """Borders that are added, or taken away."""

    def sizes(config: Config, spatial: Shape) -> list[Size]:
        margins = _margins(config, key, len(spatial))
        return [None if n is None else n + sign * m for n, m in zip(spatial, margins, strict=True)]

    return resized(sizes)


def flatten(site: Site) -> Rule:
    """All axes behind the batch become one; channels-first data is first brought to channels last."""
    before, after = known(site.shapes[0]), known(site.out_shapes[0])
    rank = len(before)
    if not site.channels_first or rank <= 2 + site.lead:
        return Pass(axes=regroup(before, after))
    first = 1 + site.lead
    perm = (*range(first), *range(first + 1, rank), first)
    moved = tuple(before[a] for a in perm)
    return Pass(axes=Chain((Permute(perm), regroup(moved, after))))


def reshape(site: Site) -> Rule:
    """Runs of axes become other runs; the batch stays the batch."""
    before, after = known(site.shapes[0] or None), known(site.out_shapes[0])
    return Pass(axes=regroup(("batch", *before[1:]), ("batch", *after[1:])))


def permute(site: Site) -> Rule:
    """``dims`` counts from 1 and leaves the batch out."""
    dims = site.config.get("dims")
    if not isinstance(dims, (list, tuple)) or not all(type(d) is int for d in dims):
        return Opaque(Reason.BAD_PARAMETERS)
    if sorted(dims) != list(range(1, len(dims) + 1)):
        return Opaque(Reason.BAD_PARAMETERS)
    perm = (*range(1 + site.lead), *(int(d) + site.lead for d in dims))
    return Pass(axes=Permute(perm))


def repeat(site: Site) -> Rule:
    """(batch, channels) becomes (batch, n, channels)."""
    new = 1 + site.lead
    target = (*range(new), new + 1)
    return Pass(axes=Relabel(target, new + 2), mixed_out={new})


def _reshaped(config: Config, shape: Shape) -> Shape | None:
    target = config["target_shape"]
    items = list(target["items"] if isinstance(target, dict) else target)
    sizes: list[Size] = [None if size == -1 else size for size in items]
    if sizes.count(None) == 1 and -1 in items:
        total, rest = product(shape[1:]), product([size for size in sizes if size is not None])
        if total is not None and rest:
            sizes[sizes.index(None)] = total // rest
    return (shape[0], *sizes)


def _permuted(config: Config, shape: Shape) -> Shape:
    dims = per_axis(config["dims"], len(shape) - 1)
    if sorted(dims) != list(range(1, len(shape))):
        raise ValueError("dims")
    return (shape[0], *(shape[axis] for axis in dims))


_MAX_POOL, _GLOBAL_MAX = partial(pool, sign=Sign.NONNEGATIVE), partial(global_pool, sign=Sign.NONNEGATIVE)
_NOISE = Trait.HANDS_ON | Trait.DRAWS
_FLAT = one(lambda config, shape: (shape[0], product(shape[1:])))
_REPEATED = one(lambda config, shape: (shape[0], config["n"], shape[1]))
_POOLED, _WHOLE = resized(_pooled), one(_globally_pooled)
_ADAPTED = resized(lambda config, spatial: per_axis(config["output_size"], len(spatial)))
ROWS = (
    LayerKind(("Identity",), Pass(), same, traits=Trait.HANDS_ON),
    LayerKind(("ActivityRegularization",), Pass(), same),
    LayerKind(("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout"), dropout, same, traits=_NOISE),
    *(LayerKind((f"SpatialDropout{n}D",), dropout, same, rank=n + 2, traits=_NOISE) for n in (1, 2, 3)),
    LayerKind(("Flatten",), flatten, _FLAT, traits=Trait.HANDS_ON),
    LayerKind(("Reshape",), reshape, one(_reshaped), traits=Trait.HANDS_ON),
    LayerKind(("Permute",), permute, one(_permuted), traits=Trait.HANDS_ON),
    LayerKind(("RepeatVector",), repeat, _REPEATED, rank=2, traits=Trait.HANDS_ON),
    *spatial_kinds(("MaxPooling{n}D",), _MAX_POOL, _POOLED),
    *spatial_kinds(("AveragePooling{n}D",), pool, _POOLED),
    *spatial_kinds(("GlobalMaxPooling{n}D",), _GLOBAL_MAX, _WHOLE),
    *spatial_kinds(("GlobalAveragePooling{n}D",), global_pool, _WHOLE),
    *spatial_kinds(("ZeroPadding{n}D",), zero_padding, _moved("padding", 1)),
    *spatial_kinds(("Cropping{n}D",), windowed, _moved("cropping", -1)),
    *spatial_kinds(("AdaptiveMaxPooling{n}D",), partial(windowed, sign=Sign.NONNEGATIVE), _ADAPTED),
    *spatial_kinds(("AdaptiveAveragePooling{n}D",), windowed, _ADAPTED),
)
