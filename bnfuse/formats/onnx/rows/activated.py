"""The rule of linear operators with an activation of their own, as onnxruntime fuses them: f(W·x + b)."""

from __future__ import annotations

from msgspec.structs import asdict

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam
from bnfuse.core.rules.base import Opaque, Reaction, Rule, StateView
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats.onnx.rows.view import View

_HOMOGENEOUS = (b"Relu", b"LeakyRelu")


class Activated(Linear, frozen=True, eq=False):
    """y = f(W·x + b): at the output comes in what f passes.

    Attributes:
        homogeneous: whether f(s·v) = s·f(v) for s ≥ 0.
    """

    homogeneous: bool = False

    def biasless(self) -> Rule:
        """No shift goes on to the output."""
        return self

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """As a Linear, behind what f lets through."""
        if port == ~0 and not self.homogeneous:
            return Refusal(Reason.NONLINEAR, node.label, node.value(port))
        if port == ~0 and held.shifts:
            return Refusal(Reason.SHIFT_THROUGH_ACTIVATION, node.label, node.value(port))
        if port == ~0 and (negative := held.negative):
            detail = f"{negative} of {held.size} channels are negative"
            return Refusal(Reason.NEGATIVE_SCALE, node.label, node.value(port), detail)
        return Linear.react(self, node, port, held, numbers)


def activated(view: View, rule: Linear | Opaque) -> Rule:
    """A linear rule with the node's own activation behind it."""
    kind = view.attr("activation", b"")
    if isinstance(rule, Opaque) or not kind:
        return rule
    known = asdict(rule)
    if not rule.has_bias:  # a shift would have to go on to the output
        known["shift_in"] = Reason.SHIFT_THROUGH_ACTIVATION
    return Activated(**known, homogeneous=kind in _HOMOGENEOUS)
