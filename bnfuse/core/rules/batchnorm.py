"""BatchNormalization at inference as the affine map it is.

y = γ·(x − μ)/√(σ² + ε) + β, so a = γ/√(σ² + ε) and c = β − μ·a per channel
(Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 2, line 11).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Vector
from bnfuse.core.rules.affine import Affine, Typical

# ε is a floor to how far x varies (a dead channel), but an outlandish one tells nothing of x.
_USUAL_EPSILON = 1e-2


def inference_affine(
    node: str,
    gamma: Vector,
    beta: Vector,
    mean: Vector,
    variance: Vector,
    epsilon: float,
    axes: tuple[int, ...],
) -> Affine:
    """The rule of a BatchNormalization with known statistics; broken where they give no finite map.

    Args:
        node: its label, for the refusal.
        gamma: γ, float64, one dimension per entry of ``axes``.
        beta: β, of the same shape.
        mean: μ, of the same shape.
        variance: σ², of the same shape.
        epsilon: added to the variance.
        axes: the axes of x that the statistics lie along.
    """
    a, c, typical, fits = affine_maps(gamma, beta, mean, variance, epsilon)
    if not fits.all():
        bad = ~fits
        detail = f"{int(bad.sum())} of {bad.size} channels"
        return broken(Refusal(Reason.INVALID_STATISTICS, node, detail=detail))
    return Affine((a, c), axes, typical=typical)


def affine_maps(
    gamma: Vector, beta: Vector, mean: Vector, variance: Vector, epsilon: float | Vector
) -> tuple[Vector, Vector, Typical, NDArray[np.bool_]]:
    """(a, c, what x is like, whether a and c are finite), element by element.

    Args:
        gamma: γ, float64, of any shape.
        beta: β, of the same shape.
        mean: μ, of the same shape.
        variance: σ², of the same shape.
        epsilon: ε, broadcastable to it.
    """
    with np.errstate(all="ignore"):
        sigma = np.sqrt(variance + epsilon)
        a = gamma / sigma
        c = beta - mean * a
        varies = np.sqrt(np.maximum(variance, 0.0) + np.minimum(epsilon, _USUAL_EPSILON))
        return a, c, Typical(mean, varies), np.isfinite(c)  # where a is not, neither is c


def broken(refusal: Refusal) -> Affine:
    """The rule of one that cannot be removed at all."""
    none = np.empty(0)
    return Affine((none, none), (), broken=refusal)
