"""Rows of the op table: recurrent layers.

The kernel of a layer's input is linear, the rest of its cell is not looked into. Input kernels are laid out
(in, gates·units), those of convolutional cells (k…, in, gates·filters); source: keras/src/layers/rnn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque
from bnfuse.formats.keras.graph.network import Call, Layer, Shape
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.linear_layers import Within, linear_part
from bnfuse.formats.keras.rows.site import Part, Parts, Site, single
from bnfuse.formats.keras.rows.sizes import UNKNOWN, Inputs, Outputs, checked, conv_shape, ranked
from bnfuse.formats.keras.rows.stored import LinearStore
from bnfuse.formats.keras.rows.variables import (
    Config,
    Slot,
    Slots,
    below,
    holds,
    is_own,
    numbered,
    snake_case,
)


def recurrent(site: Site) -> Sequence[Part]:
    """LSTM, GRU, SimpleRNN."""
    return _behind_kernel(site, site.config, LinearStore(bias_rows=_bias_rows(site.config)))


def of_cells(site: Site) -> Parts:
    """RNN around a cell, or a stack of cells, of which the first reads the input."""
    cells = _cells(site.config)
    if not cells:
        return Opaque()
    first, prefix = cells[0], ""
    inside: tuple[str | int, ...] = ("cell", "config")
    if site.config["cell"] is not first:
        prefix, inside = f"{snake_case(first['class_name'])}/", (*inside, "cells", 0, "config")
    stored = LinearStore(f"{prefix}kernel", f"{prefix}bias", bias_rows=_bias_rows(first["config"]))
    within = replace(site, inside=inside)
    parts = _behind_kernel(within, first["config"], stored)
    parts[0].site = within
    return parts


def convolutional(site: Site, n: int) -> Sequence[Part]:
    """ConvLSTM: the input's kernel is a convolution at each step."""
    rank = n + 3 + site.lead
    axis = 2 + site.lead if site.channels_first else rank - 1
    padded = site.config.get("padding", "valid") != "valid" and set(site.window("kernel_size", n)) != {1}
    shift = Reason.ZERO_PADDING if padded else None
    return _behind_kernel(site, site.config, LinearStore(), "k* i o", (axis, axis), shift)


def _behind_kernel(
    site: Site,
    cell: Config,
    stored: LinearStore,
    layout: str = "i o",
    axes: tuple[int, int] | None = None,
    shift: Reason | None = None,
) -> Sequence[Part]:
    """The kernel that reads the input, and the rest of the cell."""
    if site.training and cell.get("dropout"):  # drops elements of the input before the kernel
        return single(site, Opaque(Reason.TRAINING_MODE))
    gates, last = f"{site.outputs[0]}/input", 2 + site.lead
    within = Within("input", site.inputs[:1], (gates,))
    kernel = linear_part(
        site, layout, axes=axes or (last, last), stored=stored, within=within, shift_in=shift
    )
    rest = Part(site.layer.class_name, (gates, *site.inputs[1:]), site.outputs, Opaque(Reason.NONLINEAR))
    return [kernel, rest]


def _bias_rows(cell: Config) -> int:
    """A GRU that resets after the product keeps a bias for its input and one for its state."""
    return 2 if cell.get("reset_after") else 0


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


def _stepped_shapes(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    """``RNN``: as its cell; the states of a stack are not told apart."""
    cells, shape = _cells(layer.config), ranked(inputs[0], 3)
    if not cells or len(shape) != 3 or layer.config.get("time_major"):
        return UNKNOWN
    state = (shape[0], cells[-1]["config"]["units"])
    output = (*shape[:2], state[1]) if layer.config.get("return_sequences") else state
    states = (2 if cells[0]["class_name"] == "LSTMCell" else 1) if len(cells) == 1 else 0
    return _with_states(layer.config, checked(output), checked(state), states)


def _both_ways(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    """Bidirectional: what both layers put out, merged, and the states of both."""
    forward, backward = (_wrapped(each, inputs[:1]) for each in layer.wrapped)
    (one, *states), (other, *others) = forward, backward
    if one is None or other is None:
        return UNKNOWN
    match layer.config.get("merge_mode", "concat"):
        case "concat":
            last = None if one[-1] is None or other[-1] is None else one[-1] + other[-1]
            return ((*one[:-1], last), *states, *others)
        case "sum" | "mul" | "ave":
            return (one, *states, *others)
        case None:
            return (one, other, *states, *others)
    return UNKNOWN


def _wrapped(layer: Layer, inputs: Inputs) -> Outputs:
    kind = None if layer.registered else _WRAPPED.get(layer.class_name)
    return UNKNOWN if kind is None else kind.shapes(layer, inputs, None)


def _cell(config: Config) -> Slots:
    return below("cell", _cell_variables(config))


_cell_variables = holds("kernel", "recurrent_kernel", "bias:use_bias")
_CELLS = frozenset({"LSTMCell", "GRUCell", "SimpleRNNCell"})


def _cells(config: Config) -> Sequence[Mapping[str, Any]]:
    """The stored cells of an ``RNN``, one or a stack, if all are Keras's own; else none."""
    cell: Any = config.get("cell")
    if is_own(cell, _CELLS):
        return (cell,)
    listed = cell["config"].get("cells") if is_own(cell, {"StackedRNNCells"}) else None
    cells = tuple(listed) if isinstance(listed, list) else ()
    return cells if all(is_own(inner, _CELLS) for inner in cells) else ()


def _rnn(config: Config) -> Slots | None:
    """``RNN`` around one cell of Keras's own, or a stack of them."""
    cells = _cells(config)
    if not cells:
        return None
    if config["cell"] is cells[0]:
        return _cell(cells[0]["config"])
    slots: list[Slot] = []
    counts: dict[str, int] = {}
    for inner in cells:
        group = numbered(snake_case(inner["class_name"]), counts)
        slots += below(f"cell/cells/{group}", _cell_variables(inner["config"]), group)
    return tuple(slots)


_ONE_STATE, _TWO_STATES = partial(_recurrent_shapes, states=1), partial(_recurrent_shapes, states=2)
_RECURRENT = (
    LayerKind(("SimpleRNN", "GRU"), recurrent, _ONE_STATE, _cell, linear=True),
    LayerKind(("LSTM",), recurrent, _TWO_STATES, _cell, linear=True),
    LayerKind(("CuDNNGRU",), shapes=_ONE_STATE, variables=_cell_variables),
    LayerKind(("CuDNNLSTM",), shapes=_TWO_STATES, variables=_cell_variables),
    *(
        LayerKind(
            (f"ConvLSTM{n}D",), partial(convolutional, n=n), partial(_convolved_shapes, rank=n + 3), _cell,
            linear=True,
        )
        for n in (1, 2, 3)
    ),
    LayerKind(("RNN",), of_cells, _stepped_shapes, _rnn, linear=True),
)  # fmt: skip
_WRAPPED = {name: kind for kind in _RECURRENT for name in kind.classes}
# How a Bidirectional merges is not looked into; the layers in it are parts of their own.
ROWS = (*_RECURRENT, LayerKind(("Bidirectional",), Opaque(Reason.NONLINEAR), _both_ways))
