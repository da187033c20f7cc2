"""Guards of what moves, chooses and samples elements: numbers that do not fit, shapes that are not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from bnfuse.core.reasons import Reason
from tests.guard_rows import Build, Given, Guards, model, w
from tests.onnx_graphs import Net, Shape

GUARDS = Guards()
stays, folds = GUARDS.stays, GUARDS.folds
_BAD, _UNKNOWN, _OTHER = Reason.BAD_PARAMETERS, Reason.SHAPE_UNKNOWN, Reason.UNSUPPORTED_OP
_FREE: Shape = ("N", 3, "h", "w")


def ints(*numbers: int) -> Given:
    """A constant row."""
    return lambda net: net.const(np.array(numbers, np.int64))


def floats(*numbers: float) -> Given:
    """The same of float32."""
    return lambda net: net.const(np.array(numbers, np.float64))


def one(number: float) -> Given:
    """A constant without axes."""
    return lambda net: net.const(np.array(number))


def between(
    op: str, *more: Given, x: Shape = (2, 3, 6, 7), n: int = 4, rank: int | None = None, opset: int = 17,
    fed: Mapping[str, Shape] | None = None, **attributes: Any,
) -> Build:  # fmt: skip
    """Conv to 4 channels → the operator → BN over n."""

    def build(net: Net) -> onnx.ModelProto:
        names = [each if isinstance(each, str) else each(net) for each in more]
        y = net.op(op, net.conv("x", 3, 4, 1, 1), *names, **attributes)
        old: dict[str, Any] = {"is_test": 1} if opset < 7 else {}
        old |= {"consumed_inputs": [0] * 5} if opset < 6 else {}
        return model(net, net.bn(y, n, **old), x, fed, rank=rank, opset=opset)

    return build


def _into(
    op: str, *more: Given, x: Shape = (2, 3, 6, 7), n: int = 3, opset: int = 17, **attributes: Any
) -> Build:
    """BN → the operator → Conv of n channels."""

    def build(net: Net) -> onnx.ModelProto:
        names = [each if isinstance(each, str) else each(net) for each in more]
        y = net.op(op, net.bn("x", 3), *names, **attributes)
        return model(net, net.conv(y, n, 4, 1, 1), x, opset=opset)

    return build


# --- shapes that are known in part ---------------------------------------------------------------------

folds("Reshape, sizes of free axes", between("Reshape", ints(0, 4, -1), x=_FREE, rank=3))
folds("Squeeze, of a free batch", between("Squeeze", ints(2), x=("N", 3, 1, "w"), rank=3))
stays("Squeeze, of free axes", _UNKNOWN, between("Squeeze", x=("N", 3, 1, "w"), rank=3))
folds("Squeeze, of a free axis", between("Squeeze", ints(2), x=("N", 3, "h", 7), rank=3), runs=False)
_ONE_OF_TWO = between("Squeeze", ints(2, 3), x=(2, 3, 1, 7), rank=4)
stays("Squeeze, of one element and of seven", _BAD, _ONE_OF_TWO, runs=False)
folds("SpaceToDepth, of free axes", _into("SpaceToDepth", x=_FREE, n=75, blocksize=5))
folds("DepthToSpace, of free axes", between("DepthToSpace", x=_FREE, n=1, blocksize=2))
folds("Flatten, of one free axis", _into("Tile", ints(1, 1, 2, 1), x=_FREE))
stays("ReduceSum, of a free batch", Reason.SHIFT_REFUSED, between("ReduceSum", ints(0), x=_FREE))
folds("ReduceSum, of two axes, free behind", between("ReduceSum", ints(2), x=("N", 3, 6, "w")))
folds("Slice, of free columns", between("Slice", ints(1), ints(4), ints(3), x=_FREE))
folds("Pad, of free axes", between("Pad", ints(0, 0, 1, 0, 0, 0, 0, 1), x=_FREE, mode="edge"))
folds("Resize, of free axes", between("Resize", "", floats(1, 1, 2, 2), x=_FREE, mode="linear"))
folds("Resize, of free axes to sizes", between("Resize", "", "", ints(5, 4, 8, 8), x=_FREE, mode="linear"))

# --- numbers that do not fit ---------------------------------------------------------------------------

for _name, _op, _more, _how in (
    ("Transpose, an axis twice", "Transpose", (), {"perm": [0, 1, 1, 3]}),
    ("Transpose, no such axis", "Transpose", (), {"perm": [0, 1, 2, 4]}),
    ("Flatten, no such axis", "Flatten", (), {"axis": 5}),
    ("Flatten, none before the first", "Flatten", (), {"axis": -5}),
    ("Squeeze, of six elements", "Squeeze", (ints(2),), {}),
    ("Squeeze, no such axis", "Squeeze", (ints(4),), {}),
    ("Squeeze, of an empty list", "Squeeze", (ints(),), {}),
    ("Unsqueeze, twice the same", "Unsqueeze", (ints(1, 1),), {}),
    ("DepthToSpace, channels that do not divide", "DepthToSpace", (), {"blocksize": 3}),
    ("DepthToSpace, blocks of nothing", "DepthToSpace", (), {"blocksize": 0}),
    ("SpaceToDepth, blocks of nothing", "SpaceToDepth", (), {"blocksize": 0}),
    ("Slice, a beginning more", "Slice", (ints(0, 0), ints(1), ints(2)), {}),
    ("Slice, an axis more", "Slice", (ints(0), ints(1), ints(2, 3)), {}),
    ("Slice, an end more", "Slice", (ints(0), ints(1, 1), ints(2)), {}),
    ("Slice, a step more", "Slice", (ints(0), ints(1), ints(2), ints(1, 1)), {}),
    ("Slice, in steps of nothing", "Slice", (ints(0), ints(1), ints(2), ints(0)), {}),
    ("Gather, an element that is not there", "Gather", (ints(0, 6),), {"axis": 2}),
    ("Gather, one before the first", "Gather", (ints(-7),), {"axis": 2}),
    ("GatherND, more axes than there are", "GatherND", (ints(0, 0, 0, 0, 0),), {}),
    ("GatherND, all axes are batches", "GatherND", (ints(0),), {"batch_dims": 1}),
    ("GatherND, more axes than batches leave", "GatherND", (lambda net: net.const(np.zeros((2, 4), int)),),
     {"batch_dims": 1}),
    ("GatherND, by a number", "GatherND", (lambda net: net.const(np.array(0)),), {}),
    ("GatherElements, of fewer axes", "GatherElements", (ints(0, 1),), {}),
    ("Tile, for other axes", "Tile", (ints(1, 1, 2),), {}),
    ("Tile, never", "Tile", (ints(1, 1, 0, 1),), {}),
    ("Expand, to nothing", "Expand", (ints(2, 4, 0, 7),), {}),
    ("CenterCropPad, for other axes", "CenterCropPad", (ints(4, 4),), {"axes": [2]}),
    ("Pad, for other axes", "Pad", (ints(0, 0, 1, 0, 0, 1),), {}),
    ("Resize, no such axis", "Resize", ("", floats(2)), {"axes": [4]}),
):  # fmt: skip
    stays(_name, _BAD, between(_op, *_more, rank=4, opset=18, **_how), runs=False)

# --- tables --------------------------------------------------------------------------------------------


def _looked_up(table: Given, rank: int = 1, *, n: int = 5, told: bool = True, **attributes: Any) -> Build:
    """Gather from a constant by two ids that are computed, or a row of three → BN over n."""

    def build(net: Net) -> onnx.ModelProto:
        held = table if isinstance(table, str) else table(net)
        ids = net.op("Cast", "z", to=onnx.TensorProto.INT64)
        y = net.bn(net.op("Gather", held, ids, **attributes), n)
        made = model(net, y, (2, 4), {"z": (2, 3)[:rank]}, rank=rank + 1)
        if not told:
            made.graph.input[1].type.tensor_type.ClearField("shape")
        return made

    return build


folds("Gather, of a table", _looked_up(w(7, 5)))
stays("Gather, of as many rows as ids", Reason.AXIS, _looked_up(w(3, 5), 2, n=3), runs=False)
stays("Gather, of a table of one axis", Reason.WEIGHT_NOT_CONSTANT, _looked_up(w(7), 2), runs=False)
stays("Gather, of a table's columns", _OTHER, _looked_up(w(2, 7), axis=1), runs=False)
stays("Gather, of a table by ids of unknown rank", _UNKNOWN, _looked_up(w(7, 5), told=False), runs=False)
folds("Gather, along a free axis", between("Gather", ints(1, 0), x=_FREE, axis=3))
folds("Expand, to ones", between("Expand", ints(1, 1, 1, 1), x=_FREE))
folds("Expand, of a free axis", between("Expand", ints(8, 1), x=_FREE), runs=False)
_LENGTHS: dict[str, Shape] = {"z": ("R",)}


def _expanded(net: Net) -> onnx.ModelProto:
    """To as many axes as the runtime says."""
    wanted = net.op("Cast", "z", to=onnx.TensorProto.INT64)
    return model(net, net.bn(net.op("Expand", net.conv("x", 3, 4, 1, 1), wanted), 4), _FREE, _LENGTHS)


stays("Expand, to some shape", _UNKNOWN, _expanded, runs=False)
folds("Reshape, opset 4", between("Reshape", shape=[0, 4, -1], rank=3, opset=4), runs=False)
stays("Tile, opset 5", _OTHER, between("Tile", one(2.0), one(3.0), rank=4, opset=5), runs=False)

# --- what is known at run time -------------------------------------------------------------------------

_NUMBERS: dict[str, Shape] = {"z": (1,)}
_BY_ONE = ints(0, 0, 1, 0, 0, 0, 0, 1)
stays("Pad, with a number of run time", _OTHER, between("Pad", _BY_ONE, "z", fed=_NUMBERS), runs=False)
_TRILINEAR = between("Upsample", floats(1, 1, 2, 2), mode="trilinear", opset=9)
folds("Pad, opset 1", between("Pad", paddings=[0, 0, 1, 0, 0, 0, 0, 1], mode="edge", opset=1), runs=False)
_CHANNELS = _into("Pad", ints(0, 0, 0, 0, 0, 1, 0, 0), x=("N", "c", 6, 7))
stays("Pad, with channels of zeros beside some", Reason.ZERO_PADDING, _CHANNELS, runs=False)
stays("Upsample, trilinear", _OTHER, _TRILINEAR, runs=False)
_BILINEAR = between("Upsample", mode="bilinear", height_scale=2.0, width_scale=2.0, opset=1)
stays("Upsample, bilinear", _OTHER, _BILINEAR, runs=False)
