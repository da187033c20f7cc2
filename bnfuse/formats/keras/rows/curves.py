"""What activations make of one positive number, in float64: of a channel that is that number everywhere.

Names are those of ``keras.activations`` and of the layers that are activations. Whose meaning differs between
Keras 2 and 3 (hard_sigmoid), or who mixes channels, has no formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, tanh
from typing import Any

from bnfuse.formats.curves import gelu, mish, sigmoid, softplus, softsign, swish

_SELU_SCALE = 1.0507009873554804934193349852946
Curve = Callable[[float], float]
_CURVES: dict[str, Curve] = {
    **dict.fromkeys(("linear", "leaky_relu", "LeakyReLU", "elu", "ELU", "celu"), lambda x: x),
    "selu": lambda x: _SELU_SCALE * x,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "softplus": softplus,
    "softsign": softsign,
    "exponential": exp,
    "gelu": lambda x: gelu(x, approximate=False),
    "mish": mish,
    **dict.fromkeys(("swish", "silu"), swish),
}


def curve(name: str, config: Mapping[str, Any], bounds: tuple[float, float] | None) -> Curve | None:
    """The formula of an activation, by its name and a layer's config; ``bounds`` of one that is a clamp."""
    if bounds is not None:
        low, high = bounds
        return lambda x: min(max(x, low), high)
    leaky = name == "ReLU" and config.get("max_value") is None and not config.get("threshold")
    return _CURVES.get("linear" if leaky else name)
