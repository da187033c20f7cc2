"""JSON out of an untrusted file: parsed as data, bounded in size, values and depth before it is parsed.

Three bytes of ``{},`` become a hundred of memory, so what the values will take is reckoned from the brackets,
quotes and commas of the text. Python's parser is not safe against its own recursion: a few kilobytes of
``[[[[…`` end in a RecursionError there or, worse, in the code that walks the result. So the depth is checked
before anybody recurses. ``NaN`` and ``Infinity`` are accepted, since Keras writes them.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.keras.file.wording import short

MAX_BYTES = 64 << 20  # the largest configs of real models have 10 MB
# A nested model adds five levels, an initializer or a policy three; real files stay below 60.
_MAX_DEPTH = 200
_NESTED, _SCALARS = (dict, list), frozenset({str, int, float, bool, type(None)})
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(
    rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL
)  # the quote may lack, or it would be sought again
# What a list or dict, a text, and a value in one of them take, in bytes.
_COSTS = ((b"[", 80), (b"{", 80), (b'"', 30), (b",", 32))
_FREE_BYTES, _FREE_TIMES = 48 << 20, 4  # Real configs take seven times their text by these costs.


def parse_json(data: bytes, origin: Path, what: str) -> Any:
    """The JSON value in ``data``, which is called ``what`` in messages.

    Raises:
        UnreadableModel: not JSON, not UTF-8, or nested too deep.
        UnsafeModel: it would take far more memory than a config does.
    """
    check_size(len(data), origin, what)
    if sum(data.count(mark) * cost for mark, cost in _COSTS) > _FREE_BYTES + _FREE_TIMES * len(data):
        raise UnsafeModel(
            f"{origin}: {what} has more values than any model, which would fill the memory; "
            "save the model again"
        )
    try:
        if _brackets_depth(data) > 4 * _MAX_DEPTH and _brackets_depth(_STRING.sub(b"", data)) > _MAX_DEPTH:
            raise RecursionError
        value = json.loads(data)
        depth = _depth(value)
    except RecursionError as e:
        raise UnreadableModel(
            f"{origin}: {what} is nested too deep to be a model; fetch or save it again"
        ) from e
    except (ValueError, MemoryError) as e:
        raise UnreadableModel(
            f"{origin}: {what} is not valid JSON ({short(e)}); fetch or save the file again"
        ) from e
    if depth > _MAX_DEPTH:
        raise UnreadableModel(f"{origin}: {what} is nested too deep to be a model; fetch or save it again")
    if b"\\u" in data:
        _check_text(value, origin, what)
    return value


def check_size(size_bytes: int, origin: Path, what: str) -> None:
    """Refuse a document that is larger than any config.

    Raises:
        UnsafeModel: it is.
    """
    if size_bytes > MAX_BYTES:
        raise UnsafeModel(f"{origin}: {what} is larger than {MAX_BYTES >> 20} MiB, which no model needs")


def _brackets_depth(data: bytes) -> int:
    """At least the depth of ``data`` wherever no string holds closing brackets; fast."""
    deepest = depth = 0
    for bracket in data.translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _depth(value: Any) -> int:
    """How deep lists and dicts are nested, level by level rather than by recursion."""
    depth, level = 1, [value] if isinstance(value, _NESTED) else []
    while level := [
        inner
        for outer in level
        for inner in (outer.values() if isinstance(outer, dict) else outer)
        if isinstance(inner, _NESTED)
    ]:
        depth += 1
    return depth


def copied(value: Any) -> Any:
    """A copy of a JSON value, in a fifth of the time that ``copy.deepcopy`` takes."""
    kind = type(value)
    if kind is dict:
        return {key: copied(inner) for key, inner in value.items()}
    if kind is list:
        return [copied(inner) for inner in value]
    return value if kind in _SCALARS else copy.deepcopy(value)


def _check_text(value: Any, origin: Path, what: str) -> None:
    """Refuse half surrogates: they cannot be printed, nor written back."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise UnreadableModel(
            f"{origin}: {what} holds text that is not valid Unicode; save the model again"
        ) from e
