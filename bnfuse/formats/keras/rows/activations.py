"""Rows of the op table: activations, as layers and as what other layers end in.

Which scales commute with an activation, by how Keras stores it: a name, or an object with a config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnfuse.core.reasons import Reason
from bnfuse.core.rules import Opaque, Pass, Rule, Sign
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.site import Part, Site, single
from bnfuse.formats.keras.rows.sizes import same
from bnfuse.formats.keras.rows.variables import holds

# f(s·x) = s·f(x) for every s >= 0.
HOMOGENEOUS = Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)
_NONLINEAR = Opaque(Reason.NONLINEAR)


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
    return single(site, Pass() if rule is None else rule)


def _rectifier(site: Site) -> Sequence[Part]:
    return single(site, _layer_rule(site.layer.class_name, site.config))


def _nonlinear(site: Site) -> Sequence[Part]:
    return single(site, _NONLINEAR)


ROWS = (
    LayerKind(("Activation",), _activation, same),
    LayerKind(("ReLU", "LeakyReLU"), _rectifier, same),
    LayerKind(("PReLU",), _rectifier, same, holds("alpha")),
    LayerKind(("ELU", "Softmax", "ThresholdedReLU"), _nonlinear, same),
)
