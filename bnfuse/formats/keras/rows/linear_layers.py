"""Rows of the op table: layers with kernels, in canonical form.

A fused ``activation=`` is a node of its own behind the linear one. Kernel layouts are those of
keras/src/layers: Dense (in, out), convolutions (k…, in/groups, out), transposed ones (k…, out, in),
depthwise ones (k…, channels, multiplier), recurrent input kernels (in, gates·units), attention
projections (in, heads, size) and (heads, size, out).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnfuse.core.linear import LinearForm, linear_form
from bnfuse.core.linear_rule import Linear
from bnfuse.core.reasons import Reason
from bnfuse.core.rules import Opaque, Rule, Source
from bnfuse.formats.base import Malformed
from bnfuse.formats.keras.rows.activations import activation_rule
from bnfuse.formats.keras.rows.site import Part, Site, StoredVar, VariableTensor, always, opaque, single


def linear_part(
    site: Site,
    layout: str,
    *,
    axes: tuple[int, int],
    role: str = "",
    stored: StoredVar | None = None,
    ends: tuple[tuple[str, ...], tuple[str, ...]] | None = None,
    groups: int = 1,
    shift_in: Reason | None = None,
    has_bias: bool = True,
) -> Part:
    """A linear node; ``axes`` are the channel axes of its input and output, ``ends`` their values."""
    stored = stored or StoredVar(site.path)
    inputs, outputs = ends or (site.inputs, site.outputs)

    def rule(_: str) -> Rule:
        if site.locked:
            return Opaque(Reason.LOCKED_WEIGHTS, site.locked)
        weight = site.tensor(stored.weight)
        if weight is None:
            return Opaque(Reason.WEIGHT_NOT_CONSTANT, f"it has no floating-point {stored.weight}")
        form = _form(weight.shape, layout, groups)
        if form is None:
            return Opaque(Reason.BAD_PARAMETERS, f"{stored.weight} of shape {weight.shape}")
        bias = site.tensor(stored.bias, first_row=stored.bias_rows > 0) if has_bias else None
        if bias is not None and int(np.prod(bias.shape)) != form.channels_out:
            return Opaque(Reason.BAD_PARAMETERS, f"{stored.bias} of shape {bias.shape}")
        return Linear(
            weight, form, bias, axes[0], axes[1], shift_in=shift_in, has_bias=has_bias,
            computes=_computes(site, weight),
        )  # fmt: skip

    op = f"{site.layer.class_name}.{role}" if role else site.layer.class_name
    return Part(op, inputs, outputs, rule, role, stored)


def _form(shape: tuple[int, ...], layout: str, groups: int) -> LinearForm | None:
    try:
        return linear_form(shape, layout, groups)
    except ValueError:
        return None


def _computes(site: Site, weight: VariableTensor) -> np.dtype[Any] | None:
    """float16 where a mixed policy casts the kernel before it is used: it must fit there too."""
    narrow = site.compute_dtype == "float16" and weight.dtype.itemsize > 2
    return np.dtype(np.float16) if narrow else None


def with_activation(site: Site, parts: Sequence[Part]) -> Sequence[Part]:
    """The parts, and the fused activation behind the last of them."""
    rule = activation_rule(site.config.get("activation"))
    if rule is None:
        return parts
    last = parts[-1]
    inner = f"{site.outputs[0]}/linear"
    last.outputs = (inner, *last.outputs[1:])
    behind = Part("activation", (inner,), site.outputs[:1], always(rule), role="activation")
    return [*parts, behind]


def dense(site: Site) -> Sequence[Part]:
    """y = x·W + b along the last axis."""
    rank = site.rank()
    if rank is None:
        return _unknown(site)
    return with_activation(site, [linear_part(site, "i o", axes=(rank - 1, rank - 1))])


def _unknown(site: Site) -> Sequence[Part]:
    rule = opaque(Reason.SHAPE_UNKNOWN)
    return [Part(site.layer.class_name, site.inputs, site.outputs, rule)]


def _padding(site: Site, n: int) -> Reason | None:
    """Why a shift cannot come in: zeros at the borders; 'same' pads nothing where the window is one."""
    if site.config.get("padding", "valid") == "valid" or set(site.window("kernel_size", n)) == {1}:
        return None
    return Reason.ZERO_PADDING


def _channel_axes(site: Site, n: int) -> tuple[int, int]:
    axis = site.channel_axis(n + 2 + site.lead)
    return axis, axis


def _groups(site: Site) -> int:
    """``groups``, which older files leave out."""
    stored = site.config.get("groups")
    if stored is not None and type(stored) is not int:
        raise Malformed(f"groups {stored}")
    return stored or 1


def convolution(site: Site, n: int) -> Sequence[Part]:
    """Conv1D/2D/3D: (k…, in/groups, out)."""
    part = linear_part(
        site, "k* i go", axes=_channel_axes(site, n), groups=_groups(site),
        shift_in=_padding(site, n),
    )  # fmt: skip
    return with_activation(site, [part])


def transposed(site: Site, n: int) -> Sequence[Part]:
    """Conv*Transpose: (k…, out, in); border outputs sum over fewer taps, so no shift comes in."""
    axes = _channel_axes(site, n)
    return with_activation(site, [linear_part(site, "k* o i", axes=axes, shift_in=Reason.SHIFT_REFUSED)])


def depthwise(site: Site, n: int) -> Sequence[Part]:
    """DepthwiseConv1D/2D: (k…, channels, multiplier)."""
    part = linear_part(site, "k* g o", axes=_channel_axes(site, n), shift_in=_padding(site, n))
    return with_activation(site, [part])


def separable(site: Site, n: int) -> Sequence[Part]:
    """SeparableConv: a depthwise convolution without bias, then a pointwise one."""
    between = f"{site.outputs[0]}/depthwise"
    axes = _channel_axes(site, n)
    first = linear_part(
        site, "k* g o", axes=axes, role="depthwise", stored=StoredVar(site.path, "depthwise_kernel", ""),
        ends=(site.inputs, (between,)), shift_in=_padding(site, n), has_bias=False,
    )  # fmt: skip
    second = linear_part(
        site, "k* i o", axes=axes, role="pointwise", stored=StoredVar(site.path, "pointwise_kernel"),
        ends=((between,), site.outputs),
    )  # fmt: skip
    return with_activation(site, [first, second])


def einsum_dense(site: Site) -> Sequence[Part]:
    """EinsumDense: one letter is contracted, at most one is new; the bias lies along the new one."""
    rank = site.rank()
    made = None if rank is None else _einsum(str(site.config.get("equation", "")), rank)
    if made is None:
        return _unknown(site)
    layout, axes, new, tail = made
    given = site.config.get("bias_axes")
    fits = given in (None, "", new)
    stored = StoredVar(site.path, enables={"bias_axes": new}, bias_tail=tail)
    part = linear_part(site, layout, axes=axes, stored=stored, has_bias=fits)
    if not fits:
        part.rule = opaque(Reason.UNSUPPORTED_OP, f"its bias lies along '{given}'")
    return with_activation(site, [part])


def _einsum(equation: str, rank: int) -> tuple[str, tuple[int, int], str, int] | None:
    """(layout of the kernel, channel axes, letter of the new axis, axes behind it), if it is linear."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    x, comma, kernel = left.partition(",")
    if not arrow or not comma or len(set(kernel)) != len(kernel):
        return None
    fill = rank - len(x.replace("...", ""))
    dots = "".join(chr(0x410 + k) for k in range(max(0, fill)))
    x, out = x.replace("...", dots), out.replace("...", dots)
    contracted = [c for c in x if c in kernel and c not in out]
    new = [c for c in kernel if c not in x and c in out]
    if len(x) != rank or len(contracted) != 1 or len(new) != 1 or len(kernel) != 2:
        return None
    if sorted(out) != sorted({*x, *new} - {*contracted}):  # an axis that is summed without a kernel
        return None
    layout = " ".join("i" if c == contracted[0] else "o" for c in kernel)
    at = out.index(new[0])
    return layout, (x.index(contracted[0]), at), new[0], len(out) - 1 - at


