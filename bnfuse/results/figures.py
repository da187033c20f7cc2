"""Figures in sentences: three significant digits, and no exponent for a long time."""

from __future__ import annotations


def digits(value: float) -> str:
    """``1.23``, ``12.3``, ``1230``."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
