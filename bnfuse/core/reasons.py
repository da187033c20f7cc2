"""Why a BatchNormalization stays: reason codes, and refusals as values.

A refusal is never ``None`` or ``False``: it names the node that refused, the code, and the
figures that belong to it, and it reads as a sentence.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Reason(Enum):
    """A stable code (``.name`` in JSON) and the sentence it stands for.

    Sentences may use ``{node}`` (who refused), ``{value}`` (the tensor) and ``{detail}``.
    """

    GRAPH_INPUT = "'{value}' is an input of the model, whose values cannot be changed"
    GRAPH_OUTPUT = "'{value}' is an output of the model, whose values must not change"
    CAPTURED = "'{value}' is read inside the body of {node}"
    BODY_BOUNDARY = "'{value}' crosses the boundary of a subgraph or function"
    KNOWN_BEFOREHAND = "'{value}' is computed from constants alone, so to its readers it is a constant"
    UNSUPPORTED_OP = "{node} cannot take a per-channel scale or shift{detail}"
    NONLINEAR = "{node} is nonlinear: neither a scale nor a shift passes through it"
    SHIFT_THROUGH_ACTIVATION = "a shift cannot pass through {node}"
    NEGATIVE_SCALE = "{node} passes only non-negative scales{detail}"
    ZERO_SCALE = "the scale has zeros{detail}, so {node} cannot undo it"
    ZERO_PADDING = "{node} pads with zeros, which a shift would turn into wrong values at the borders"
    SHIFT_REFUSED = "{node} can take a scale, but no shift"
    AXIS = "{node} works along another axis than the channels{detail}"
    BROADCAST = "{node} broadcasts across the channels{detail}"
    SHAPE_UNKNOWN = "the shape at {node} is unknown, so the channels cannot be followed"
    CONFLICT = "two neighbours need different scales or shifts of '{value}'"
    WEIGHT_NOT_CONSTANT = "the weight of {node} is not a constant{detail}"
    PARAMETER_NOT_CONSTANT = "{node} computes its scale or statistics at run time{detail}"
    PARAMETER_IS_ARGUMENT = "the scale or statistics of {node} are arguments of the function it is in{detail}"
    PARAMETER_QUANTISED = "the scale or statistics of {node} are stored quantised{detail}"
    PARAMETER_OVERRIDABLE = "a caller may override '{value}', an initializer that is also an input"
    TRAINING_MODE = "{node} runs in training mode, so it uses the statistics of each batch"
    LIVE_STATISTICS = "other nodes read the statistics that {node} puts out"
    INVALID_STATISTICS = "{node} has statistics that give no finite scale and shift{detail}"
    BAD_PARAMETERS = "the parameters of {node} do not fit together{detail}"
    OVERFLOW = "the weights of {node} would overflow {detail} or hold NaN"
    NO_GAIN = "removing {node} would need a new node elsewhere, so nothing would be gained"
    WAITING = "{node} may still be removed itself, so it takes on nothing that could prevent that"
    TOO_MANY_CHOICES = "there are too many ways to route the shift past {node} to try them all"
    TOO_LARGE = "all that is set aside to search a graph of this size was taken, short of {node}"
    TOO_FAR = "{node} can go another way that touches fewer nodes"
    PRECISION = "{node} would have to shift '{value}' by far more than it varies{detail}, losing precision"
    OTHER_TYPE = "{node} computes in another type than that of its input{detail}"
    QUANTISED_WEIGHT = "the quantised weight of {node} cannot take that scale{detail}"
    LOCKED_WEIGHTS = "the weights of {node} must stay as they are{detail}"
    NO_ARITHMETIC = "{node} cannot be written as other operators{detail}"
    BY_REQUEST = "{node} is to stay, as you asked"
    UNREACHABLE = "nothing in the graph feeds {node}"


# A name may be as long as the file, and thousands of refusals may tell it: longer ones lose their middle.
_MOST_NAME, _CUT_END = 400, 199


def shortened(name: str) -> str:
    """A name as refusals tell it."""
    return name if len(name) <= _MOST_NAME else f"{name[:_CUT_END]}…{name[-_CUT_END:]}"


def label(op: str, name: str) -> str:
    """How messages call a node."""
    return f"{op} '{shortened(name)}'"


class Refusal(Struct, frozen=True):
    """One no: who refused a demand of one split, and why.

    ``split`` is the split that was being tried (``""`` where the BN itself is at fault).
    """

    reason: Reason
    node: str = ""
    value: str = ""
    detail: str = ""
    split: str = ""

    @property
    def sentence(self) -> str:
        """The reason as one sentence, names filled in."""
        detail = f" ({self.detail})" if self.detail else ""
        if self.reason is Reason.OVERFLOW:
            detail = self.detail
        return self.reason.value.format(
            node=self.node or "a node", value=shortened(self.value), detail=detail
        )
