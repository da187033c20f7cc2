"""Derives how far apart two outputs may be, and judges.

An honest fold changes only roundings, so the tolerance follows the reference's own rounding noise.
With u the unit roundoff of the arithmetic (2⁻²⁴ for float32), f the reference, w its weights, and
everything relative to the output's range (max |f|)::

    weights      = max |f(x; w ± ulp(w)) − f(x; w)|                 signs at random, SHAKES times
    conditioning = max |f(x·(1 ± 2u)) − f(x)|                       signs at random
    rounding     = max |f(x·(1 + δ)) + f(x·(1 − δ)) − 2·f(x)| / 2   δ = ±u^¾, signs at random
    noise        = max(weights, conditioning, rounding)             over the input sets it was measured on
    tolerance    = min(LIMIT, max(FLOOR·u·√depth, MARGIN·noise))    per output

``weights`` moves the weights near the folds (all of them where the folds are not known) by one unit in the
last place of their own type: it shows what rounding does where types inside are narrower than the outputs,
where inputs are integers, and behind what jumps or saturates. ``conditioning`` moves the inputs by about one
rounding unit. ``rounding`` moves them enough that every later rounding falls another way,
and cancels what is linear in δ: it shows what the sums inside lose, above all where a large mean
is subtracted. ``depth`` folded layers in a row, whose weights were each rounded once, add up as
√depth, which the floor covers: weights which are all alike (ConstantOfShape) all round the same way, such
networks of 6 layers reach 9 u·√depth, so the floor is 16. The noise is measured only where the floor does
not suffice. ``MARGIN`` is the distance from a few measurements to the worst case.
``LIMIT`` is about half the digits of the type: 1e-4 in float32. Measured on some hundred random
networks of 1 to 10 layers folded by hand, means up to 100 standard deviations off zero, honest
errors stay below 4 noises; one channel's lost shift is typically 1e3 to 1e6 noises in float32.

Where every fold was proved by itself, between the seams (``seams``), outputs are equal as far as that noise
goes, up to GROSS times: later layers may amplify honest roundings as they like (a softmax of large logits, a
DynamicQuantizeLinear), and integers and booleans may fall the other way where the moved original's do.

Says *inconclusive* rather than different where the noise alone may exceed the limit and explains
the error, and where the reference has no finite values. Matching NaNs prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bnfuse.proof.deviation import LIMIT, ROUNDOFF, Deviation, is_float
from bnfuse.results import OutputAgreement, Status
from bnfuse.results.figures import digits

FLOOR = 16.0
MARGIN = 6.0
GROSS = 10.0 * MARGIN
UNKNOWN_DEPTH = 16


class Verdict(Struct, frozen=True):
    """What was found about one output; ``detail`` is a sentence, "" for a plain pass.

    ``failing`` numbers the rows (input sets as they ran) that show a difference, the clearest first.
    """

    agreement: OutputAgreement
    status: Status
    detail: str = ""
    failing: tuple[int, ...] = ()


class Scale(Struct, frozen=True):
    """What tolerances are made of: the unit roundoff of the arithmetic, and the folds in a row.

    ``least`` is what is allowed in any case (from an earlier proof of the same models, else 0). ``proved``
    tells that every fold was proved by itself.
    """

    roundoff: float
    depth: int = UNKNOWN_DEPTH
    least: float = 0.0
    proved: bool = False


class Tolerance(Struct, frozen=True):
    """What one output may be off by, relative to its range, and a clause that says where it comes from."""

    value: float
    basis: str


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


def tolerance_for(noises: Sequence[float], scale: Scale) -> Tolerance:
    """The tolerance of one output from the noises that were measured; the equation is the module's."""
    limit, noise = limit_for(scale.roundoff), max(noises, default=0.0)
    kind = _dtype_of(scale.roundoff)
    floor = FLOOR * scale.roundoff * math.sqrt(max(1, scale.depth))
    found = max(floor, MARGIN * noise, scale.least)
    if found >= limit:
        return Tolerance(limit, f"the most that is ever called equal in {kind}, about half its digits")
    if scale.least >= found:
        return Tolerance(found, "what the proof of the whole result allowed")
    if MARGIN * noise >= floor:
        what = f"{MARGIN:g} × {noise:.1e}, how far rounding alone moves the original on these inputs"
        return Tolerance(found, what)
    steps = "1 fold" if scale.depth == 1 else f"{scale.depth} folds in a row"
    what = f"{FLOOR:g} × √{max(1, scale.depth)} roundings of {kind} ({scale.roundoff:.1e}), as for {steps}"
    return Tolerance(found, what)


