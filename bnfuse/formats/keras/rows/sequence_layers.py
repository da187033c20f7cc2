"""Rows of the op table: recurrent layers and attention.

Kernel layouts are those of keras/src/layers: recurrent input kernels (in, gates·units), attention
projections (in, heads, size) and (heads, size, out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from bnfuse.core.reasons import Reason
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.graph.network import Call, Layer, Shape
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.linear_layers import Within, linear_part, unknown_rank
from bnfuse.formats.keras.rows.site import Part, Site, opaque, single
from bnfuse.formats.keras.rows.sizes import UNKNOWN, Inputs, Outputs, checked, conv_shape, ranked
from bnfuse.formats.keras.rows.stored import LinearStore
from bnfuse.formats.keras.rows.variables import Config, Slot, Slots, below, holds, numbered, own, snake_case


def recurrent(site: Site) -> Sequence[Part]:
    """LSTM, GRU, SimpleRNN: the input's kernel is linear, the rest is not looked into."""
    if site.training and site.config.get("dropout"):  # drops elements of the input before the kernel
        return single(site, opaque(Reason.TRAINING_MODE))
    rank = 3 + site.lead
    gates = f"{site.outputs[0]}/input"
    rows = 2 if site.layer.class_name == "GRU" and site.config.get("reset_after") else 0
    stored = LinearStore(bias_rows=rows)
    kernel = linear_part(
        site,
        "i o",
        axes=(rank - 1, rank - 1),
        stored=stored,
        within=Within("input", site.inputs[:1], (gates,)),
    )
    cell = Part(site.layer.class_name, (gates, *site.inputs[1:]), site.outputs, opaque(Reason.NONLINEAR))
    return [kernel, cell]


def attention(site: Site) -> Sequence[Part]:
    """MultiHeadAttention: the projections of query, key and value read, that of the output is written."""
    rank = site.rank()
    plain = len(site.shapes) > 0 and all(s is None or len(s) == rank for s in site.shapes[:3])
    names = site.call.keywords if site.call else ()
    if rank is None or not plain or len(site.inputs) < 2:
        return unknown_rank(site)
    by_name = dict(zip(names, site.inputs, strict=False))
    positional = [v for k, v in zip(names, site.inputs, strict=False) if not k]
    query = by_name.get("query") or positional[0]
    value = by_name.get("value") or (positional[1] if len(positional) > 1 else "")
    key = by_name.get("key") or (positional[2] if len(positional) > 2 else value)
    if not value:
        return unknown_rank(site)
    axes = (rank - 1, rank - 1)
    parts, seen = [], []
    for role, source in (("query", query), ("key", key), ("value", value)):
        made = f"{site.outputs[0]}/{role}"
        parts.append(_projection(site, Within(role, (source,), (made,)), "i o o", axes))
        seen.append(made)
    rest = [v for v in site.inputs if v not in (query, key, value)]
    context = f"{site.outputs[0]}/context"
    scores = site.outputs[1:]
    parts.append(
        Part("attention", (*seen, *rest), (context, *scores), opaque(Reason.NONLINEAR), role="attention")
    )
    out = _projection(site, Within("attention_output", (context,), site.outputs[:1]), "i i o", axes)
    return [*parts, out]


def _projection(site: Site, within: Within, layout: str, axes: tuple[int, int]) -> Part:
    stored = LinearStore(f"{within.role}/kernel", f"{within.role}/bias", {})
    biased = bool(site.config.get("use_bias", True))  # one switch for all four: none is made here
    return linear_part(site, layout, axes=axes, stored=stored, within=within, has_bias=biased)


def _recurrent_shapes(layer: Layer, inputs: Inputs, call: Call | None, *, states: int) -> Outputs:
    """``(batch, time, features)``: one vector, or one of each step."""
    config, shape = layer.config, ranked(inputs[0], 3)
    if len(shape) != 3 or config.get("time_major"):
        return UNKNOWN
    state = (shape[0], config["units"])
    output = (*shape[:2], config["units"]) if config.get("return_sequences") else state
    return _with_states(config, checked(output), checked(state), states)


def _convolved_shapes(layer: Layer, inputs: Inputs, call: Call | None, *, rank: int) -> Outputs:
    """A convolution at each step: ``(batch, time, …)``."""
    config, shape = layer.config, ranked(inputs[0], rank)
    if len(shape) != rank:
        return UNKNOWN
    step = checked(conv_shape(config, (shape[0], *shape[2:])))
    if step is None:
        return UNKNOWN
    output = (step[0], shape[1], *step[1:]) if config.get("return_sequences") else step
    return _with_states(config, output, step, 2)


