"""JSON out of an untrusted file: parsed as data, bounded in size and depth.

Python's parser is not safe against its own recursion: a few kilobytes of ``[[[[…`` end in a
RecursionError there or, worse, in the code that walks the result. So the depth is checked before
anybody recurses. ``NaN`` and ``Infinity`` are accepted, since Keras writes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnfuse.errors import UnreadableModel

MAX_BYTES = 256 << 20
# A nested model adds five levels, an initializer or a policy three; real files stay below 60.
_MAX_DEPTH = 200
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse_json(data: bytes, origin: Path, what: str) -> Any:
    """The JSON value in ``data``, which is called ``what`` in messages.

    Raises:
        UnreadableModel: not JSON, not UTF-8, or nested too deep.
    """
    try:
        if _brackets_depth(data) > 4 * _MAX_DEPTH and _exact_depth(data) > _MAX_DEPTH:
            raise RecursionError
        value = json.loads(data)
        depth = _depth(value)
    except RecursionError as e:
        raise UnreadableModel(
            f"{origin}: {what} is nested too deep to be a model; fetch or save it again"
        ) from e
    except (ValueError, MemoryError) as e:
        raise UnreadableModel(
            f"{origin}: {what} is not valid JSON ({str(e)[:120]}); fetch or save the file again"
        ) from e
    if depth > _MAX_DEPTH:
        raise UnreadableModel(f"{origin}: {what} is nested too deep to be a model; fetch or save it again")
    if b"\\u" in data:
        _check_text(value, origin, what)
    return value


def _brackets_depth(data: bytes) -> int:
    """At least the depth of ``data`` wherever no string holds closing brackets; fast."""
    deepest = depth = 0
    for bracket in data.translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _exact_depth(data: bytes) -> int:
    """The depth of ``data``, brackets in strings left out."""
    deepest = depth = 0
    in_string = escaped = False
    for byte in data:
        if in_string:
            in_string = escaped or byte != 0x22
            escaped = byte == 0x5C and not escaped
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _depth(value: Any) -> int:
    """How deep lists and dicts are nested, level by level rather than by recursion."""
    depth, level = 0, [value]
    while level:
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, (dict, list))]
        depth += 1
    return depth


def _inner(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _check_text(value: Any, origin: Path, what: str) -> None:
    """Refuse half surrogates: they cannot be printed, nor written back."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise UnreadableModel(
            f"{origin}: {what} holds text that is not valid Unicode; save the model again"
        ) from e
