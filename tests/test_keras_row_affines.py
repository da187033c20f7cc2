"""What rows of the table make of norms, and of arithmetic with numbers of a config: without Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bnfuse.core.rules.affine import Affine
from bnfuse.formats.keras.graph.network import Shape
from tests.keras_sites import called, drawn, parts, rule_of, rules, site

Told = dict[str, Any]

IMAGE = (None, 6, 5, 3)
FOUND = {
    "gamma": drawn(3),
    "beta": drawn(3) + 1,
    "moving_mean": drawn(3) - 1,
    "moving_variance": drawn(3) ** 2,
}
HALF = {"dtype": "float16"}
MASKED = called(keywords=("", "mask"))
AT_CALLS: list[tuple[Told, Told, str]] = [
    # settings, what else is told of the call, the rule
    ({}, {}, "affine (3,): scale shift"),
    ({"axis": 1}, {}, "affine (1,): scale shift"),
    ({"axis": [1]}, {}, "affine (1,): scale shift"),
    ({"axis": -2}, {}, "affine (2,): scale shift"),
    ({"axis": 1}, {"lead": 1}, "affine (2,): scale shift"),
    ({"axis": -1}, {"lead": 1}, "affine (3,): scale shift"),
    ({"axis": 0}, {}, "broken: SHAPE_UNKNOWN"),
    ({"axis": 4}, {}, "broken: SHAPE_UNKNOWN"),
    ({"axis": "3"}, {}, "broken: SHAPE_UNKNOWN"),
    ({"axis": []}, {}, "broken: SHAPE_UNKNOWN"),
    ({"axis": [3, 3]}, {}, "broken: SHAPE_UNKNOWN"),
    ({"axis": [0, 3]}, {}, "broken: SHAPE_UNKNOWN"),
    ({"axis": [3, "x"]}, {}, "broken: SHAPE_UNKNOWN"),
    ({"axis": [2, 3]}, {}, "broken: BAD_PARAMETERS"),  # statistics along one axis
    ({"epsilon": "small"}, {}, "broken: BAD_PARAMETERS"),
    ({"renorm": True}, {}, "broken: UNSUPPORTED_OP"),
    ({"virtual_batch_size": 2}, {}, "broken: UNSUPPORTED_OP"),
    ({"training": True}, {}, "broken: TRAINING_MODE"),
    ({}, {"training": True}, "broken: TRAINING_MODE"),
    ({}, {"locked": "it is shared"}, "broken: LOCKED_WEIGHTS"),
    ({}, {"call": MASKED, "more": (None,)}, "affine (3,): scale shift"),
    ({}, {"call": MASKED, "more": (None,), "carries_mask": False}, "broken: UNSUPPORTED_OP"),
    ({}, {"call": called(keywords=("x",))}, "broken: UNSUPPORTED_OP"),
    ({}, {"call": None}, "affine (3,): scale shift"),
    ({}, {"dtype": "float16"}, "broken: OTHER_TYPE"),
    (HALF, {"dtype": "float16"}, "affine (3,): scale shift"),
    ({}, {"dtype": None}, "affine (3,): scale shift"),
]


@pytest.mark.parametrize(("config", "told", "expected"), AT_CALLS)
def test_batchnorms_at_a_call(config: Told, told: Told, expected: str) -> None:
    at = site("BatchNormalization", IMAGE, config, FOUND, **told)
    assert rules(at) == [expected]
    (part,) = parts(at)
    assert part.is_batchnorm
    assert part.inputs == ("x0",)  # without the mask


@pytest.mark.parametrize("without", [(), ("gamma",), ("beta",), ("gamma", "beta")])
@pytest.mark.parametrize("config", [{}, {"epsilon": 0.1}, {"epsilon": 1}])
def test_numbers_of_a_batchnorm(without: tuple[str, ...], config: Told) -> None:
    """γ/√(σ² + ε) and β − μ·a; ε is 10⁻³ where the file does not say."""
    held = {name: array for name, array in FOUND.items() if name not in without}
    rule = _affine("BatchNormalization", IMAGE, config, held)
    wide = {name: array.astype(np.float64) for name, array in FOUND.items()}
    gamma = 1.0 if "gamma" in without else wide["gamma"]
    a = gamma / np.sqrt(wide["moving_variance"] + config.get("epsilon", 1e-3))
    c = (0.0 if "beta" in without else wide["beta"]) - wide["moving_mean"] * a
    np.testing.assert_allclose(rule.pair[0], np.broadcast_to(a, 3), rtol=1e-12)
    np.testing.assert_allclose(rule.pair[1], c, rtol=1e-12)
    assert rule.computes == np.float32


def _affine(
    kind: str, shape: Shape | None, config: Told, arrays: dict[str, np.ndarray], **told: Any
) -> Affine:
    (part,) = parts(site(kind, shape, config, arrays, **told))
    rule = rule_of(part)
    assert isinstance(rule, Affine)
    return rule


def test_a_batchnorm_of_a_type_that_numpy_knows_not() -> None:
    rule = _affine("BatchNormalization", IMAGE, {"dtype": "float8"}, FOUND, dtype="float8")
    assert rule.broken is None and rule.computes is None


@pytest.mark.parametrize("lacks", ["moving_mean", "moving_variance"])
def test_a_batchnorm_without_statistics(lacks: str) -> None:
    held = {name: array for name, array in FOUND.items() if name != lacks}
    assert rules(site("BatchNormalization", IMAGE, {}, held)) == ["broken: BAD_PARAMETERS"]


def test_statistics_of_several_axes() -> None:
    held = {name: drawn(5, 3) for name in FOUND}
    held["moving_variance"] = held["moving_variance"] ** 2
    assert rules(site("BatchNormalization", IMAGE, {"axis": [2, 3]}, held)) == ["affine (2, 3): scale shift"]
    held["beta"] = drawn(3)
    assert rules(site("BatchNormalization", IMAGE, {"axis": [2, 3]}, held)) == ["broken: BAD_PARAMETERS"]
    assert rules(site("BatchNormalization", None, {}, FOUND)) == ["broken: SHAPE_UNKNOWN"]


STEPS = (None, 4, 6)
WIDE = (None, 4, (1 << 20) + 1)
GAMMA, BETA = {"gamma": drawn(6)}, {"beta": drawn(6)}
NORMS: list[tuple[str, Shape | None, Told, dict[str, np.ndarray], Told, str]] = [
    ("LayerNormalization", STEPS, {}, GAMMA | BETA, {}, "affine (2,): scale shift"),
    ("LayerNormalization", STEPS, {"axis": [-1]}, GAMMA, {}, "affine (2,): scale shift"),
    ("LayerNormalization", STEPS, {"axis": [1, 2]}, GAMMA, {}, "opaque: UNSUPPORTED_OP"),
    ("LayerNormalization", STEPS, {"rms_scaling": True}, GAMMA, {}, "opaque: UNSUPPORTED_OP"),
    ("LayerNormalization", STEPS, {}, GAMMA, {"locked": "it is shared"}, "opaque: UNSUPPORTED_OP"),
    ("LayerNormalization", None, {}, GAMMA, {}, "opaque: UNSUPPORTED_OP"),
    ("LayerNormalization", STEPS, {}, {}, {}, "affine (2,): scale shift"),
    ("LayerNormalization", (None, 4, None), {}, {}, {}, "opaque: SHAPE_UNKNOWN"),
    ("LayerNormalization", (None, 4, None), {}, BETA, {}, "affine (2,): scale shift"),
    ("LayerNormalization", (None, 4, None), {}, GAMMA, {}, "affine (2,): scale shift"),
    ("LayerNormalization", WIDE, {}, {}, {}, "opaque: SHAPE_UNKNOWN"),
    ("LayerNormalization", (*WIDE[:2], 1 << 20), {}, {}, {}, "affine (2,): scale shift"),
    ("LayerNormalization", STEPS, {}, {"gamma": drawn(4, 6)}, {}, "opaque: UNSUPPORTED_OP"),
    ("LayerNormalization", STEPS, {}, GAMMA | {"beta": drawn(4)}, {}, "opaque: UNSUPPORTED_OP"),
    ("GroupNormalization", STEPS, {"groups": 2}, GAMMA | BETA, {}, "affine (2,): scale shift"),
    ("RMSNormalization", STEPS, {}, {"scale": drawn(6)}, {}, "affine (2,): scale"),
    ("RMSNormalization", STEPS, {"axis": 1}, {"scale": drawn(6)}, {}, "opaque: UNSUPPORTED_OP"),
    ("RMSNormalization", STEPS, {}, {}, {}, "opaque: UNSUPPORTED_OP"),
    ("RMSNormalization", None, {}, {"scale": drawn(6)}, {}, "opaque: UNSUPPORTED_OP"),
    (
        "RMSNormalization",
        STEPS,
        {},
        {"scale": drawn(6)},
        {"locked": "it is shared"},
        "opaque: UNSUPPORTED_OP",
    ),
]
TWO_BY_CHANNEL: Told = {"mean": [1.0, -2.0, 0.5], "variance": [4.0, 0.25, 0.0]}
NORMALIZATIONS: list[tuple[str, Shape | None, Told, dict[str, np.ndarray], Told, str]] = [
    ("Normalization", IMAGE, TWO_BY_CHANNEL, {}, {}, "affine (3,): nothing"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL | {"axis": [1]}, {}, {"lead": 1}, "affine (2,): nothing"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL | {"axis": [2, 3]}, {}, {}, "broken: AXIS"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL | {"axis": "x"}, {}, {}, "broken: AXIS"),
    ("Normalization", IMAGE, {"axis": None, "mean": 2.0, "variance": 4.0}, {}, {}, "affine (): nothing"),
    ("Normalization", IMAGE, {"mean": 2.0, "variance": 4.0}, {}, {}, "affine (): nothing"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL | {"mean": [1.0]}, {}, {}, "broken: BAD_PARAMETERS"),
    (
        "Normalization",
        IMAGE,
        TWO_BY_CHANNEL | {"variance": [1.0, -1.0, 1.0]},
        {},
        {},
        "broken: INVALID_STATISTICS",
    ),
    (
        "Normalization",
        IMAGE,
        TWO_BY_CHANNEL | {"mean": [1e39, 1.0, 1.0]},
        {},
        {},
        "broken: INVALID_STATISTICS",
    ),
    (
        "Normalization",
        IMAGE,
        TWO_BY_CHANNEL | {"invert": True, "variance": [1.0, -1.0, 1.0]},
        {},
        {},
        "broken: INVALID_STATISTICS",
    ),
    ("Normalization", IMAGE, {"axis": [2, 3], "mean": 2.0, "variance": 4.0}, {}, {}, "broken: AXIS"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL | {"axis": None}, {}, {}, "broken: AXIS"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL | {"axis": []}, {}, {}, "broken: AXIS"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL | {"axis": [1.0]}, {}, {}, "broken: AXIS"),
    ("Normalization", IMAGE, {"mean": [[[[2.0]]]], "variance": [4.0]}, {}, {}, "affine (): nothing"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL | {"mean": "x"}, {}, {}, "broken: PARAMETER_NOT_CONSTANT"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL | {"variance": None}, {}, {}, "broken: PARAMETER_NOT_CONSTANT"),
    ("Normalization", None, TWO_BY_CHANNEL, {}, {}, "broken: PARAMETER_NOT_CONSTANT"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL, {}, {"call": MASKED, "more": (None,)}, "broken: UNSUPPORTED_OP"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL, {}, {"call": called(keywords=("x",))}, "broken: UNSUPPORTED_OP"),
    ("Normalization", IMAGE, TWO_BY_CHANNEL, {}, {"dtype": "float16"}, "broken: OTHER_TYPE"),
    ("Rescaling", IMAGE, {}, {}, {}, "affine (): scale shift"),
    ("Rescaling", IMAGE, {"scale": 0.5, "dtype": "float64"}, {}, {"dtype": "float64"}, "affine (): nothing"),
    ("Rescaling", IMAGE, {"scale": [1.0, 2.0, 3.0]}, {}, {}, "affine (3,): scale shift"),
    ("Rescaling", IMAGE, {"scale": [[1.0], [2.0]], "offset": 1.0}, {}, {}, "affine (2,): scale shift"),
    ("Rescaling", IMAGE, {"scale": [[1.0, 3.0], [2.0, 3.0]]}, {}, {}, "broken: AXIS"),
    ("Rescaling", IMAGE, {"scale": [[1.0], [2.0]]}, {}, {"lead": 2}, "broken: AXIS"),
    ("Rescaling", IMAGE, {"scale": [[[1.0]]]}, {}, {"lead": 1}, "affine (): scale shift"),
    ("Rescaling", IMAGE, {"scale": [[[1.0]]]}, {}, {"lead": 2}, "broken: AXIS"),
    ("Rescaling", IMAGE, {"scale": [1.0, 2.0], "offset": [1.0, 2.0, 3.0]}, {}, {}, "broken: BAD_PARAMETERS"),
    ("Rescaling", IMAGE, {"scale": []}, {}, {}, "broken: BAD_PARAMETERS"),
    ("Rescaling", IMAGE, {"scale": [1.0, float("nan"), 1.0]}, {}, {}, "broken: BAD_PARAMETERS"),
    ("Rescaling", IMAGE, {"offset": [1.0, float("inf"), 1.0]}, {}, {}, "broken: BAD_PARAMETERS"),
    ("Rescaling", IMAGE, {"scale": 1e39}, {}, {}, "broken: BAD_PARAMETERS"),
    ("Rescaling", IMAGE, {"offset": float("nan")}, {}, {}, "broken: BAD_PARAMETERS"),
    ("Rescaling", IMAGE, {"scale": None}, {}, {}, "broken: BAD_PARAMETERS"),
    ("Rescaling", IMAGE, {"scale": "x"}, {}, {}, "broken: PARAMETER_NOT_CONSTANT"),
    ("Rescaling", IMAGE, {"offset": {}}, {}, {}, "broken: PARAMETER_NOT_CONSTANT"),
    ("Rescaling", None, {}, {}, {}, "broken: PARAMETER_NOT_CONSTANT"),
    ("Rescaling", IMAGE, {}, {}, {"dtype": "float16"}, "broken: OTHER_TYPE"),
]


@pytest.mark.parametrize(("kind", "shape", "config", "arrays", "told", "expected"), [*NORMS, *NORMALIZATIONS])
def test_what_a_norm_takes_on(
    kind: str, shape: Shape | None, config: Told, arrays: dict[str, np.ndarray], told: Told, expected: str
) -> None:
    at = site(kind, shape, config, arrays, **told)
    assert rules(at) == [expected]
    assert [part.is_affine for part in parts(at)] == [kind in ("Normalization", "Rescaling")]


def test_numbers_of_norms() -> None:
    """γ and β, or 1 and 0 where there are none; nothing is asked of what they read."""
    for arrays in ({}, GAMMA, BETA, GAMMA | BETA):
        rule = _affine("LayerNormalization", STEPS, {}, arrays)
        np.testing.assert_array_equal(rule.pair[0], arrays.get("gamma", np.ones(6)))
        np.testing.assert_array_equal(rule.pair[1], arrays.get("beta", np.zeros(6)))
        assert not rule.reads
    rms = _affine("RMSNormalization", STEPS, {}, {"scale": GAMMA["gamma"]})
    np.testing.assert_array_equal(rms.pair, [GAMMA["gamma"], np.zeros(6)])
    assert not rms.reads


@pytest.mark.parametrize("invert", [False, True])
def test_numbers_of_a_normalization(invert: bool) -> None:
    """(x − μ)/max(σ, 10⁻⁷), with numbers that Keras reads as float32, or μ + x·max(σ, 10⁻⁷)."""
    mean, variance = np.array([1.0, -2.0, 0.1]), np.array([4.0, 0.3, 0.0])
    config = {"mean": mean.tolist(), "variance": variance.tolist(), "invert": invert}
    rule = _affine("Normalization", IMAGE, config, {})
    x = np.array([0.25, -3.0, 0.5])
    mean, variance = (v.astype(np.float32).astype(np.float64) for v in (mean, variance))
    sigma = np.maximum(np.sqrt(variance), 1e-7)
    expected = mean + x * sigma if invert else (x - mean) / sigma
    np.testing.assert_allclose(rule.pair[0] * x + rule.pair[1], expected, rtol=1e-12)
    adapted = _affine("Normalization", IMAGE, {"invert": invert}, {"mean": mean, "variance": variance})
    np.testing.assert_array_equal(adapted.pair, rule.pair)


def test_numbers_of_a_rescaling() -> None:
    """As float32; in a step of a TimeDistributed the last axis alone is sure to lie within it."""
    rule = _affine("Rescaling", IMAGE, {"scale": 0.1, "offset": [1.0, 0.3, 3.0]}, {})
    np.testing.assert_array_equal(rule.pair[0], np.full(3, np.float32(0.1), np.float64))
    np.testing.assert_array_equal(rule.pair[1], np.array([1.0, np.float32(0.3), 3.0]))
    assert rule.stores_along is None
    assert _affine("Rescaling", IMAGE, {"scale": 0.1}, {}, lead=1).stores_along == 3
    plain = _affine("Rescaling", IMAGE, {}, {})
    np.testing.assert_array_equal(plain.pair, (1.0, 0.0))


CALLED = "a call with other than one tensor by position"
WHY: list[tuple[str, Told, dict[str, np.ndarray], Told, str]] = [
    ("BatchNormalization", {"renorm": True}, FOUND, {}, "renorm"),
    ("BatchNormalization", {"virtual_batch_size": 2}, FOUND, {}, "virtual_batch_size"),
    ("BatchNormalization", {}, FOUND, {"locked": "it is shared"}, "it is shared"),
    ("BatchNormalization", {}, FOUND, {"call": called(keywords=("x",))}, CALLED),
    ("BatchNormalization", {}, FOUND, {"call": MASKED, "more": (None,), "carries_mask": False},
     "a mask that its input does not carry"),
    ("BatchNormalization", {}, FOUND, {"dtype": "float16"}, "float32, not float16"),
    ("BatchNormalization", {}, {}, {}, "no statistics"),
    ("BatchNormalization", {"axis": [2, 3]}, FOUND, {}, "statistics of shape (3,)"),
    ("BatchNormalization", {"epsilon": None}, FOUND, {}, "epsilon is no number"),
    ("Normalization", {}, {}, {"call": called(keywords=("x",))}, CALLED),
    ("Normalization", TWO_BY_CHANNEL | {"mean": [1.0]}, {}, {}, "mean and variance"),
    ("Rescaling", {"scale": [1.0, 2.0], "offset": [1.0, 2.0, 3.0]}, {}, {}, "scale and offset"),
    ("Rescaling", {"scale": []}, {}, {}, "scale and offset"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config", "arrays", "told", "detail"), WHY)
def test_a_norm_that_stays_says_why(
    kind: str, config: Told, arrays: dict[str, np.ndarray], told: Told, detail: str
) -> None:
    refusal = _affine(kind, IMAGE, config, arrays, **told).broken
    assert refusal is not None
    assert (refusal.node, refusal.detail) == ("it", detail)