def _dtype_of(roundoff: float) -> str:
    return next(name for name, u in ROUNDOFF.items() if u == roundoff)


def judge_exact(
    name: str, found: Sequence[Deviation | None], noises: Sequence[float], *, proved: bool = False
) -> Verdict:
    """The verdict on an output of integers, booleans, strings, sequences or maps.

    ``noises`` is, per input set, the fraction of elements that rounding changes in the reference: where that
    is none or was not measured (NaN), not one element may differ. Where rounding explains the share of
    elements, they are equal if none is more than one step off, or if every fold was proved by itself.
    """
    pairs = [(row, d, n) for row, (d, n) in enumerate(zip(found, noises, strict=True)) if d is not None]
    exact = Tolerance(0.0, "integers, booleans and text must be identical")
    agreement = _agreement(name, [d for _, d, _ in pairs], exact)
    if any(d.broken for _, d, _ in pairs):
        return _broken(agreement, found)
    if agreement.max_rel == 0.0:
        return Verdict(agreement, Status.EQUAL)
    share = f"{agreement.max_rel:.2%} of the values of output '{name}' differ"
    margin = GROSS if proved else MARGIN
    unexplained = [row for row, d, n in pairs if d.relative and not d.relative <= margin * n]
    if not unexplained:
        flips = max(n for _, d, n in pairs if d.relative)
        text = f"{share}, and rounding alone changes {flips:.2%} in the original"
        if not proved and any(d.absolute > 1.0 for _, d, _ in pairs):
            return Verdict(agreement, Status.INCONCLUSIVE, text)
        ties = Tolerance(min(1.0, margin * flips), f"{margin:g} × {flips:.2%}, what rounding alone changes")
        return Verdict(_agreement(name, [d for _, d, _ in pairs], ties), Status.EQUAL, text)
    return Verdict(agreement, Status.DIFFERENT, share, _clearest(unexplained, found))


def judge(name: str, found: Sequence[Deviation | None], noises: Sequence[float], scale: Scale) -> Verdict:
    """The verdict on an output of floats, over all input sets.

    ``noises`` is the reference's own noise per input set, NaN where it was not or could not be measured.
    Sets on which the reference is not finite (None) are left out; so are those on which noise
    alone may exceed the limit, unless all are such: there only what is far beyond the noise counts, and
    a pass says on how many of them the models are further apart than the limit.
    """
    limit = limit_for(scale.roundoff)
    usable = [(row, d, n) for row, (d, n) in enumerate(zip(found, noises, strict=True)) if d is not None]
    if not usable:
        text = f"the original's output '{name}' is not finite for any of the inputs"
        nothing = Tolerance(limit, "nothing could be measured")
        return Verdict(_agreement(name, [], nothing), Status.INCONCLUSIVE, text)
    steady = [(row, d, n) for row, d, n in usable if not MARGIN * n > limit] or usable
    measured = [n for _, _, n in steady if not math.isnan(n)]
    tolerance = tolerance_for(measured, scale)
    if any(d.broken for _, d, _ in usable):
        return _broken(_agreement(name, [d for _, d, _ in usable], tolerance), found)
    agreement = _agreement(name, [d for _, d, _ in steady], tolerance)
    if not any(d.signal for _, d, _ in usable) and agreement.max_abs > 0.0:
        return _beside_zeros(agreement, usable, scale, found)
    shaky = [(row, d, n) for row, d, n in usable if all(row != kept for kept, _, _ in steady)]
    gross = [row for row, d, n in shaky if d.relative > GROSS * n]
    if scale.proved and not gross and (moved := _amplified(name, usable, tolerance)):
        return Verdict(_agreement(name, [d for _, d, _ in usable], tolerance), Status.EQUAL, moved)
    if gross:
        whole = _agreement(name, [d for _, d, _ in usable], tolerance)
        share = f"more than {GROSS:g} times what rounding does"
        text = f"output '{name}' differs by {digits(whole.max_rel, 2)} of its range, {share}"
        return Verdict(whole, Status.DIFFERENT, text, _clearest(gross, found))
    if agreement.max_rel <= tolerance.value:
        left_out = [n for _, d, n in shaky if d.relative > limit]
        return Verdict(agreement, Status.EQUAL, _left_out(name, left_out, len(usable)))
    error = f"output '{name}' differs by {digits(agreement.max_rel, 2)} of its range"
    noise = max(measured, default=0.0)
    if agreement.max_rel <= MARGIN * noise:
        text = f"{error}, but the original is unstable: rounding alone moves it by {noise:.1e}"
        return Verdict(agreement, Status.INCONCLUSIVE, text)
    beyond = [row for row, d, _ in steady if d.relative > tolerance.value]
    text = f"{error}, where rounding explains {tolerance.value:.1e}"
    return Verdict(agreement, Status.DIFFERENT, text, _clearest(beyond, found))