def _with_states(config: Config, output: Shape | None, state: Shape | None, count: int) -> Outputs:
    return (output, *(state,) * count) if config.get("return_state") else (output,)


def _attended(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    query, value = inputs[0], inputs[1]
    return _with_scores(None if query is None or value is None else (*query[:-1], value[-1]), call)


def _projected(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    query, stored = inputs[0], layer.config.get("output_shape")
    last = as_shape([stored] if isinstance(stored, int) else stored) if stored else None
    return _with_scores(None if query is None else ((*query[:-1], *last) if last else query), call)


def _with_scores(output: Shape | None, call: Call | None) -> Outputs:
    scores = call is not None and bool(call.arguments.get("return_attention_scores"))
    return (output, None) if scores else (output,)


def _cell(config: Config) -> Slots:
    return below("cell", _cell_variables(config))


_cell_variables = holds("kernel", "recurrent_kernel", "bias:use_bias")
_CELLS = frozenset({"LSTMCell", "GRUCell", "SimpleRNNCell"})


def _rnn(config: Config) -> Slots | None:
    """``RNN`` around one cell of Keras's own, or a stack of them."""
    cell = config.get("cell")
    if not isinstance(cell, Mapping) or not isinstance(cell.get("config"), Mapping):
        return None
    if cell.get("class_name") in _CELLS:
        return _cell(cell["config"])
    if cell.get("class_name") != "StackedRNNCells" or not isinstance(cell["config"].get("cells"), list):
        return None
    slots: list[Slot] = []
    counts: dict[str, int] = {}
    for inner in cell["config"]["cells"]:
        if not isinstance(inner, Mapping) or inner.get("class_name") not in _CELLS:
            return None
        group = numbered(snake_case(inner["class_name"]), counts)
        slots += below(f"cell/cells/{group}", _cell_variables(inner["config"]), group)
    return tuple(slots)


def _attention(config: Config) -> Slots:
    names = ("scale",) if config.get("use_scale") else ()
    return own(*names, *(("concat_score_weight",) if config.get("score_mode") == "concat" else ()))


def _projections(config: Config) -> Slots:
    dense = holds("kernel", "bias:use_bias")(config)
    parts = (("query", "query"), ("key", "key"), ("value", "value"), ("output", "attention_output"))
    return tuple(slot for place, name in parts for slot in below(f"{place}_dense", dense, name))


def _both_ways(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    """Bidirectional: what its forward layer puts out, merged, and the states of both."""
    kind = _WRAPPED.get(layer.wrapped[0].class_name)
    if kind is None or layer.wrapped[0].registered:
        return UNKNOWN
    output, *states = kind.shapes(layer.wrapped[0], inputs[:1], None)
    match layer.config.get("merge_mode", "concat"):
        case _ if output is None:
            return UNKNOWN
        case "concat":
            last = output[-1]
            return ((*output[:-1], None if last is None else 2 * last), *states, *states)
        case "sum" | "mul" | "ave":
            return (output, *states, *states)
        case None:
            return (output, output, *states, *states)
    return UNKNOWN


def both_ways(site: Site) -> Sequence[Part]:
    """How a Bidirectional merges; the layers in it are parts of their own."""
    return single(site, opaque(Reason.NONLINEAR))


_ONE_STATE, _TWO_STATES = partial(_recurrent_shapes, states=1), partial(_recurrent_shapes, states=2)
_RECURRENT = (
    LayerKind(("SimpleRNN", "GRU"), recurrent, _ONE_STATE, _cell, linear=True),
    LayerKind(("LSTM",), recurrent, _TWO_STATES, _cell, linear=True),
    LayerKind(("CuDNNGRU",), shapes=_ONE_STATE, variables=_cell_variables),
    LayerKind(("CuDNNLSTM",), shapes=_TWO_STATES, variables=_cell_variables),
    *(
        LayerKind((f"ConvLSTM{n}D",), shapes=partial(_convolved_shapes, rank=n + 3), variables=_cell)
        for n in (1, 2, 3)
    ),
    LayerKind(("RNN",), variables=_rnn),
)
_WRAPPED = {name: kind for kind in _RECURRENT for name in kind.classes}
ROWS = (
    *_RECURRENT,
    LayerKind(("Bidirectional",), both_ways, _both_ways),
    LayerKind(("Attention",), shapes=_attended, variables=_attention),
    LayerKind(("AdditiveAttention",), shapes=_attended, variables=holds("scale:use_scale")),
    LayerKind(("MultiHeadAttention",), attention, _projected, _projections, linear=True),
    LayerKind(("GroupQueryAttention", "GroupedQueryAttention"), shapes=_projected, variables=_projections),
)
