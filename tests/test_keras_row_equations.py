"""What an equation of an EinsumDense is made of, and how its bias is stored; without Keras."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from bnfuse.core.reparam import from_backward
from bnfuse.core.rules.base import Opaque, Pass
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.equations import HeadsStore
from bnfuse.formats.keras.rows.stored import LinearStore
from tests.held_values import hold
from tests.keras_sites import drawn, function, numbers, parts, rule_of, rules, site

X, PLANES = (None, 6, 5), (None, 6, 3, 5)
UNKNOWN, OTHERWISE = "opaque: SHAPE_UNKNOWN", "opaque: UNSUPPORTED_OP"
PASS, OPEN = "pass, any", "no shift: SHIFT_REFUSED"
# Equation, axes of the bias, the shapes of input, kernel, bias and output, and the rules.
EQUATIONS: list[tuple[str, Any, Shape | None, tuple[int, ...], tuple[int, ...], Shape | None, str]] = [
    ("abc,cd->abd", None, X, (5, 4), (), (None, 6, 4), "i5o4 2→2, no bias"),
    ("abc,cd->abd", "", X, (5, 4), (), (None, 6, 4), "i5o4 2→2, no bias"),
    ("abc,cd->abd", "d", X, (5, 4), (4,), (None, 6, 4), "i5o4 2→2, bias"),
    ("abc, cd -> adb", "d", X, (5, 4), (4, 1), (None, 4, 6), "i5o4 2→1, bias"),
    ("abc,bd->adc", None, X, (6, 4), (), (None, 4, 5), "i6o4 1→1, no bias"),
    ("...x,xy->...y", "y", (None, 7, 6, 5), (5, 4), (4,), (None, 7, 6, 4), "i5o4 3→3, bias"),
    ("ab...,bc->ac...", None, X, (6, 4), (), (None, 4, 5), "i6o4 1→1, no bias"),
    # side by side they are one axis
    ("abc,cde->abde", None, X, (5, 2, 4), (), (None, 6, 2, 4), f"i5o2o4 2→2, no bias; {PASS}"),
    ("abc,cde->abde", "de", X, (5, 2, 4), (2, 4), (None, 6, 2, 4), f"i5o2o4 2→2, bias; {PASS}"),
    ("abc,cde->abde", "e", X, (5, 2, 4), (4,), (None, 6, 2, 4), f"i5o2o4 2→2, bias; {PASS}"),
    ("abcd,cde->abe", "e", PLANES, (3, 5, 4), (4,), (None, 6, 4), f"{PASS}; i3i5o4 2→2, bias"),
    ("abcd,cde->aeb", None, PLANES, (3, 5, 4), (), (None, 4, 6), f"{PASS}; i3i5o4 2→1, no bias"),
    ("abc,bcd->ad", "d", X, (6, 5, 4), (4,), (None, 4), f"{PASS}; i6i5o4 1→1, bias"),
    ("abcd,efcd->abef", None, PLANES, (2, 4, 3, 5), (), (None, 6, 2, 4),
     f"{PASS}; o2o4i3i5 2→2, no bias; {PASS}"),
    ("abc,bcd->abd", None, X, (6, 5, 4), (), (None, 6, 4), f"{PASS}; g6i5o4 1→1, no bias; {PASS}"),
    ("abcd,cde->abce", None, PLANES, (3, 5, 4), (), (None, 6, 3, 4), f"{PASS}; g3i5o4 2→2, no bias; {PASS}"),
    ("abc,c->abc", "c", X, (5,), (5,), X, "g5 2→2, bias"),
    ("abc,bc->abc", None, X, (6, 5), (), X, f"{PASS}; g6g5 1→1, no bias; {PASS}"),
    ("ab,ab->ab", None, (3, 5), (3, 5), (), (3, 5), f"{PASS}; g3g5 0→0, no bias; {PASS}"),
    # apart, or in another order, the last is the axis
    ("abc,cbd->abd", None, X, (5, 6, 4), (), (None, 6, 4), f"i5k6o4 2→2, no bias, {OPEN}"),
    ("abc,ced->abde", None, X, (5, 4, 2), (), (None, 6, 2, 4), f"i5o4k2 2→3, no bias, {OPEN}"),
    ("abc,cde->abed", None, X, (5, 2, 4), (), (None, 6, 4, 2), f"i5o2k4 2→3, no bias, {OPEN}"),
    ("abc,cde->adbe", None, X, (5, 2, 4), (), (None, 2, 6, 4), f"i5k2o4 2→3, no bias, {OPEN}"),
    ("abcd,dcef->abef", None, PLANES, (5, 3, 2, 4), (), (None, 6, 2, 4), f"i5k3k2o4 3→3, no bias, {OPEN}"),
    ("abcd,cbe->ade", None, PLANES, (3, 6, 4), (), (None, 5, 4), "i3k6o4 2→2, no bias"),
    ("abcd,bd->abcd", None, PLANES, (6, 5), (), PLANES, f"k6g5 3→3, no bias, {OPEN}"),
    ("...abc,cd->...abd", None, X, (5, 4), (), (None, 6, 4), "i5o4 2→2, no bias"),
    # a bias along other axes is a constant that is added
    ("abc,cde->abde", "d", X, (5, 2, 4), (2, 1), (None, 6, 2, 4),
     f"i5o2o4 2→2, no bias ever; source; {PASS}; (1.0, 1.0) 0 2[0, 1, 3]"),
    ("abc,cd->abd", "b", X, (5, 4), (6, 1), (None, 6, 4),
     "source; i5o4 2→2, no bias ever; (1.0, 1.0) 0 1[0, 2]"),
    ("abc,cd->abd", "bd", X, (5, 4), (6, 4), (None, 6, 4),
     "source; i5o4 2→2, no bias ever; (1.0, 1.0) 0 1[0]"),
    ("abc,cd->abd", "b", X, (5, 4), (), (None, 6, 4), "opaque: LOCKED_WEIGHTS"),
    ("abc,cd->abd", "b", X, (5, 4), (1, 1, 6, 1), (None, 6, 4), "opaque: LOCKED_WEIGHTS"),
    # where Keras adds it along another axis than its shape says
    ("abc,cd->adb", "d", X, (5, 4), (4, 1), (None, 4, 4), OTHERWISE),
    ("abc,cd->adb", None, X, (5, 4), (), (None, 4, 4), "i5o4 2→1, no bias ever"),
    ("abc,cd->abd", None, X, (5, 4), (), None, "i5o4 2→2, no bias ever"),
    ("abc,cd->adb", None, X, (5, 4), (), (None, None, 6), "i5o4 2→1, no bias ever"),
    ("abc,cd->abd", "b", (None, 4, 5), (5, 4), (4, 1), (None, 4, 4), OTHERWISE),
    ("abc,cd->abd", "abd", X, (5, 4), (1, 6, 4), (None, 6, 4),
     "source; i5o4 2→2, no bias ever; (1.0, 1.0) 0 0[0]"),
    ("abc,cde->abde", "e", (None, 2, 5), (5, 2, 1), (1,), (None, 2, 2, 1),
     f"i5o2o1 2→2, no bias ever; {PASS}"),
    ("abc,cde->adeb", None, X, (5, 4, 4), (), (None, 4, 4, 6), f"i5o4o4 2→1, no bias ever; {PASS}"),
    # no equation of a kernel
    ("abc,cd->abd", "z", X, (5, 4), (4,), (None, 6, 4), OTHERWISE),
    ("abc,cd->abd", 3, X, (5, 4), (4,), (None, 6, 4), OTHERWISE),
    ("abc,cd->abd", None, None, (5, 4), (), (None, 6, 4), UNKNOWN),
    ("abc,cd->ad", None, X, (5, 4), (), (None, 4), UNKNOWN),
    ("abb,bc->ac", None, X, (5, 4), (), (None, 4), UNKNOWN),
    ("abc->ab", None, X, (5, 4), (), (None, 6), UNKNOWN),
    ("abc,cd-abd", None, X, (5, 4), (), (None, 6), UNKNOWN),
    ("abc,xd->abd", None, X, (5, 4), (), (None, 6), UNKNOWN),
    ("abc,d->abcd", None, X, (5,), (), (None, 6, 5, 5), UNKNOWN),
    ("abc,c->ab", None, X, (5,), (), (None, 6), UNKNOWN),
    ("bc,cd->bd", None, X, (5, 4), (), (None, 6, 4), UNKNOWN),
    ("abcde,ef->abcdf", None, X, (5, 4), (), (None, 6, 4), UNKNOWN),
    ("abc,ccd->abd", None, X, (5, 5, 4), (), (None, 6, 4), UNKNOWN),
    ("abc,cd->abdd", None, X, (5, 4), (), (None, 6, 4, 4), UNKNOWN),
    ("abc,cdz->abd", None, X, (5, 4, 2), (), (None, 6, 4), UNKNOWN),
    ("abc,cd->abcd", None, X, (5, 4), (), (None, 6, 5, 4), UNKNOWN),
    ("abc,bc->ab", None, X, (6, 5), (), (None, 6), UNKNOWN),
    ("abc,->abc", None, X, (), (), X, UNKNOWN),
    ("abc,cd->abd", None, X, (5, 4, 1), (), (None, 6, 4), "opaque: BAD_PARAMETERS"),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "axes", "shape", "kernel", "bias", "out", "expected"), EQUATIONS)
def test_what_an_equation_is_made_of(
    equation: str,
    axes: Any,
    shape: Shape | None,
    kernel: tuple[int, ...],
    bias: tuple[int, ...],
    out: Shape | None,
    expected: str,
) -> None:
    arrays = {"kernel": drawn(*kernel)} | ({"bias": drawn(*bias)} if bias else {})
    at = site("EinsumDense", shape, {"equation": equation, "bias_axes": axes}, arrays, out=out)
    assert "; ".join(rules(at)) == expected


def _chain(
    equation: str, axes: Any, shape: Shape, kernel: tuple[int, ...], bias: tuple[int, ...], out: Shape
) -> Any:
    arrays = {"kernel": drawn(*kernel)} | ({"bias": drawn(*bias)} if bias else {})
    made = parts(site("EinsumDense", shape, {"equation": equation, "bias_axes": axes}, arrays, out=out))
    return [(part.role, part.inputs, part.outputs) for part in made], made


def test_what_lies_between_the_parts() -> None:
    told, made = _chain("abcd,efcd->abef", None, PLANES, (2, 4, 3, 5), (), (None, 6, 2, 4))
    assert told == [
        ("joined", ("x0",), ("y/joined",)),
        ("", ("y/joined",), ("y/whole",)),
        ("parted", ("y/whole",), ("y",)),
    ]
    assert {part.op for part in made} == {"EinsumDense"}
    told, _ = _chain("abc,cd->abd", None, X, (5, 4), (), (None, 6, 4))
    assert told == [("", ("x0",), ("y",))]
    told, _ = _chain("abcd,cde->abe", None, PLANES, (3, 5, 4), (), (None, 6, 4))
    assert told == [("joined", ("x0",), ("y/joined",)), ("", ("y/joined",), ("y",))]
    told, _ = _chain("abc,cde->abde", "d", X, (5, 2, 4), (2, 1), (None, 6, 2, 4))
    assert told == [
        ("", ("x0",), ("y/whole",)),
        ("bias", (), ("y/bias",)),
        ("parted", ("y/whole",), ("y/product",)),
        ("sum", ("y/product", "y/bias"), ("y",)),
    ]


def test_several_axes_as_one() -> None:
    """What is joined in front of the kernel, and parted behind it, are the same elements."""
    _, (joined, _, parted) = _chain("abcd,efcd->abef", None, PLANES, (2, 4, 3, 5), (), (None, 6, 2, 4))
    rng = np.random.default_rng(7)
    x, y, z = rng.normal(size=(2, 6, 3, 5)), rng.normal(size=(2, 6, 8)), rng.normal(size=(2, 6, 3, 5, 4))
    _, (front, _) = _chain("abcde,bcf->afde", None, (None, 6, 3, 5, 4), (6, 3, 2), (), (None, 2, 5, 4))
    ends = (joined, x, (2, 6, 15)), (parted, y, (2, 6, 2, 4)), (front, z, (2, 18, 5, 4))
    for part, value, shape in ends:
        rule = rule_of(part)
        assert isinstance(rule, Pass)
        for axis in range(1, value.ndim):
            n = value.shape[axis]
            held = from_backward((axis,), rng.standard_normal((n,)), rng.standard_normal((n,)))
            moved = rule.axes.forward(held)
            assert moved is not None
            np.testing.assert_allclose(hold(moved, value.reshape(shape)), hold(held, value).reshape(shape))


class _Edits:
    """What a store puts where."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.config: dict[str, Any] = {}

    def put(self, _: Any, name: str, array: np.ndarray) -> None:
        self.arrays[name] = array

    def configure(self, _: Any, settings: dict[str, Any]) -> None:
        self.config |= settings


