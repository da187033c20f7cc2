"""Rows of the op table: attention.

Kernel layouts are those of keras/src/layers: projections (in, heads, size) and (heads, size, out).
"""

from __future__ import annotations

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Call, Layer, Shape
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.linear_layers import Within, linear_part
from bnfuse.formats.keras.rows.site import Part, Parts, Site
from bnfuse.formats.keras.rows.sizes import Inputs, Outputs
from bnfuse.formats.keras.rows.stored import LinearStore
from bnfuse.formats.keras.rows.variables import Config, Slots, below, holds, own
from bnfuse.formats.table import known


def projected(site: Site) -> Parts:
    """MultiHeadAttention, GroupQueryAttention: the projections of query, key and value read (and that of a
    gate, which reads the query), that of the output is written.
    """
    rank = known(site.rank())
    plain = len(site.shapes) > 0 and all(s is None or len(s) == rank for s in site.shapes[:3])
    names = site.call.keywords if site.call else ()
    if not plain or len(site.inputs) < 2:
        return Opaque(Reason.SHAPE_UNKNOWN)
    by_name = dict(zip(names, site.inputs, strict=False))
    positional = [v for k, v in zip(names, site.inputs, strict=False) if not k]
    query = by_name.get("query") or positional[0]
    value = by_name.get("value") or (positional[1] if len(positional) > 1 else "")
    key = by_name.get("key") or (positional[2] if len(positional) > 2 else value)
    if not value:
        return Opaque(Reason.SHAPE_UNKNOWN)
    axes = (rank - 1, rank - 1)
    read = [("query", query), ("key", key), ("value", value)]
    if site.config.get("use_gate"):
        read.append(("gate", query))
    parts, seen = [], []
    for role, source in read:
        made = f"{site.outputs[0]}/{role}"
        parts.append(_projection(site, Within(role, (source,), (made,)), "i o o", axes))
        seen.append(made)
    rest = [v for v in site.inputs if v not in (query, key, value)]
    context = f"{site.outputs[0]}/context"
    scores = site.outputs[1:]
    parts.append(
        Part("attention", (*seen, *rest), (context, *scores), Opaque(Reason.NONLINEAR), role="attention")
    )
    out = _projection(site, Within("attention_output", (context,), site.outputs[:1]), "i i o", axes)
    return [*parts, out]


def _projection(site: Site, within: Within, layout: str, axes: tuple[int, int]) -> Part:
    stored = LinearStore(f"{within.role}/kernel", f"{within.role}/bias", {})
    biased = bool(site.config.get("use_bias", True))  # one switch for all four: none is made here
    return linear_part(site, layout, axes=axes, stored=stored, within=within, has_bias=biased)


def attention(site: Site) -> Parts:
    """Attention, AdditiveAttention of [query, value, key]: y = softmax(…)·value, weights that sum to 1.

    A mask of the query makes zeros of some rows, and may come without being named: no shift passes. Where
    the value is the key, too, nothing does.
    """
    names = site.call.keywords if site.call is not None else ()
    if names[:3] != ("", "", "") or site.training or site.rank() is None:
        return Opaque(Reason.NONLINEAR)
    return Pass(shift=Reason.SHIFT_REFUSED, mixes=(1).__eq__, mixed_out=(1,), in_port=1)


def _attended(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    query, value = inputs[0], inputs[1]
    return _with_scores(None if query is None or value is None else (*query[:-1], value[-1]), call)


def _projected_shapes(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    query, stored = inputs[0], layer.config.get("output_shape")
    last = as_shape([stored] if isinstance(stored, int) else stored) if stored else None
    return _with_scores(None if query is None else ((*query[:-1], *last) if last else query), call)


def _with_scores(output: Shape | None, call: Call | None) -> Outputs:
    scores = call is not None and bool(call.arguments.get("return_attention_scores"))
    return (output, None) if scores else (output,)


def _attention(config: Config) -> Slots:
    names = ("scale",) if config.get("use_scale") else ()
    return own(*names, *(("concat_score_weight",) if config.get("score_mode") == "concat" else ()))


def _projections(config: Config) -> Slots:
    dense = holds("kernel", "bias:use_bias")(config)
    gate = ("gate",) if config.get("use_gate") else ()
    read = tuple(
        slot for name in ("query", "key", *gate, "value") for slot in below(f"{name}_dense", dense, name)
    )
    return (*read, *below("output_dense", dense, "attention_output"))


ROWS = (
    LayerKind(("Attention",), attention, _attended, _attention),
    LayerKind(("AdditiveAttention",), attention, _attended, holds("scale:use_scale")),
    LayerKind(("MultiHeadAttention",), projected, _projected_shapes, _projections, linear=True),
    LayerKind(
        ("GroupQueryAttention", "GroupedQueryAttention"),
        projected,
        _projected_shapes,
        _projections,
        linear=True,
    ),
)