def recurrent(site: Site) -> Sequence[Part]:
    """LSTM, GRU, SimpleRNN: the input's kernel is linear, the rest is not looked into."""
    if site.training and site.config.get("dropout"):  # drops elements of the input before the kernel
        return single(site, opaque(Reason.TRAINING_MODE))
    rank = 3 + site.lead
    gates = f"{site.outputs[0]}/input"
    rows = 2 if site.layer.class_name == "GRU" and site.config.get("reset_after") else 0
    stored = StoredVar(site.path, bias_rows=rows)
    kernel = linear_part(
        site, "i o", axes=(rank - 1, rank - 1), role="input", stored=stored,
        ends=(site.inputs[:1], (gates,)),
    )  # fmt: skip
    cell = Part(site.layer.class_name, (gates, *site.inputs[1:]), site.outputs, opaque(Reason.NONLINEAR))
    return [kernel, cell]


def attention(site: Site) -> Sequence[Part]:
    """MultiHeadAttention: the projections of query, key and value read, that of the output is written."""
    rank = site.rank()
    plain = len(site.shapes) > 0 and all(s is None or len(s) == rank for s in site.shapes[:3])
    names = site.call.keywords if site.call else ()
    if rank is None or not plain or len(site.inputs) < 2:
        return _unknown(site)
    by_name = dict(zip(names, site.inputs, strict=False))
    positional = [v for k, v in zip(names, site.inputs, strict=False) if not k]
    query = by_name.get("query") or positional[0]
    value = by_name.get("value") or (positional[1] if len(positional) > 1 else "")
    key = by_name.get("key") or (positional[2] if len(positional) > 2 else value)
    if not value:
        return _unknown(site)
    axes = (rank - 1, rank - 1)
    parts, seen = [], []
    for role, source in (("query", query), ("key", key), ("value", value)):
        made = f"{site.outputs[0]}/{role}"
        parts.append(_projection(site, role, "i o o", axes, ((source,), (made,))))
        seen.append(made)
    rest = [v for v in site.inputs if v not in (query, key, value)]
    context = f"{site.outputs[0]}/context"
    scores = site.outputs[1:]
    parts.append(
        Part("attention", (*seen, *rest), (context, *scores), opaque(Reason.NONLINEAR), role="attention")
    )
    out = _projection(site, "attention_output", "i i o", axes, ((context,), site.outputs[:1]))
    return [*parts, out]


def _projection(
    site: Site,
    role: str,
    layout: str,
    axes: tuple[int, int],
    ends: tuple[tuple[str, ...], tuple[str, ...]],
) -> Part:
    stored = StoredVar(site.path, f"{role}/kernel", f"{role}/bias", {})
    biased = bool(site.config.get("use_bias", True))  # one switch for all four: none is made here
    return linear_part(site, layout, axes=axes, role=role, stored=stored, ends=ends, has_bias=biased)


def embedding(site: Site) -> Sequence[Part]:
    """A table of rows: what follows goes into its values."""
    table = site.tensor("embeddings")
    rank = site.rank()
    if table is None or rank is None or site.locked:
        return [Part("Embedding", site.inputs, site.outputs, opaque(Reason.WEIGHT_NOT_CONSTANT))]
    rule = Source(table, offset=rank - 1, chosen=frozenset(range(rank)))
    stored = StoredVar(site.path, "embeddings", "")
    return [Part("Embedding", site.inputs, site.outputs, always(rule), stored=stored)]
