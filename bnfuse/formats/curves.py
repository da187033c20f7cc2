"""Activations that several formats know, of one positive number, in float64."""

from __future__ import annotations

from math import erf, exp, log1p, pi, sqrt, tanh


def sigmoid(x: float) -> float:
    """1/(1 + e⁻ˣ)."""
    return 1.0 / (1.0 + exp(-x))


def gelu(x: float, *, approximate: bool) -> float:
    """x·Φ(x), or what a tanh makes of it."""
    if approximate:
        return 0.5 * x * (1.0 + tanh(sqrt(2.0 / pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)))


def softplus(x: float) -> float:
    """log(1 + eˣ)."""
    return log1p(exp(x))


def mish(x: float) -> float:
    """x·tanh(softplus(x))."""
    return x * tanh(softplus(x))


def softsign(x: float) -> float:
    """x/(1 + |x|)."""
    return x / (1.0 + abs(x))


def swish(x: float, alpha: float = 1.0) -> float:
    """x·sigmoid(alpha·x)."""
    return x * sigmoid(alpha * x)