def test_a_bias_that_is_written() -> None:
    """Along the last letter alone, where all heads have the same and it had no other; else along all."""
    same, apart = np.tile(np.arange(4.0), 2), np.arange(8.0)
    for axes, equation, laid in (
        (None, "abc,cde->abde", ()), ("", "abc,cde->abde", ()), ("e", "abc,cde->abde", ()),
        ("de", "abc,cde->abde", ()), (None, "abc,cde->adeb", (1,)),
    ):  # fmt: skip
        out = (None, 2, 4, 6) if laid else (None, 6, 2, 4)
        config, arrays = {"equation": equation, "bias_axes": axes}, {"kernel": drawn(5, 2, 4)}
        at = site("EinsumDense", X, config, arrays, out=out)
        store = parts(at)[0].stored
        assert isinstance(store, HeadsStore)
        for bias in (same, apart):
            edits = _Edits()
            store.store_bias(at, bias, cast(Any, edits))
            alone = bias is same and axes != "de"
            expected = np.arange(4.0).reshape(4, *laid) if alone else bias.reshape(2, 4, *laid)
            np.testing.assert_array_equal(edits.arrays["bias"], expected)
            assert edits.arrays["bias"].shape == expected.shape
            assert edits.config == {"bias_axes": "e" if alone else "de"}