def _beside_zeros(
    agreement: OutputAgreement,
    usable: Sequence[tuple[int, Deviation, float]],
    scale: Scale,
    found: Sequence[Deviation | None],
) -> Verdict:
    """The verdict where the reference is zero throughout, so that nothing tells what is small."""
    size = f"the original's output '{agreement.name}' is zero on all inputs, the other's is up to "
    text = f"{size}{agreement.max_abs:.1e}"
    agreement = replace(agreement, max_rel=math.nan, snr_db=math.nan)
    if scale.proved:
        return Verdict(agreement, Status.EQUAL, f"{text}; every fold was proved by itself")
    differing = [row for row, d, _ in usable if d.absolute > 0.0]
    return Verdict(agreement, Status.DIFFERENT, text, _clearest(differing, found))


def _amplified(name: str, usable: Sequence[tuple[int, Deviation, float]], tolerance: Tolerance) -> str:
    """What is said of an output beyond its tolerance whose every fold was proved; "" if that is not so."""
    beyond = [(d.relative, n) for _, d, n in usable if d.relative > tolerance.value]
    if not beyond or not all(size <= GROSS * noise for size, noise in beyond):
        return ""
    size, noise = max(beyond)
    return (
        f"output '{name}' moves by {size:.1e} of its range, as rounding alone moves the original's by "
        f"{noise:.1e}; every fold was proved by itself"
    )


def _left_out(name: str, noises: Sequence[float], sets: int) -> str:
    if not noises:
        return ""
    return (
        f"output '{name}' was not compared on {len(noises)} of {sets} input sets, because there rounding "
        f"alone moves the original by {max(noises):.1e}"
    )


def _broken(agreement: OutputAgreement, found: Sequence[Deviation | None]) -> Verdict:
    broken = [(row, d.broken) for row, d in enumerate(found) if d is not None and d.broken]
    text = f"output '{agreement.name}' of the second model {broken[0][1]}"
    return Verdict(agreement, Status.DIFFERENT, text, tuple(row for row, _ in broken))


def _clearest(rows: Sequence[int], found: Sequence[Deviation | None]) -> tuple[int, ...]:
    def size(row: int) -> float:
        here = found[row]
        return 0.0 if here is None else -here.relative

    return tuple(sorted(rows, key=size))


def _agreement(name: str, seen: Sequence[Deviation], tolerance: Tolerance) -> OutputAgreement:
    rows, count = sum(d.rows for d in seen), sum(d.count for d in seen)
    broken = any(d.broken for d in seen)
    rms = math.sqrt(sum(d.squares for d in seen) / count) if count else math.nan
    return OutputAgreement(
        name=name,
        max_abs=math.inf if broken else max((d.absolute for d in seen), default=math.nan),
        max_rel=math.inf if broken else max((d.relative for d in seen), default=math.nan),
        snr_db=-math.inf if broken else _snr_db(seen),
        tolerance=tolerance.value,
        argmax_agreement=sum(d.hits for d in seen) / rows if rows else None,
        rms=math.inf if broken else rms,
        basis=tolerance.basis,
    )


def _snr_db(seen: Sequence[Deviation]) -> float:
    """10·log10(signal power / error power); ``inf`` where nothing differs, NaN without data."""
    signal, error = sum(d.signal for d in seen), sum(d.error for d in seen)
    if not seen:
        return math.nan
    if error == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / error) if signal > 0.0 else -math.inf
