"""Which argument of a function's call is which, by the names of its parameters.

    parameters    "@x" one tensor, "*xs" several, "?y" a tensor or a constant, "$k" a constant, else a
                  setting; "=" a default, ">" the name by which a row of the op table knows it

A constant is told with its place in the call, where a row may put another.

When it does not act: an argument that is not named, or a tensor where a constant is expected, is Malformed.
``keras.ops`` stores most arguments in the node's config, some in the call; TensorFlow's are all in the call.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from bnfuse.formats.keras.graph.arguments import Tensor, read_arguments
from bnfuse.formats.keras.graph.call_constants import Constant, Place
from bnfuse.formats.keras.graph.network import Call, Layer, Shape
from bnfuse.formats.table import Malformed

Arguments = dict[str, Any]


class Called(Struct, frozen=True):
    """A call whose arguments have their names."""

    given: Arguments
    shapes: Sequence[Shape | None]

    def shape(self, name: str) -> Shape | None:
        """Of the (first) tensor that is given by this name."""
        value = self.given[name]
        first: Tensor = value[0] if isinstance(value, list) else value
        return self.shapes[first.port]

    def rank(self, name: str) -> int:
        """How many axes that has.

        Raises:
            Malformed: it is not known.
        """
        shape = self.shape(name)
        if shape is None:
            raise Malformed("a tensor of unknown shape")
        return len(shape)


# What a function's arguments are for the row that means the same: its name, and what its config would say.
Means = Callable[[Called], tuple[str, Arguments]]


def bound(parameters: str, layer: Layer, call: Call) -> Arguments:
    """Arguments by name, in the order of the parameters.

    Raises:
        Malformed: one that is not known, that is missing, or of another kind than expected.
    """
    names = [_Parameter(text) for text in parameters.split()]
    positional, keywords = read_arguments(call.raw)
    given = dict(keywords)
    if layer.function.startswith("ops."):
        given.update((k, v) for k, v in layer.config.items() if k != "name")
    else:
        given.pop("name", None)
    given.update(zip([p.stored for p in names], positional, strict=False))
    places = {p.stored: Place(position=k) for k, p in enumerate(names[: len(positional)])}
    if len(positional) > len(names) or given.keys() - {p.stored for p in names}:
        raise Malformed("an argument that is not known")
    return {p.name: p.checked(given, places.get(p.stored, Place(p.stored))) for p in names}


class _Parameter:
    """One word of a line's parameters."""

    def __init__(self, text: str) -> None:
        text, has_default, default = text.partition("=")
        self.kind = text[0] if text[0] in "@*?$" else ""
        self.stored, _, name = text.removeprefix(self.kind).partition(">")
        self.name = name or self.stored
        self.default = [literal_eval(default)] if has_default else []

    def checked(self, given: Arguments, place: Place) -> Any:
        """Its argument, of the kind that is expected."""
        value = given[self.stored] if self.stored in given else self.default[0]
        tensors = list(ports(value))
        several = isinstance(value, list) and all(isinstance(v, Tensor) for v in value)
        single = isinstance(value, Tensor)
        constant = not tensors
        fits = {"@": single, "*": several and bool(tensors), "?": single or constant}.get(self.kind, constant)
        if not fits:
            raise Malformed(f"{self.stored}: a tensor where none is expected, or none where one is")
        told = constant and self.kind in ("?", "$") and value is not None
        return Constant(value, place) if told else value


def ports(value: Any) -> Iterator[int]:
    """The inputs of the call that an argument is, or lists, in their order."""
    if isinstance(value, Tensor):
        yield value.port
    elif isinstance(value, list):
        for item in value:
            yield from ports(item)


# --- what TensorFlow calls things

_PADDING = {"SAME": "same", "VALID": "valid"}
_FORMATS = {f"N{s}C": "channels_last" for s in ("W", "HW", "DHW")}
_FORMATS |= {f"NC{s}": "channels_first" for s in ("W", "HW", "DHW")}


def tf_layout(call: Called, **windows: Any) -> Arguments:
    """Data format and padding as a layer's config has them, and windows over the spatial axes of ``x``."""
    given, n = call.given, call.rank("x") - 2
    form = _FORMATS[given["data_format"] or f"N{'DHW'[3 - n :]}C"]
    sizes = {name: _windows(sizes, n, form) for name, sizes in windows.items()}
    return {**sizes, "padding": _PADDING[given["padding"]], "data_format": form}


def _windows(given: Any, n: int, form: str) -> list[int]:
    """One size, one for each spatial axis, or one for each axis.

    Raises:
        Malformed: they are none, or speak of other axes.
    """
    sizes = list(given) if isinstance(given, list) else [given]
    if any(type(k) is not int or k < 1 for k in sizes):
        raise Malformed(f"windows {given}")
    if len(sizes) == n + 2:
        first = 2 if form == "channels_first" else 1
        if set(sizes[:first]) | set(sizes[first + n :]) != {1}:
            raise Malformed("windows over the channels, or over the batch")
        return sizes[first : first + n]
    sizes = sizes * n if len(sizes) == 1 else sizes
    if len(sizes) != n:
        raise Malformed(f"{len(sizes)} windows")
    return sizes
