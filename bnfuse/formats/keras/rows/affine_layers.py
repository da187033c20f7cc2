"""Rows of the op table: BatchNormalization, Normalization, Rescaling, norms with a γ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from msgspec.structs import replace

from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.core.rules.batchnorm import broken, inference_affine
from bnfuse.formats.child.messages import dtype_named
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.site import FLOATS, Part, Site, alone, single
from bnfuse.formats.keras.rows.sizes import same
from bnfuse.formats.keras.rows.stored import AffineStore, BatchNormStore, ConfigStore, Store
from bnfuse.formats.keras.rows.variables import Config, Slots, holds, own
from bnfuse.formats.table import known

# keras/src/layers/preprocessing/normalization.py divides by max(√σ², backend.epsilon()).
_TINY = 1e-7
_CONFIGURED = np.dtype(np.float32)  # what Keras makes of numbers in a config
_CALLED = "a call with other than one tensor by position"
_MOST_CHANNELS = 1 << 20  # for which γ and β are made up on a config's word


def batchnorm(site: Site) -> Sequence[Part]:
    """γ·(x − μ)/√(σ² + ε) + β along ``axis``; what ``scale`` and ``center`` leave out is 1 and 0.

    At inference it does not look at a mask, but hands it on: one that its input lacks would go with it.
    """
    unmasked, rule = replace(site, inputs=site.unmasked), partial(_statistics, site)
    return single(unmasked, rule, BatchNormStore(), is_batchnorm=True)


def _unusable(site: Site, label: str) -> Refusal | None:
    """Why this BatchNormalization is not the plain affine map of its statistics."""
    config = site.config
    if site.training or config.get("training"):
        return Refusal(Reason.TRAINING_MODE, label)
    if config.get("renorm") or config.get("virtual_batch_size"):
        what = "renorm" if config.get("renorm") else "virtual_batch_size"
        return Refusal(Reason.UNSUPPORTED_OP, label, detail=what)
    if site.locked:
        return Refusal(Reason.LOCKED_WEIGHTS, label, detail=site.locked)
    if not site.one_tensor:
        return Refusal(Reason.UNSUPPORTED_OP, label, detail=_CALLED)
    if not site.carries_mask:
        return Refusal(Reason.UNSUPPORTED_OP, label, detail="a mask that its input does not carry")
    return site.casts(label)


def _uncallable(site: Site, label: str) -> Refusal | None:
    """Why a layer without weights of its own is not what its config says of one tensor."""
    if not site.one_tensor or len(site.inputs) != 1:
        return Refusal(Reason.UNSUPPORTED_OP, label, detail=_CALLED)
    return site.casts(label)


def _statistics(site: Site, label: str) -> Affine:
    why = _unusable(site, label)
    if why is not None:
        return broken(why)
    mean, variance = site.vector("moving_mean"), site.vector("moving_variance")
    if mean is None or variance is None:
        return broken(Refusal(Reason.BAD_PARAMETERS, label, detail="no statistics"))
    gamma, beta = site.vector("gamma"), site.vector("beta")
    gamma = np.ones_like(mean) if gamma is None else gamma
    beta = np.zeros_like(mean) if beta is None else beta
    axes = _axes(site)
    if axes is None:
        return broken(Refusal(Reason.SHAPE_UNKNOWN, label))
    if len({v.shape for v in (gamma, beta, mean, variance)}) != 1 or mean.ndim != len(axes):
        return broken(Refusal(Reason.BAD_PARAMETERS, label, detail=f"statistics of shape {mean.shape}"))
    epsilon = site.config.get("epsilon", 1e-3)
    if not isinstance(epsilon, (int, float)):
        return broken(Refusal(Reason.BAD_PARAMETERS, label, detail="epsilon is no number"))
    found = inference_affine(label, gamma, beta, mean, variance, float(epsilon), axes)
    computes = dtype_named(site.compute_dtype) if site.compute_dtype in FLOATS else None
    scales, shifts = (_can_hold(site, name) for name in ("gamma", "beta"))
    return replace(found, computes=computes, stored=site.holds, has_scale=scales, has_shift=shifts)


def _can_hold(site: Site, name: str) -> bool:
    """Whether a variable is there, or can be made: the call of a function gets no new constants."""
    return not site.layer.function or site.variable(name) is not None


def _axes(site: Site) -> tuple[int, ...] | None:
    """``axis`` (a number or a list) counted from zero; None where the rank is unknown."""
    given = site.config.get("axis", -1)
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    rank = site.rank()
    if rank is None or not several or not all(type(a) is int for a in several):
        return None
    axes = tuple(site.axis(int(a), rank) for a in several)
    return axes if list(axes) == sorted(set(axes)) and all(0 < a < rank for a in axes) else None


def layer_norm(site: Site, _: str) -> Rule:
    """LayerNormalization and GroupNormalization end in γ·x̂ + β: they take on what follows."""
    axes = _axes(site)
    gamma, beta = site.vector("gamma"), site.vector("beta")
    if axes is None or len(axes) != 1 or site.locked or site.config.get("rms_scaling"):
        return Opaque()
    held = gamma if gamma is not None else beta
    size = _channels(site, axes[0]) if held is None else held.shape
    if size is None:
        return Opaque(Reason.SHAPE_UNKNOWN)
    one = np.ones(size)
    if one.ndim != 1 or (beta is not None and beta.shape != one.shape):
        return Opaque()
    pair = (one if gamma is None else gamma, np.zeros_like(one) if beta is None else beta)
    stores = _can_hold(site, "gamma"), _can_hold(site, "beta")
    return Affine(pair, axes, *stores, reads=False, stored=site.holds)


def rms_norm(site: Site, _: str) -> Rule:
    """RMSNormalization ends in γ·x̂: it takes on the scale of what follows, and no shift.

    Keras lays γ along the last axis, whichever is normalised.
    """
    axes, gamma, rank = _axes(site), site.vector("scale"), site.rank()
    if rank is None or axes != (rank - 1,) or gamma is None or site.locked:
        return Opaque()
    return Affine((gamma, np.zeros_like(gamma)), axes, has_shift=False, reads=False, stored=site.holds)


def _channels(site: Site, axis: int) -> int | None:
    size = known(site.shapes[0])[axis]
    return size if isinstance(size, int) and size <= _MOST_CHANNELS else None


def normalization(site: Site, label: str) -> Rule:
    """(x − μ)/max(σ, 10⁻⁷) with statistics from ``adapt`` or from the config; the inverse with ``invert``.

    It may go, but takes nothing on: its statistics are what a user looks at.
    """
    why = _uncallable(site, label)
    if why is not None:
        return broken(why)
    rank, given = site.rank(), site.config.get("axis", -1)
    mean, variance = (_statistic(site, name) for name in ("mean", "variance"))
    if rank is None or mean is None or variance is None:
        return broken(Refusal(Reason.PARAMETER_NOT_CONSTANT, label))
    several = list(given or ()) if isinstance(given, (list, tuple, type(None))) else [given]
    whole = not several and mean.size == 1
    if not whole and (len(several) != 1 or type(several[0]) is not int):
        return broken(Refusal(Reason.AXIS, label))
    if mean.size != variance.size:
        return broken(Refusal(Reason.BAD_PARAMETERS, label, detail="mean and variance"))
    with np.errstate(invalid="ignore"):
        sigma = np.maximum(np.sqrt(variance), _TINY)
    a, c = 1.0 / sigma, -mean / sigma
    if site.config.get("invert"):
        a, c = sigma, mean
    if not np.isfinite(a).all() or not np.isfinite(c).all():
        return broken(Refusal(Reason.INVALID_STATISTICS, label))
    if mean.size == 1:
        return Affine((a.reshape(()), c.reshape(())), (), has_scale=False, has_shift=False)
    axis = site.axis(several[0], rank)
    return Affine((a.ravel(), c.ravel()), (axis,), has_scale=False, has_shift=False)


def _statistic(site: Site, name: str) -> np.ndarray | None:
    given: Any = site.config.get(name)
    if given is not None:
        return _number(given)
    return site.vector(name)


def rescaling(site: Site, label: str) -> Rule:
    """scale·x + offset, both in the config: numbers, or one for each channel, in a shape that broadcasts.

    Keras reads both as float32, so in a float64 network they take nothing on.
    """
    why = _uncallable(site, label)
    if why is not None:
        return broken(why)
    rank = site.rank()
    scale, offset = (_number(site.config.get(k, d)) for k, d in (("scale", 1.0), ("offset", 0.0)))
    if rank is None or scale is None or offset is None:
        return broken(Refusal(Reason.PARAMETER_NOT_CONSTANT, label))
    try:
        scale, offset = np.broadcast_arrays(scale, offset)
    except ValueError:
        return broken(Refusal(Reason.BAD_PARAMETERS, label, detail="scale and offset"))
    if not scale.size or not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        return broken(Refusal(Reason.BAD_PARAMETERS, label, detail="scale and offset"))
    axes = tuple(axis for axis, n in enumerate(scale.shape, rank - scale.ndim) if n != 1)
    if scale.ndim > rank - site.lead or len(axes) > 1 or not all(axis > site.lead for axis in axes):
        return broken(Refusal(Reason.AXIS, label))
    pair = (scale.ravel(), offset.ravel()) if axes else (scale.reshape(()), offset.reshape(()))
    stores = site.compute_dtype != "float64"
    along = rank - 1 if site.lead else None  # the only axis that is sure to lie within one step
    return Affine(pair, axes, has_scale=stores, has_shift=stores, stores_along=along, stored=_CONFIGURED)


def _number(value: Any) -> np.ndarray | None:
    """Numbers of a config, which Keras makes float32 whatever the layer computes in; None if none."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(value, np.float64).astype(np.float32).astype(np.float64)
    except (TypeError, ValueError):
        return None


