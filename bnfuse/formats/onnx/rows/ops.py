"""The op table: all that is known of each ONNX operator, one row an operator.

A row says which rule of core's vocabulary an operator obeys, how it changes sizes, and how it stores what it
absorbs. Rules are functions of a ``View`` (the node with its attributes, constants and shapes); what the
operator set changed over its versions is handled where it happened. The rows stand in the files beside this
one, by kind of operator; the rest of the format asks here. Operators without a row are opaque.

Source of every line: the ONNX operator specification, ai.onnx, versions 1 to 23.
"""

from __future__ import annotations

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.formats.extents import Shape
from bnfuse.formats.onnx.graph.extents.call import ExtentCall
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS
from bnfuse.formats.onnx.rows import (
    affine_ops,
    choosing_ops,
    convolution_ops,
    gemm_ops,
    joint_ops,
    layout_ops,
    linear_ops,
    ml_ops,
    nbits_ops,
    pointwise_ops,
    sampling_ops,
    window_ops,
)
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.signature import checked, of_types
from bnfuse.formats.onnx.rows.stored import Store
from bnfuse.formats.onnx.rows.view import NodeHandle, View

_FILES = (
    convolution_ops,
    gemm_ops,
    linear_ops,
    nbits_ops,
    affine_ops,
    joint_ops,
    pointwise_ops,
    window_ops,
    sampling_ops,
    layout_ops,
    choosing_ops,
    ml_ops,
)
_CURVES_SINCE = 7  # the operator set from which on the formulas of activations are those of today
ROWS: dict[str, OpKind] = {op: kind for file in _FILES for kind in file.ROWS for op in kind.ops}


def row_of(domain: str, op: str) -> OpKind | None:
    """The row of an operator, if it has one."""
    return ROWS.get(op if domain in ONNX_DOMAINS else f"{domain}.{op}")


def rule_of(view: View) -> Rule:
    """The rule of one node."""
    if view.handle.operand is not None:
        return joint_ops.constant(view)
    proto = view.proto
    row = row_of(proto.domain, view.node.op)
    if proto.domain not in ONNX_DOMAINS and (row is None or view.shapes.defines(proto.domain, view.node.op)):
        return Opaque(Reason.UNSUPPORTED_OP, detail=f"operator of the domain {proto.domain}")
    in_function = view.handle.scope.path[:1] == ("functions",)
    if in_function and any(a.ref_attr_name for a in proto.attribute):
        return Opaque(Reason.UNSUPPORTED_OP, detail="an attribute is set by the function's caller")
    if row is None or row.rule is None:
        return Opaque()
    if row.attributes is None:
        view.attributes = checked(proto, view.node.op, view.opset)
    else:
        view.attributes = of_types(proto, row.attributes)
    return row.rule if isinstance(row.rule, Rule) else row.rule(view)


def constant_through(view: View, value: float) -> float | None:
    """What a node makes of a channel that is one positive number everywhere; None where that is not known."""
    row = row_of(view.proto.domain, view.node.op)
    alone = len(view.node.inputs) == len(view.node.outputs) == 1 and not view.handle.scope.prefix
    if row is None or row.constant is None or not alone or view.opset < _CURVES_SINCE or not value > 0.0:
        return None
    view.attributes = checked(view.proto, view.node.op, view.opset)
    return row.constant(view, value)


def takes_channel(handle: NodeHandle, letter: str) -> bool:
    """Whether a linear op can be written with one more channel of its output (o) or input (i).

    Its weight is input 1, its bias input 2, and channels lie along axis 1 of both its input and its output.
    """
    wide = {"Conv": "io", "ConvTranspose": "o"}
    return not handle.scope.prefix and letter in wide.get(handle.proto.op_type, "")


def stored_by(op: str, handle: NodeHandle) -> Store | None:
    """How a node stores what it absorbs, which its rule says; None where its rules absorb nothing."""
    row = joint_ops.OPERAND if handle.operand is not None else row_of(handle.proto.domain, op)
    assert row is not None, f"{op} has a rule that absorbs, and so a row"
    return row.stored


def output_extents(call: ExtentCall) -> Shape | None:
    """The shape of a node's first output, as far as its sizes can be told; None where they cannot.

    Operators of other domains that are named as a standard one do most likely the same to sizes.
    """
    row = row_of(call.node.domain, call.node.op_type) or ROWS.get(call.node.op_type)
    if row is None or row.extents is None:
        return None
    try:
        return row.extents(call)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MemoryError):
        return None
