"""Kernels that Keras stores as integers: what the row makes of a call, without Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.formats.keras.rows.quantised_layers import QuantisedStore
from tests.keras_sites import drawn, numbers, parts, rule_of, rules, site

X = (None, 6, 5)
OPEN = "no shift: SHIFT_REFUSED"
INT8, INT4 = {"dtype": "int8_from_float32"}, {"dtype": "int4_from_float32"}
Q = np.random.default_rng(1).integers(-127, 128, (5, 4)).astype(np.int8)
SCALE = np.array([0.5, 2.0, 3.0, 10.0], np.float32)


def _quantised(config: dict[str, Any], arrays: dict[str, np.ndarray], width: int = 5) -> Any:
    return site("Dense", (None, width), config, arrays)


def _kind(weight: Any) -> tuple[int, int, bool, bool]:
    """What its integers can hold, and how its scales may change."""
    assert isinstance(weight, QuantisedTensor)
    return weight.lowest, weight.highest, weight.several, weight.signed


def test_a_kernel_of_bytes() -> None:
    """w = q/scale; what it reads is rounded, so that no shift comes in, unless its settings say otherwise."""
    at = _quantised(INT8, {"kernel": Q, "kernel_scale": SCALE, "bias": drawn(4)})
    assert rules(at) == [f"i5o4 1→1, bias, {OPEN}"]
    (part,) = parts(at)
    rule = rule_of(part)
    assert isinstance(rule, Linear) and isinstance(part.stored, QuantisedStore)
    np.testing.assert_allclose(numbers(rule.weight).reshape(5, 4), Q / SCALE, rtol=1e-6)
    assert _kind(rule.weight) == (-128, 127, False, False)
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
    assert _kind(rule.weight) == (-8, 7, False, False)


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
    assert _kind(rule.weight) == (-8, 7, False, True)
    for without in ("kernel_zero", "g_idx"):
        rest = {name: array for name, array in arrays.items() if name != without}
        assert rules(_quantised(config, rest)) == ["opaque: WEIGHT_NOT_CONSTANT"]
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
        {"kernel": Q, "kernel_scale": np.array([0.5, 2.0, 0.0, 10.0], np.float32)},
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


def test_scales_along_the_other_axis() -> None:
    """Of an equation whose kernel has its outputs first; half bytes lie along those of a Dense alone."""
    arrays = {"kernel": Q.T.copy(), "kernel_scale": SCALE}
    config = {"equation": "abc,dc->abd", **INT8}
    rule = rule_of(parts(site("EinsumDense", X, config, arrays, out=(None, 6, 4)))[0])
    assert isinstance(rule, Linear)
    np.testing.assert_allclose(numbers(rule.weight).reshape(4, 5), (Q / SCALE).T, rtol=1e-6)
    half: dict[str, np.ndarray] = {"kernel": Q[:4, :2], "kernel_scale": SCALE}
    at = site("EinsumDense", (None, 6, 4), {"equation": "abc,dc->abd", **INT4}, half, out=(None, 6, 4))
    assert rules(at) == ["opaque: WEIGHT_NOT_CONSTANT"]
