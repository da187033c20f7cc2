"""Rows of the op table: BatchNormalization, per-channel arithmetic, normalisations with γ and β."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Pair, Reparam, arithmetic_pair
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Reaction, Rule, StateView
from bnfuse.core.rules.batchnorm import broken, inference_affine
from bnfuse.core.weights.tensor import Tensor, as_float64, size
from bnfuse.formats.onnx.graph.constants import is_float
from bnfuse.formats.onnx.graph.extents.rules import same
from bnfuse.formats.onnx.graph.origin import Origin
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.stored import DEFAULT_EPSILON, AffineStore, BatchNormStore
from bnfuse.formats.onnx.rows.view import View

_FLOAT32 = np.dtype(np.float32)  # what ``Statistics`` takes on
_BROADCASTING = 7  # the operator set from which on Mul and Add broadcast
_PARAMETERS = ("scale", "bias", "mean", "variance")


class NumberOnly(Affine, frozen=True, eq=False):
    """A number in an operator of which no rank is known: a vector in its place could not be given a shape.

    Only one along the last axis needs none.
    """

    def react(self, node: Node, port: Port, held: Reparam, numbers: StateView) -> Reaction | Refusal:
        """As an Affine does, where that is along no axis or along the last."""
        if held.axes not in ((), (-1,)):
            return Refusal(Reason.SHAPE_UNKNOWN, node.label, node.value(port))
        return Affine.react(self, node, port, held, numbers)


def batchnorm(view: View) -> Rule:
    """y = γ·(x − μ)/√(σ² + ε) + β along axis 1, statistics from the file (ONNX BatchNormalization)."""
    mode = _mode_refusal(view)
    maps = None if mode is not None else view.statistics.take(view.handle)
    if maps is not None and isinstance(_statistics_axes(view, 1), tuple):
        return Affine(maps[:2], (1,), typical=maps[2], stored=_FLOAT32)
    arrays = mode or _parameters(view)
    if isinstance(arrays, Refusal):
        return broken(arrays)
    gamma, beta, mean, variance = arrays
    epsilon = float(view.attr("epsilon", DEFAULT_EPSILON))
    axes = _statistics_axes(view, gamma.ndim)
    if isinstance(axes, Refusal):
        return broken(axes)
    found = inference_affine(view.node.label, gamma, beta, mean, variance, epsilon, axes)
    scale = view.const(1)
    return found if scale is None else replace(found, computes=scale.dtype, stored=scale.dtype)


def spelled(view: View, pair: Pair) -> tuple[str, ...] | Refusal:
    """What y = a·x + c takes in place of a BatchNormalization: a Mul and an Add by vectors."""
    dtype, scale, label = view.float_type(0), view.const(1), view.node.label
    if dtype is None or scale is None or scale.dtype != dtype:
        return Refusal(Reason.NO_ARITHMETIC, label, detail="of its types")
    if view.opset < _BROADCASTING:
        return Refusal(Reason.NO_ARITHMETIC, label, detail=f"in operator set {view.opset}")
    rank = view.rank(0)
    if rank is None or rank < 2:
        what = "how many axes '{}' has is not known" if rank is None else "'{}' has no axis of channels"
        detail = what.format(view.node.value(0))
        return Refusal(Reason.NO_ARITHMETIC, label, detail=detail)
    if any((np.abs(each) > np.finfo(dtype).max).any() for each in pair):
        return Refusal(Reason.NO_ARITHMETIC, label, detail=f"its scale and shift do not fit {dtype}")
    a, c = pair
    asked = (("Mul", bool((a != 1.0).any())), ("Add", bool(c.any())))
    return tuple(op for op, needed in asked if needed)


def _statistics_axes(view: View, ndim: int) -> tuple[int, ...] | Refusal:
    """The axes of x along which statistics of ``ndim`` axes lie: 1, or all but 0 where spatial=0 (opset < 9).

    Statistics that have one axis where ``spatial`` asks for all, or the reverse, are refused: runtimes
    read them in different ways.
    """
    if view.attr("spatial", 1):  # from 9 on, there is none
        detail = f"statistics of {ndim} axes, where one number per channel is needed"
        fits = ndim == 1
    else:
        rank = view.rank(0)
        detail = f"spatial=0 with statistics of {ndim} axes and an input of {rank or 'unknown'} axes"
        fits = rank is not None and ndim == rank - 1
    if not fits:
        return Refusal(Reason.BAD_PARAMETERS, view.node.label, detail=detail)
    return tuple(range(1, 1 + ndim))


def _trains(view: View) -> bool:
    """Whether it uses the statistics of each batch.

    Told by ``is_test`` below operator set 7 and by ``training_mode`` from 14 on. Between them nothing tells
    but the outputs: with names for more than the first it trains, whether they are read or not.
    """
    if view.opset < 7:
        return not view.attr("is_test", 0)
    if view.opset < 14:
        return any(view.proto.output[1:])
    return bool(view.attr("training_mode", 0))


def _mode_refusal(view: View) -> Refusal | None:
    """Training mode, or statistics that somebody reads."""
    label = view.node.label
    if _trains(view):
        return Refusal(Reason.TRAINING_MODE, label)
    if len(view.node.outputs) > 1:  # the reader keeps only outputs that are read
        return Refusal(Reason.LIVE_STATISTICS, label)
    return None


def _parameters(view: View) -> Sequence[NDArray[np.float64]] | Refusal:
    """γ, β, μ, σ², all of one shape."""
    arrays: list[NDArray[np.float64]] = []
    for i, what in enumerate(_PARAMETERS, start=1):
        found = _parameter(view, i, what)
        if isinstance(found, Refusal):
            return found
        arrays.append(found)
    if len({v.shape for v in arrays}) != 1:
        shapes = ", ".join(str(v.shape) for v in arrays)
        return Refusal(Reason.BAD_PARAMETERS, view.node.label, detail=f"shapes {shapes}")
    return arrays


_NOT_CONSTANT = {
    Origin.RUN_TIME: Reason.PARAMETER_NOT_CONSTANT,
    Origin.UNKNOWN: Reason.PARAMETER_NOT_CONSTANT,
    Origin.ARGUMENT: Reason.PARAMETER_IS_ARGUMENT,
    Origin.QUANTISED: Reason.PARAMETER_QUANTISED,
}


def _parameter(view: View, i: int, what: str) -> NDArray[np.float64] | Refusal:
    name = view.overridable(i)
    if name is not None:
        return Refusal(Reason.PARAMETER_OVERRIDABLE, view.node.label, name)
    tensor = view.const(i)
    if tensor is None:
        source = view.origin(i)
        detail = f"{what}: {source.value}" if source is Origin.UNKNOWN else what
        return Refusal(_NOT_CONSTANT[source], view.node.label, detail=detail)
    if not is_float(tensor):
        return Refusal(Reason.BAD_PARAMETERS, view.node.label, detail=f"{what} of type {tensor.dtype}")
    array = as_float64(tensor)
    return array.reshape(-1) if view.opset >= 9 or array.ndim < 2 else array


def arithmetic(view: View) -> Affine | None:
    """Mul, Add, Sub, Div with a per-channel (or single) constant on either side, else None.

    None as well where the constant would raise the rank, or the constant is the dividend.
    """
    sides = [view.is_const(0), view.is_const(1)]
    if sides.count(True) != 1:
        return None
    k = sides.index(True)
    tensor = view.const(k)
    kind = view.proto.op_type
    if tensor is None or not is_float(tensor) or (kind == "Div" and k == 0):
        return None
    if view.opset < 7 and not _legacy_vector(view, tensor, k):
        one = np.ones(())
        legacy = Refusal(Reason.BROADCAST, view.node.label, detail="by the rules of operator sets below 7")
        return Affine((one, one), (), in_port=1 - k, broken=legacy)
    lies = _channel_axis(view, tensor, 1 - k)
    if lies is None or size(tensor) > 1 << 20:
        return None
    values = as_float64(tensor).reshape(-1)
    constant: Any = values if lies else values.reshape(())
    pair = arithmetic_pair(kind, constant, first=k == 0)
    scales = kind in ("Mul", "Div")
    affine = NumberOnly if not lies and view.rank(1 - k) is None else Affine
    refusal = None
    if not all(bool(np.isfinite(v).all()) for v in pair):
        refusal = Refusal(Reason.INVALID_STATISTICS, view.node.label)
    return affine(
        pair,
        lies,
        has_scale=scales,
        has_shift=not scales,
        divides=kind == "Div",
        in_port=1 - k,
        broken=refusal,
        stored=tensor.dtype,
    )


def _legacy_vector(view: View, tensor: Tensor, k: int) -> bool:
    """Whether a constant may be read, and written back, as a vector below opset 7.

    Only the second operand broadcasts there, if told to, and no axis of size 1 is stretched: a single
    number cannot become a vector in place.
    """
    rank = view.rank(1 - k)
    return k == 1 and rank is not None and len(tensor.shape) == 1 and size(tensor) > 1


def _channel_axis(view: View, tensor: Tensor, x: int) -> tuple[int, ...] | None:
    """The axis of x that a right-aligned constant runs along; () for one number; None if unsuitable."""
    shape = tensor.shape
    rank = view.rank(x)
    if view.opset < 7 and rank is not None:  # the constant begins at `axis`, the last axes if not told
        begin = view.axis(view.attr("axis", rank - len(shape)))
        shape += (1,) * (rank - begin - len(shape))
    long = [d for d, n in enumerate(shape) if n != 1]
    if not shape:
        return ()
    if rank is not None and len(shape) > rank:
        return None
    if rank is None and len(shape) > 1:
        return None
    if not long:
        return ()
    if len(long) > 1:
        return None
    from_right = long[0] - len(shape)
    axis = from_right if rank is None else from_right + rank
    x_shape = view.shape(x)
    if x_shape is not None and (not -len(x_shape) <= axis < len(x_shape) or x_shape[axis] == 1):
        return None  # the constant stretches x, or what is said of x contradicts itself
    return (axis,)


def normalization(view: View, along: int = 1, has_shift: bool = True) -> Rule:
    """LayerNormalization and its kin end in y = γ·x̂ + β: they take on what follows, nothing before.

    ``along`` is the axis that γ and β vary along; without ``has_shift`` there is no β, and no place for one.
    """
    scale, bias = view.const(1), view.const(2)
    if scale is None or (view.has_input(2) and bias is None) or view.overridable(1) or view.overridable(2):
        return Opaque(Reason.WEIGHT_NOT_CONSTANT)
    if len(scale.shape) != 1 or not is_float(scale) or len(view.node.outputs) > 1:
        return Opaque(Reason.UNSUPPORTED_OP)
    if bias is not None and not is_float(bias):
        return Opaque(Reason.BAD_PARAMETERS, f"bias of type {bias.dtype}")
    if bias is None and len(view.proto.input) > 2:
        return Opaque(Reason.BAD_PARAMETERS, "its bias is left out by an empty name")
    axis = view.axis(along)
    if view.proto.op_type == "GroupNormalization" and view.opset < 21:
        return Opaque(Reason.UNSUPPORTED_OP)  # γ and β are per group there
    if along < 0 and view.axis(view.attr("axis", -1)) != axis:
        return Opaque(Reason.UNSUPPORTED_OP)
    gamma = as_float64(scale)
    beta = np.zeros_like(gamma) if bias is None else as_float64(bias)
    if beta.shape != gamma.shape:
        return Opaque(Reason.BAD_PARAMETERS)
    return Affine((gamma, beta), (axis,), has_shift=has_shift, reads=False, stored=scale.dtype)


ROWS = (
    OpKind(("BatchNormalization",), batchnorm, same, BatchNormStore(), operands=1),
    OpKind(("LayerNormalization",), partial(normalization, along=-1), same, AffineStore()),
    OpKind(("RMSNormalization",), partial(normalization, along=-1, has_shift=False), same, AffineStore()),
    OpKind(("InstanceNormalization", "GroupNormalization"), normalization, same, AffineStore()),
    # not looked into
    OpKind(("MeanVarianceNormalization", "LRN"), extents=same),
)
