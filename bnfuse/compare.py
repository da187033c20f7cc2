"""Compares one output of two models by numbers, and derives how far apart they may be.

An honest fold changes only roundings, so the tolerance follows the reference's own rounding noise.
With u the unit roundoff of the arithmetic (2⁻²⁴ for float32), f the reference, and everything relative
to the output's range (max |f|)::

    conditioning = max |f(x·(1 ± 2u)) − f(x)|                       signs at random
    rounding     = max |f(x·(1 + δ)) + f(x·(1 − δ)) − 2·f(x)| / 2   δ = ±u^¾, signs at random
    noise        = max(conditioning, rounding)                      over all input sets
    tolerance    = min(LIMIT, max(FLOOR·u·√depth, MARGIN·noise))    per output

``conditioning`` moves the inputs by about one rounding unit: it is how the network amplifies the
rounding of its weights. ``rounding`` moves them enough that every later rounding falls another way,
and cancels what is linear in δ: it shows what the sums inside lose, above all where a large mean
is subtracted. ``depth`` folded layers in a row, whose weights were each rounded once, add up as
√depth, which the floor covers (sixteen times the floor where no noise could be measured, as with
integer inputs only); ``MARGIN`` is the distance from a few measurements to the worst case.
``LIMIT`` is about half the digits of the type: 1e-4 in float32. Measured on some hundred random
networks of 1 to 10 layers folded by hand, means up to 100 standard deviations off zero, honest
errors stay below 4 noises; one channel's lost shift is typically 1e3 to 1e6 noises in float32.

Says *inconclusive* rather than different where the noise alone may exceed the limit and explains
the error, and where the reference has no finite values. Integers, booleans and strings are
compared exactly; matching NaNs prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfuse.results import OutputAgreement, Status

# Unit roundoff u: half the distance from 1 to the next number.
ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
# The most that is ever called equal, relative to the output's range: about half the digits.
LIMIT = {"float16": 2e-2, "bfloat16": 8e-2, "float32": 1e-4, "float64": 1e-9}
FLOOR = 4.0
FLOOR_UNMEASURED = 64.0
MARGIN = 6.0
UNKNOWN_DEPTH = 16
# An input set whose outputs are tiny beside the others' is judged against a share of the largest.
_RANGE_SHARE = 1e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Deviation:
    """How one output of the candidate differs from the reference for one input set.

    ``absolute`` and ``relative`` are maxima over elements, ``relative`` to the range; ``signal``
    and ``error`` are sums of squares over range². ``hits`` of ``rows`` agree in their arg-max.
    ``broken`` says, as the end of a sentence, what forbids a comparison by numbers.
    """

    absolute: float = 0.0
    relative: float = 0.0
    signal: float = 0.0
    error: float = 0.0
    hits: int = 0
    rows: int = 0
    broken: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one output; ``detail`` is a sentence, "" for a plain pass."""

    agreement: OutputAgreement
    status: Status
    detail: str = ""


def is_float(array: np.ndarray) -> bool:
    """Whether the values are compared by numbers, not exactly."""
    return array.dtype.name in ROUNDOFF


def roundoff_of(arrays: Sequence[np.ndarray], weights: str = "") -> float:
    """Unit roundoff of the arithmetic behind these outputs.

    That of the weights' dtype or of the outputs', whichever is coarser. Outputs that a float32
    model casts up from half precision at its end give themselves away: all are exact in the
    narrower type.
    """
    coarsest = ROUNDOFF.get(weights, 0.0)
    for array in arrays:
        if is_float(array):
            coarsest = max(coarsest, ROUNDOFF[_arithmetic(array)])
    return coarsest or ROUNDOFF["float32"]


def _arithmetic(array: np.ndarray) -> str:
    """The narrowest of the array's own dtype, float16 and bfloat16 that holds all its values."""
    name: str = array.dtype.name
    finite = array[np.isfinite(array)]
    if name != "float32" or np.unique(finite).size < 8:  # too few values to tell
        return name
    with np.errstate(over="ignore"):
        if bool((finite.astype(np.float16).astype(np.float32) == finite).all()):
            return "float16"
    bits = np.ascontiguousarray(finite).view(np.uint32)
    return "bfloat16" if not (bits & 0xFFFF).any() else name


def limit_for(roundoff: float) -> float:
    """The limit of the dtype with this unit roundoff."""
    return next(LIMIT[name] for name, u in ROUNDOFF.items() if u == roundoff)


def scales(arrays: Sequence[np.ndarray]) -> list[float]:
    """The range of each input set's output: max |value|, at least a share of the largest of all."""
    largest = [_largest(array) for array in arrays]
    finite = [value for value in largest if math.isfinite(value)]
    tiny = float(np.finfo(np.float32).tiny)
    least = max(tiny, _RANGE_SHARE * max(finite, default=0.0))
    return [max(value, least) if math.isfinite(value) else least for value in largest]


