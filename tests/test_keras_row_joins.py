"""Functions that put several tensors in one, or cut one into several: by the call alone, without Keras."""

from __future__ import annotations

from typing import Any

import pytest

from bnfuse.core.rules.joint import ConcatSplit
from bnfuse.formats.keras.rows.ops import output_shapes
from tests.keras_configs import tensor
from tests.keras_sites import function, parts, rule_of, rules, tf_function

X = (2, 3, 4, 5)


def test_pieces_and_what_is_put_together() -> None:
    """Sizes of what a split puts out, and of what a stack does."""
    for config, expected in (
        ({"indices_or_sections": 2, "axis": 2}, ((2, 3, 2, 5), (2, 3, 2, 5))),
        ({"indices_or_sections": [1, 3], "axis": -1}, ((2, 3, 4, 1), (2, 3, 4, 2), (2, 3, 4, 2))),
    ):
        at = function("Split", [X], **config)
        assert output_shapes(at.layer, [X], at.call) == expected
    at = function("Unstack", [X], num=None, axis=1)
    assert output_shapes(at.layer, [X], at.call) == ((2, 4, 5),) * 3
    assert output_shapes(at.layer, [None], at.call) == (None,)
    for axis, stacked in (
        (1, (2, 2, 3, 4, 5)),
        (-1, (2, 3, 4, 5, 2)),
        (0, (2, 2, 3, 4, 5)),
        (-2, (2, 3, 4, 2, 5)),
    ):
        at = function("Stack", [X, X], [tensor("x0"), tensor("x1")], axis=axis)
        assert output_shapes(at.layer, [X, None], at.call) == (stacked,)
        assert output_shapes(at.layer, [None, X], at.call) == (stacked,)
        assert output_shapes(at.layer, [None, None], at.call) == (None,)


SPLITS: list[tuple[Any, int, list[str]]] = [
    # sizes as TensorFlow has them, how many of the pieces are there, and the rules
    ([1, -1, 2], 3, ["(-1, -2, -3) side by side along 3: (1, 2, 2)"]),
    ([1, 2, 2], 2, ["(-1, -2, -3) side by side along 3: (1, 2, 2)"]),
    ([1, 2], 2, ["opaque: UNSUPPORTED_OP"]),
    ([5, 0], 2, ["opaque: UNSUPPORTED_OP"]),
    ([1, -1], 3, ["opaque: AXIS"]),
    (5, 5, ["(-1, -2, -3, -4, -5) side by side along 3: (1, 1, 1, 1, 1)"]),
    (2, 2, ["opaque: UNSUPPORTED_OP"]),
    (1, 1, ["(-1,) side by side along 3: (5,)"]),
    (0, 1, ["opaque: UNSUPPORTED_OP"]),
    ([-2, 7], 2, ["opaque: UNSUPPORTED_OP"]),
]


@pytest.mark.parametrize(("sizes", "count", "expected"), SPLITS)
def test_pieces_of_tensorflow(sizes: Any, count: int, expected: list[str]) -> None:
    at = tf_function("split", [X], out=(None,) * count, num_or_size_splits=sizes, axis=3)
    assert rules(at) == expected
    (part,) = parts(at)
    if expected[0].startswith("("):
        assert part.outputs[:count] == at.outputs
        assert len(set(part.outputs)) == expected[0].count("-")  # whoever is not read has a name, too


def test_what_lies_between_stack_and_unstack() -> None:
    at = function("Stack", [X, X], [tensor("x0"), tensor("x1")], axis=1)
    *each, joined = parts(at)
    assert [(part.role, part.inputs, part.outputs) for part in each] == [
        ("expand0", ("x0",), ("y/expand0",)),
        ("expand1", ("x1",), ("y/expand1",)),
    ]
    assert (joined.inputs, joined.outputs) == (("y/expand0", "y/expand1"), ("y",))
    rule = rule_of(joined)
    assert isinstance(rule, ConcatSplit) and rule.whole == ~0
    cut, *each = parts(function("Unstack", [X], num=None, axis=1, out=(None,) * 3))
    assert cut.outputs == ("y/piece0", "y/piece1", "y/piece2")
    assert [(part.role, part.inputs, part.outputs) for part in each] == [
        ("squeeze0", ("y/piece0",), ("y",)),
        ("squeeze1", ("y/piece1",), ("y1",)),
        ("squeeze2", ("y/piece2",), ("y2",)),
    ]
    rule = rule_of(cut)
    assert isinstance(rule, ConcatSplit) and rule.whole == 0
