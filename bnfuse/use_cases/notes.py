"""What ``optimize`` tells in words beside its figures: notes of the report.

Each note is a tuple of one sentence, or empty where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnfuse.core.apply import Patch
from bnfuse.core.decisions import Equalized, Keep, Plan
from bnfuse.errors import OutputError, listed
from bnfuse.formats.base import Written
from bnfuse.results import FileInfo, Report
from bnfuse.results.rounding import RoundedBias

_NOTABLE_GROWTH = 1.1
# Beyond this a result is not written unless that is asked for.
_MOST_GROWTH, _SMALL_BYTES = 1000, 1 << 20
_NAMED_LAYERS = 3


def ranges_note(patch: Patch) -> tuple[str, ...]:
    """A warning for those who quantise the result next; none in most models."""
    from bnfuse.core.quantising.growth import widened

    found = widened(patch)
    if not found:
        return ()
    named = [f"'{w.node}' ({w.before:.0f} → {w.after:.0f})" for w in found]
    layers = "one layer" if len(found) == 1 else f"{len(found)} layers"
    warning = (
        f"before you quantise the result: folding spread the channel ranges of {layers} (largest over median "
        f"weight range, before → after): {listed(named, _NAMED_LAYERS)}; quantise per channel, not per tensor"
    )
    return (warning,)


def equalized_note(found: Equalized | None, *, done: bool = True) -> tuple[str, ...]:
    """What rescaling came to, where it was asked for."""
    if found is None:
        return ("there was nothing to equalise: no scale is free, or none would make 8 bits less noisy",)
    count, were = len(found.values), "were" if done else "can be"
    values = "channels of one value" if count == 1 else f"channels of {count} values"
    least_db = f"{found.gain_db:.1f} dB"
    told = (
        f"{values} {were} rescaled, which changes nothing but ranges: quantisation to 8 bits with one step "
        f"for each tensor is expected to add {least_db} less noise"
    )
    return (told,)


def check_growth(original_bytes: int, result: Written, model: Path) -> None:
    """Refuse a result that would fill the disk with what its original computes, or compresses.

    Raises:
        OutputError: it is so many times larger.
    """
    result_bytes = sum(path.stat().st_size for path in (result.path, *result.side_files))
    if result_bytes > max(_SMALL_BYTES, _MOST_GROWTH * original_bytes):
        raise OutputError(
            f"the result of '{model}' would be {result_bytes / 1e6:.0f} MB, "
            f"{result_bytes / original_bytes:.0f} times the original, since it stores in full what that "
            "computes or compresses; nothing was written: --allow-growth writes it"
        )


def growth_note(original: FileInfo, result: FileInfo) -> tuple[str, ...]:
    """A word on a result that is much larger than its original."""
    if result.total_bytes <= _NOTABLE_GROWTH * original.total_bytes:
        return ()
    return (
        "the result is larger: it stores in full what the original compresses, or computes when it is loaded",
    )


def unsafe_note(unsafe: bool) -> tuple[str, ...]:
    """What was allowed, where it was."""
    if not unsafe:
        return ()
    return ("run with --allow-unsafe: the model was allowed to run code that it carries",)


def told_limits() -> tuple[dict[str, float | None], tuple[str, ...]]:
    """What a runtime may take, and a sentence on it where the user said so.

    Raises:
        UsageError: the environment says no number.
    """
    from bnfuse.formats.child.limits import are_asked_for, current

    limits = current()
    found = {"answer_s": limits.answer_s, "memory_bytes": limits.memory_bytes}
    memory = "" if limits.memory_bytes is None else f" and {limits.memory_bytes / 1e9:.3g} GB of memory"
    note = f"as asked for, the runtime may take {limits.answer_s:g} s for an answer{memory}"
    return found, (note,) if are_asked_for() else ()


def rounded_note(rounded: Sequence[RoundedBias], *, proved: bool) -> tuple[str, ...]:
    """By how much biases were rounded, where that was asked for."""
    if not rounded:
        return ()
    worst = max(rounded, key=lambda each: each.error)
    many = "1 bias was" if len(rounded) == 1 else f"{len(rounded)} biases were"
    proof = "; the proof is of the result before that" if proved else ""
    told = f"as asked for, {many} rounded to whole steps: by at most {worst.error:.2g} (in '{worst.node}', "
    return (f"{told}where half a step is {worst.bound:.2g}){proof}",)


def merged_note(report: Report) -> tuple[str, ...]:
    """How many chains of arithmetic became one BatchNormalization each, by counting those."""
    kind = "BatchNormalization"
    folded = report.plan.counts(batchnorm=True)[1]
    made = report.operators_after.get(kind, 0) - report.operators_before.get(kind, 0) + folded
    if made <= 0:
        return ("no chain of Mul, Add, Sub and Div was left to merge",)
    return (f"{made} chain{'s' if made > 1 else ''} of Mul, Add, Sub and Div became one node each",)


def arithmetic_note(plan: Plan) -> tuple[str, ...]:
    """How many BatchNormalizations stay in another form."""
    every = [d for d in plan.decisions if isinstance(d, Keep) and d.becomes]
    if not every:
        return ()
    forms = sorted({" and ".join(d.becomes) for d in every})
    what = (
        "1 BatchNormalization that cannot go stays"
        if len(every) == 1
        else (f"{len(every)} BatchNormalizations that cannot go stay")
    )
    return (f"{what} as {', '.join(forms)}",)
