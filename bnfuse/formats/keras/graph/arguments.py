"""The arguments of one stored call of a function, as the call had them: constants, and which tensor where.

``calls`` flattens a call; a function needs its structure, to tell ``x − y`` from ``y − x`` and a slice from a
number. A tensor is told as its place among the call's inputs, in the order of ``calls``. What Keras stores
for slices, ``...`` and arrays becomes those again; whatever else is an object is Malformed.

Sources: as of ``calls``; keras/src/saving/serialization_lib.py (``serialize_keras_object``),
tf_keras/src/layers/core/tf_op_layer.py (``_slice_to_dict``).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.formats.keras.graph.calls import is_keras3
from bnfuse.formats.table import Malformed

_TYPES = ("float16", "float32", "float64", "int32", "int64")


class Tensor(Struct, frozen=True):
    """Input ``port`` of the call."""

    port: int


def read_arguments(raw: Any) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of a stored inbound node, which ``calls`` can read.

    Raises:
        Malformed: a value is none that is known.
    """
    ports = count()
    if is_keras3(raw):
        args = [_value(value, ports.__next__) for value in raw["args"]]
        return args, {str(k): _value(v, ports.__next__) for k, v in sorted(raw["kwargs"].items())}
    keywords: dict[str, Any] = {}
    first = _first(raw, ports.__next__, keywords)
    return [first], {str(k): _keyword(v, ports.__next__) for k, v in keywords.items()}


def _value(stored: Any, port: Callable[[], int]) -> Any:
    """One argument as Keras 3 stores it."""
    if isinstance(stored, list | tuple):
        return [_value(item, port) for item in stored]
    if not isinstance(stored, dict):
        return stored
    config = stored.get("config")
    match stored.get("class_name"), config:
        case "__keras_tensor__", _:
            return Tensor(port())
        case "__ellipsis__", _:
            return ...
        case "__slice__", {"start": start, "stop": stop, "step": step}:
            return slice(start, stop, step)
        case (("__numpy__" | "__tensor__"), {"value": value, "dtype": dtype}) if dtype in _TYPES:
            return _array(value, str(dtype))
    raise Malformed("an argument of another kind")


def _array(value: Any, dtype: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError) as e:
        raise Malformed("an array that is none") from e


def _first(raw: Any, port: Callable[[], int], keywords: dict[str, Any]) -> Any:
    """The first argument as Keras 2 stores it; the last tensor's ``keywords`` are the call's."""
    if not isinstance(raw, list | tuple):
        raise Malformed("a first argument with names")
    if raw and isinstance(raw[0], str):
        keywords.clear()
        keywords.update(raw[3] if len(raw) == 4 else {})
        return raw[2] if raw[1] == -1 else Tensor(port())
    found = [_first(item, port, keywords) for item in raw]
    # A single tensor is in a list of its own, as one in a list of one is: both mean the same to a function
    # of one tensor, and those of several are not asked with one.
    return found[0] if len(found) == 1 else found


def _keyword(stored: Any, port: Callable[[], int]) -> Any:
    """One keyword argument as Keras 2 stores it."""
    if isinstance(stored, list | tuple):
        if len(stored) in (3, 4) and isinstance(stored[0], str) and all(type(n) is int for n in stored[1:3]):
            return Tensor(port())
        return [_keyword(item, port) for item in stored]
    if not isinstance(stored, dict):
        return stored
    if stored.get("class_name") == "__ellipsis__":
        return ...
    if set(stored) == {"start", "stop", "step"}:
        start, step, stop = (_keyword(stored[name], port) for name in sorted(stored))
        return slice(start, stop, step)
    raise Malformed("an argument of another kind")
