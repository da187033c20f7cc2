"""Rows of the op table: functions that put several tensors in one, cut one into several, or put margins on.

A config holds the arguments of the call by the names that ``functions`` gives them. What does not fit raises
``Malformed``, which refuses the call.

Sources: keras/src/ops/numpy.py and the array operations of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from bnfuse.core.axes import dropping
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule
from bnfuse.core.rules.counted import Put
from bnfuse.core.rules.joint import ConcatSplit
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Call, Layer, Shape
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.placing_functions import OffBatch, integer, of_one
from bnfuse.formats.keras.rows.site import Part, Parts, Site
from bnfuse.formats.keras.rows.sizes import UNKNOWN, Config, Inputs, Outputs, checked, one
from bnfuse.formats.table import Malformed, counted, known


def _margins(config: Config, shape: Shape) -> list[tuple[int, int]]:
    given = config["pads"]
    if not isinstance(given, list) or len(given) != len(shape):
        raise Malformed(f"pads {given}")
    return [(integer(a, 0), integer(b, 0)) for a, b in given]


def _pad(config: Config, shape: Shape) -> Rule:
    """Zeros refuse a shift, reflected or repeated borders pass everything, other constants nothing.

    Zeros beside elements of the last axis alone are elements of their own, which stay as they are.
    """
    mode, fill = str(config["mode"]).lower(), config["value"]
    padded = {a: pair for a, pair in enumerate(_margins(config, shape)) if any(pair)}
    if mode in ("reflect", "symmetric", "edge") or not padded:
        return Pass(mixes=padded.__contains__)
    if mode != "constant" or type(fill) not in (int, float, type(None)) or fill:
        return Opaque(detail="it pads with something other than zero")
    axis, (before, behind) = next(iter(padded.items()))
    size = shape[axis]
    if axis == len(shape) - 1 and size is not None:
        return Pass(axes=OffBatch(Put(axis, before, size, size + before + behind)))
    return Pass(shift=Reason.ZERO_PADDING, mixes=padded.__contains__)


def _padded(config: Config, shape: Shape) -> Shape:
    pads = zip(shape, _margins(config, shape), strict=True)
    return tuple(None if n is None else n + sum(pair) for n, pair in pads)


# --- one of several, several of one


def _stack(site: Site) -> Sequence[Part]:
    """Each gets an axis of size 1, along which they are put side by side."""
    rank = len(known(as_shape(site.shapes[0])))
    axes = counted(site.config["axis"], rank + 1)
    expand = Pass(axes=OffBatch(dropping(rank, (), axes)))
    each = [(x, f"{site.outputs[0]}/expand{j}") for j, x in enumerate(site.inputs)]
    made = [Part("Stack.expand", (x,), (y,), expand, role=f"expand{j}") for j, (x, y) in enumerate(each)]
    rule = ConcatSplit(~0, tuple(range(len(each))), axes[0], (1,) * len(each))
    return [*made, Part("Stack", tuple(y for _, y in each), site.outputs, rule)]


def _stacked(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    shape = next((s for s in inputs if s is not None), None)
    if shape is None:
        return UNKNOWN
    (axis,) = counted(layer.config["axis"], len(shape) + 1)
    return (checked((*shape[:axis], len(inputs), *shape[axis:])),)


def _cuts(config: Config, shape: Shape) -> tuple[int, list[int]]:
    """The axis of a split, and how long each piece is."""
    (axis,) = counted(config["axis"], len(shape))
    size, given = shape[axis], config.get("sizes", config.get("sections", 1))
    if size is None:
        raise Malformed("a size that is not known")
    if "at" in config:
        ends = [0, *(integer(n, 0) for n in config["at"]), size]
        sizes = [b - a for a, b in pairwise(ends)]
    elif isinstance(given, list):
        left = size - sum(n for n in given if n != -1)
        sizes = [left if integer(n, -1) == -1 else n for n in given]
    else:
        pieces = size if given is None else integer(given, 1)
        sizes = [size // pieces] * pieces
    if sum(sizes) != size or min(sizes) < 1:
        raise Malformed(f"pieces {sizes} of {size}")
    return axis, sizes


def _split(site: Site, *, drops: bool = False) -> Parts:
    """Pieces along an axis, which goes where each is of one element and ``drops`` is set."""
    shape = known(as_shape(site.shapes[0]))
    axis, sizes = _cuts(site.config, shape)
    if len(site.outputs) > len(sizes):
        return Opaque(Reason.AXIS)
    told = 0 if drops else len(site.outputs)  # nobody reads those behind
    pieces = (
        *site.outputs[:told],
        *(f"{site.outputs[0]}/piece{j}" for j in range(told, len(sizes))),
    )
    rule = ConcatSplit(0, tuple(~j for j in range(len(sizes))), axis, tuple(sizes))
    made = [Part(site.layer.class_name, site.inputs, pieces, rule)]
    if drops:
        drop = Pass(axes=OffBatch(dropping(len(shape), [axis])))
        each = zip(pieces, site.outputs, strict=False)
        made += [Part("Unstack.squeeze", (x,), (y,), drop, f"squeeze{j}") for j, (x, y) in enumerate(each)]
    return made


def _pieces(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    shape = inputs[0]
    if shape is None:
        return UNKNOWN
    axis, sizes = _cuts(layer.config, shape)
    drops = layer.class_name == "Unstack"
    return tuple((*shape[:axis], *(() if drops else (n,)), *shape[axis + 1 :]) for n in sizes)


FUNCTIONS = {
    "Pad": LayerKind((), of_one(_pad), one(_padded)),
    "Stack": LayerKind((), _stack, _stacked),
    "Split": LayerKind((), _split, _pieces),
    "Unstack": LayerKind((), partial(_split, drops=True), _pieces),
}
