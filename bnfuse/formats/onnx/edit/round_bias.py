"""A bias that is stored in whole steps stays so (``--round-bias``): rounded, by at most half a step.

A bias behind a DequantizeLinear of 32-bit integers, b = q·step, usually has step = (step of x)·(step of W),
by which runtimes tell a convolution of integers. A fold that scales the outputs by a scales those of W by
|a|; so are the steps of the bias here, and

    q' = round(b'/step'),  step' = step·|a| (step where a is 0),  |b' − q'·step'| ≤ step'/2.

It does not act where an integer would not fit 32 bits: such a bias becomes one of floats, as all do without
being asked. (A zero point other than 0 makes no bias that is known: graph/evaluate.)
"""

from __future__ import annotations

import numpy as np
import onnx
from msgspec import Struct

from bnfuse.core.apply import NewLinear
from bnfuse.core.weights.scaled import round_once
from bnfuse.core.weights.tensor import Array, size, whole
from bnfuse.formats.onnx.edit.pending import Pool
from bnfuse.formats.onnx.graph.constants import Constants
from bnfuse.formats.onnx.graph.scope import ONNX_DOMAINS
from bnfuse.formats.onnx.rows.view import NodeHandle
from bnfuse.results.rounding import RoundedBias

_PER_AXIS = 13


class WholeSteps(Struct, frozen=True, eq=False):
    """q and step of the module's formula, shape (channels,), and how far q·step is from b'."""

    q: Array
    step: Array
    error: float


def in_whole_steps(constants: Constants, handle: NodeHandle, at: int, new: NewLinear) -> WholeSteps | None:
    """The new bias in steps of the old one; None where that is none of whole steps, or does not act.

    Raises:
        FloatingPointError: a step does not fit its type.
    """
    old = _old_step(constants, handle, at)
    channels = new.rule.form.channels_out
    if old is None or old.size not in (1, channels):
        return None
    scale = np.ones(channels) if new.rewrite.write is None else np.abs(new.rewrite.write[0])
    wanted = old.astype(np.float64).reshape(-1) * np.where(scale == 0.0, 1.0, scale)
    step, _ = round_once(wanted, old.dtype)
    if not step.all():  # flushed
        return None
    bias, exact = new.bias(), step.astype(np.float64)
    q = np.rint(bias / exact)
    if np.abs(q).max() > np.iinfo(np.int32).max:
        return None
    return WholeSteps(q.astype(np.int32), step, float(np.abs(bias - q * exact).max()))


def _old_step(constants: Constants, handle: NodeHandle, at: int) -> Array | None:
    """The scales of a DequantizeLinear of 32-bit integers that makes input ``at``."""
    name = handle.proto.input[at] if at < len(handle.proto.input) else ""
    owner = handle.scope.owner(name) if name else None
    node = None if owner is None else owner.constants.get(name)
    if owner is None or node is None or node.op_type != "DequantizeLinear" or node.domain not in ONNX_DOMAINS:
        return None
    stored, scale = (constants.get(owner, each) for each in node.input[:2])
    if stored is None or scale is None or stored.dtype != np.int32 or handle.scope.opset < _PER_AXIS:
        return None
    steps = whole(scale)
    return steps if size(scale) and (steps > 0.0).all() and np.isfinite(steps).all() else None


def put_steps(pool: Pool, handle: NodeHandle, at: int, made: WholeSteps) -> RoundedBias:
    """Make input ``at`` of a node that bias, by a DequantizeLinear of its own; what to tell of it."""
    scope, name = handle.scope, handle.proto.input[at]
    inputs = [pool.new(scope, f"{name}_integers", made.q), pool.new(scope, f"{name}_scale", made.step)]
    output = pool.unique(f"{name}_folded")
    label = pool.unique_label(output)
    pool.before(handle, onnx.helper.make_node("DequantizeLinear", inputs, [output], name=label, axis=0))
    handle.proto.input[at] = output
    pool.release(scope, name)
    return RoundedBias(handle.proto.name or handle.proto.output[0], made.error, float(made.step.max()) / 2.0)
