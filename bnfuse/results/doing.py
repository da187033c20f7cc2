"""What is being done, and for how long at most: what a ``progress`` is called with."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str], None]


class Doing(str):
    """A phase in words that ends after ``at_most_s`` seconds; what it loads comes on top."""

    end: float

    def __new__(cls, words: str, at_most_s: float) -> Doing:
        """Count from now."""
        made = super().__new__(cls, words)
        made.end = time.perf_counter() + max(0.0, at_most_s)
        return made


def left(doing: str) -> str:
    """``, at most 12 s left``; "" where nobody knows. A call or a start that has begun is waited for."""
    if not isinstance(doing, Doing):
        return ""
    seconds = doing.end - time.perf_counter()
    return f", at most {seconds:.0f} s left" if seconds > 0 else ", its time is up"
