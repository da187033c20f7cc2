"""Convolutions with one channel more than the file has: another weight and bias, and no stale shapes.

The weight is input 1, the bias input 2 (``rows.ops.takes_channel``). What the file says of the shapes of
values that carry the channel is left out: onnx finds it out anew.
"""

from __future__ import annotations

from bnfuse.core.apply import Patch
from bnfuse.core.tensor import Array
from bnfuse.core.widened import WidenedLinear
from bnfuse.formats.onnx.edit.pending import Pool
from bnfuse.formats.onnx.rows.view import NodeHandle


def widen(pool: Pool, handle: NodeHandle, new: WidenedLinear, weight: Array, bias: Array | None) -> None:
    """Give a node its new parameters, in their types."""
    pool.replace(handle, 1, weight)
    if bias is None:
        return
    if new.new.rule.bias is None:
        pool.append_input(handle, 2, bias, f"{handle.proto.name or handle.proto.output[0]}_bias")
    else:
        pool.replace(handle, 2, bias)


def carrying(patch: Patch) -> frozenset[str]:
    """Names of the main graph's values that have another shape by a patch."""
    return frozenset(value for channel in patch.channels if channel.added for value in channel.spread.held)
