"""Rows of the op table: Dense, EinsumDense, Embedding; and what all layers with kernels share.

The canonical form of a kernel is told by its layout. A fused ``activation=`` is a node of its own behind
the linear one. Kernel layouts are those of keras/src/layers: Dense (in, out).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule, Source
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.rules.operands import Operand
from bnfuse.core.rules.weighted_sum import WeightedSum
from bnfuse.core.weights.linear import LinearForm, linear_form
from bnfuse.core.weights.tensor import Tensor
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.activations import fused
from bnfuse.formats.keras.rows.bias_add import ADDS_ELSEWHERE, adds_along
from bnfuse.formats.keras.rows.equations import HeadsStore, read_equation
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.quantised_layers import (
    QuantisedStore,
    quantised_kernel,
    quantised_slots,
    rounds_inputs,
)
from bnfuse.formats.keras.rows.site import Part, Parts, Site, single
from bnfuse.formats.keras.rows.sizes import one
from bnfuse.formats.keras.rows.stored import LinearStore, ProductStore, TableStore
from bnfuse.formats.keras.rows.variables import Config, holds, own, quantised_to
from bnfuse.formats.table import known

_PLAIN = LinearStore()


class Within(NamedTuple):
    """Which part of its layer a node is, and the values that it reads and writes."""

    role: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def linear_part(
    site: Site,
    layout: str,
    *,
    axes: tuple[int, int],
    stored: LinearStore = _PLAIN,
    within: Within | None = None,
    groups: int = 1,
    shift_in: Reason | None = None,
    has_bias: bool = True,
) -> Part:
    """A linear node; ``axes`` are the channel axes of its input and output.

    A function has no bias: where it needs one, a sum comes behind it.
    """
    role, inputs, outputs = within or Within("", site.inputs, site.outputs)
    integers = quantised_to(site.config) is not None
    bias_nodes = 0
    if site.layer.function:
        stored, bias_nodes = ProductStore(stored.weight, "", bias_shape=stored.bias_shape), 1
        has_bias = has_bias and site.out_rank() is not None

    def rule(_: str) -> Rule:
        if site.locked:
            return Opaque(Reason.LOCKED_WEIGHTS, site.locked)
        weight = quantised_kernel(site, layout) if integers else site.tensor(stored.weight)
        if weight is None:
            return Opaque(Reason.WEIGHT_NOT_CONSTANT, f"it has no floating-point {stored.weight}")
        rounded = Reason.SHIFT_REFUSED if integers and rounds_inputs(site.config) else None
        form = _form(weight.shape, layout, groups)
        if form is None:
            return Opaque(Reason.BAD_PARAMETERS, f"{stored.weight} of shape {weight.shape}")
        bias = stored.bias_of(site) if has_bias else None
        if bias is not None and int(np.prod(bias.shape)) != form.channels_out:
            return Opaque(Reason.BAD_PARAMETERS, f"{stored.bias} of shape {bias.shape}")
        return Linear(
            weight, form, bias, axes[0], axes[1], shift_in=shift_in or rounded, has_bias=has_bias,
            computes=_computes(site, weight), bias_nodes=bias_nodes,
        )  # fmt: skip

    op = f"{site.layer.class_name}.{role}" if role else site.layer.class_name
    made = QuantisedStore(stored.weight, stored.bias, stored.enables, bias_shape=stored.bias_shape)
    return Part(op, inputs, outputs, rule, role, made if integers else stored)


def _form(shape: tuple[int, ...], layout: str, groups: int) -> LinearForm | None:
    try:
        return linear_form(shape, layout, groups)
    except ValueError:
        return None


def _computes(site: Site, weight: Tensor) -> np.dtype[Any] | None:
    """float16 where a mixed policy casts the kernel before it is used: it must fit there too."""
    narrow = site.compute_dtype == "float16" and weight.dtype.itemsize > 2
    return np.dtype(np.float16) if narrow else None


def with_activation(site: Site, parts: Sequence[Part]) -> Sequence[Part]:
    """The parts, and the fused activation behind the last of them."""
    inner, last = f"{site.outputs[0]}/linear", parts[-1]
    behind = fused(site, inner)
    if behind is None:
        return parts
    last.outputs = (inner, *last.outputs[1:])
    return [*parts, behind]


def dense(site: Site) -> Sequence[Part]:
    """y = x·W + b along the last axis."""
    last = known(site.rank()) - 1
    return with_activation(site, [linear_part(site, "i o", axes=(last, last))])


def einsum_dense(site: Site) -> Parts:
    """EinsumDense: a product over some letters of the kernel; its bias lies along any of the output's.

    Letters that stand side by side are one axis to it, between what joins them and what parts them again.
    """
    rank, kernel = known(site.rank()), site.variable("kernel")
    sizes = None if kernel is None or quantised_to(site.config) else kernel.shape
    made = known(read_equation(str(site.config.get("equation", "")), rank, sizes))
    out, letters, shape = made.out, made.letters, site.out_shapes[0]
    given = site.config.get("bias_axes")
    plain = given in (None, "", letters, letters[-1])
    if not plain and not (isinstance(given, str) and set(given) <= set(out)):
        return Opaque(Reason.UNSUPPORTED_OP, f"its bias lies along '{given}'")
    fits = _adds_where_it_lies(shape, [out.index(letter) for letter in given or letters[-1]])
    if given and not fits:
        return Opaque(Reason.UNSUPPORTED_OP, ADDS_ELSEWHERE)
    fits = fits and _adds_where_it_lies(shape, [out.index(letter) for letter in letters])
    has_bias = plain and (fits or bool(site.layer.function))  # behind a call comes a difference
    enables, laid = {"bias_axes": letters}, (*made.sizes, *(1,) * (len(out) - made.axes[1] - len(letters)))
    stored = LinearStore(enables=enables, bias_shape=laid)
    if len(letters) > 1:
        stored = HeadsStore(bias_shape=laid, letters=letters, heads=prod(made.sizes[:-1]))
    ends = made.ends(site.inputs[0], site.outputs[0])
    part = linear_part(
        site, made.layout, axes=made.axes, stored=stored, within=Within("", ends[:1], ends[1:]),
        shift_in=Reason.SHIFT_REFUSED if made.is_open else None, has_bias=has_bias,
    )  # fmt: skip
    parts = [part]
    if made.joined is not None:
        parts.insert(0, Part(part.op, site.inputs[:1], ends[:1], Pass(axes=made.joined), "joined"))
    if made.parted is not None:
        parts.append(Part(part.op, ends[1:], site.outputs, Pass(axes=made.parted), "parted"))
    if not plain:
        parts[-1:] = bias_apart(site, parts[-1], len(out))
    return with_activation(site, parts)


def _adds_where_it_lies(shape: Sequence[int | str | None] | None, axes: Sequence[int]) -> bool:
    """Whether a bias along these axes of the output is added along them."""
    long = [axis for axis in axes if shape is None or shape[axis] != 1]
    if len(long) != 1:
        return True
    size = None if shape is None else shape[long[0]]
    return isinstance(size, int) and adds_along(shape, long[0], size)


def bias_apart(site: Site, part: Part, rank: int) -> Sequence[Part]:
    """A layer whose bias is no vector along the channels: a constant that is added."""
    bias = site.tensor("bias")
    if bias is None or len(bias.shape) > rank or site.locked:
        why = Opaque(Reason.LOCKED_WEIGHTS, site.locked or "its bias is no array of floats")
        return single(site, why)
    product, constant = f"{site.outputs[0]}/product", f"{site.outputs[0]}/bias"
    part.outputs = (product,)
    offset = rank - len(bias.shape)
    alike = [offset + axis for axis, n in enumerate(bias.shape) if n == 1]
    laid = Operand(0, frozenset()), Operand(offset, frozenset({*range(offset), *alike}))
    op = site.layer.class_name
    source = Part(f"{op}.bias", (), (constant,), Source(bias), "bias", TableStore("bias"))
    total = Part(op, (product, constant), site.outputs, WeightedSum((1.0, 1.0), laid), "sum")
    return [source, part, total]


def embedding(site: Site) -> Parts:
    """A table of rows: what follows goes into its values."""
    table = site.tensor("embeddings")
    rank = site.rank()
    if table is None or rank is None or site.locked:
        return Opaque(Reason.WEIGHT_NOT_CONSTANT)
    rule = Source(table, offset=rank - 1, chosen=frozenset(range(rank)))
    return single(site, rule, TableStore("embeddings"))


def _einsum_shape(config: Config, shape: Shape) -> Shape | None:
    """``"abc,cd->abd"``, with ``...`` on either side; what only the kernel has is in ``output_shape``."""
    source, _, output = config["equation"].replace(" ", "").partition(",")
    output = output.partition("->")[2]
    front, dots, back = source.partition("...")
    if len(shape) < len(front) + len(back) or (not dots and len(shape) != len(front)):
        return None
    rest = shape[len(front) : len(shape) - len(back)]
    sizes = dict(zip(front + back, shape[: len(front)] + shape[len(shape) - len(back) :], strict=True))
    stored = config.get("output_shape")
    given = (stored,) if isinstance(stored, int) else (as_shape(stored) or ())
    letters = output.replace("...", "")
    named = dict(zip(reversed(letters), reversed(given), strict=False))
    out_front, out_dots, out_back = output.partition("...")
    return (
        *(sizes.get(x, named.get(x)) for x in out_front),
        *(rest if out_dots else ()),
        *(sizes.get(x, named.get(x)) for x in out_back),
    )


_EMBEDDED = one(lambda config, shape: (*shape, config["output_dim"]))
ROWS = (
    LayerKind(
        ("Dense",),
        dense,
        one(lambda config, shape: (*shape[:-1], config["units"]) if len(shape) > 1 else None),
        holds("kernel", "bias:use_bias"),
        linear=True,
        quantised=partial(quantised_slots, switch="use_bias"),
    ),
    LayerKind(
        ("EinsumDense",),
        einsum_dense,
        one(_einsum_shape),
        lambda config: own("kernel", *(("bias",) if config.get("bias_axes") else ())),
        linear=True,
        quantised=partial(quantised_slots, switch="bias_axes"),
    ),
    LayerKind(("Embedding",), embedding, _EMBEDDED, holds("embeddings"), linear=True, knows="input_dim"),
)
