"""What an equation of an EinsumDense is made of, and kernels stored as integers; without Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats.keras.graph.network import Shape
from bnfuse.formats.keras.rows.equations import HeadsStore
from bnfuse.formats.keras.rows.quantised_layers import QuantisedStore
from bnfuse.formats.keras.rows.stored import LinearStore
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
    # apart, or in another order, the last is the axis
    ("abc,cbd->abd", None, X, (5, 6, 4), (), (None, 6, 4), f"i5k6o4 2→2, no bias, {OPEN}"),
    ("abc,ced->abde", None, X, (5, 4, 2), (), (None, 6, 2, 4), f"i5o4k2 2→3, no bias, {OPEN}"),
    ("abc,cde->abed", None, X, (5, 2, 4), (), (None, 6, 4, 2), f"i5o2k4 2→3, no bias, {OPEN}"),
    ("abc,cde->adbe", None, X, (5, 2, 4), (), (None, 2, 6, 4), f"i5k2o4 2→3, no bias, {OPEN}"),
    ("abcd,dcef->abef", None, PLANES, (5, 3, 2, 4), (), (None, 6, 2, 4), f"i5k3k2o4 3→3, no bias, {OPEN}"),
    ("abcd,cbe->ade", None, PLANES, (3, 6, 4), (), (None, 5, 4), "i3k6o4 2→2, no bias"),
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
    told, _ = _chain("abc,cde->abde", "d", X, (5, 2, 4), (2, 1), (None, 6, 2, 4))
    assert told == [
        ("", ("x0",), ("y/whole",)),
        ("bias", (), ("y/bias",)),
        ("parted", ("y/whole",), ("y/product",)),
        ("sum", ("y/product", "y/bias"), ("y",)),
    ]


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


# --- kernels stored as integers

INT8, INT4 = {"dtype": "int8_from_float32"}, {"dtype": "int4_from_float32"}
Q = np.random.default_rng(1).integers(-127, 128, (5, 4)).astype(np.int8)
SCALE = np.array([0.5, 2.0, 3.0, 10.0], np.float32)


def _quantised(config: dict[str, Any], arrays: dict[str, np.ndarray], width: int = 5) -> Any:
    return site("Dense", (None, width), config, arrays)


def test_a_kernel_of_bytes() -> None:
    """w = q/scale; what it reads is rounded, so that no shift comes in, unless its settings say otherwise."""
    at = _quantised(INT8, {"kernel": Q, "kernel_scale": SCALE, "bias": drawn(4)})
    assert rules(at) == [f"i5o4 1→1, bias, {OPEN}"]
    (part,) = parts(at)
    rule = rule_of(part)
    assert isinstance(rule, Linear) and isinstance(part.stored, QuantisedStore)
    np.testing.assert_allclose(numbers(rule.weight).reshape(5, 4), Q / SCALE, rtol=1e-6)
    unrounded = INT8 | {"quantization_config": {"config": {"activation_quantizer": None}}}
    assert rules(_quantised(unrounded, {"kernel": Q, "kernel_scale": SCALE})) == ["i5o4 1→1, no bias"]
    rounded = INT8 | {"quantization_config": {"config": {"activation_quantizer": {"class_name": "AbsMax"}}}}
    assert rules(_quantised(rounded, {"kernel": Q, "kernel_scale": SCALE})) == [f"i5o4 1→1, no bias, {OPEN}"]


def test_an_equation_of_bytes() -> None:
    """What is stored does not tell the sizes of the kernel: its axes are not joined."""
    config: dict[str, Any] = INT8 | {"equation": "abc,cd->abd", "bias_axes": "d"}
    arrays: dict[str, np.ndarray] = {"kernel": Q, "kernel_scale": SCALE, "bias": drawn(4)}
    at = site("EinsumDense", X, config, arrays, out=(None, 6, 4))
    assert rules(at) == [f"i5o4 2→2, bias, {OPEN}"]
    (part,) = parts(at)
    assert part.stored == QuantisedStore(enables={"bias_axes": "d"}, bias_shape=(-1,))


@pytest.mark.parametrize("outputs", [4, 3])
def test_a_kernel_of_half_bytes(outputs: int) -> None:
    """Two in a byte, along the outputs, the lower half first."""
    values = np.random.default_rng(2).integers(-8, 8, (5, outputs)).astype(np.int8)
    even = np.pad(values, ((0, 0), (0, outputs % 2)))
    packed = ((even[:, 0::2] & 15) | (even[:, 1::2] << 4)).astype(np.int8)
    at = _quantised(INT4, {"kernel": packed, "kernel_scale": SCALE[:outputs]})
    (part,) = parts(at)
    rule = rule_of(part)
    assert isinstance(rule, Linear)
    np.testing.assert_allclose(numbers(rule.weight).reshape(5, outputs), values / SCALE[:outputs], rtol=1e-6)


def test_a_kernel_in_blocks() -> None:
    """w = (q − zero)·scale of each block of inputs; nothing is rounded on the way in."""
    values = np.random.default_rng(3).integers(-8, 8, (5, 4)).astype(np.int8)
    packed = ((values[:, 0::2] & 15) | (values[:, 1::2] << 4)).astype(np.int8)
    blocks = np.array([0, 0, 1, 1, 1], np.float32)
    scale, zero = np.abs(drawn(2, 4)) + 0.5, np.array([[1, 0, -2, 3], [0, 2, 1, -1]], np.int8)
    arrays = {"kernel": packed, "kernel_scale": scale, "kernel_zero": zero, "g_idx": blocks}
    config = {"dtype": "int4/3_from_float32"}
    at = _quantised(config, arrays)
    assert rules(at) == ["i5o4 1→1, no bias"]
    rule = rule_of(parts(at)[0])
    assert isinstance(rule, Linear)
    index = blocks.astype(int)
    np.testing.assert_allclose(
        numbers(rule.weight).reshape(5, 4), (values - zero.astype(float)[index]) * scale[index], rtol=1e-6
    )
    for name, other in (
        ("kernel_zero", zero[:1]),
        ("g_idx", blocks[:4]),
        ("g_idx", blocks + 1),
        ("g_idx", blocks - 1),
    ):
        assert rules(_quantised(config, arrays | {name: other})) == ["opaque: WEIGHT_NOT_CONSTANT"]


@pytest.mark.parametrize(
    "arrays",
    [
        {"kernel": Q},
        {"kernel_scale": SCALE},
        {"kernel": Q, "kernel_scale": SCALE[:3]},
        {"kernel": Q, "kernel_scale": SCALE * 0},
        {"kernel": Q, "kernel_scale": SCALE.astype(np.float64)},
        {"kernel": Q.astype(np.int16), "kernel_scale": SCALE},
        {"kernel": Q[:, :, None], "kernel_scale": SCALE},
    ],
)
def test_integers_that_lie_in_another_way(arrays: dict[str, np.ndarray]) -> None:
    assert rules(_quantised(INT8, arrays)) == ["opaque: WEIGHT_NOT_CONSTANT"]


def test_half_bytes_that_lie_in_another_way() -> None:
    """Along the inputs, as older versions had them, or of another number of inputs."""
    for packed, width in ((Q[:3, :4], 5), (Q[:5, :2], 6), (Q[:5, :3], 5)):
        at = _quantised(INT4, {"kernel": packed, "kernel_scale": SCALE}, width)
        assert rules(at) == ["opaque: WEIGHT_NOT_CONSTANT"]
