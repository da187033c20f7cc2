"""Rows of the op table: activations, as layers and as what other layers end in.

Which scales commute with an activation, by how Keras stores it: a name, or an object with a config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass, Rule, Sign
from bnfuse.core.rules.clamp import Clamp
from bnfuse.formats.keras.graph.calls import is_keras3
from bnfuse.formats.keras.rows.curves import curve
from bnfuse.formats.keras.rows.kind import LayerKind, Trait
from bnfuse.formats.keras.rows.site import Part, Site, single
from bnfuse.formats.keras.rows.sizes import same
from bnfuse.formats.keras.rows.stored import ClampStore, FusedClampStore
from bnfuse.formats.keras.rows.variables import holds

# f(s·x) = s·f(x) for every s >= 0.
HOMOGENEOUS = Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)
_NONLINEAR = Opaque(Reason.NONLINEAR)
_CLAMPED = ("float16", "float32", "float64")

Bounds = tuple[float, float]
# min(max(x, low), high), by name.
_BOUNDS: dict[str, Bounds] = {"relu": (0.0, np.inf), "relu6": (0.0, 6.0), "hard_tanh": (-1.0, 1.0)}


def activation_rule(stored: Any) -> Rule | None:
    """The rule of a stored activation; None for the identity."""
    name, config = _name(stored)
    return None if name in (None, "linear") else _unmoved(str(name), config)


def _name(stored: Any) -> tuple[str | None, Mapping[str, Any]]:
    """The activation's name (a layer's class name for a layer), and a layer's config."""
    if not isinstance(stored, Mapping):
        return (stored if isinstance(stored, str) else None if stored is None else "?"), {}
    config = stored.get("config")
    if stored.get("registered_name") not in (None, stored.get("class_name"), config, "function"):
        return "?", {}  # somebody's own
    if isinstance(config, str):  # {"class_name": "function", "config": "relu"}
        return config if stored.get("module") in ("builtins", None, "keras.activations") else "?", {}
    name = stored.get("class_name")
    return (name if isinstance(name, str) else "?"), config if isinstance(config, Mapping) else {}


def _unmoved(name: str, config: Mapping[str, Any]) -> Rule:
    """What an activation is while it stays what it is."""
    bounds = _bounds(name, config)
    if bounds is not None:
        return _plain(*bounds)
    leaky = name in ("leaky_relu", "LeakyReLU", "PReLU")
    if name == "ReLU":
        leaky = config.get("max_value") is None and not config.get("threshold")
    return HOMOGENEOUS if leaky else _NONLINEAR


def _plain(low: float, high: float) -> Rule:
    return HOMOGENEOUS if low in (0.0, -np.inf) and high in (0.0, np.inf) else _NONLINEAR


def _bounds(name: str | None, config: Mapping[str, Any], site: Site | None = None) -> Bounds | None:
    """The bounds of an activation that is min(max(x, low), high); None of others.

    Keras 3 on TensorFlow casts ``max_value`` by way of float32, on PyTorch it does not. Which Keras it is,
    ``site`` tells.
    """
    if name != "ReLU":
        return _BOUNDS.get(name or "")
    most = config.get("max_value")
    if config.get("negative_slope") or config.get("threshold"):
        return None
    if most is None:
        return 0.0, np.inf
    if type(most) not in (int, float) or most < 0:
        return None
    return 0.0, float(np.float32(most) if site is not None and _is_keras3(site) else most)


def _is_keras3(site: Site) -> bool:
    return any(is_keras3(call.raw) for call in site.layer.calls)


def _activation(site: Site) -> Sequence[Part]:
    name, config = _name(site.config.get("activation"))
    if name in (None, "linear"):
        return single(site, Pass())
    return _element_by_element(site, str(name), config)


def _rectifier(site: Site) -> Sequence[Part]:
    return _element_by_element(site, site.layer.class_name, site.config)


def _element_by_element(site: Site, name: str, config: Mapping[str, Any]) -> Sequence[Part]:
    bounds = _bounds(name, config, site)
    parts = single(site, _unmoved(name, config)) if bounds is None else _clamp(site, *bounds)
    parts[0].constant = curve(name, config, bounds)
    return parts


def _clamp(site: Site, low: float, high: float) -> Sequence[Part]:
    """min(max(x, low), high), in whose place ``keras.ops.maximum`` can stand."""
    if not _can_be_an_op(site) or not low <= high:
        return single(site, _plain(low, high))
    return single(site, _moving(site, (low, high), site.rank(), fused=False), ClampStore())


def _can_be_an_op(site: Site) -> bool:
    """Whether a node can stand for what it does to its one value: where its call says what it reads."""
    calls = site.layer.calls
    once = len(calls) == 1 and is_keras3(calls[0].raw)
    return once and not site.lead and site.compute_dtype in _CLAMPED and len(site.inputs) == 1


def _moving(site: Site, bounds: Bounds, rank: int | None, *, fused: bool) -> Clamp:
    dtype = np.dtype(site.compute_dtype)
    return Clamp(*bounds, _plain(*bounds), dtype, spreads=rank is not None, fused=fused)


def fused(site: Site, inner: str) -> Part | None:
    """What a layer does to the value ``inner`` that it has worked out; None where that is nothing."""
    stored = site.config.get("activation")
    name, config = _name(stored)
    rule, bounds = activation_rule(stored), _bounds(name, config, site)
    if rule is None:
        return None
    part = Part("activation", (inner,), site.outputs[:1], rule, role="activation")
    part.constant = curve(str(name), config, bounds)
    if bounds is not None and _can_be_an_op(site) and site.out_rank():
        part.rule = _moving(site, bounds, site.out_rank(), fused=True)
        part.stored = FusedClampStore()
    return part


ROWS = (
    LayerKind(("Activation",), _activation, same, traits=Trait.HANDS_ON),
    LayerKind(("ReLU", "LeakyReLU"), _rectifier, same),
    LayerKind(("PReLU",), _rectifier, same, holds("alpha")),
    LayerKind(("ELU", "Softmax", "ThresholdedReLU"), _rectifier, same),
)
FUNCTIONS: dict[str, LayerKind] = {
    "Clamp": LayerKind((), lambda site: _clamp(site, site.config["low"], site.config["high"]), same)
}
