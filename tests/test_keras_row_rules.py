"""What rows of the table make of a call, setting by setting: the nodes, and the rules that they obey.

That what a rule says is so, the tests of each layer show in Keras; here no Keras is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Source
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.rules.weighted_sum import WeightedSum
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.stored import LinearStore
from bnfuse.formats.table import Malformed
from tests.keras_sites import called, drawn, numbers, parts, rule_of, rules, site

Arrays = dict[str, np.ndarray]
Row = tuple[str, Shape | None, dict[str, Any], Arrays, dict[str, Any], list[str]]

IMAGE, STEPS = (None, 9, 8, 3), (None, 2, 9, 8, 3)
CONV: dict[str, Any] = {"filters": 4, "kernel_size": [3, 2]}
SAME: dict[str, Any] = {**CONV, "padding": "same", "strides": [3, 2]}  # fits where 9 and 8 are the sizes
FIRST = {"data_format": "channels_first"}
HALF = {"dtype": {"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}}
PLAIN, PADS = "k3k2i3g1o4 3→3, no bias", "k3k2i3g1o4 3→3, no bias, no shift: ZERO_PADDING"
NONLINEAR, BAD, LOCKED, ABSENT = (
    f"opaque: {reason.name}"
    for reason in (
        Reason.NONLINEAR, Reason.BAD_PARAMETERS, Reason.LOCKED_WEIGHTS, Reason.WEIGHT_NOT_CONSTANT,
    )
)  # fmt: skip
OTHERWISE = "opaque: UNSUPPORTED_OP"


def _kernel(*shape: int, bias: int = 0, dtype: Any = np.float32) -> Arrays:
    return {"kernel": drawn(*shape, dtype=dtype)} | ({"bias": drawn(bias)} if bias else {})


K, T = _kernel(3, 2, 3, 4), _kernel(3, 2, 4, 3)
LOCAL = _kernel(49, 18, 4)
CONVOLUTIONS: list[Row] = [
    ("Conv2D", IMAGE, CONV, K, {}, [PLAIN]),
    ("Conv2D", IMAGE, CONV | {"padding": "same"}, K, {}, [PADS]),
    ("Conv2D", IMAGE, CONV | {"padding": "causal"}, K, {}, [PADS]),
    ("Conv2D", IMAGE, CONV | {"kernel_size": 1, "padding": "same"}, _kernel(1, 1, 3, 4), {},
     ["k1k1i3g1o4 3→3, no bias"]),
    ("Conv2D", (None, None, None, 3), CONV | {"kernel_size": 1, "padding": "same"}, _kernel(1, 1, 3, 4), {},
     ["k1k1i3g1o4 3→3, no bias"]),
    ("Conv2D", (None, 8, 8, 3), CONV | {"kernel_size": 2, "padding": "same"}, _kernel(2, 2, 3, 4), {},
     ["k2k2i3g1o4 3→3, no bias, no shift: ZERO_PADDING"]),
    # whether all windows fit
    ("Conv2D", IMAGE, SAME, K, {}, [PLAIN]),
    ("Conv2D", IMAGE, SAME, K, {"keeps_sizes": False}, [PADS]),
    ("Conv2D", (None, 10, 8, 3), SAME, K, {}, [PADS]),
    ("Conv2D", (None, 9, 7, 3), SAME, K, {}, [PADS]),
    ("Conv2D", (None, 9, None, 3), SAME, K, {}, [PADS]),
    ("Conv2D", (None, 9, 8), SAME, K, {}, [PADS]),
    ("Conv2D", None, SAME, K, {}, [PADS]),
    ("Conv2D", (None, 7, 8, 3), SAME | {"strides": [4, 2]}, K, {}, [PLAIN]),
    ("Conv2D", (None, 8, 6, 3), SAME | {"strides": [5, 4]}, K, {}, [PLAIN]),
    ("Conv2D", (None, 8, 6, 3), SAME | {"strides": [5, 4], "dilation_rate": [2, 1]}, K, {}, [PADS]),
    ("Conv2D", (None, 10, 6, 3), SAME | {"strides": [5, 4], "dilation_rate": [2, 1]}, K, {}, [PLAIN]),
    ("Conv2D", (None, 5, 9, 8, 3), SAME, K, {"lead": 1}, ["k3k2i3g1o4 4→4, no bias"]),
    ("Conv2D", (None, 3, 9, 8), SAME | FIRST, K, {}, ["k3k2i3g1o4 1→1, no bias"]),
    ("Conv2D", (None, 5, 3, 9, 8), SAME | FIRST, K, {"lead": 1}, ["k3k2i3g1o4 2→2, no bias"]),
    # groups
    ("Conv2D", IMAGE, CONV | {"groups": 2}, K, {}, ["k3k2i3g2o2 3→3, no bias"]),
    ("Conv2D", IMAGE, CONV | {"groups": None}, K, {}, [PLAIN]),
    ("Conv2D", IMAGE, CONV | {"groups": 3}, K, {}, [BAD]),
    # what is stored
    ("Conv2D", IMAGE, CONV, K | {"bias": drawn(4)}, {}, ["k3k2i3g1o4 3→3, bias"]),
    ("Conv2D", IMAGE, CONV, K | {"bias": drawn(5)}, {}, [BAD]),
    ("Conv2D", IMAGE, CONV, {}, {}, [ABSENT]),
    ("Conv2D", IMAGE, CONV, K, {"locked": "it is shared"}, [LOCKED]),
    ("Conv2D", IMAGE, CONV | HALF, K, {}, [f"{PLAIN}, in float16"]),
    ("Conv2D", IMAGE, CONV | HALF, _kernel(3, 2, 3, 4, dtype=np.float16), {}, [PLAIN]),
    ("Conv2D", IMAGE, CONV | {"activation": "tanh"}, K, {}, [PLAIN, NONLINEAR]),
    # other kinds
    ("Conv2DTranspose", IMAGE, CONV, T, {}, ["k3k2o4i3 3→3, no bias, no shift: SHIFT_REFUSED"]),
    ("Conv2DTranspose", IMAGE, CONV | {"kernel_size": 1}, _kernel(1, 1, 4, 3), {}, ["k1k1o4i3 3→3, no bias"]),
    ("Conv2DTranspose", IMAGE, CONV | {"kernel_size": 1, "strides": [1, 2]}, _kernel(1, 1, 4, 3), {},
     ["k1k1o4i3 3→3, no bias, no shift: SHIFT_REFUSED"]),
    ("Conv2DTranspose", IMAGE, CONV | {"kernel_size": [1, 2]}, _kernel(1, 2, 4, 3), {},
     ["k1k2o4i3 3→3, no bias, no shift: SHIFT_REFUSED"]),
    ("DepthwiseConv2D", IMAGE, CONV | {"padding": "same"}, _kernel(3, 2, 3, 2), {},
     ["k3k2g3o2 3→3, no bias, no shift: ZERO_PADDING"]),
    ("SeparableConv2D", IMAGE, CONV | {"padding": "same"},
     {"depthwise_kernel": drawn(3, 2, 3, 2), "pointwise_kernel": drawn(1, 1, 6, 4), "bias": drawn(4)}, {},
     ["k3k2g3o2 3→3, no bias ever, no shift: ZERO_PADDING", "k1k1i6o4 3→3, bias"]),
    ("LocallyConnected2D", IMAGE, CONV, LOCAL | {"bias": drawn(7, 7, 4)}, {},
     ["source", "k49k6i3o4 3→3, no bias ever, no shift: SHIFT_REFUSED", "(1.0, 1.0) 0 1[0]"]),
    ("LocallyConnected2D", IMAGE, CONV | {"use_bias": False}, LOCAL, {},
     ["k49k6i3o4 3→3, no bias ever, no shift: SHIFT_REFUSED"]),
    ("LocallyConnected1D", (None, 4, 9, 3), {"kernel_size": 2, "use_bias": False}, _kernel(8, 6, 4),
     {"lead": 1},
     ["k8k2i3o4 3→3, no bias ever, no shift: SHIFT_REFUSED"]),
    ("LocallyConnected2D", IMAGE, CONV | {"implementation": 2}, LOCAL, {}, [OTHERWISE]),
    ("LocallyConnected2D", IMAGE, CONV | FIRST, LOCAL, {}, [OTHERWISE]),
    ("LocallyConnected2D", IMAGE, CONV, LOCAL, {"locked": "it is shared"}, [OTHERWISE]),
    ("LocallyConnected2D", IMAGE, CONV, {}, {}, [OTHERWISE]),
]  # fmt: skip
PRODUCTS: list[Row] = [
    ("Dense", (None, 5), {}, _kernel(5, 4), {}, ["i5o4 1→1, no bias"]),
    ("Dense", (None, 6, 5), {}, _kernel(5, 4), {}, ["i5o4 2→2, no bias"]),
    ("Dense", (None, 6, 5), {}, _kernel(5, 4, 1), {}, [BAD]),
    ("Dense", None, {}, _kernel(5, 4), {}, ["opaque: SHAPE_UNKNOWN"]),
    ("Embedding", (None, 6), {}, {"embeddings": drawn(9, 4)}, {}, ["source"]),
    ("Embedding", None, {}, {"embeddings": drawn(9, 4)}, {}, [ABSENT]),
    ("Embedding", (None, 6), {}, {"embeddings": drawn(9, 4)}, {"locked": "it is shared"}, [ABSENT]),
    ("Embedding", (None, 6), {}, {}, {}, [ABSENT]),
]
GATES = "k3k2i3o16 4→4, no bias"
CELL: dict[str, Any] = {"units": 3}
RECURRENT: list[Row] = [
    ("LSTM", (None, 9, 8), CELL, _kernel(8, 12, bias=12), {}, ["i8o12 2→2, bias", NONLINEAR]),
    ("LSTM", (None, 5, 9, 8), CELL, _kernel(8, 12), {"lead": 1}, ["i8o12 3→3, no bias", NONLINEAR]),
    ("LSTM", (None, 9, 8), CELL | {"dropout": 0.5}, _kernel(8, 12), {}, ["i8o12 2→2, no bias", NONLINEAR]),
    ("LSTM", (None, 9, 8), CELL, _kernel(8, 12), {"training": True}, ["i8o12 2→2, no bias", NONLINEAR]),
    ("LSTM", (None, 9, 8), CELL | {"dropout": 0.5}, _kernel(8, 12), {"training": True},
     ["opaque: TRAINING_MODE"]),
    ("GRU", (None, 9, 8), CELL | {"reset_after": True}, {"kernel": drawn(8, 9), "bias": drawn(2, 9)}, {},
     ["i8o9 2→2, bias", NONLINEAR]),
    ("GRU", (None, 9, 8), CELL | {"reset_after": False}, _kernel(8, 9, bias=9), {},
     ["i8o9 2→2, bias", NONLINEAR]),
    ("ConvLSTM2D", STEPS, CONV, _kernel(3, 2, 3, 16), {}, [GATES, NONLINEAR]),
    ("ConvLSTM2D", STEPS, CONV | {"padding": "same"}, _kernel(3, 2, 3, 16), {},
     [f"{GATES}, no shift: ZERO_PADDING", NONLINEAR]),
    ("ConvLSTM2D", STEPS, CONV | {"padding": "same", "kernel_size": 1}, _kernel(1, 1, 3, 16), {},
     ["k1k1i3o16 4→4, no bias", NONLINEAR]),
    ("ConvLSTM2D", STEPS, CONV | FIRST, _kernel(3, 2, 3, 16), {}, ["k3k2i3o16 2→2, no bias", NONLINEAR]),
    ("ConvLSTM2D", (None, *STEPS), CONV | FIRST, _kernel(3, 2, 3, 16), {"lead": 1},
     ["k3k2i3o16 3→3, no bias", NONLINEAR]),
    ("ConvLSTM2D", (None, *STEPS), CONV, _kernel(3, 2, 3, 16), {"lead": 1},
     ["k3k2i3o16 5→5, no bias", NONLINEAR]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "shape", "config", "arrays", "told", "expected"), [*CONVOLUTIONS, *PRODUCTS, *RECURRENT]
)
def test_what_a_call_is_made_of(
    kind: str,
    shape: Shape | None,
    config: dict[str, Any],
    arrays: Arrays,
    told: dict[str, Any],
    expected: list[str],
) -> None:
    assert rules(site(kind, shape, config, arrays, **told)) == expected


def test_a_table_of_rows() -> None:
    """Which row is chosen by the input: a factor varies along the last axis alone."""
    rule = rule_of(parts(site("Embedding", (None, 6), {}, {"embeddings": drawn(9, 4)}))[0])
    assert isinstance(rule, Source)
    assert (rule.offset, set(rule.chosen), rule.tensor.shape) == (1, {0, 1}, (9, 4))


def test_groups_that_are_no_number() -> None:
    with pytest.raises(Malformed, match="groups 2"):
        rules(site("Conv2D", IMAGE, CONV | {"groups": "2"}, K))


def test_a_separable_convolution_is_two() -> None:
    arrays = {"depthwise_kernel": drawn(3, 2, 3, 2), "pointwise_kernel": drawn(1, 1, 6, 4), "bias": drawn(4)}
    told = []
    for part in parts(site("SeparableConv2D", IMAGE, CONV, arrays)):
        assert isinstance(part.stored, LinearStore)
        told.append((part.op, part.inputs, part.outputs, part.stored.weight, part.stored.bias))
    assert told == [
        ("SeparableConv2D.depthwise", ("x0",), ("y/depthwise",), "depthwise_kernel", ""),
        ("SeparableConv2D.pointwise", ("y/depthwise",), ("y",), "pointwise_kernel", "bias"),
    ]


def test_an_activation_is_behind_the_last_part() -> None:
    arrays = {"depthwise_kernel": drawn(3, 2, 3, 2), "pointwise_kernel": drawn(1, 1, 6, 4)}
    made = parts(site("SeparableConv2D", IMAGE, CONV | {"activation": "tanh"}, arrays))
    assert [part.outputs for part in made] == [("y/depthwise",), ("y/linear",), ("y",)]


def test_the_bias_of_a_layer_is_no_node() -> None:
    rule = rule_of(parts(site("Dense", (None, 5), {}, _kernel(5, 4)))[0])
    assert isinstance(rule, Linear) and rule.bias_nodes == 0


def test_a_state_enters_the_rest_of_the_cell() -> None:
    """Not the kernel: what is asked of it is refused as nonlinear."""
    at = site("LSTM", (None, 9, 8), CELL, _kernel(8, 12), more=((None, 3), (None, 3)), call=called(3))
    kernel, rest = parts(at)
    assert (kernel.inputs, kernel.outputs) == (("x0",), ("y/input",))
    assert (rest.inputs, rest.outputs) == (("y/input", "x1", "x2"), ("y",))
    rule = rule_of(rest)
    assert isinstance(rule, Opaque) and rule.reason is Reason.NONLINEAR


def test_a_bias_of_its_own_for_every_place() -> None:
    """It is added along the places and the filters, which an operand of that shape says."""
    bias = drawn(7, 7, 4)
    source, local, total = parts(site("LocallyConnected2D", IMAGE, CONV, LOCAL | {"bias": bias}))
    rule, added = rule_of(source), rule_of(total)
    assert isinstance(rule, Source) and isinstance(added, WeightedSum)
    np.testing.assert_array_equal(numbers(rule.tensor), bias.astype(np.float64))
    assert (local.outputs, total.inputs, total.outputs) == (("y/product",), ("y/product", "y/bias"), ("y",))
    assert [(o.offset, o.stretched) for o in added.operands] == [(0, frozenset()), (1, frozenset({0}))]


LSTM_CELL = {"class_name": "LSTMCell", "config": {"units": 3}}
GRU_CELL = {"class_name": "GRUCell", "config": {"units": 3, "reset_after": True}}
RNN_CELL = {"class_name": "SimpleRNNCell", "config": {"units": 3}}


def _stack(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "StackedRNNCells", "config": {"cells": list(cells)}}


CELLS: list[tuple[dict[str, Any], str, int, tuple[str | int, ...]]] = [
    # the cell, its kernel, the rows of its bias, and where its settings are
    (LSTM_CELL, "kernel", 0, ("cell", "config")),
    (GRU_CELL, "kernel", 2, ("cell", "config")),
    (RNN_CELL, "kernel", 0, ("cell", "config")),
    (_stack(GRU_CELL, LSTM_CELL), "gru_cell/kernel", 2, ("cell", "config", "cells", 0, "config")),
    (_stack(LSTM_CELL, GRU_CELL), "lstm_cell/kernel", 0, ("cell", "config", "cells", 0, "config")),
]


@pytest.mark.parametrize(("cell", "name", "rows", "inside"), CELLS)
def test_the_first_cell_reads_the_input(
    cell: dict[str, Any], name: str, rows: int, inside: tuple[str | int, ...]
) -> None:
    arrays = {name: drawn(8, 9), name.replace("kernel", "bias"): drawn(*(rows,) * (rows > 0), 9)}
    at = site("RNN", (None, 4, 8), {"cell": cell}, arrays)
    assert rules(at) == ["i8o9 2→2, bias", NONLINEAR]
    kernel, rest = parts(at)
    assert isinstance(kernel.stored, LinearStore)
    assert (kernel.stored.weight, kernel.stored.bias_rows) == (name, rows)
    assert kernel.site is not None and (kernel.site.inside, rest.site) == (inside, None)


def test_cells_of_somebody_else_are_not_looked_into() -> None:
    foreign = LSTM_CELL | {"registered_name": "Mine>LSTMCell"}
    for cell in (foreign, _stack(LSTM_CELL, foreign), _stack(), None):
        at = site("RNN", (None, 4, 8), {"cell": cell}, _kernel(8, 12))
        assert rules(at) == [OTHERWISE]
