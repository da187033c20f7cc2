"""Values that numpy has no type for, as JSON and back: strings, and what sequence and map outputs hold.

Strings, Python's numbers, None and lists are their own JSON. A map is ``{"map": [[key, value], …]}``, since
its keys may be numbers. An array is ``{"array": i}``, the i-th of those that travel beside the tree, a number
of one of numpy's types ``{"scalar": i}``. A tuple comes back as a list, bytes as a string, in which what is
no UTF-8 survives as surrogates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def to_tree(value: Any, inner: list[np.ndarray]) -> Any:
    """The value as JSON; arrays in it are added to ``inner``.

    Raises:
        TypeError: it is, or holds, something else.
    """
    match value:
        case bytes():
            return value.decode("utf-8", "surrogateescape")
        case np.ndarray():
            return {"array": _placed(value, inner)}
        case np.str_():
            return str(value)
        case np.generic():
            return {"scalar": _placed(np.asarray(value), inner)}
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [to_tree(item, inner) for item in value]
        case dict():
            return {"map": [[to_tree(key, inner), to_tree(item, inner)] for key, item in value.items()]}
        case other:
            raise TypeError(f"a {type(other).__name__} cannot be brought out of the process that made it")


def from_tree(tree: Any, inner: Sequence[np.ndarray]) -> Any:
    """The value that ``to_tree`` made this of."""
    match tree:
        case list():
            return [from_tree(item, inner) for item in tree]
        case {"map": pairs}:
            return {from_tree(key, inner): from_tree(item, inner) for key, item in pairs}
        case {"array": at}:
            return inner[at]
        case {"scalar": at}:
            return inner[at][()]
        case value:
            return value


def _placed(array: np.ndarray, inner: list[np.ndarray]) -> int:
    inner.append(array)
    return len(inner) - 1
