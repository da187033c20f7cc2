"""Works out nodes whose inputs are constants, as onnxruntime would compute them.

``ROWS`` says by operator which function does it, and from which version of the operator set on for which
element types: exactly what ``tests/test_evaluate.py`` holds against onnxruntime, its own optimisation off.
What has no entry is not worked out, its value is not a constant: operators and versions that onnxruntime does
not run, types that it has no kernel for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from msgspec import Struct

from bnfuse.core.weights.tensor import Array, ArrayTensor, Based, FilledTensor, Tensor, size
from bnfuse.formats.onnx.graph.evaluate import indexing, moving, numbers, reducing
from bnfuse.formats.onnx.graph.evaluate.call import (
    MOST_ELEMENTS,
    Allowance,
    KnownCall,
    Unknown,
    allowance,
    bounded,
)
from bnfuse.formats.onnx.rows.signature import checked
from bnfuse.formats.table import Malformed

# The newest operator set that the comparison covers.
LAST_OPSET = 28

Types = frozenset[str]
_FLOATS: Types = frozenset(("float16", "float32", "float64"))
_SINGLE: Types = frozenset(("float32",))
_QUANTISED: Types = frozenset(("int8", "uint8", "int32"))
_WIDE: Types = frozenset(("float32", "float64"))
_LONG: Types = frozenset(("int32", "int64"))
_NUMBERS = _FLOATS | _LONG
_BOOL: Types = frozenset(("bool",))
_PLAIN = _FLOATS | _BOOL | {f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)}
_ALL = _PLAIN | {"bfloat16"}


class Evaluated(Struct, frozen=True):
    """How an operator is worked out.

    Attributes:
        work: the result (or results) of a call.
        held: by the first version of the operator set: the types of input ``typed`` that are held from it on.
        typed: the input whose element type decides.
    """

    work: Callable[[KnownCall], Any]
    held: dict[int, Types]
    typed: int = 0

    def types(self, opset: int) -> Types:
        """The element types that are held in a version of the operator set."""
        if opset > LAST_OPSET:
            return frozenset()
        return next((types for version, types in sorted(self.held.items(), reverse=True) if version <= opset),
                    frozenset())  # fmt: skip


def _filled(call: KnownCall) -> Tensor:
    """ConstantOfShape: one value, however often."""
    shape = call.ints(0) or []
    fill: Array = np.zeros((), np.float32)
    given = call.attr("value")
    if given is not None:
        value = onnx.numpy_helper.to_array(given).reshape(-1)
        if value.size != 1 or value.dtype.name not in _ALL:
            raise Unknown("no single value")
        fill = value[0]
    return FilledTensor(bounded(shape), np.asarray(fill))


_OLD_AND_NEW = {1: _PLAIN, 13: _ALL}
_ARITHMETIC = {7: _NUMBERS}
_FLOAT_FUNCTION = {6: _FLOATS}
_ORDER = {7: _FLOATS, 9: _NUMBERS}
_REDUCED = {1: _WIDE | _LONG, 11: _NUMBERS}
_AVERAGED = {1: _WIDE, 11: _FLOATS}

ROWS: dict[str, Evaluated] = {
    "ConstantOfShape": Evaluated(_filled, {9: frozenset(("int64",))}),
    "Identity": Evaluated(moving.identity, _OLD_AND_NEW),
    "Reshape": Evaluated(moving.reshape, {1: _FLOATS, 5: _PLAIN, 13: _ALL}),
    "Unsqueeze": Evaluated(moving.unsqueeze, _OLD_AND_NEW),
    "Squeeze": Evaluated(moving.squeeze, _OLD_AND_NEW),
    "Flatten": Evaluated(moving.flatten, {1: _FLOATS, 9: _PLAIN, 13: _ALL}),
    "Transpose": Evaluated(moving.transpose, _OLD_AND_NEW),
    "Concat": Evaluated(moving.concat, {4: _PLAIN, 13: _ALL}),
    "Slice": Evaluated(moving.slice_, _OLD_AND_NEW),
    "Gather": Evaluated(moving.gather, _OLD_AND_NEW),
    "Expand": Evaluated(moving.expand, {8: _PLAIN}),
    "Tile": Evaluated(moving.tile, {6: _PLAIN}),
    "Split": Evaluated(moving.split, {2: _PLAIN, 13: _ALL}),
    "Pad": Evaluated(moving.pad, {2: _WIDE, 11: _NUMBERS}),
    "Where": Evaluated(moving.where, {9: _NUMBERS}, typed=1),
    "Shape": Evaluated(moving.shape, _OLD_AND_NEW),
    "Size": Evaluated(moving.count, {1: _PLAIN - {"float16"}, 13: _PLAIN}),
    "Cast": Evaluated(numbers.cast, {6: _PLAIN, 13: _ALL}),
    "CastLike": Evaluated(numbers.cast_like, {15: _ALL}),
    "Range": Evaluated(numbers.range_, {11: _LONG}),
    "Add": Evaluated(numbers.elementwise(np.add), _ARITHMETIC),
    "Sub": Evaluated(numbers.elementwise(np.subtract), _ARITHMETIC),
    "Mul": Evaluated(numbers.elementwise(np.multiply), _ARITHMETIC),
    "Div": Evaluated(numbers.elementwise(numbers.divided), _ARITHMETIC),
    "Mod": Evaluated(numbers.modulo, {10: _LONG}),
    "Pow": Evaluated(numbers.power, {7: _FLOATS, 12: _NUMBERS}),
    "Neg": Evaluated(numbers.elementwise(np.negative), {6: _NUMBERS}),
    "Abs": Evaluated(numbers.elementwise(np.abs), {6: _NUMBERS}),
    "Sign": Evaluated(numbers.elementwise(np.sign), {9: _WIDE | _LONG}),
    "Floor": Evaluated(numbers.elementwise(np.floor), _FLOAT_FUNCTION),
    "Ceil": Evaluated(numbers.elementwise(np.ceil), _FLOAT_FUNCTION),
    "Round": Evaluated(numbers.elementwise(np.rint), {11: _FLOATS}),
    "Sqrt": Evaluated(numbers.elementwise(np.sqrt), _FLOAT_FUNCTION),
    "Reciprocal": Evaluated(numbers.elementwise(np.reciprocal), _FLOAT_FUNCTION),
    "Exp": Evaluated(numbers.rounded(np.exp), _FLOAT_FUNCTION),
    "Sum": Evaluated(numbers.repeated(np.add), {6: _FLOATS}),
    "Max": Evaluated(numbers.repeated(np.maximum), {6: _FLOATS - {"float64"}, 8: _FLOATS, 12: _NUMBERS}),
    "Min": Evaluated(numbers.repeated(np.minimum), {6: _FLOATS - {"float64"}, 8: _FLOATS, 12: _NUMBERS}),
    "Clip": Evaluated(numbers.clip, {6: _FLOATS - {"float64"}, 12: _NUMBERS}),
    "Equal": Evaluated(numbers.compared(np.equal), {7: _LONG | _BOOL, 11: _NUMBERS | _BOOL}),
    "Less": Evaluated(numbers.compared(np.less), _ORDER),
    "Greater": Evaluated(numbers.compared(np.greater), _ORDER),
    "LessOrEqual": Evaluated(numbers.compared(np.less_equal), {12: _NUMBERS}),
    "GreaterOrEqual": Evaluated(numbers.compared(np.greater_equal), {12: _NUMBERS}),
    "Not": Evaluated(numbers.compared(np.logical_not), {1: _BOOL}),
    "And": Evaluated(numbers.compared(np.logical_and), {7: _BOOL}),
    "Or": Evaluated(numbers.compared(np.logical_or), {7: _BOOL}),
    "Xor": Evaluated(numbers.compared(np.logical_xor), {7: _BOOL}),
    "ReduceSum": Evaluated(reducing.reduction(reducing.TOTAL), _REDUCED),
    "ReduceProd": Evaluated(reducing.reduction(reducing.PRODUCT), _REDUCED),
    "ReduceMax": Evaluated(reducing.reduction(reducing.LARGEST), _REDUCED),
    "ReduceMin": Evaluated(reducing.reduction(reducing.SMALLEST), _REDUCED),
    "ReduceMean": Evaluated(reducing.reduction(reducing.MEAN), _AVERAGED),
    "ReduceL1": Evaluated(reducing.reduction(reducing.L1), _AVERAGED),
    "ReduceL2": Evaluated(reducing.reduction(reducing.L2), _AVERAGED),
    "ReduceSumSquare": Evaluated(reducing.reduction(reducing.SQUARES), _AVERAGED),
    "LpNormalization": Evaluated(reducing.unit, {1: _WIDE}),
    "BatchNormalization": Evaluated(numbers.batchnorm, {9: _WIDE}),
    "Mean": Evaluated(reducing.average, {6: _SINGLE}),
    "CumSum": Evaluated(reducing.running, {11: _WIDE | _LONG}),
    "Einsum": Evaluated(reducing.einsum, {12: _WIDE | _LONG}),
    "Log": Evaluated(numbers.rounded(np.log), {6: _WIDE}),
    "Relu": Evaluated(numbers.elementwise(lambda x: np.where(x < 0, x.dtype.type(0), x)), {6: _WIDE}),
    "DequantizeLinear": Evaluated(numbers.dequantised, {10: _QUANTISED, 28: frozenset()}),
    "GatherElements": Evaluated(indexing.gather_elements, {11: _PLAIN}),
    "GatherND": Evaluated(indexing.gather_nd, {11: _PLAIN}),
    "ScatterElements": Evaluated(indexing.scatter_elements, {11: _PLAIN}),
    "ScatterND": Evaluated(indexing.scatter_nd, {11: _PLAIN}),
    "Trilu": Evaluated(indexing.triangle, {14: _WIDE | {"int64"}}),
    "MatMul": Evaluated(reducing.matmul, {1: _WIDE, 9: _FLOATS}),
    "Gemm": Evaluated(reducing.gemm, {7: _FLOATS}),
}


_BY_SHAPE_ALONE = {"Shape", "Size"}
# One value repeated is not written out beyond this.
_MOST_FILLED = 1 << 20


def _read(inputs: Sequence[Tensor | None]) -> int:
    """How many elements inputs have.

    Raises:
        Unknown: too many to be held in memory.
    """
    elements = sum(size(t) for t in inputs if t is not None)
    filled = [size(t) for t in inputs if isinstance(t, FilledTensor)]
    if elements > MOST_ELEMENTS or max(filled, default=0) > _MOST_FILLED:
        raise Unknown("too large")
    return elements


@cache
def operators(opset: int) -> frozenset[str]:
    """What is worked out at all in a version of the operator set; Constant in every one."""
    return frozenset(("Constant", *(op for op, row in ROWS.items() if row.types(opset))))


class Reshaped(Struct, Based, frozen=True, eq=False):
    """The elements of a tensor under another shape, wherever they lie."""

    base: Tensor
    shape: tuple[int, ...]

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop)."""
        return self.base.read(start, stop)


