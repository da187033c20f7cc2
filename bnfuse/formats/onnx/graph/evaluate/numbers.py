"""Operators that compute element by element, worked out on constants: what onnxruntime computes.

float16 is computed in float32 and rounded once, as there. Integers wrap around; what C++ leaves open (a
division by zero, a number that its new type does not hold) is not worked out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.onnx.file.element_types import numpy_type
from bnfuse.formats.onnx.graph.evaluate.call import KnownCall, Unknown, bounded, broadcast
from bnfuse.formats.table import counted, curried

Function = Callable[..., Array]


def _operands(call: KnownCall) -> list[Array]:
    """All inputs, of one type, float16 as float32; together they have a shape."""
    arrays = call.arrays()
    if len({a.dtype for a in arrays}) != 1:
        raise Unknown("operands of different types")
    broadcast(*(a.shape for a in arrays))
    return [wide(a) for a in arrays]


def wide(array: Array) -> Array:
    """What an array is computed in."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


@curried
def elementwise(call: KnownCall, /, function: Function) -> Array:
    """f(x), f(x, y) of one type, in that type."""
    result: Array = np.asarray(function(*_operands(call))).astype(call.tensor().dtype)
    return result


@curried
def rounded(call: KnownCall, /, function: Function) -> Array:
    """f(x) that no machine has as such: in float64, rounded once."""
    x = call.array()
    result: Array = np.asarray(function(x.astype(np.float64))).astype(x.dtype)
    return result


@curried
def compared(call: KnownCall, /, function: Function) -> Array:
    """x ~ y, a truth."""
    result: Array = np.asarray(function(*_operands(call)))
    return result


@curried
def repeated(call: KnownCall, /, function: Function) -> Array:
    """f over any number of inputs, from the left. Below opset 8 all are of one shape."""
    first, *others = _operands(call)
    if call.version < 8 and any(x.shape != first.shape for x in others):
        raise Unknown("operands of different shapes")
    for x in others:
        first = function(first, x)
    result: Array = np.asarray(first).astype(call.tensor().dtype)
    return result


