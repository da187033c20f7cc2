"""The arithmetic by which a model works out shapes: Shape → Gather → Concat → Reshape, on extents.

One row per operator: the numbers in its output, flat, from those in its inputs. None for what is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bnfuse.formats.extents import product
from bnfuse.formats.onnx.graph.extents.call import Elements, ExtentCall
from bnfuse.formats.table import curried

Rule = Callable[[ExtentCall], Elements]
# No shape has more axes; longer rows of numbers are data.
MOST = 64


def output_numbers(call: ExtentCall) -> Elements | None:
    """The numbers in the first output; None where they cannot be told."""
    rule = _RULES.get(call.node.op_type)
    if rule is None:
        return None
    try:
        found = rule(call)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, MemoryError):
        return None
    return found if len(found) <= MOST else None


def _shape(call: ExtentCall) -> Elements:
    start, end = call.attribute("start", 0), call.attribute("end")
    return tuple(call.shape(0)[start:end])


def _whole(value: Any) -> Any:
    if value is None:
        return None
    return value.astype(np.int64) if isinstance(value, np.ndarray) else int(value)


def _gather(call: ExtentCall) -> Elements:
    numbers = call.known(0)
    return tuple(numbers[int(index)] for index in call.known(1))


def _slice(call: ExtentCall) -> Elements:
    starts, ends = call.given(1, "starts") or (0,), call.given(2, "ends") or (None,)
    step = call.known(4)[0] if len(call.node.input) > 4 and call.node.input[4] else 1
    return call.known(0)[slice(starts[0], ends[0], step)]


@curried
def _each(call: ExtentCall, /, apply: Callable[[Any, Any], Any]) -> Elements:
    a, b = call.known(0), call.known(1)
    count = max(len(a), len(b))
    a, b = (one * count if len(one) == 1 else one for one in (a, b))
    return tuple(None if x is None or y is None else apply(x, y) for x, y in zip(a, b, strict=True))


def _divided(a: Any, b: Any) -> Any:
    floats = any(isinstance(one, float) or getattr(one, "dtype", np.int64) == np.float64 for one in (a, b))
    return a / b if floats else a // b


def _rounded(call: ExtentCall) -> Elements:
    to = np.floor if call.node.op_type == "Floor" else np.ceil
    return tuple(None if value is None else to(value) for value in call.known(0))


_RULES: dict[str, Rule] = {
    "Shape": _shape,
    "Size": lambda call: (product(call.shape(0)),),
    **dict.fromkeys(("Identity", "Unsqueeze", "Squeeze", "Reshape"), lambda call: call.known(0)),
    "Cast": lambda call: tuple(_whole(n) if call.attribute("to") in (6, 7) else n for n in call.known(0)),
    "Gather": _gather,
    "Slice": _slice,
    "Concat": lambda call: tuple(n for at in range(len(call.numbers)) for n in call.known(at)),
    "Add": _each(lambda a, b: a + b),
    "Sub": _each(lambda a, b: a - b),
    "Mul": _each(lambda a, b: a * b),
    "Div": _each(_divided),
    "Min": _each(np.minimum),
    "Max": _each(np.maximum),
    "Floor": _rounded,
    "Ceil": _rounded,
}
