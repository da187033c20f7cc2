"""How far apart two outputs are, by numbers: one output of two models, one input set at a time.

Everything relative is relative to the output's range, max |reference|. Where a reference is tiny, infinite
or NaN:

- an input set whose range is below a thousandth of the largest of all sets is measured against that
  thousandth, and no range is below float32's smallest normal number (1.2e-38): a reference of zeros
  makes no small difference infinite;
- a reference with a value that is not finite is not compared at all (None);
- a candidate with such a value where the reference has none is *broken*, as is another dtype or shape.

Integers, booleans and strings are compared exactly, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

# Unit roundoff u: half the distance from 1 to the next number.
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
# The most that is ever called equal, relative to the output's range: about half the digits.
LIMIT = {"float16": 2e-2, "bfloat16": 8e-2, "float32": 1e-4, "float64": 1e-9}
# An input set whose outputs are tiny beside the others' is judged against a share of the largest.
_RANGE_SHARE = 1e-3
Floats = NDArray[np.float64]


class Deviation(Struct, frozen=True):
    """How one output of the candidate differs from the reference for one input set.

    ``absolute`` and ``relative`` are maxima over elements, ``relative`` to the range; ``signal``
    and ``error`` are sums of squares over range², ``squares`` is the sum of squares of the difference
    itself over ``count`` elements. ``hits`` of ``rows`` agree in their arg-max; ``compared`` elements were.
    ``broken`` says, as the end of a sentence, what forbids a comparison by numbers.
    """

    absolute: float = 0.0
    relative: float = 0.0
    signal: float = 0.0
    error: float = 0.0
    squares: float = 0.0
    count: int = 0
    hits: int = 0
    rows: int = 0
    broken: str = ""
    compared: int = 0


def is_float(array: np.ndarray) -> bool:
    """Whether the values are compared by numbers, not exactly."""
    return array.dtype.name in ROUNDOFF


def scales(largest: Sequence[float]) -> list[float]:
    """The range of each input set's output from its max |value|: at least a share of the largest of all."""
    finite = [value for value in largest if math.isfinite(value)]
    tiny = float(np.finfo(np.float32).tiny)
    least = max(tiny, _RANGE_SHARE * max(finite, default=0.0))
    return [max(value, least) if math.isfinite(value) else least for value in largest]


def largest_magnitude(array: np.ndarray) -> float:
    """max |value|; 0 for what has no values, or none that are floats."""
    return float(np.abs(array).max()) if is_float(array) and array.size else 0.0


def relative_change(before: np.ndarray, after: np.ndarray, scale: float) -> float:
    """max |after − before| / range: a noise; ``inf`` where it is not finite or changes shape.

    For what is compared exactly: the fraction of elements that changed.
    """
    if before.shape != after.shape:
        return math.inf
    if not before.size:
        return 0.0
    if not is_float(before):
        return float(np.mean(~_equal(before, after)))
    with np.errstate(all="ignore"):
        change = float(np.abs(_wide(after) - _wide(before)).max()) / scale
    return change if math.isfinite(change) else math.inf


def rounding_noise(middle: np.ndarray, up: np.ndarray, down: np.ndarray, scale: float) -> float:
    """max |up + down − 2·middle| / (2·range): what is left when the linear response cancels.

    For what is compared exactly, the larger fraction of elements that changed; ``inf`` where
    shapes differ or values are not finite.
    """
    if not is_float(middle):
        return max(relative_change(middle, up, scale), relative_change(middle, down, scale))
    if not middle.size:
        return 0.0
    if not middle.shape == up.shape == down.shape:
        return math.inf
    with np.errstate(all="ignore"):
        bend = float(np.abs(_wide(up) + _wide(down) - 2.0 * _wide(middle)).max()) / (2.0 * scale)
    return bend if math.isfinite(bend) else math.inf


def deviation(reference: np.ndarray, candidate: np.ndarray, scale: float) -> Deviation | None:
    """The candidate against the reference; None where the reference is not finite.

    Arrays have the same meaning of axes; the arg-max is taken over the last one.
    """
    if reference.dtype != candidate.dtype:
        return Deviation(broken=f"is {candidate.dtype} instead of {reference.dtype}")
    if reference.shape != candidate.shape:
        return Deviation(broken=f"has the shape {list(candidate.shape)} instead of {list(reference.shape)}")
    if not is_float(reference):
        return _exact(reference, candidate)
    if not np.isfinite(reference).all():
        return None
    bad = int(np.count_nonzero(~np.isfinite(candidate)))
    if bad:
        return Deviation(broken=f"has {bad} values that are not finite where the original's are")
    return _numeric(_wide(reference), _wide(candidate), scale)


def _numeric(reference: Floats, candidate: Floats, scale: float) -> Deviation:
    if not reference.size:
        return Deviation()
    error = np.abs(candidate - reference)
    hits = rows = 0
    if reference.ndim and reference.shape[-1] > 1:
        same = reference.argmax(axis=-1) == candidate.argmax(axis=-1)
        hits, rows = int(np.count_nonzero(same)), int(same.size)
    return Deviation(
        absolute=float(error.max()),
        relative=float(error.max()) / scale,
        signal=float(np.square(reference / scale).sum()),
        error=float(np.square(error / scale).sum()),
        squares=float(np.square(error).sum()),
        count=error.size,
        compared=error.size,
        hits=hits,
        rows=rows,
    )


def _exact(reference: np.ndarray, candidate: np.ndarray) -> Deviation:
    """Counts elements: ``relative`` is the fraction that differs."""
    if not reference.size:
        return Deviation()
    wrong = ~_equal(reference, candidate)
    count = int(np.count_nonzero(wrong))
    numeric = reference.dtype.kind in "iub"
    gaps = np.abs(_wide(reference) - _wide(candidate)) if numeric else np.zeros(0)
    return Deviation(
        absolute=float(gaps.max()) if numeric else float(count > 0),
        relative=count / reference.size,
        signal=reference.size,
        error=count,
        squares=float(np.square(gaps).sum()),
        count=gaps.size,
        compared=reference.size,
    )


def _equal(left: np.ndarray, right: np.ndarray) -> NDArray[np.bool_]:
    """Elementwise equality that also takes maps and sequences, one per element."""
    if left.dtype != object:
        return np.asarray(left == right, dtype=bool)
    pairs = zip(left.ravel(), right.ravel(), strict=True)
    return np.array([_same(x, y) for x, y in pairs], dtype=bool).reshape(left.shape)


def _same(x: object, y: object) -> bool:
    """Equality of elements of string, sequence and map outputs; floats up to float32's limit."""
    if isinstance(x, dict) and isinstance(y, dict):
        return x.keys() == y.keys() and all(_same(x[k], y[k]) for k in x)
    if isinstance(x, list) and isinstance(y, list):
        return len(x) == len(y) and all(_same(a, b) for a, b in zip(x, y, strict=True))
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        return x.shape == y.shape and (
            not x.size or relative_change(x, y, scales([largest_magnitude(x)])[0]) <= LIMIT["float32"]
        )
    if isinstance(x, float) and isinstance(y, float):
        return abs(x - y) <= LIMIT["float32"] * max(1.0, abs(x))
    return bool(x == y)


def _wide(array: np.ndarray) -> Floats:
    return array.astype(np.float64)
