"""What activations make of one positive number, in float64: of a channel that is that number everywhere.

Formulas are those of the ONNX operator specification from operator set 7 on. Who has no formula here is not
asked (``OpKind.constant``).
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf, exp, sqrt, tanh

from bnfuse.formats.curves import gelu, mish, sigmoid, softplus, softsign, swish
from bnfuse.formats.onnx.rows.view import View

_SELU_GAMMA = 1.05070102214813232421875  # of float32


def same(view: View, x: float) -> float | None:
    """The identity, for numbers above zero at least."""
    return x


_CURVES: dict[str, Callable[[View, float], float]] = {
    "Sigmoid": lambda view, x: sigmoid(x),
    "Tanh": lambda view, x: tanh(x),
    "Elu": lambda view, x: x,
    "Selu": lambda view, x: view.attr("gamma", _SELU_GAMMA) * x,
    "Celu": lambda view, x: x,
    "HardSigmoid": lambda view, x: min(1.0, max(0.0, view.attr("alpha", 0.2) * x + view.attr("beta", 0.5))),
    "HardSwish": lambda view, x: x * min(1.0, x / 6.0 + 0.5),
    "Mish": lambda view, x: mish(x),
    "Gelu": lambda view, x: gelu(x, approximate=view.attr("approximate", b"none") == b"tanh"),
    "Erf": lambda view, x: erf(x),
    "Exp": lambda view, x: exp(x),
    "Sqrt": lambda view, x: sqrt(x),
    "Softplus": lambda view, x: softplus(x),
    "Softsign": lambda view, x: softsign(x),
    "Swish": lambda view, x: swish(x, view.attr("alpha", 1.0)),
}


def curve(view: View, x: float) -> float | None:
    """f(x) of a nonlinear activation; None where there is no formula."""
    formula = _CURVES.get(view.node.op)
    return None if formula is None else formula(view, x)
