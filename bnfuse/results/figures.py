"""Figures in sentences: so many significant digits, and an exponent only where it is shorter."""

from __future__ import annotations


def digits(value: float, count: int = 3) -> str:
    """``1.23``, ``12.3``, ``1230``, ``1.2e+07``: whole numbers below a million are written out."""
    return f"{value:.0f}" if 10**count - 0.5 <= abs(value) < 1e6 else f"{value:.{count}g}"


def signed_percent(share: float) -> str:
    """``+3.1 %`` or ``−0.52 %``, in two digits."""
    return f"{'+' if share >= 0 else '−'}{digits(100 * abs(share), 2)} %"


def figure(number: float, count: int = 3) -> str:
    """A number with so many significant digits, in typographic signs: ``1.2e−07``, ``5,500``, ``∞``."""
    if 999.5 <= abs(number) < 1e6:
        return f"{number:,.0f}".replace("-", "−")
    return digits(number, count).replace("inf", "∞").replace("nan", "not a number").replace("-", "−")