def divided(x: Array, y: Array) -> Array:
    """x / y; of integers the part before the point."""
    if x.dtype.kind == "f":
        return np.asarray(x / y)
    _divides(x, y)
    return np.where((x < 0) != (y < 0), -(abs(x) // abs(y)), abs(x) // abs(y))


def _divides(x: Array, y: Array) -> None:
    if (y == 0).any() or (x == np.iinfo(x.dtype).min).any() or (y == np.iinfo(y.dtype).min).any():
        raise Unknown("a division that has no result")


def modulo(call: KnownCall) -> Array:
    """Of integers: with the sign of the divisor, with ``fmod`` that of the dividend."""
    x, y = _operands(call)
    _divides(x, y)
    result: Array = np.fmod(x, y) if call.attr("fmod", 0) else np.mod(x, y)
    return result


_EXPONENTS = {"int32", "int64", "float32", "float64"}


def power(call: KnownCall) -> Array:
    """x to the power of y, which may be of another type; in float64, rounded once."""
    x, y = call.arrays()
    broadcast(x.shape, y.shape)
    if x.dtype != y.dtype and (call.version < 12 or y.dtype.name not in _EXPONENTS):
        raise Unknown(f"an exponent of type {y.dtype}")
    exact: Array = np.asarray(np.power(x.astype(np.float64), y.astype(np.float64)))
    if x.dtype.kind == "i":
        if (y < 0).any() if y.dtype.kind == "i" else True:
            raise Unknown("an integer to such a power")
        if (abs(exact) > min(2.0**53, float(np.iinfo(x.dtype).max))).any():
            raise Unknown("a power that its type does not hold")
    return exact.astype(x.dtype)


def batchnorm(call: KnownCall) -> Array:
    """γ·(x − μ)/√(σ² + ε) + β along axis 1, with the statistics of the file; from operator set 9 on."""
    x, *parameters = call.arrays()
    trains = call.attr("training_mode", 0) if call.version >= 14 else call.outputs > 1
    fit = x.ndim > 1 and all(p.shape == x.shape[1:2] and p.dtype == x.dtype for p in parameters)
    if trains or not fit or len(parameters) != 4:
        raise Unknown("no BatchNormalization at inference along axis 1")
    gamma, beta, mean, variance = (p.reshape(-1, *(1,) * (x.ndim - 2)) for p in parameters)
    epsilon = x.dtype.type(call.attr("epsilon", np.float32(1e-5)))  # the attribute is a float32
    a = gamma / np.sqrt(variance + epsilon)
    result: Array = np.asarray(x * a + (beta - mean * a))
    return result


def clip(call: KnownCall) -> Array:
    """Not below ``min`` and not above ``max``, where they are given."""
    x = wide(call.array())
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise Unknown("what is not finite")
    for i, name, bound in ((1, "min", np.maximum), (2, "max", np.minimum)):
        given = call.attr(name) if call.version < 11 else call.optional(i)
        if given is None:
            continue
        limit = np.asarray(given, np.float32) if call.version < 11 else wide(call.array(i))
        if limit.size != 1 or limit.dtype != x.dtype or np.isnan(limit).any():
            raise Unknown("a bound that is no number")
        x = bound(x, limit.reshape(()))
    return x.astype(call.tensor().dtype)


def cast(call: KnownCall) -> Array:
    """To the type ``to``."""
    return _cast(call.array(), numpy_type(call.attr("to")))


def cast_like(call: KnownCall) -> Array:
    """To the type of the second input."""
    return _cast(call.array(), call.tensor(1).dtype)


# Types on either side of a cast.
CASTS = {"float16", "bfloat16", "float32", "float64", "bool"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def _cast(x: Array, to: np.dtype[Any]) -> Array:
    """Integers wrap; 16-bit floats are made from float32; an integer holds what is left of the point."""
    if to.name not in CASTS:
        raise Unknown(f"a cast to {to.name}")
    if to == x.dtype:
        return x
    if x.dtype.name in ("float16", "bfloat16"):
        x = x.astype(np.float32)
    if to.name in ("float16", "bfloat16"):
        x = x.astype(np.float32)
    if to.kind in "iu" and x.dtype.kind == "f":
        whole, limits = np.trunc(x.astype(np.float64)), np.iinfo(to)
        if not ((whole >= float(limits.min)) & (whole < float(limits.max) + (limits.bits < 54))).all():
            raise Unknown(f"numbers that {to.name} does not hold")
    return x.astype(to)


def range_(call: KnownCall) -> Array:
    """From start to before limit, in steps of delta; integers alone."""
    start, limit, delta = call.arrays()
    if len({v.dtype for v in (start, limit, delta)}) != 1 or any(v.size != 1 for v in (start, limit, delta)):
        raise Unknown("no range")
    first, end, step = (int(v.reshape(-1)[0]) for v in (start, limit, delta))
    if step == 0:
        raise Unknown("a range without steps")
    bounded((max(0, -((first - end) // step)),))
    return np.arange(first, end, step).astype(start.dtype)


def dequantised(call: KnownCall) -> Array:
    """(x − zero point)·scale in float32 of a vector: what has more axes is a weight, and stays quantised."""
    x, scale = call.array(), call.array(1)
    if x.ndim > 1:
        raise Unknown("a quantised weight")
    zero = call.array(2) if call.optional(2) is not None else np.zeros_like(scale, x.dtype)
    wanted = call.attr("output_dtype", 0)
    if (
        scale.dtype != np.float32
        or zero.dtype != x.dtype
        or call.attr("block_size", 0)
        or wanted not in (0, 1)
    ):
        raise Unknown("its scales")
    if scale.shape != zero.shape or scale.ndim > 1 or (scale.ndim and call.version < 13 and scale.size != 1):
        raise Unknown("its scales")
    if scale.ndim and scale.size != 1:
        axis = counted(call.attr("axis", 1), x.ndim)[0]
        if scale.size != x.shape[axis]:
            raise Unknown("its scales")
        scale, zero = (v.reshape((-1,) + (1,) * (x.ndim - 1 - axis)) for v in (scale, zero))
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    if x.dtype == np.int32 and zero.any():
        raise Unknown("a zero point of 32 bits")
    whole = x if x.dtype == np.int32 else x.astype(np.int32) - zero.astype(np.int32)
    result: Array = np.asarray(whole.astype(np.float32) * scale)
    return result
