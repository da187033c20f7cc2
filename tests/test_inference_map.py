"""A BatchNormalization's map, against its own formula; statistics that give none."""

from __future__ import annotations

import numpy as np
import pytest

from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.rules.batchnorm import affine_maps, broken, inference_affine

GAMMA, BETA, MEAN = np.array([2.0, -1.5, 0.0]), np.array([0.5, 0.0, 3.0]), np.array([-1.0, 4.0, 2.0])
VARIANCE = np.array([4.0, 0.25, 1e-6])


def test_the_map_is_the_formula() -> None:
    rule = inference_affine("bn", GAMMA, BETA, MEAN, VARIANCE, 1e-3, (1,))
    x = np.random.default_rng(0).standard_normal((5, 3))
    wanted = GAMMA * (x - MEAN) / np.sqrt(VARIANCE + 1e-3) + BETA
    np.testing.assert_allclose(rule.pair[0] * x + rule.pair[1], wanted, rtol=1e-12)
    assert rule.axes == (1,) and rule.broken is None
    # the typical size of x: its mean, and how far it varies, of which ε is a floor
    assert rule.typical is not None
    np.testing.assert_allclose(rule.typical.size, np.abs(MEAN) + np.sqrt(VARIANCE + 1e-3), rtol=1e-12)


def test_an_outlandish_epsilon_says_nothing_of_x() -> None:
    *_, typical, fits = affine_maps(GAMMA, BETA, MEAN, VARIANCE, 100.0)
    np.testing.assert_allclose(typical.size, np.abs(MEAN) + np.sqrt(VARIANCE + 0.01), rtol=1e-12)
    *_, negative, _ = affine_maps(GAMMA, BETA, MEAN, np.full(3, -0.5), 1.0)
    np.testing.assert_allclose(negative.size, np.abs(MEAN) + 0.1, rtol=1e-12)
    assert fits.all()


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("variance", -1.0),
        ("variance", np.nan),
        ("variance", -1e-3),
        ("gamma", np.inf),
        ("beta", np.nan),
        ("mean", -np.inf),
    ],
)
def test_statistics_that_give_no_map(what: str, value: float) -> None:
    """In one channel of three: it is counted, and the node cannot go."""
    given = {"gamma": GAMMA.copy(), "beta": BETA.copy(), "mean": MEAN.copy(), "variance": VARIANCE.copy()}
    given[what][1] = value
    rule = inference_affine("bn", epsilon=1e-3, axes=(1,), **given)
    assert rule.broken is not None
    assert (rule.broken.reason, rule.broken.node) == (Reason.INVALID_STATISTICS, "bn")
    assert rule.broken.detail == "1 of 3 channels"


def test_a_large_map_is_a_map() -> None:
    """What counts is that a and c are finite, each by itself."""
    large = np.array([1e308, -1e308])
    a, c, typical, fits = affine_maps(large, large, np.zeros(2), np.ones(2), 0.0)
    assert fits.all()
    np.testing.assert_array_equal([a, c, typical.size], [large, large, [1.0, 1.0]])
    *_, fits = affine_maps(large, np.zeros(2), large, np.ones(2), 0.0)
    assert not fits.any()  # c = −μ·a has no room
    for variance in (0.0, np.inf):
        a, c, _, fits = affine_maps(np.array([1.0, 0.0]), np.ones(2), np.ones(2), np.full(2, variance), 0.0)
        assert fits.tolist() == [variance > 0.0] * 2
        assert variance == 0.0 or (a == 0.0).all()


def test_a_broken_one_has_no_numbers() -> None:
    why = Refusal(Reason.INVALID_STATISTICS, "bn")
    rule = broken(why)
    assert rule.broken is why and [v.size for v in rule.pair] == [0, 0]
