"""Where a value comes from that is not known before the model runs: what a refusal tells the user.

A value is followed backward through what computes it. One that follows from constants alone is still none
for us where it is unpacked from a quantised form (the stored numbers are not the layer's own) or goes
through an operator that is not worked out; one that a function's callers give is none inside the function.
"""

from __future__ import annotations

from enum import Enum

import onnx

from bnfuse.formats.onnx.graph.scope import Scope

# Further back nobody looks: the value is then called what it is at the first glance.
_MOST_NODES = 256
_UNPACK = {"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear", "Quant", "BipolarQuant"}


class Origin(Enum):
    """Where a value comes from."""

    RUN_TIME = "computed from what the model is fed with"
    UNKNOWN = "it follows from constants, but is not worked out"
    ARGUMENT = "it is an argument of the function it is in"
    QUANTISED = "it is stored quantised"


def origin(scope: Scope, name: str) -> Origin:
    """Where a value that is no constant comes from, as seen from a scope."""
    pending, seen = [(scope, name)], {name}
    found = Origin.UNKNOWN
    while pending:
        at, current = pending.pop()
        owner = at.owner(current)
        if owner is None or len(seen) > _MOST_NODES:
            return Origin.RUN_TIME
        if current in owner.initializers:
            continue
        if isinstance(owner.body, onnx.FunctionProto) and current in owner.body.input:
            found = Origin.ARGUMENT
            continue
        node = owner.writer(current)
        if node is None:  # an input of the model, or of a body
            return Origin.RUN_TIME
        if node.op_type in _UNPACK and found is Origin.UNKNOWN:
            found = Origin.QUANTISED
        fresh = [i for i in node.input if i and i not in seen]
        seen.update(fresh)
        pending += [(owner, i) for i in fresh]
    return found
