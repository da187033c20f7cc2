"""The error for a model that ran on nothing that was made up: is it the sizes, or the values?

The values are to blame where no size is open, or where the runtime says so: that an index is out of range,
that a number must be positive. Else sizes are, and values are named beside them where integers could be it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfuse.errors import BnfuseError, UsageError, clipped
from bnfuse.formats.hints import is_size

if TYPE_CHECKING:
    from bnfuse.formats.base import TensorSpec
    from bnfuse.inputs.samples import Samples
    from bnfuse.inputs.shape_guesses import NamedShapes

# How runtimes put it.
_OF_VALUES = re.compile(
    r"out of (data )?(bounds?|range)|\bindex\b|\bindices\b|not in \[|outside (the )?(valid )?range"
    r"|(must|should) be (strictly )?(positive|greater|larger|at least|>|non-?negative)"
    r"|non-?negative|invalid value|by zero",
    re.IGNORECASE,
)
_NAMED, _MOST_OF_A_REASON = 3, 160


def no_inputs(
    specs: Sequence[TensorSpec], fixed: NamedShapes, failures: Sequence[tuple[Samples, BnfuseError]]
) -> BnfuseError:
    """What to say where every attempt in ``failures`` failed; the first was the likeliest.

    A ``UsageError`` where an option would help with sizes; else of the kind of a model that does not run.
    """
    if not failures:
        return _no_size(specs, fixed, "") or BnfuseError("the model has no inputs that could be made up")
    first = failures[0][1]
    why = clipped(str(first), _MOST_OF_A_REASON)
    tried = {name for samples, _ in failures for name in samples.ranges}
    numbers = [s.name for s in specs if s.name in tried or s.dtype.startswith(("int", "uint"))]
    by_size = _no_size(specs, fixed, f" ({why})")
    if not numbers:
        return by_size or first
    told = ", ".join(f"'{name}'" for name in numbers[:_NAMED])
    values = f"no values for input {told} were found on which the model runs"
    if by_size is None or _OF_VALUES.search(str(first)):
        kind = UsageError if by_size is not None else BnfuseError
        return kind(f"{values} ({why}): give some with --inputs")
    return UsageError(f"{by_size}; or it is the values of input {told}: give some with --inputs")


def _no_size(specs: Sequence[TensorSpec], fixed: NamedShapes, reason: str) -> UsageError | None:
    """For the first input with an open axis; None where there is none."""
    for spec in specs:
        if spec.name in fixed or (spec.shape is not None and all(map(is_size, spec.shape))):
            continue
        example = ",".join(str(d) if is_size(d) else "N" for d in spec.shape or (1, 3, 224, 224))
        return UsageError(
            f"no size for the dynamic axes of input '{spec.name}' could be guessed{reason}: "
            f"give its shape with --shape {spec.name}={example}, whole numbers for N"
        )
    return None