def test_a_bias_that_is_written_for_three_letters() -> None:
    for axes in (None, "f"):
        config, arrays = {"equation": "abc,cdef->abdef", "bias_axes": axes}, {"kernel": drawn(5, 2, 3, 4)}
        at = site("EinsumDense", X, config, arrays, out=(None, 6, 2, 3, 4))
        store = parts(at)[0].stored
        assert isinstance(store, HeadsStore)
        edits = _Edits()
        store.store_bias(at, np.tile(np.arange(4.0), 6), cast(Any, edits))
        np.testing.assert_array_equal(edits.arrays["bias"], np.arange(4.0))
        assert edits.config == {"bias_axes": "f"}


def test_how_a_bias_is_stored() -> None:
    """In the shape that broadcasts, and what the config says then."""
    _, (part,) = _chain("abc,cd->adb", None, X, (5, 4), (), (None, 4, 6))
    assert part.stored == LinearStore(enables={"bias_axes": "d"}, bias_shape=(4, 1))
    _, (part, _) = _chain("abc,cde->abde", None, X, (5, 2, 4), (), (None, 6, 2, 4))
    assert part.stored == HeadsStore(bias_shape=(2, 4), letters="de", heads=2)
    _, (part, *_) = _chain("abc,cde->adeb", None, X, (5, 2, 4), (), (None, 2, 4, 6))
    assert part.stored == HeadsStore(bias_shape=(2, 4, 1), letters="de", heads=2)
    _, (part, *_) = _chain("abc,cdef->abdef", None, X, (5, 2, 3, 4), (), (None, 6, 2, 3, 4))
    assert part.stored == HeadsStore(bias_shape=(2, 3, 4), letters="def", heads=6)


