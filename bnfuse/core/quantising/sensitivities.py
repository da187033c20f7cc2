"""How loud rounding is in a graph as its folds left it: the layers of ``noise``, from rules and edits.

Forwards, from the inputs to the outputs, it is told how large the channels of each value are (``moments``);
backwards, how much the outputs feel of noise in each of them:

    C_gi = Σ_o G_go·Σ_k W²           G of a channel = Σ C over all linear ops that read it

A value is followed from its writers to its readers by the scales that they share. What has none (it leaves
for a softmax, say) counts as an output: G = 1/E[|y|²], so that noise is told relative to the value itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from bnfuse.core.apply import NewLinear
from bnfuse.core.graph import Node
from bnfuse.core.planning.state import State
from bnfuse.core.quantising.moments import Moments, ceiling, known, of_output
from bnfuse.core.quantising.noise import NoiseLayer, Places
from bnfuse.core.quantising.pairs import Pairs, pairs
from bnfuse.core.reparam import Vector
from bnfuse.core.rules.linear_rule import Linear

if TYPE_CHECKING:
    from bnfuse.core.quantising.freedoms import ScalePlaces


class _Seen(Struct, frozen=True, eq=False):
    """A linear op as the folds left it, and what it reads."""

    node: Node
    weight: Pairs  # of 4 bytes each: there are as many as weights in a 1×1 convolution
    rows: Places
    columns: Places
    written: Moments
    squares: Vector
    reach: Vector


def noise_layers(
    state: State, rules: Mapping[Node, Linear], places: ScalePlaces
) -> tuple[list[NoiseLayer], Vector]:
    """All linear ops, and how large what is held with each scale is, shape (scales,).

    Args:
        state: what the folds did.
        rules: the linear ops, in graph order.
        places: which scales there are.
    """
    total = Moments(np.zeros(places.count), np.zeros(places.count))
    seen = []
    for node, rule in rules.items():
        seen.append(layer := _seen(state, node, rule, places, total))
        some = layer.rows >= 0  # writers of one sum add up
        np.add.at(total.mean, layer.rows[some], layer.written.mean[some])
        np.add.at(total.variance, layer.rows[some], layer.written.variance[some])
    return _with_gains(seen, places.count), np.sqrt(total.square)


def _seen(state: State, node: Node, rule: Linear, places: ScalePlaces, total: Moments) -> _Seen:
    rewrite = state.rewrite(node)
    write, read = rewrite.write, rewrite.read
    weight = pairs(rule.weight, rule.form).times(write and write[0], read and read[0])
    new = NewLinear(None, rule, rewrite, ())
    outs, ins = rule.form.channels_out, rule.form.channels_in
    bias = new.bias() if rule.bias is not None or new.makes_bias else np.zeros(outs)
    rows, columns = places.of(node, ~0, outs), places.of(node, rule.in_port, ins)
    mean, variance = np.append(total.mean, 0.0)[columns], np.append(total.variance, 1.0)[columns]
    x = Moments(mean, np.where(columns >= 0, variance, 1.0))
    reach = x.reach
    top = ceiling(state, node.inputs[rule.in_port], rule.in_axis, ins)
    if top is not None:
        x, reach = x.clamped(top)
    written = known(state, node, rule.out_axis, write) or of_output(weight, bias, x)
    return _Seen(node, weight.kept, rows, columns, written, x.square, reach)


def _with_gains(seen: Sequence[_Seen], count: int) -> list[NoiseLayer]:
    """From the outputs to the inputs: what noise of each channel adds in the end.

    What leaves the linear ops whose scales hang together counts as an output, relative to its own size.
    """
    felt = np.zeros(count)
    layers = []
    for layer in reversed(seen):
        groups, outs, _ = layer.weight.largest.shape
        power = float(np.einsum("goi,gi->", layer.weight.squares, layer.squares.reshape(groups, -1)))
        gains = np.append(felt, 1.0 / power if power > 0.0 else 0.0)[layer.rows]
        input_gains = np.einsum("goi,go->gi", layer.weight.squares, gains.reshape(groups, outs)).ravel()
        some = layer.columns >= 0
        np.add.at(felt, layer.columns[some], input_gains[some])
        layers.append(
            NoiseLayer(
                layer.node,
                layer.weight.largest,
                layer.weight.taps,
                layer.squares,
                layer.reach,
                layer.rows,
                layer.columns,
                gains,
                input_gains,
            )
        )
    return layers[::-1]
