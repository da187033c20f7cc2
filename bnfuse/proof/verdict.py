"""Derives how far apart two outputs may be, and judges.

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
√depth, which the floor covers (four times the floor where no noise could be measured, as with
integer inputs only). Neither probe shows what rounding the weights does behind activations that
saturate, nor that weights which are all alike (ConstantOfShape) all round the same way: such networks
of 6 layers reach 9 u·√depth, so the floor is 16. ``MARGIN`` is the distance from a few measurements
to the worst case.
``LIMIT`` is about half the digits of the type: 1e-4 in float32. Measured on some hundred random
networks of 1 to 10 layers folded by hand, means up to 100 standard deviations off zero, honest
errors stay below 4 noises; one channel's lost shift is typically 1e3 to 1e6 noises in float32.

Says *inconclusive* rather than different where the noise alone may exceed the limit and explains
the error, and where the reference has no finite values. Matching NaNs prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnfuse.proof.deviation import LIMIT, ROUNDOFF, Deviation, is_float
from bnfuse.results import OutputAgreement, Status

FLOOR = 16.0
FLOOR_UNMEASURED = 64.0
MARGIN = 6.0
UNKNOWN_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one output; ``detail`` is a sentence, "" for a plain pass."""

    agreement: OutputAgreement
    status: Status
    detail: str = ""


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
