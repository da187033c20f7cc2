"""Figures in sentences: significant digits, and exponents only where a number is long."""

from __future__ import annotations

import math

import pytest

from bnfuse.results.figures import digits, figure, signed_percent

DIGITS = [
    (0.0, 3, "0"),
    (1.2345, 3, "1.23"),
    (12.345, 3, "12.3"),
    (999.4, 3, "999"),
    (999.6, 3, "1000"),
    (1234.5, 3, "1234"),
    (54321.0, 3, "54321"),
    (99.4, 2, "99"),
    (99.7, 2, "100"),
    (100.0, 2, "100"),
    (-100.0, 2, "-100"),
    (1234.0, 2, "1234"),
    (999999.0, 2, "999999"),
    (1e6, 2, "1e+06"),
    (1.26e7, 2, "1.3e+07"),
    (1.26e-7, 2, "1.3e-07"),
    (math.inf, 3, "inf"),
    (math.nan, 3, "nan"),
]


@pytest.mark.parametrize(("value", "count", "said"), DIGITS)
def test_digits(value: float, count: int, said: str) -> None:
    assert digits(value, count) == said


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.0, "+0 %"), (0.0314, "+3.1 %"), (-0.0052, "−0.52 %"), (-0.999, "−100 %"), (0.999, "+100 %")],
)
def test_signed_percent(share: float, said: str) -> None:
    assert signed_percent(share) == said


@pytest.mark.parametrize(
    ("value", "count", "said"),
    [
        (0.0, 3, "0"),
        (1.23456, 3, "1.23"),
        (-0.5, 3, "−0.5"),
        (5512.4, 3, "5,512"),
        (999.9, 2, "1,000"),
        (5500.0, 3, "5,500"),
        (-5500.0, 3, "−5,500"),
        (99.8, 2, "100"),
        (1.2e-7, 3, "1.2e−07"),
        (math.inf, 3, "∞"),
        (-math.inf, 3, "−∞"),
        (math.nan, 3, "not a number"),
    ],
)
def test_typographic(value: float, count: int, said: str) -> None:
    assert figure(value, count) == said