def _few_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that numpy can have, too."""
    bounded([1] * len(shape))
    return shape


def evaluate(
    node: onnx.NodeProto, opset: int, inputs: Sequence[Tensor | None], allowed: Allowance | None = None
) -> list[Tensor]:
    """The results of a node of the standard domain.

    Args:
        node: it carries no graph, and no attribute that a function's caller gives.
        opset: version of the operator set.
        inputs: its inputs; None where one is absent.
        allowed: what may still be worked out; what this takes of it is counted.

    Raises:
        Unknown: they are not worked out.
    """
    row, op = ROWS.get(node.op_type), node.op_type
    tensor = inputs[row.typed] if row is not None and row.typed < len(inputs) else None
    if row is None or tensor is None or tensor.dtype.name not in row.types(opset):
        raise Unknown(f"{op} of operator set {opset}")
    allowed = Allowance() if allowed is None else allowed
    limit = allowance.set(allowed)
    try:
        call = KnownCall(opset, checked(node, op, opset), inputs, len(node.output))
        if op in moving.RESHAPING:
            return [tensor if op == "Identity" else Reshaped(tensor, _few_axes(row.work(call)))]
        if op not in _BY_SHAPE_ALONE:
            allowed.take(_read(inputs))
        with np.errstate(all="ignore"):  # infinities and NaN are what the runtime computes, too
            results = row.work(call)
    except (Malformed, ValueError, IndexError, KeyError, OverflowError, MemoryError) as e:
        raise Unknown(f"{op}: {e}") from e  # numbers that numpy refuses, as a runtime would
    finally:
        allowance.reset(limit)
    if not isinstance(results, list):
        results = [results]
    return [r if isinstance(r, FilledTensor) else ArrayTensor(np.asarray(r, order="C")) for r in results]