def test_a_bias_apart_that_stays() -> None:
    """It may not change, or is no array of floats."""
    config, kernel = {"equation": "abc,cd->abd", "bias_axes": "b"}, {"kernel": drawn(5, 4)}
    for arrays, why, detail in (
        (kernel | {"bias": drawn(6, 1)}, "it is shared", "it is shared"),
        (kernel, "", "its bias is no array of floats"),
    ):
        at = site("EinsumDense", X, config, arrays, out=(None, 6, 4), locked=why)
        rule = rule_of(parts(at)[0])
        assert isinstance(rule, Opaque)
        assert (rule.reason, rule.detail) == (Reason.LOCKED_WEIGHTS, detail)


def test_a_bias_that_all_heads_share() -> None:
    _, (part, _) = _chain("abc,cde->abde", "e", X, (5, 2, 4), (4,), (None, 6, 2, 4))
    rule = rule_of(part)
    assert isinstance(rule, Linear)
    np.testing.assert_array_equal(numbers(rule.bias).reshape(2, 4), np.tile(drawn(4), (2, 1)))


def test_an_equation_without_a_kernel() -> None:
    at = site("EinsumDense", X, {"equation": "abc,cd->abd"}, {}, out=(None, 6, 4))
    assert rules(at) == ["opaque: WEIGHT_NOT_CONSTANT"]


def test_behind_a_call_comes_a_difference() -> None:
    """Which every backend lays where its shape says."""
    kernel = {"class_name": "__numpy__", "config": {"value": drawn(5, 4).tolist(), "dtype": "float32"}}
    for shape, out in (((2, 4, 6, 5), (2, 4, 4, 6)), ((2, 3, 6, 5), (2, 3, 4, 6))):
        at = function("Einsum", [shape], kernel, out=[out], subscripts="abcd,de->abec")
        assert rules(at) == ["i5o4 3→2, no bias"]
