"""What the errors of Keras and its backends say, in one line, and what kind they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bnfuse.formats.child.server import LoadRefused

_MAX_REASON = 300
# Keras 3, tf_keras and Keras 2 name a class that they do not know in these ways.
_UNKNOWN_CLASS = re.compile(
    r"(?:Could not locate class|Unknown (?:layer|object|class):?) *['\"]?([\w.>]+)"
    r"|Cannot deserialize object of type `([\w.>]+)`"
)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # Keras writes parts of its messages in bold
_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|ResourceExhausted|OOM when|out of memory"
    r"|cannot allocate memory|failed to map segment",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a backend had no memory left: each says it in its own words."""
    return _OUT_OF_MEMORY.search(str(error)) is not None


def load_refusal(failures: Sequence[tuple[str, Exception]]) -> LoadRefused:
    """One answer for a file that nothing could load."""
    for _, error in failures:
        if is_out_of_memory(error):
            return LoadRefused("memory", "memory ran out")
    last = failures[-1][1]
    unknown = _UNKNOWN_CLASS.search(str(last))
    runtimes = " nor ".join(name for name, _ in failures)
    if unknown:
        return LoadRefused("unknown-class", f"{unknown[1] or unknown[2]}\n{runtimes}")
    texts = dict.fromkeys(f"{name}: {reason(error)}" for name, error in failures)
    return LoadRefused("load", "; ".join(texts))


def reason(error: BaseException) -> str:
    """What a runtime's error says, in one line: the cause that Keras quotes last, without its dumps."""
    text = str(error).strip()
    _, found, cause = text.rpartition("Exception encountered:")
    text = (cause if found else text).strip()
    lines = [line.strip() for line in _ESCAPES.sub("", text).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        del lines[0]  # Keras says where first, and what in the second paragraph
    line = lines[0] if lines else type(error).__name__
    line = re.sub(r"\{\{.*?\}\} *|\[Op:\w+\]| name: *$", "", line)
    line = re.sub(r"\s+", " ", line).strip().rstrip(".:")
    return line if len(line) <= _MAX_REASON else line[:_MAX_REASON] + "…"
