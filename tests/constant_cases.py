"""Nodes to be worked out, by operator: for every version of its schema, attributes and operands of all sorts.

Axes are negative, unsorted and of both signs at once; sizes differ along every axis; numbers are of mixed
sign and size, with zeros of both signs, infinities and NaN where the operator has a result for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import permutations
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import defs, numpy_helper

Array = np.ndarray
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -2.5, 65504.0, 1e-7]


@dataclass(frozen=True)
class Variant:
    """Operands and attributes of one node.

    Every bit must agree, unless ``ulps`` allows so many units in the last place of the result, or ``bound``
    is what the runtime itself may round away on its way through a sum (an array of the result's shape).
    """

    inputs: Sequence[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    ulps: int = 0
    bound: Array | None = None


Variants = Iterator[Variant]
MAKERS: dict[str, Callable[[int, np.dtype], Variants]] = {}


def maker(*operators: str) -> Callable[[Callable[[int, np.dtype], Variants]], Callable[..., Variants]]:
    """Register the variants of some operators: a function of schema version and element type."""

    def add(make: Callable[[int, np.dtype], Variants]) -> Callable[..., Variants]:
        MAKERS.update(dict.fromkeys(operators, make))
        return make

    return add


def dtype(name: str) -> np.dtype:
    """A numpy type by name, bfloat16 too."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


@cache
def versions(op: str) -> list[int]:
    """Every operator set in which an operator's schema changed."""
    found = (s for s in defs.get_all_schemas_with_history() if not s.domain and s.name == op)
    return sorted(s.since_version for s in found)


def values(kind: np.dtype, *shape: int, seed: int = 0) -> Array:
    """Numbers of mixed sign and size; integers over a part of their range."""
    rng = np.random.default_rng((seed, *shape))
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    if kind.kind in "iu":
        return rng.integers(-100 if kind.kind == "i" else 0, 120, shape).astype(kind)
    return (rng.standard_normal(shape) * 10 ** rng.uniform(-2, 2, shape)).astype(kind)


def special(kind: np.dtype) -> Array:
    """What a type has at its ends."""
    if kind.kind == "b":
        return np.array([True, False])
    if kind.kind in "iu":
        ends = np.iinfo(kind)
        return np.array([ends.max, ends.min + (kind.kind == "i"), 0, 1, 7], kind)
    with np.errstate(over="ignore"):
        return np.array(SPECIAL, np.float32).astype(kind)


def small(kind: np.dtype, *shape: int, seed: int = 0) -> Array:
    """Small integers, whose sums are exact in every type."""
    return np.random.default_rng((seed, *shape)).integers(-3, 4, shape).astype(kind)


def ints(*numbers: int, kind: type = np.int64) -> Array:
    """An operand that is a list of integers."""
    return np.array(numbers, kind)


def given(
    version: int, since: int, name: str, axes: Sequence[int], **more: Any
) -> tuple[list[Any], dict[str, Any]]:
    """A list as the attribute of older versions or as an operand: (more operands, attributes)."""
    return ([ints(*axes)], more) if version >= since else ([], {name: list(axes), **more})


@maker("Identity", "Shape", "Size")
def _(version: int, kind: np.dtype) -> Variants:
    for shape in ((), (0,), (3, 1, 4)):
        yield Variant([values(kind, *shape)])


@maker("Reshape")
def _(version: int, kind: np.dtype) -> Variants:
    for shape, target in (
        ((2, 3, 4), (4, 6)),
        ((2, 3, 4), (0, -1)),
        ((2, 3, 4), (-1, 0, 2)),
        ((2, 3, 4), (0, 0, 2, 2)),
        ((1, 1), ()) if version >= 5 else ((1, 1), (1,)),
        ((2, 0, 3), (0, 0, -1)) if version < 14 else ((2, 3), (3, 2)),
    ):
        operands, attributes = given(version, 5, "shape", target)
        yield Variant([values(kind, *shape), *operands], attributes)
    if version >= 14:
        yield Variant([values(kind, 0, 3), ints(3, 0)], {"allowzero": 1})
        yield Variant([values(kind, 0, 3), ints(0, 2)], {"allowzero": 1})


@maker("Unsqueeze")
def _(version: int, kind: np.dtype) -> Variants:
    """Every pair and many triples of axes, in every order and with every sign."""
    for axes in ([0], [1], [2], [-1], [-2], [-3], [0, 2, -1], [-1, 0, 2], [-1, -3, 1], [3, 0, -2]):
        operands, attributes = given(version, 13, "axes", axes)
        yield Variant([values(kind, 3, 4), *operands], attributes)
    for shape in ((5,), (3, 4)):
        rank = len(shape) + 2
        for pair in permutations(range(rank), 2):
            for signs in ((0, 0), (rank, 0), (0, rank), (rank, rank)):
                axes = [a - s for a, s in zip(pair, signs, strict=True)]
                operands, attributes = given(version, 13, "axes", axes)
                yield Variant([values(kind, *shape), *operands], attributes)


@maker("Squeeze")
def _(version: int, kind: np.dtype) -> Variants:
    yield Variant([values(kind, 1, 3, 1, 4)])
    for axes in ([0], [2], [-2], [-4], [0, 2], [2, 0], [-2, 0], [0, -2], [-2, -4], [-4, -2]):
        operands, attributes = given(version, 13, "axes", axes)
        yield Variant([values(kind, 1, 3, 1, 4), *operands], attributes)


@maker("Flatten")
def _(version: int, kind: np.dtype) -> Variants:
    yield Variant([values(kind, 2, 3, 4)])
    for axis in (0, 1, 2, 3, -1, -2, -3):
        yield Variant([values(kind, 2, 3, 4)], {"axis": axis})


@maker("ConstantOfShape")
def _(version: int, kind: np.dtype) -> Variants:
    yield Variant([ints(2, 3)])
    for name in ("float32", "float16", "float64", "bfloat16", "int64", "bool"):
        fill = numpy_helper.from_array(values(dtype(name), 1, seed=3))
        for shape in (ints(2, 3), ints(), ints(3, 0), ints(1)):
            yield Variant([shape], {"value": fill})


@maker("Transpose")
def _(version: int, kind: np.dtype) -> Variants:
    yield Variant([values(kind, 2, 3, 4)])
    for perm in permutations(range(3)):
        yield Variant([values(kind, 2, 3, 4)], {"perm": perm})


@maker("Concat")
def _(version: int, kind: np.dtype) -> Variants:
    for axis in (0, 1, 2, -1, -2, -3):
        shapes = [[2, 3, 4] for _ in range(3)]
        for k, shape in enumerate(shapes):
            shape[axis] = k + 1
        yield Variant([values(kind, *s, seed=k) for k, s in enumerate(shapes)], {"axis": axis})


@maker("Slice")
def _(version: int, kind: np.dtype) -> Variants:
    most, least = 2**63 - 1, -(2**63)
    bounds: list[tuple[list[int], list[int], list[int] | None, list[int] | None]] = [
        ([1], [3], None, None),
        ([1, 0], [9, -1], [2, 0], None),
        ([-2, -9], [most, 2], [-1, 1], None),
        ([0, -3], [2, -1], [-3, -1], None),
        ([2], [1], [1], None),
        ([5], [9], [1], None),
    ]
    if version >= 10:
        bounds += [
            ([0, 3], [most, 0], [1, 2], [2, -1]),
            ([-1], [least], [-1], [-1]),
            ([most], [least], [1], [-2]),
            ([3, -1], [-9, -4], [-1, 1], [-2, -1]),
            ([4, 0], [0, 5], [2, 0], [-3, 3]),
            ([-5], [5], [2], [3]),
            ([0], [-5], [1], [-1]),
        ]
    for starts, ends, axes, steps in bounds:
        if version < 10:
            attributes: dict[str, Any] = {"starts": starts, "ends": ends}
            yield Variant([values(kind, 2, 3, 5)], attributes | ({} if axes is None else {"axes": axes}))
            continue
        for index in (np.int64, np.int32):
            low, high = np.iinfo(index).min, np.iinfo(index).max
            operands = [
                None if v is None else ints(*np.clip(np.array(v, object), low, high), kind=index)
                for v in (starts, ends, axes, steps)
            ]
            yield Variant([values(kind, 2, 3, 5), *operands])


@maker("Gather")
def _(version: int, kind: np.dtype) -> Variants:
    for axis in (None, 0, 1, 2, -1, -2):
        attributes = {} if axis is None else {"axis": axis}
        for indices in (
            ints(1, 0, 1),
            ints(-1, 0, -2),
            np.array([[1, 0], [0, -1]]),
            np.array(1),
            np.array(-1),
        ):
            for index in (np.int64, np.int32):
                yield Variant([values(kind, 3, 2, 4), indices.astype(index)], attributes)


@maker("Expand")
def _(version: int, kind: np.dtype) -> Variants:
    for shape, target in (((3, 1), (2, 3, 4)), ((2, 3), (1, 1)), ((), (2, 2)), ((1,), (4,)), ((2, 1), (1, 0)),
                          ((4,), (2, 3, 4)), ((3, 1), ())):  # fmt: skip
        yield Variant([values(kind, *shape), ints(*target)])


@maker("Tile")
def _(version: int, kind: np.dtype) -> Variants:
    for repeats in ((1, 1, 1), (2, 1, 3), (1, 3, 1), (0, 1, 2)):
        yield Variant([values(kind, 2, 1, 3), ints(*repeats)])


@maker("Split")
def _(version: int, kind: np.dtype) -> Variants:
    for axis in (0, 1, 2, -1, -2, -3):
        sizes = [[1, 1], [2, 1, 3], [1, 3]][axis]
        operands, attributes = given(version, 13, "split", sizes, axis=axis)
        yield Variant([values(kind, 2, 6, 4), *operands], attributes, outputs=len(sizes))
    x = values(kind, 6, 7)
    yield Variant([x], {"num_outputs": 3} if version >= 18 else {}, outputs=3)
    yield Variant(
        [x, ints(0, 6)] if version >= 13 else [x], {} if version >= 13 else {"split": [0, 6]}, outputs=2
    )
    if version >= 18:  # the last is smaller
        for axis, parts in ((1, 3), (-1, 2), (1, 7)):
            yield Variant([x], {"num_outputs": parts, "axis": axis}, outputs=parts)


@maker("Pad")
def _(version: int, kind: np.dtype) -> Variants:
    x = values(kind, 3, 4, 5)
    pads = [0, 2, 1, 1, 0, 2]
    cuts = [1, -1, 0, 0, -2, 1]
    modes = ["constant", "reflect", "edge"] + (["wrap"] if version >= 19 else [])
    for mode in modes:
        operands, attributes = given(version, 11, "pads", pads, mode=mode)
        yield Variant([x, *operands], attributes)
        if version >= 18:
            for axes in ([0, 2], [-1, 0], [2, -3]):
                yield Variant([x, ints(1, 2, 2, 1), None, ints(*axes)], {"mode": mode})
    operands, attributes = given(version, 11, "pads", cuts)
    yield Variant([x, *operands], attributes)
    if version >= 11:
        yield Variant([x, ints(*pads), values(kind, seed=4)], {"mode": "constant"})
    else:
        yield Variant([x], {"pads": pads, "value": 1.7})


@maker("Where")
def _(version: int, kind: np.dtype) -> Variants:
    for shapes in (((3,), (3,), (3,)), ((2, 1), (3,), ()), ((1, 3), (2, 1), (4, 1, 1)), ((), (2,), (2,))):
        condition, x, y = shapes
        yield Variant([values(dtype("bool"), *condition), values(kind, *x), values(kind, *y, seed=1)])


CASTS = ["float16", "float32", "float64", "bfloat16", "bool", "int8", "int16", "int32", "int64", "uint8",
         "uint16", "uint32", "uint64"]  # fmt: skip


@maker("Cast", "CastLike")
def _(version: int, kind: np.dtype) -> Variants:
    for name in CASTS:
        if name == "bfloat16" and version < 13:
            continue
        to = dtype(name)
        operands = [values(kind, 4, 5), special(kind), _halves(kind)]
        if to.kind in "iu" and kind.kind not in "biu":
            operands = [np.abs(np.clip(x.astype(np.float32), -100, 100)).astype(kind) for x in operands]
            operands = [x[~np.isnan(x.astype(np.float32))] for x in operands]
        for x in operands:
            yield Variant([x], {"to": onnx.helper.np_dtype_to_tensor_dtype(to)})


def _halves(kind: np.dtype) -> Array:
    """Numbers half-way between two of a 16-bit type, and a little off: where rounding twice would show."""
    if kind.kind in "biu":
        return values(kind, 7, seed=2)
    base = np.array(
        [1 + 2**-11, 1 + 2**-11 + 2**-40, 1 + 2**-9, 1 + 2**-9 + 2**-40, 3 * 2**-25, 2**-24, 65519.9]
    )
    return np.concatenate([base, -base]).astype(kind)


@maker("Range")
def _(version: int, kind: np.dtype) -> Variants:
    for start, limit, delta in ((0, 7, 2), (5, -4, -3), (3, 3, 1), (4, 1, 1), (-2, 3, 1)):
        yield Variant([np.array(v, kind) for v in (start, limit, delta)])


PAIRS = [((2, 3), (2, 3)), ((2, 3), (3,)), ((4, 1, 3), (2, 1)), ((), (3,)), ((1,), ()), ((2, 3), (1, 1))]


@maker("Add", "Sub", "Mul", "Div", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal", "And", "Or",
       "Xor")  # fmt: skip
def _(version: int, kind: np.dtype) -> Variants:
    for a, b in PAIRS:
        yield Variant([values(kind, *a), _nonzero(values(kind, *b, seed=1))])
        yield Variant([values(kind, *b), _nonzero(values(kind, *a, seed=1))])
    s = special(kind)
    for k in range(len(s)):
        yield Variant([s, np.roll(s, k) if kind.kind not in "iu" else _nonzero(np.roll(s, k))])


def _nonzero(x: Array) -> Array:
    return np.where(x == 0, 3, x).astype(x.dtype) if x.dtype.kind in "iu" else x


@maker("Mod")
def _(version: int, kind: np.dtype) -> Variants:
    for fmod in (0, 1):
        for a, b in PAIRS:
            x, y = values(kind, *a), _nonzero(values(kind, *b, seed=1))
            yield Variant([x, y], {"fmod": fmod})
            yield Variant([y, _nonzero(x)], {"fmod": fmod})


@maker("Pow")
def _(version: int, kind: np.dtype) -> Variants:
    if kind.kind == "i":
        x = small(kind, 3, 5)
        for y in (np.array(2, kind), np.abs(small(kind, 5, seed=1)), np.abs(small(dtype("int32"), 3, 1))):
            yield Variant([x, y])
        return
    x = values(kind, 4, 5)
    x = (np.sign(x) * np.clip(np.abs(x), 0.1, 9)).astype(kind)
    for power in (0.0, 1.0, 2.0, 3.0, -1.0, -2.0):
        yield Variant([x, np.array(power, kind)], ulps=1)
    for power in (0.5, -0.5, 1.7, 1.0 / 3):
        yield Variant([np.abs(x), np.array([power], kind)], ulps=1)
    yield Variant([np.abs(x), np.clip(values(kind, 5, seed=1), -3, 3)[None]], ulps=1)
    if version >= 12:
        for name in ("int64", "int32", "float32", "float64"):
            yield Variant([x, np.array([2, 3, -1, 0, 1], name)], ulps=1)


@maker("Neg", "Abs", "Sign", "Floor", "Ceil", "Round", "Sqrt", "Reciprocal", "Not")
def _(version: int, kind: np.dtype) -> Variants:
    x = values(kind, 5, 7)
    yield Variant([x])
    yield Variant([np.abs(x) if kind.kind != "b" else x])
    yield Variant([special(kind)])
    if kind.kind == "f":
        yield Variant([np.arange(-5, 6).astype(kind) / kind.type(2)])


@maker("Exp")
def _(version: int, kind: np.dtype) -> Variants:
    yield Variant([np.clip(values(kind, 40, 7), -10, 10)], ulps=1)
    yield Variant([values(kind, 40, 7) / kind.type(50)], ulps=1)


@maker("Sum", "Max", "Min")
def _(version: int, kind: np.dtype) -> Variants:
    shapes = [(2, 3), (2, 3), (2, 3)] if version < 8 else [(2, 3), (3,), (4, 1, 1)]
    for n in (1, 2, 3):
        yield Variant([values(kind, *s, seed=k) for k, s in enumerate(shapes[:n])])
    s = special(kind)
    for k in range(len(s)):
        yield Variant([s, np.roll(s, k)])


@maker("Clip")
def _(version: int, kind: np.dtype) -> Variants:
    x = values(kind, 5, 7)
    if version < 11:
        for attributes in (
            {},
            {"min": -0.5},
            {"max": 0.5},
            {"min": -0.5, "max": 2.0},
            {"min": 2.0, "max": 1.0},
        ):
            yield Variant([x], attributes)
        return
    low, high = np.array(-2, kind), np.array(5, kind)
    for bounds in ([], [low], [None, high], [low, high], [high, low]):
        yield Variant([x, *bounds])


REDUCED = [[0], [1], [2], [-1], [-3], [0, 2], [2, 0], [-1, 0], [0, -1], [-2, -1], [-1, -3, 1], None]


def _reductions(op: str) -> Callable[[int, np.dtype], Variants]:
    """Exact where every partial result is exact in the type, else within the rounding of so many terms."""
    picks = op in ("ReduceMax", "ReduceMin")

    def make(version: int, kind: np.dtype) -> Variants:
        for axes in REDUCED:
            for keepdims in (None, 0, 1):
                more = {} if keepdims is None else {"keepdims": keepdims}
                operands: list[Any] = []
                attributes: dict[str, Any] = dict(more)
                if axes is not None:
                    operands, attributes = given(
                        version, 13 if op == "ReduceSum" else 18, "axes", axes, **more
                    )
                inexact = op in ("ReduceL2", "ReduceMean")
                yield Variant([small(kind, 2, 3, 4), *operands], attributes, ulps=int(inexact))
                if picks:
                    yield Variant([values(kind, 2, 3, 4), *operands], attributes)
                elif kind.kind == "f":
                    x = np.clip(values(kind, 2, 3, 4), -9, 9)
                    if op == "ReduceProd":
                        x = np.exp2(x / 9).astype(kind)
                    bound = _rounding(op, x, axes, keepdims != 0)
                    yield Variant([x, *operands], attributes, bound=bound)

    return make


def _rounding(op: str, x: Array, axes: list[int] | None, keepdims: bool) -> Array:
    """n·ε of the sum of the terms' sizes; for a root or a product, of the result."""
    sizes, over = np.abs(x.astype(np.float64)), None if axes is None else tuple(axes)
    terms = x.size / np.sum(sizes, axis=over).size
    unit = (terms + 1) * float(np.finfo(x.dtype).eps)
    if op == "ReduceProd":
        return unit * np.prod(sizes, axis=over, keepdims=keepdims)
    if op in ("ReduceL2", "ReduceSumSquare"):
        squares = np.sum(sizes**2, axis=over, keepdims=keepdims)
        return unit * (np.sqrt(squares) if op == "ReduceL2" else squares)
    return unit * np.sum(sizes, axis=over, keepdims=keepdims) / (terms if op == "ReduceMean" else 1)


for _op in ("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceL1", "ReduceL2",
            "ReduceSumSquare"):  # fmt: skip
    MAKERS[_op] = _reductions(_op)


@maker("MatMul")
def _(version: int, kind: np.dtype) -> Variants:
    for a, b in (((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4, 5)),
                 ((2, 1, 3, 4), (6, 4, 5)), ((2, 3, 4), (4,)), ((4,), (2, 4, 5))):  # fmt: skip
        yield Variant([small(kind, *a), small(kind, *b, seed=1)])
        x, y = (np.clip(values(kind, *s, seed=k), -9, 9) for k, s in enumerate((a, b)))
        yield Variant([x, y], bound=_product_rounding(x, y))


def _product_rounding(x: Array, y: Array) -> Array:
    sizes: Array = np.matmul(np.abs(x.astype(np.float64)), np.abs(y.astype(np.float64)))
    return 5 * float(np.finfo(x.dtype).eps) * sizes


@maker("Gemm")
def _(version: int, kind: np.dtype) -> Variants:
    for left in (0, 1):
        for right in (0, 1):
            for alpha, beta in ((1.0, 1.0), (0.5, 2.0)):
                for c in ((3, 5), (5,), (1,), (), (3, 1)) + ((None,) if version >= 11 else ()):
                    attributes = {"transA": left, "transB": right, "alpha": alpha, "beta": beta}
                    a = small(kind, *((4, 3) if left else (3, 4)))
                    b = small(kind, *((5, 4) if right else (4, 5)), seed=1)
                    bias = [] if c is None else [small(kind, *c, seed=2)]
                    yield Variant([a, b, *bias], attributes)
    x, y = (np.clip(values(kind, *s, seed=k), -9, 9) for k, s in enumerate(((3, 4), (4, 5))))
    yield Variant([x, y, np.zeros(5, kind)], bound=_product_rounding(x, y))


@maker("LpNormalization")
def _(version: int, kind: np.dtype) -> Variants:
    x = np.clip(values(kind, 3, 4, 5), -9, 9)
    x[1, 2], x[:, 1, 3] = 0, 0
    for p in (None, 1, 2):
        for axis in (None, 0, 1, 2, -1, -2, -3):
            attributes = {k: v for k, v in (("p", p), ("axis", axis)) if v is not None}
            bound = 7 * float(np.finfo(kind).eps) * np.abs(x.astype(np.float64))
            yield Variant([x], attributes, bound=np.minimum(bound, 7 * float(np.finfo(kind).eps)))


@maker("BatchNormalization")
def _(version: int, kind: np.dtype) -> Variants:
    for at, shape in enumerate([(2, 3), (1, 4, 5), (5, 1, 2), (2, 3, 4, 2)]):
        x, channels = values(kind, *shape, seed=at), shape[1]
        gamma, beta, mean = (values(kind, channels, seed=10 * at + k) for k in range(1, 4))
        variance = np.abs(values(kind, channels, seed=10 * at + 4))
        for epsilon in (None, 0.1):
            attributes = {} if epsilon is None else {"epsilon": epsilon}
            root = np.sqrt(variance.astype(np.float64) + (epsilon or 1e-5))
            along = (1, -1, *(1,) * (len(shape) - 2))
            a, b = ((np.abs(v.astype(np.float64)) / root).reshape(along) for v in (gamma, gamma * mean))
            reach = a * np.abs(x.astype(np.float64)) + b + np.abs(beta.astype(np.float64)).reshape(along)
            inputs = [x, gamma, beta, mean, variance]
            yield Variant(inputs, attributes, bound=8 * float(np.finfo(kind).eps) * reach)


@maker("Mean")
def _(version: int, kind: np.dtype) -> Variants:
    shapes = [(2, 3)] * 3 if version < 8 else [(2, 3), (3,), (4, 1, 1)]
    for n in (1, 2, 3):
        arrays = [np.clip(values(kind, *s, seed=k), -9, 9) for k, s in enumerate(shapes[:n])]
        sizes = sum(np.abs(a.astype(np.float64)) for a in arrays)
        yield Variant(arrays, bound=2 * float(np.finfo(kind).eps) * np.asarray(sizes))


@maker("CumSum")
def _(version: int, kind: np.dtype) -> Variants:
    for axis in (0, 1, 2, -1, -2, -3):
        for exclusive in (0, 1):
            for reverse in (0, 1):
                for index in ("int64", "int32"):
                    at = np.array(axis, index)
                    yield Variant([small(kind, 2, 3, 4), at], {"exclusive": exclusive, "reverse": reverse})


@maker("Einsum")
def _(version: int, kind: np.dtype) -> Variants:
    sizes = dict(zip("abcde", (2, 3, 4, 5, 6), strict=True))
    for equation in ("ab,bc->ac", "ab,bc->ca", "abc->cab", "ab,ab->", "ab->b", "a,b->ab", "abd,dc->abc",
                     "ab , bc -> a", "ab,bc,cd->ad", "bae,bce->bac", "ab,b->ab"):  # fmt: skip
        terms = equation.replace(" ", "").partition("->")[0].split(",")
        arrays = [small(kind, *(sizes[c] for c in term), seed=k) for k, term in enumerate(terms)]
        yield Variant(arrays, {"equation": equation})


@maker("Log")
def _(version: int, kind: np.dtype) -> Variants:
    yield Variant([np.abs(values(kind, 40, 7)) + kind.type(1e-3)], ulps=2)


@maker("Relu")
def _(version: int, kind: np.dtype) -> Variants:
    yield Variant([values(kind, 5, 7)])
    yield Variant([special(kind)[~np.isnan(special(kind))]])


@maker("DequantizeLinear")
def _(version: int, kind: np.dtype) -> Variants:
    rng = np.random.default_rng(1)
    x = values(kind, 60)
    if kind == np.int32:
        x[:3] = 2**24 + 1, -(2**31), 2**31 - 1
    zero = None if kind == np.int32 else np.array(7, kind)
    for scale in (0.1, -0.03, 1e-3):
        yield Variant([x, np.array(scale, np.float32)])
        yield Variant([x, np.array(scale, np.float32), zero])
        yield Variant([special(kind), np.array(scale, np.float32), zero])
    for axis in (0, -1) if version >= 13 else ():
        zeros = None if kind == np.int32 else rng.integers(0, 100, 60).astype(kind)
        yield Variant([x, rng.uniform(0.01, 1, 60).astype(np.float32), zeros], {"axis": axis})


@maker("GatherElements", "ScatterElements")
def _(version: int, kind: np.dtype) -> Variants:
    rng = np.random.default_rng(2)
    for axis in (None, 0, 1, 2, -1, -2, -3):
        attributes = {} if axis is None else {"axis": axis}
        k = (axis or 0) % 3
        n, shape = (4, 3, 5)[k], [4, 2, 3]
        del shape[k]
        drawn = [rng.permutation(n)[:2] for _ in range(shape[0] * shape[1])]
        at = np.moveaxis(np.reshape(drawn, (*shape, 2)), -1, k)
        for signed in (at, at - n * rng.integers(0, 2, at.shape)):
            for index in (np.int64, np.int32):
                yield Variant([values(kind, 4, 3, 5), signed.astype(index)], attributes)


@maker("GatherND", "ScatterND")
def _(version: int, kind: np.dtype) -> Variants:
    x = values(kind, 4, 3, 5)
    for at in ([[0], [2]], [[-1], [1]], [[0, 1], [-1, 2]], [[3, -1, -5], [0, 0, 0], [2, 1, 4]], [1], [-2, 0],
               [[[0, 1], [1, -1]], [[2, 0], [-1, 1]]]):  # fmt: skip
        yield Variant([x, np.array(at, np.int64)])


@maker("Trilu")
def _(version: int, kind: np.dtype) -> Variants:
    for shape in ((4, 5), (2, 5, 3)):
        for upper in (None, 0, 1):
            attributes = {} if upper is None else {"upper": upper}
            yield Variant([values(kind, *shape)], attributes)
            for k in (0, 1, -1, 3, -4):
                yield Variant([values(kind, *shape), np.array(k)], attributes)


def _scattering(op: str, variant: Variant) -> Variant:
    """The updates that a look-up's result has the shape of."""
    x, at = variant.inputs
    assert x is not None and at is not None
    shape = at.shape if op == "ScatterElements" else (*at.shape[:-1], *x.shape[at.shape[-1] :])
    return Variant([x, at, values(x.dtype, *shape, seed=9)], variant.attributes)


def variants(op: str, version: int, kind: np.dtype) -> Variants:
    """All of one operator, one version of its schema and one element type."""
    for variant in MAKERS[op](version, kind):
        if op == "CastLike":
            to = onnx.helper.tensor_dtype_to_np_dtype(variant.attributes["to"])
            yield Variant([variant.inputs[0], np.zeros(2, to)])
        elif op.startswith("Scatter"):
            yield _scattering(op, variant)
        else:
            yield variant
