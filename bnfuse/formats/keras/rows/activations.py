"""Rows of the op table: activations, as layers and as what other layers end in.

Which scales commute with an activation, by how Keras stores it: a name, or an object with a config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnfuse.core.clamp import Clamp
from bnfuse.core.reasons import Reason
from bnfuse.core.rules import Opaque, Pass, Rule, Sign
from bnfuse.formats.keras.graph.calls import is_keras3
from bnfuse.formats.keras.rows.kind import LayerKind, Trait
from bnfuse.formats.keras.rows.site import Part, Site, always, single
from bnfuse.formats.keras.rows.sizes import same
from bnfuse.formats.keras.rows.stored import ClampStore, FusedClampStore
from bnfuse.formats.keras.rows.variables import holds

# f(s·x) = s·f(x) for every s >= 0.
HOMOGENEOUS = Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)
_NONLINEAR = Opaque(Reason.NONLINEAR)
_CLAMPED = ("float16", "float32", "float64")


def activation_rule(stored: Any) -> Rule | None:
    """The rule of a stored activation; None for the identity."""
    name, config = _name(stored)
    if name in (None, "linear"):
        return None
    if name in ("relu", "leaky_relu"):
        return HOMOGENEOUS
    if name in ("ReLU", "LeakyReLU", "PReLU"):
        return _layer_rule(str(name), config)
    return _NONLINEAR


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


def _layer_rule(class_name: str, config: Mapping[str, Any]) -> Rule:
    """ReLU, LeakyReLU, PReLU."""
    bounded = class_name == "ReLU" and (config.get("max_value") is not None or config.get("threshold"))
    return _NONLINEAR if bounded else HOMOGENEOUS


def _activation(site: Site) -> Sequence[Part]:
    rule = activation_rule(site.config.get("activation"))
    if rule is HOMOGENEOUS and _is_relu(*_name(site.config.get("activation"))):
        return _clamp(site)
    return single(site, Pass() if rule is None else rule)


def _rectifier(site: Site) -> Sequence[Part]:
    rule = _layer_rule(site.layer.class_name, site.config)
    plain = rule is HOMOGENEOUS and _is_relu(site.layer.class_name, site.config)
    return _clamp(site) if plain else single(site, rule)


def _is_relu(name: str | None, config: Mapping[str, Any]) -> bool:
    """Whether one of the homogeneous activations is max(x, 0)."""
    return name in ("relu", "ReLU") and not config.get("negative_slope")


def _clamp(site: Site) -> Sequence[Part]:
    """max(x, 0), in whose place ``keras.ops.maximum`` can stand."""
    if not _can_be_an_op(site):
        return single(site, HOMOGENEOUS)
    return single(site, _relu(site, site.rank(), fused=False), ClampStore())


def _can_be_an_op(site: Site) -> bool:
    """Whether a node can stand for what it does to its one value: where its call says what it reads."""
    once = site.call is not None and is_keras3(site.call.raw) and len(site.layer.calls) == 1
    return once and not site.lead and site.compute_dtype in _CLAMPED and len(site.inputs) == 1


def _relu(site: Site, rank: int | None, *, fused: bool) -> Clamp:
    dtype = np.dtype(site.compute_dtype)
    return Clamp(0.0, np.inf, HOMOGENEOUS, dtype, spreads=rank is not None, fused=fused)


def fused(site: Site, inner: str) -> Part | None:
    """What a layer does to the value ``inner`` that it has worked out; None where that is nothing."""
    stored = site.config.get("activation")
    rule = activation_rule(stored)
    if rule is None:
        return None
    part = Part("activation", (inner,), site.outputs[:1], always(rule), role="activation")
    if rule is HOMOGENEOUS and _is_relu(*_name(stored)) and _can_be_an_op(site) and site.out_rank():
        part.rule, part.stored = always(_relu(site, site.out_rank(), fused=True)), FusedClampStore()
    return part


def _nonlinear(site: Site) -> Sequence[Part]:
    return single(site, _NONLINEAR)


ROWS = (
    LayerKind(("Activation",), _activation, same, traits=Trait.HANDS_ON),
    LayerKind(("ReLU", "LeakyReLU"), _rectifier, same),
    LayerKind(("PReLU",), _rectifier, same, holds("alpha")),
    LayerKind(("ELU", "Softmax", "ThresholdedReLU"), _nonlinear, same),
)
