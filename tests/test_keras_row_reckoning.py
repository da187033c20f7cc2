"""Functions that reckon with constants, over axes and between types: by the call alone, without Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from bnfuse.core.reparam import from_backward
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Pass
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.ops import named, output_shapes
from bnfuse.formats.keras.rows.site import Site
from bnfuse.formats.keras.rows.stored import OperandStore
from tests.held_values import hold
from tests.keras_configs import tensor
from tests.keras_sites import function, parts, rule_of, rules, site, tf_function

X, ALIKE = (2, 3, 4, 5), (2, 4, 4, 5)
UNSUPPORTED, WIDER, BAD = "opaque: UNSUPPORTED_OP", "opaque: BROADCAST", "opaque: BAD_PARAMETERS"
COLUMN = [[1.0], [2.0], [3.0], [4.0]]
x = tensor("x0")


def _array(values: Any, dtype: str = "float32") -> dict[str, Any]:
    return {"class_name": "__numpy__", "config": {"value": values, "dtype": dtype}}


def _with(
    name: str, constant: Any, shape: Shape = X, *, first: bool = False, of_type: str = "float32"
) -> Site:
    args = (constant, x) if first else (x, constant)
    return function(name, [shape], *args, out=[shape], of_type=of_type)


BROKEN: list[tuple[str, list[float]]] = [
    ("Multiply", [1, 2, 0, 4, 5]),
    ("Multiply", [1, 2, float("nan"), 4, 5]),
    ("Multiply", [1, 2, float("inf"), 4, 5]),
    ("Add", [1, 2, float("inf"), 4, 5]),
    ("Divide", [1, 2, float("inf"), 4, 5]),
]


@pytest.mark.parametrize(("name", "values"), BROKEN)
def test_one_number_that_is_none_is_enough(name: str, values: list[float]) -> None:
    assert rules(_with(name, _array(values))) == [BAD]


PLACES: list[tuple[Site, str]] = [
    # one number, however it is laid
    (_with("Add", _array([2.0])), "affine (): shift"),
    (_with("Multiply", _array([[2.0]])), "affine (): scale"),
    # a vector along axis 2, which Keras adds along axis 1 where the sizes are the same
    (_with("Add", _array(COLUMN), ALIKE), UNSUPPORTED),
    (_with("Add", _array(COLUMN), ALIKE, first=True), "affine (2,): shift"),
    (_with("Subtract", _array(COLUMN), ALIKE), "affine (2,): shift"),
    (_with("Multiply", _array(COLUMN), ALIKE), "affine (2,): scale"),
    (tf_function("math.add", [ALIKE], out=[ALIKE], y=COLUMN), "affine (2,): shift"),
    (tf_function("nn.bias_add", [X], out=[X], bias=[1, 2, 3, 4, 5]), "affine (3,): shift"),
    (
        tf_function("nn.bias_add", [X], out=[X], bias=[1, 2, 3, 4, 5], data_format="NHWC"),
        "affine (3,): shift",
    ),
    (tf_function("nn.bias_add", [X], out=[X], bias=[1, 2, 3], data_format="NCHW"), UNSUPPORTED),
    # lists are float32 to TensorFlow
    (_with("Add", [1, 2, 3, 4, 5]), "affine (3,): shift"),
    (_with("Add", [1, 2, 3, 4, 5], of_type="float64"), UNSUPPORTED),
    (_with("Add", 2.0, of_type="float64"), "affine (): shift"),
    (_with("Add", _array([1, 2, 3, 4, 5], "float64"), of_type="float64"), "affine (3,): shift"),
    (_with("Add", _array([1, 2, 3, 4, 5], "float64")), UNSUPPORTED),
    (_with("Add", 2.0, of_type="bfloat16"), UNSUPPORTED),
    (_with("Add", 2.0, of_type="float16"), "affine (): shift"),
    (_with("Multiply", 1e39), BAD),
]


@pytest.mark.parametrize(("at", "expected"), PLACES)
def test_where_a_constant_lies(at: Site, expected: str) -> None:
    assert rules(at) == [expected]


def test_in_a_step_the_steps_are_no_axis() -> None:
    """A constant along them, or with as many axes as all together, makes the result larger."""
    shape = (None, 5, 4, 3)
    for values, expected in (
        ([1, 2, 3], "affine (3,): shift"),
        ([[[1, 2, 3]]], "affine (3,): shift"),
        ([[[[1, 2, 3]]]], WIDER),
        ([[[1]], [[2]], [[3]], [[4]], [[5]]], WIDER),
        ([[1], [2], [3], [4]], "affine (2,): shift"),
    ):
        assert rules(replace(_with("Subtract", _array(values), shape), lead=1)) == [expected]


def test_constants_are_read_in_the_type_of_the_call() -> None:
    """And as one number, not as a vector of one."""
    for of_type, read in (("float64", np.float64), ("float32", np.float32), ("float16", np.float16)):
        rule = rule_of(parts(_with("Add", 0.1, of_type=of_type))[0])
        assert isinstance(rule, Affine)
        np.testing.assert_array_equal(rule.pair, (1.0, float(read(0.1))))
        assert rule.pair[0].shape == rule.pair[1].shape == ()
    rule = rule_of(parts(replace(_with("Add", 0.1), dtypes=(None,)))[0])
    assert isinstance(rule, Affine) and rule.pair[1] == np.float32(0.1)


def test_unknown_types_are_those_of_float32() -> None:
    assert rules(replace(_with("Add", 2.0), dtypes=(None,))) == ["affine (): shift"]
    assert rules(replace(_with("Add", [1, 2, 3, 4, 5]), dtypes=(None,))) == [
        "pass, any"
    ]  # not to be rewritten


@pytest.mark.parametrize("first", [False, True])
def test_constants_that_cannot_be_rewritten(first: bool) -> None:
    """The call passes on what may pass; what is added along several axes does not."""
    rng = np.random.default_rng(3)
    v = rng.standard_normal(X)

    def does(u: Any, k: Any) -> Any:
        return k - u if first else u - k

    for constant in (_array([1, 2, 3, 4, 5]), -2.0):
        k = np.asarray(constant["config"]["value"] if isinstance(constant, dict) else constant, float)
        at = replace(_with("Subtract", constant, first=first), holds_arrays=False)
        twice = _with("Subtract", constant, first=first)
        twice.layer.calls *= 2
        for each in (at, twice):
            (part,) = parts(each)
            rule = rule_of(part)
            assert isinstance(rule, Pass)
            for axis in (1, 2, 3):
                held = from_backward((axis,), rng.standard_normal(X[axis]), rng.standard_normal(X[axis]))
                moved = rule.axes.forward(held)
                assert moved is not None
                np.testing.assert_allclose(hold(moved, does(v, k)), does(hold(held, v), k), atol=1e-12)
    table = np.arange(1.0, 21.0).reshape(4, 5).tolist()
    assert rules(replace(_with("Add", _array(table)), holds_arrays=False)) == [WIDER]


def test_how_a_constant_is_stored() -> None:
    for name, first in (("Add", False), ("Subtract", True), ("Multiply", True), ("Divide", False)):
        (part,) = parts(_with(name, _array([1, 2, 3, 4, 5]), first=first))
        assert part.stored == OperandStore(op=name, first=first)


TO_SIZE: dict[str, Any] = {"size": [6, 8], "interpolation": "nearest", "antialias": False}
RESIZED: list[tuple[Shape | None, Shape | None, str]] = [
    ((2, 3, 4, 5), (2, 6, 8, 5), "pass, any, mixes [1, 2]"),
    ((2, 3, 4, 5), (2, 3, 6, 8), "pass, any, mixes [2, 3]"),
    ((2, 3, 4, None), (2, 6, 8, None), UNSUPPORTED),
    ((2, None, 4, 5), (2, None, 6, 8), UNSUPPORTED),
    ((2, 3, 4, 5), (2, 6, 7, 5), UNSUPPORTED),
    ((2, 3, 4, 5), (2, 3, 6, 7), UNSUPPORTED),
    ((2, 3, 4, 5), (2, 6, 8, 4), UNSUPPORTED),
    ((2, 3, 4, 5), (2, 4, 6, 8), UNSUPPORTED),
    (None, (2, 6, 8, 5), UNSUPPORTED),
    ((2, 3, 4, 5), None, UNSUPPORTED),
    ((3, 4, 5), (2, 6, 8, 5), UNSUPPORTED),
    ((2, 3, 4, 5), (6, 8, 5), UNSUPPORTED),
]


@pytest.mark.parametrize(("before", "after", "expected"), RESIZED)
def test_an_image_format_that_the_call_does_not_tell(
    before: Shape | None, after: Shape | None, expected: str
) -> None:
    """Whoever runs the model chooses it: the sizes tell what it was where the file was made."""
    assert rules(function("Resize", [before], out=[after], data_format=None, **TO_SIZE)) == [expected]


def test_an_image_format_that_the_sizes_do_not_tell() -> None:
    cube = (2, 6, 6, 6)
    config: dict[str, Any] = {"size": [6, 6], "interpolation": "nearest", "antialias": False}
    assert rules(function("Resize", [cube], out=[cube], data_format=None, **config)) == [UNSUPPORTED]


OVER_AXES: list[tuple[str, dict[str, Any], str]] = [
    ("Mean", {"axis": -1, "keepdims": True}, "pass, any, mixes [3], of [3]"),
    ("Mean", {"axis": [1, 2], "keepdims": False}, "pass, any, mixes [1, 2]"),
    ("Sum", {"axis": 1, "keepdims": False}, "pass, any, mixes [1]"),
    ("Max", {"axis": 1, "keepdims": True, "initial": None}, "pass, non-negative, mixes [1], of [1]"),
    ("Sort", {"axis": 1}, "pass, non-negative, mixes [1]"),
    ("Cumsum", {"axis": 1, "dtype": None}, "pass, any, no shift: SHIFT_REFUSED, mixes [1]"),
    ("Negative", {}, "pass, any"),
]


@pytest.mark.parametrize(("name", "config", "expected"), OVER_AXES)
def test_what_a_function_over_axes_passes_on(name: str, config: dict[str, Any], expected: str) -> None:
    assert rules(function(name, [X], out=[X], **config)) == [expected]


CASTS: list[tuple[str, str, str]] = [
    ("float16", "float16", "pass, any"),
    ("float16", "bfloat16", "opaque: OTHER_TYPE"),
    ("float16", "float32", "pass, any"),
    ("bfloat16", "float16", "opaque: OTHER_TYPE"),
    ("bfloat16", "bfloat16", "pass, any"),
    ("bfloat16", "float32", "pass, any"),
    ("float32", "float64", "pass, any"),
    ("float64", "float32", "opaque: OTHER_TYPE"),
    ("float32", "int32", UNSUPPORTED),
    ("int32", "float32", UNSUPPORTED),
]


@pytest.mark.parametrize(("has", "to", "expected"), CASTS)
def test_casts(has: str, to: str, expected: str) -> None:
    """To a wider type nothing is lost; float16 has more digits than bfloat16, which reaches further."""
    for at in (function("Cast", [X], of_type=has, dtype=to), tf_function("cast", [X], of_type=has, dtype=to)):
        assert rules(at) == [expected]


SIZES: list[tuple[Site, Shape | None]] = [
    (_with("Add", 2.0), X),
    (_with("Add", _array([1.0] * 5)), X),
    (_with("Multiply", _array([[[[[1.0]]]]])), (1, *X)),
    (function("Add", [None], x, _array([1.0] * 5)), None),
    (tf_function("math.greater", [X], y=2.0), X),
    (tf_function("math.pow", [X], y=[[1.0] * 5] * 4), X),
    (tf_function("math.less", [None], y=2.0), None),
    (function("Maximum", [X], x, _array([1.0] * 5)), X),
    (function("Maximum", [X], _array([1.0] * 5), x), X),
    (function("Maximum", [X], _array([[[[[1.0]]]]]), x), (1, *X)),
    (function("Divide", [X, (5,)]), X),
    (function("Divide", [X, None]), None),
    (tf_function("math.greater", [X, (5,)], raw=["x0", 0, 0, {"y": ["x1", 0, 0]}]), X),
    (tf_function("math.greater", [(5,), X], raw=["x0", 0, 0, {"y": ["x1", 0, 0]}]), X),
    (tf_function("math.pow", [X], y=[[[[[1.0]]]]]), (1, *X)),
    (function("Where", [X, X, (4, 1)]), X),
    (tf_function("shape", [X]), (4,)),
    (function("Tanh", [X]), X),
    (function("Resize", [X], **TO_SIZE, data_format=None), None),
    (function("Resize", [X], **TO_SIZE, data_format="channels_last"), (2, 6, 8, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("at", "expected"), SIZES)
def test_sizes(at: Site, expected: Shape | None) -> None:
    assert at.call is not None
    assert output_shapes(at.layer, at.call.shapes, at.call) == (expected,)


def test_functions_that_are_not_looked_into() -> None:
    assert rules(tf_function("math.greater", [X], y=2.0)) == [UNSUPPORTED]
    assert rules(tf_function("shape", [X])) == ["shapeonly"]
    assert rules(function("Where", [X, (2, 1, 4, 5), X], out=[X])) == [WIDER]
    assert rules(function("Where", [X, X, (4, 5)], out=[X])) == [WIDER]
    assert named("Cast").traits


def test_sizes_that_may_be_one() -> None:
    """Two of one tensor that are not known need not be the same; a layer's are."""
    open_, row = (None, None, 3), (None, 4, 3)
    assert rules(function("Add", [open_, open_], out=[open_])) == ["(1.0, 1.0) 0[1] 0[1]"]
    assert rules(function("Multiply", [open_, row], out=[open_])) == ["(1, 1) 0[1] 0"]
    assert rules(site("Add", open_, {}, more=(open_,), out=open_)) == ["(1.0, 1.0) 0 0"]
