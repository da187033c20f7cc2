"""How long a runtime may take for an answer, and how much memory it may hold while it works on it.

Both have defaults, and a variable in the environment each. Memory is what only this process holds and the
system cannot take back (anonymous pages, swapped ones too), not the file pages that it maps: a runtime that
maps a model's weights does not grow by them. By default it may take 95 % of what is free, so that a
runtime that grows without end is stopped before the machine is. Does not act on memory where the system does
not tell what is free (not Linux).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from bnfuse.errors import UsageError
from bnfuse.machine import available_memory_bytes

LIMIT_S = 300.0
TIME_VARIABLE = "BNFUSE_RUNTIME_TIMEOUT"
MEMORY_VARIABLE = "BNFUSE_RUNTIME_MEMORY"
_FORMER_TIME_VARIABLE = "BNFUSE_KERAS_TIMEOUT"  # from when Keras alone ran in a process of its own
_SHARE = 0.95
_GB = 1e9
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([mgtMGT])[bB]?\s*")
_OWN_PAGES = ("RssAnon:", "RssShmem:", "VmSwap:")


class Limits(Struct, frozen=True):
    """Seconds for an answer, and bytes that a process may hold; None where that is not watched."""

    answer_s: float
    memory_bytes: int | None

    @property
    def late(self) -> str:
        """What to say of a process that was stopped because it took too long."""
        return (
            f"did not answer within {self.answer_s:g} s and was stopped "
            f"({TIME_VARIABLE} in the environment or --runtime-timeout is this limit in seconds)"
        )

    @property
    def hungry(self) -> str:
        """What to say of a process that was stopped because it grew too large."""
        return (
            f"grew beyond {(self.memory_bytes or 0) / _GB:.3g} GB of memory and was stopped "
            f"({MEMORY_VARIABLE} in the environment is this limit in GB; --runtime-memory)"
        )


def current() -> Limits:
    """What holds for a process that is asked now.

    Raises:
        UsageError: the environment says no number.
    """
    return Limits(answer_limit_s(), memory_limit_bytes())


def are_asked_for() -> bool:
    """Whether the environment sets one of them."""
    return any(os.environ.get(name) for name in (TIME_VARIABLE, MEMORY_VARIABLE, _FORMER_TIME_VARIABLE))


def answer_limit_s() -> float:
    """How long an answer may take.

    Raises:
        UsageError: the environment says no number of seconds.
    """
    name = TIME_VARIABLE if os.environ.get(TIME_VARIABLE) else _FORMER_TIME_VARIABLE
    limit_s = _positive(name, "seconds", LIMIT_S)
    if limit_s >= threading.TIMEOUT_MAX:
        raise UsageError(f"{name} is {limit_s:g}, which is more seconds than can be waited for")
    return limit_s


def memory_limit_bytes(held: int = 0) -> int | None:
    """How much a process may hold that holds so many bytes already.

    Raises:
        UsageError: the environment says no number of GB.
    """
    wanted_gb = _positive(MEMORY_VARIABLE, "GB", 0.0)
    if wanted_gb:
        return int(wanted_gb * _GB)
    free = available_memory_bytes()
    return None if free is None else int(_SHARE * (free + held))


def _positive(name: str, unit: str, default: float) -> float:
    """A number that the environment holds."""
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise UsageError(f"{name} is '{text}', which is not a number of {unit}")
    return number


def gigabytes(size: str) -> float:
    """``2GB``, ``500 MB`` and ``1.5G`` as a number of GB.

    Raises:
        UsageError: it is no size.
    """
    found = _SIZE.fullmatch(size)
    if found is None or not float(found[1]) > 0.0:
        raise UsageError(f"'{size}' is not a size such as 2GB or 500MB")
    return float(found[1]) * {"m": 1e-3, "g": 1.0, "t": 1e3}[found[2].lower()]


@contextmanager
def limited(answer_s: float | None = None, memory: str | None = None) -> Iterator[None]:
    """These limits for what is run meanwhile: in the environment, where processes of its own look them up.

    Raises:
        UsageError: one is no such limit.
    """
    wanted = {}
    if answer_s is not None:
        if not 0 < answer_s < threading.TIMEOUT_MAX:
            raise UsageError(f"runtime_timeout is {answer_s}: give a number of seconds above 0")
        wanted[TIME_VARIABLE] = f"{answer_s:.17g}"
    if memory is not None:
        wanted[MEMORY_VARIABLE] = f"{gigabytes(memory):.17g}"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def held_bytes(pid: int) -> int:
    """Memory that only this process holds; 0 where it is gone, or the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    fields = (line.split() for line in status.splitlines() if line.startswith(_OWN_PAGES))
    return sum(int(field[1]) * 1024 for field in fields)
