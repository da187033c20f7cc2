"""Rows of the op table: functions that give axes another place, as no layer does.

Functions see all axes, the batch among them; a factor along the batch is never followed, since layers take it
for granted that there is none. A config holds the arguments of the call by the names that ``functions`` gives
them. What does not fit raises ``Malformed``, which refuses the call.

Sources: keras/src/ops/numpy.py and the array operations of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from bnfuse.core.axes import AxisMap, Chain, Permute, Regroup, Reversed, dropping, regroup
from bnfuse.core.reparam import Reparam
from bnfuse.core.rules.base import Pass, Rule
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.site import Site
from bnfuse.formats.keras.rows.sizes import Config, Size, one, product
from bnfuse.formats.table import Malformed, counted, known


class OffBatch(Struct, frozen=True):
    """A rearrangement that no factor along the first axis comes out of."""

    axes: AxisMap

    def forward(self, held: Reparam) -> Reparam | None:
        """Input axes to output axes."""
        return _off_batch(self.axes.forward(held))

    def backward(self, held: Reparam) -> Reparam | None:
        """Output axes to input axes."""
        return _off_batch(self.axes.backward(held))


def _off_batch(held: Reparam | None) -> Reparam | None:
    return None if held is None or 0 in held.axes else held


def integer(value: Any, least: int | None = None) -> int:
    """A whole number.

    Raises:
        Malformed: it is none, or too small.
    """
    if type(value) is not int or (least is not None and value < least):
        raise Malformed(f"{value}")
    return value


def of_one(rule: Callable[[Config, Shape], Rule]) -> Callable[[Site], Rule]:
    """A function of one tensor whose number of axes is known."""
    return lambda site: rule(site.config, known(as_shape(site.shapes[0])))


def _moving(change: Callable[[Config, Shape], AxisMap], sizes: Callable[[Config, Shape], Shape]) -> LayerKind:
    """A function that only moves axes."""
    return LayerKind((), of_one(lambda c, s: Pass(axes=OffBatch(change(c, s)))), one(sizes))


def _permutation(config: Config, shape: Shape) -> list[int]:
    rank = len(shape)
    if "source" in config:  # moveaxis
        source, target = (counted(config[k], rank) for k in ("source", "destination"))
        if len(source) != len(target):
            raise Malformed("as many axes as places")
        rest = iter(a for a in range(rank) if a not in source)
        to = dict(zip(target, source, strict=True))
        return [to[a] if a in to else next(rest) for a in range(rank)]
    if "axis1" in config:  # swapaxes
        a, b = (counted(config[k], rank)[0] for k in ("axis1", "axis2"))
        return [b if k == a else a if k == b else k for k in range(rank)]
    given = config["axes"]
    perm = list(range(rank))[::-1] if given is None else counted(given, rank)
    if len(perm) != rank:
        raise Malformed(f"axes {given} of {rank}")
    return perm


def _expanded(config: Config, shape: Shape) -> list[int]:
    given = config["axis"]
    new = given if isinstance(given, list) else [given]
    return counted(given, len(shape) + len(new))


def _squeezed(config: Config, shape: Shape) -> list[int]:
    given = config["axis"]
    if given in (None, []):
        if None in shape:
            raise Malformed("which axes go depends on the input")
        return [a for a, n in enumerate(shape) if n == 1]
    return counted(given, len(shape))


def _target(config: Config, shape: Shape) -> Shape:
    """The shape that is asked for; what -1 leaves open is told where all else is known."""
    sizes = [integer(n, -1) for n in config["shape"]]
    total, known = product(shape), product([n for n in sizes if n != -1])
    left: Size = None
    if known and total is not None:
        left = total // known
    return tuple(left if n == -1 else n for n in sizes)


def _regrouped(config: Config, shape: Shape) -> AxisMap:
    return regroup(shape, _target(config, shape))


def _to_space(config: Config, shape: Shape) -> AxisMap:
    """(n, h, w, b·b·d) becomes (n, h·b, w·b, d): group i·b + j of channels is row i, column j of a block."""
    block, apart = integer(config["block_size"], 1), range(3)
    n, h, w, d = _spread(config, shape)
    split = [*((range(a, a + 1), range(a, a + 1)) for a in apart), (range(3, 4), range(3, 6))]
    merge = [(range(1), range(1)), *((range(a, a + 2), range(b, b + 1)) for a, b in ((1, 1), (3, 2)))]
    merge.append((range(5, 6), range(3, 4)))
    wide, moved = (*shape[:3], block, block, d), (n, shape[1], block, shape[2], block, d)
    regrouped = Regroup(shape, wide, tuple(split)), Regroup(moved, (n, h, w, d), tuple(merge))
    return Chain((regrouped[0], Permute((0, 1, 3, 2, 4, 5)), regrouped[1]))


def _spread(config: Config, shape: Shape) -> Shape:
    (n, h, w, c), block = shape, integer(config["block_size"], 1)
    if c is None or c % (block * block) or config["data_format"] not in ("channels_last", "NHWC"):
        raise Malformed("blocks of another kind")
    return (n, *(None if k is None else k * block for k in (h, w)), c // (block * block))


def _gathered(config: Config, shape: Shape) -> Shape:
    (n, h, w, d), block = shape, integer(config["block_size"], 1)
    if d is None or config["data_format"] not in ("channels_last", "NHWC"):
        raise Malformed("blocks of another kind")
    return (n, *(None if k is None else k // block for k in (h, w)), d * block * block)


def _with_ones(config: Config, shape: Shape) -> Shape:
    new = _expanded(config, shape)
    rest = iter(shape)
    return tuple(1 if a in new else next(rest) for a in range(len(shape) + len(new)))


def _without_ones(config: Config, shape: Shape) -> Shape:
    gone = _squeezed(config, shape)
    return tuple(n for a, n in enumerate(shape) if a not in gone)


FUNCTIONS = {
    "Transpose": _moving(
        lambda c, s: Permute(tuple(_permutation(c, s))), lambda c, s: tuple(s[a] for a in _permutation(c, s))
    ),
    "ExpandDims": _moving(lambda c, s: dropping(len(s), (), _expanded(c, s)), _with_ones),
    "Squeeze": _moving(lambda c, s: dropping(len(s), _squeezed(c, s)), _without_ones),
    "DepthToSpace": _moving(_to_space, _spread),
    "SpaceToDepth": _moving(lambda c, s: Reversed(_to_space(c, _gathered(c, s))), _gathered),
    "Reshape to": _moving(_regrouped, _target),
}