def _largest(array: np.ndarray) -> float:
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
    gap = float(np.abs(_wide(reference) - _wide(candidate)).max()) if numeric else float(count > 0)
    return Deviation(absolute=gap, relative=count / reference.size, signal=reference.size, error=count)


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
            not x.size or relative_change(x, y, scales([x])[0]) <= LIMIT["float32"]
        )
    if isinstance(x, float) and isinstance(y, float):
        return abs(x - y) <= LIMIT["float32"] * max(1.0, abs(x))
    return bool(x == y)


def _wide(array: np.ndarray) -> Floats:
    return array.astype(np.float64)


def judge_exact(name: str, found: Sequence[Deviation | None], noises: Sequence[float]) -> Verdict:
    """The verdict on an output of integers, booleans, strings, sequences or maps.

    ``noises`` is, per input set, the fraction of elements that rounding of the inputs changes in
    the reference: where that is none or was not measured (NaN), not one element may differ.
    """
    pairs = [(d, n) for d, n in zip(found, noises, strict=True) if d is not None]
    agreement = _agreement(name, [d for d, _ in pairs], 0.0)
    if any(d.broken for d, _ in pairs):
        return _broken(agreement, [d for d, _ in pairs])
    if agreement.max_rel == 0.0:
        return Verdict(agreement, Status.EQUAL)
    share = f"{agreement.max_rel:.2%} of the values of output '{name}' differ"
    if all(d.relative == 0.0 or d.relative <= MARGIN * n for d, n in pairs):
        flips = max(n for d, n in pairs if d.relative)
        text = f"{share}, and rounding of the inputs alone changes {flips:.2%} in the original"
        return Verdict(agreement, Status.INCONCLUSIVE, text)
    return Verdict(agreement, Status.DIFFERENT, share)


def judge(
    name: str,
    found: Sequence[Deviation | None],
    noises: Sequence[float],
    roundoff: float,
    depth: int = UNKNOWN_DEPTH,
) -> Verdict:
    """The verdict on an output of floats, over all input sets.

    ``noises`` is the reference's own noise per input set, NaN where it could not be measured.
    Sets on which the reference is not finite (None) are left out; so are those on which noise
    alone may exceed the limit, unless all are such.
    """
    limit = limit_for(roundoff)
    usable = [(d, n) for d, n in zip(found, noises, strict=True) if d is not None]
    if not usable:
        text = f"the original's output '{name}' is not finite for any of the inputs"
        return Verdict(_agreement(name, [], limit), Status.INCONCLUSIVE, text)
    if any(d.broken for d, _ in usable):
        return _broken(_agreement(name, [d for d, _ in usable], limit), [d for d, _ in usable])
    usable = [(d, n) for d, n in usable if not MARGIN * n > limit] or usable
    measured = [n for _, n in usable if not math.isnan(n)]
    noise = max(measured, default=0.0)
    floor = (FLOOR if measured else FLOOR_UNMEASURED) * roundoff * math.sqrt(max(1, depth))
    tolerance = min(limit, max(floor, MARGIN * noise))
    agreement = _agreement(name, [d for d, _ in usable], tolerance)
    if agreement.max_rel <= tolerance:
        return Verdict(agreement, Status.EQUAL)
    error = f"output '{name}' differs by {agreement.max_rel:.1e} of its range"
    if agreement.max_rel <= MARGIN * noise:
        text = f"{error}, but the original is unstable: rounding its inputs alone moves it by {noise:.1e}"
        return Verdict(agreement, Status.INCONCLUSIVE, text)
    return Verdict(agreement, Status.DIFFERENT, f"{error}, where rounding explains {tolerance:.1e}")


def _broken(agreement: OutputAgreement, seen: Sequence[Deviation]) -> Verdict:
    what = next(d.broken for d in seen if d.broken)
    return Verdict(agreement, Status.DIFFERENT, f"output '{agreement.name}' of the second model {what}")


def _agreement(name: str, seen: Sequence[Deviation], tolerance: float) -> OutputAgreement:
    rows = sum(d.rows for d in seen)
    broken = any(d.broken for d in seen)
    return OutputAgreement(
        name=name,
        max_abs=math.inf if broken else max((d.absolute for d in seen), default=math.nan),
        max_rel=math.inf if broken else max((d.relative for d in seen), default=math.nan),
        snr_db=-math.inf if broken else _snr_db(seen),
        tolerance=tolerance,
        argmax_agreement=sum(d.hits for d in seen) / rows if rows else None,
    )


def _snr_db(seen: Sequence[Deviation]) -> float:
    """10·log10(signal power / error power); ``inf`` where nothing differs, NaN without data."""
    signal, error = sum(d.signal for d in seen), sum(d.error for d in seen)
    if not seen:
        return math.nan
    if error == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / error) if signal > 0.0 else -math.inf
