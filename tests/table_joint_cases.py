"""Cases of the op table: operators with several inputs or outputs, and those that read shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from bnfuse.core.reasons import Reason
from tests.random_nets import Net, Value
from tests.table_cases import ALL, INVERTIBLE, MONOTONE, SCALE, Build, Table, linear, simple

JOINT = Table()
case = JOINT.case

# --- several inputs ----------------------------------------------------------------------------------


def _joint(op: str, *, first: bool = True, **attributes: Any) -> Build:
    """The operator of x and a linear branch of x's own."""

    def build(net: Net, x: Value) -> Value:
        other = linear(net, Value("x", net.values[0].shape), 1, x.channels)
        pair = [x.name, other.name] if first else [other.name, x.name]
        return net.node(op, pair, x.shape, **attributes)

    return build


def _constant_map(op: str) -> Build:
    """The operator of x and a constant that varies along all axes but the batch."""
    return simple(op, lambda net, x: net.normal(*x.shape[1:]))


for _op in ("Add", "Sub", "Sum", "Mean", "Max", "Min"):
    _how = ALL if _op not in ("Max", "Min") else MONOTONE
    _both = {**_how, "zero": Reason.ZERO_SCALE}
    case(f"{_op}, of two branches", _joint(_op), _both, _how)
    case(f"{_op}, as second operand", _joint(_op, first=False), _both, _how)
    if _op not in ("Max", "Min"):
        case(f"{_op}, of a constant map", _constant_map(_op), INVERTIBLE, ALL)
case("Neg", simple("Neg"), ALL, ALL)


def _where(net: Net, x: Value) -> Value:
    other = linear(net, Value("x", net.values[0].shape), 1, x.channels)
    mask = net.const(net.normal(*x.space) > 0)
    return net.node("Where", [mask, other.name, x.name], x.shape)


case("Where", _where, INVERTIBLE, ALL)


def _gated(op: str) -> Build:
    """x times (or over) a gate of one number per channel: σ + ½."""

    def build(net: Net, x: Value) -> Value:
        source = Value("x", net.values[0].shape)
        g = net.node("GlobalAveragePool", ["x"], (*source.shape[:2], 1, 1))
        g = linear(net, g, 1, x.channels)
        g = net.node("Sigmoid", [g.name], g.shape)
        g = net.node("Add", [g.name, net.const(np.array(0.5))], g.shape)
        return net.node(op, [x.name, g.name], x.shape)

    return build


case("Mul, by a gate", _gated("Mul"), SCALE, SCALE)
case("Div, by a gate", _gated("Div"), SCALE, SCALE)


def _concat(axis: int, constant: bool) -> Build:
    """Three more channels, or as many more rows; negative axes count from behind."""

    def build(net: Net, x: Value) -> Value:
        at = axis % x.rank
        more = 3 if at == 1 else x.shape[at]
        if constant:
            other = net.const(net.normal(*x.shape[:at], more, *x.shape[at + 1 :]))
        else:
            other = linear(net, Value("x", net.values[0].shape), 1, 3 if at == 1 else x.channels).name
        shape = (*x.shape[:at], x.shape[at] + more, *x.shape[at + 1 :])
        return net.node("Concat", [other, x.name], shape, axis=axis)

    return build


case("Concat, of channels", _concat(1, False), ALL, ALL)
case("Concat, of rows", _concat(-2, False), INVERTIBLE, ALL)
case("Concat, with a constant", _concat(1, True), ALL, ALL)
case("Concat, with a constant, axis from behind", _concat(-3, True), ALL, ALL)


def _split(axis: int) -> Build:
    """The second part of a Split; the first is an output."""

    def build(net: Net, x: Value) -> Value:
        sizes = (1, x.shape[axis] - 1)
        shapes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in sizes]
        net.node("Split", [x.name, net.ints(*sizes)], *shapes, axis=axis)
        first, second = net.last(2)
        linear(net, first, 1, 5)
        return second

    return build


case("Split, of channels", _split(1), ALL, ALL)
# Both parts are held alike, and the other part's reader takes the inverse: it needs one.
case("Split, of columns", _split(3), ALL, INVERTIBLE)


def _told(op: str) -> Build:
    """x itself; its shape is read beside."""

    def build(net: Net, x: Value) -> Value:
        told = net.fresh()
        net.nodes.append(helper.make_node(op, [x.name], [told], name=f"told_{op}"))
        wide = net.fresh()
        net.nodes.append(helper.make_node("Cast", [told], [wide], name="wide", to=net.element))
        net.values.append(Value(wide, (x.rank,) if op == "Shape" else ()))
        return x

    return build


case("Shape", _told("Shape"), ALL, None)
case("Size", _told("Size"), ALL, None)
