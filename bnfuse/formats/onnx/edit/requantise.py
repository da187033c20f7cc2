"""A quantised weight with other scales: a DequantizeLinear or Quant of its own in front of who reads it.

The old one may have other readers, so it stays if it has; its integers and zero points are shared where they
are what they were.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.onnx.edit.pending import Pool
from bnfuse.formats.onnx.graph.qonnx import NEAREST
from bnfuse.formats.onnx.graph.quantised import Unpacking, flat
from bnfuse.formats.onnx.rows.view import NodeHandle


def unpack_anew(
    pool: Pool, handle: NodeHandle, at: int, old: Unpacking, scale: Array, stored: Array | None
) -> None:
    """Make input ``at`` of a node what these scales and integers stand for.

    Args:
        pool: the changes to come.
        handle: the node.
        at: which of its inputs.
        old: what it reads now.
        scale: new scales in their type, with one size for each axis of the weight.
        stored: new integers, None where they stay.
    """
    scope, name = handle.scope, handle.proto.input[at]
    integers, _, zero = (*old.node.input, "")[:3]
    kept = {a.name: a.i for a in old.node.attribute if a.name in ("axis", "block_size", "output_dtype")}
    points = old.tensor.zero
    if not kept.get("block_size", 0):
        if scale.shape != points.shape:
            points = points + (scale * 0).astype(points.dtype)  # one for each scale
        scale, axis = flat(scale)
        points, _ = flat(points)
        if axis is not None:
            kept["axis"] = axis
    inputs = [
        pool.shared(scope, integers) if stored is None else pool.new(scope, f"{name}_integers", stored),
        pool.new(scope, f"{name}_scale", scale),
    ]
    if zero and points.shape == old.tensor.zero.shape:
        inputs.append(pool.shared(scope, zero))
    elif zero:
        inputs.append(pool.new(scope, f"{name}_zero", points.astype(old.tensor.stored.dtype)))
    made = pool.unique(f"{name}_folded")
    label = pool.unique_label(f"{old.node.name or name}_folded")
    node = onnx.helper.make_node("DequantizeLinear", inputs, [made], name=label)
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in kept.items())
    pool.before(handle, node)
    handle.proto.input[at] = made
    pool.release(scope, name)


def quantise_anew(
    pool: Pool, handle: NodeHandle, at: int, old: Unpacking, scale: Array, put: Callable[[NodeHandle], None]
) -> None:
    """The same where a Quant makes the weight out of floats: these become what the new scales make of it.

    They lie on the new grid up to their last place, so that rounding to the nearest finds the same integers,
    mirrored and zeroed ones too, whatever way of rounding found the old ones. A scale that is too small for
    its type is as good as zero, by which nobody may divide: there it is one. A BipolarQuant does not divide.

    Args:
        pool: the changes to come.
        handle: the node.
        at: which of its inputs.
        old: what it reads now.
        scale: new scales in their type, with one size for each axis of the weight.
        put: makes input 0 of a node the new floats.
    """
    scope, name = handle.scope, handle.proto.input[at]
    node = onnx.NodeProto()
    node.CopyFrom(old.node)
    node.name = pool.unique_label(f"{old.node.name or name}_folded")
    node.output[0] = pool.unique(f"{name}_folded")
    for attribute in node.attribute:
        if attribute.name == "rounding_mode":
            attribute.s = NEAREST
    for each in node.input:
        pool.shared(scope, each)
    pool.before(handle, node)
    handle.proto.input[at] = node.output[0]
    pool.release(scope, name)
    made = NodeHandle(scope, handle.index, made=node)
    stored = scale if old.tensor.zero_scales else np.where(scale == 0.0, scale.dtype.type(1.0), scale)
    pool.replace(made, 1, stored)
    put(made)
