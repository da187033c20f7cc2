"""Constants that stand in the stored call of a function: the kernel of ``ops.conv``, the 2.0 of ``x * 2.0``.

To a row of the op table they are variables. Where one stands is a ``Place``; new values are put there in the
dialect that was read, in the kind of object that was there (TensorFlow takes some kernels only as tensors).

    Keras 3   {"args": [x, {"class_name": "__numpy__", "config": {"value": …, "dtype": …}}], "kwargs": {…}}
    Keras 2   [layer, node, tensor, {"filters": […]}], or ["_CONSTANT_VALUE", -1, […], {"y": [layer, …]}]

Sources: keras/src/saving/serialization_lib.py (``serialize_keras_object``), tf_keras/src/engine/node.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.core.weights.tensor import Array
from bnfuse.formats.keras.graph.calls import is_keras3, read_call


class Place(Struct, frozen=True):
    """Where an argument stands in a stored call: by ``keyword``, or at a position."""

    keyword: str = ""
    position: int = 0


class Constant(Struct, frozen=True, eq=False):
    """An argument that is no tensor: a number, a list, an array, or something that is not looked into."""

    value: Any
    place: Place


class CallVariable:
    """A constant as a row sees it: a variable of the layer that its function means.

    A list is read as float32, which TensorFlow makes of it.

    Raises:
        ValueError: it is no array of numbers.
    """

    source = ""

    def __init__(self, name: str, constant: Constant) -> None:
        self.name, self.value, self.place = name, constant.value, constant.place
        is_list = isinstance(self.value, list)
        self._array = np.asarray(self.value, np.float32) if is_list else np.asarray(self.value)
        self.shape, self.dtype = self._array.shape, self._array.dtype

    def read(self) -> np.ndarray:
        """The whole array."""
        return self._array


def with_constants(raw: Any, arrays: Mapping[Place, Array]) -> Any:
    """A copy of a stored call with other constants; an array without axes is stored as a number."""
    if not is_keras3(raw):
        return _with_lists(raw, {place: array.tolist() for place, array in arrays.items()})
    args, kwargs = list(raw["args"]), dict(raw["kwargs"])
    for place, array in arrays.items():
        if place.keyword:
            kwargs[place.keyword] = _stored(kwargs.get(place.keyword), array)
        else:
            args[place.position] = _stored(args[place.position], array)
    return {"args": args, "kwargs": kwargs}


def bare_call(raw: Any) -> Any:
    """A copy of a stored call with nothing but the first argument that is a tensor, or has one."""
    if is_keras3(raw):
        given = ({"args": [value], "kwargs": {}} for value in (*raw["args"], *raw["kwargs"].values()))
        return next(call for call in given if read_call(call).tensors)
    first = read_call(raw).tensors[0]
    return _nested_as(raw, [first.layer, first.node, first.tensor, {}])


def _stored(old: Any, array: Array) -> Any:
    """As Keras 3 stores it."""
    if not isinstance(old, dict) and not array.ndim:
        return array.item()
    kind = old["class_name"] if isinstance(old, dict) else "__numpy__"
    return {"class_name": kind, "config": {"value": array.tolist(), "dtype": array.dtype.name}}


def _with_lists(raw: Any, lists: Mapping[Place, Any]) -> Any:
    """As Keras 2 stores it: the only constant among its positional arguments is the first one as a whole."""
    leaf = only_leaf(raw)
    assert leaf is not None, "constants of such a call are not rewritten (rows.ops)"
    first = lists.get(Place(), leaf[2])
    keywords = {p.keyword: value for p, value in lists.items() if p.keyword}
    return _nested_as(raw, [*leaf[:2], first, *({**kwargs, **keywords} for kwargs in leaf[3:])])


def only_leaf(raw: Any) -> list[Any] | None:
    """The one positional argument of a call as Keras 2 stores it; None where it is a structure of several."""
    leaf = raw[0] if isinstance(raw, list) and len(raw) == 1 else raw
    return leaf if isinstance(leaf, list) and leaf and isinstance(leaf[0], str) else None


def _nested_as(raw: Any, leaf: list[Any]) -> Any:
    """Functions have their argument as it is, layers in a list of one."""
    return [leaf] if isinstance(raw[0], list) else leaf