def _scaled(config: Config) -> Slots | None:
    if config.get("rms_scaling"):  # of older versions; what it holds is not known here
        return None
    return holds("gamma:scale", "beta:center")(config)


def _batch_norm(config: Config) -> Slots:
    moving: tuple[str, ...] = ("moving_mean", "moving_variance")
    if config.get("renorm"):
        moving += ("moving_stddev", "renorm_mean", "renorm_stddev")
    return holds("gamma:scale", "beta:center", *moving, frozen=moving)(config)


def _adapted(config: Config) -> Slots:
    """Statistics given as arguments are in the config, not in variables."""
    names = () if config.get("mean") is not None else ("mean", "variance", "count")
    return own(*names, frozen=names)


BATCHNORMS = ("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization")
ROWS = (
    LayerKind(BATCHNORMS, batchnorm, same, _batch_norm),
    LayerKind(("LayerNormalization", "GroupNormalization"), alone(layer_norm, AffineStore()), same, _scaled),
    LayerKind(("RMSNormalization",), alone(rms_norm, AffineStore("scale", "")), same, holds("scale")),
    LayerKind(("Normalization",), alone(normalization, Store(), is_affine=True), same, _adapted),
    LayerKind(("Rescaling",), alone(rescaling, ConfigStore("scale", "offset"), is_affine=True), same),
)
