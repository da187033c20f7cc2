"""Which argument of a function's call is which, by the names of its parameters.

    parameters    "@x" one tensor, "*xs" several, "?y" a tensor or a constant, else a constant; "=" a default,
                  ">" the name by which a row of the op table knows it

When it does not act: an argument that is not named, or a tensor where a constant is expected, is Malformed.
``keras.ops`` stores most arguments in the node's config, some in the call; TensorFlow's are all in the call.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bnfuse.formats.base import Malformed
from bnfuse.formats.keras.graph.arguments import Tensor, read_arguments
from bnfuse.formats.keras.graph.network import Call, Layer, Shape

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Called:
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
    if len(positional) > len(names) or given.keys() - {p.stored for p in names}:
        raise Malformed("an argument that is not known")
    return {p.name: p.checked(given) for p in names}


class _Parameter:
    """One word of a line's parameters."""

    def __init__(self, text: str) -> None:
        text, has_default, default = text.partition("=")
        self.kind = text[0] if text[0] in "@*?" else ""
        self.stored, _, name = text.removeprefix(self.kind).partition(">")
        self.name = name or self.stored
        self.default = [literal_eval(default)] if has_default else []

    def checked(self, given: Arguments) -> Any:
        """Its argument, of the kind that is expected."""
        value = given[self.stored] if self.stored in given else self.default[0]
        tensors = list(ports(value))
        several = isinstance(value, list) and all(isinstance(v, Tensor) for v in value)
        single = isinstance(value, Tensor)
        fits = {"@": single, "*": several and bool(tensors), "?": single or not tensors, "": not tensors}
        if not fits[self.kind]:
            raise Malformed(f"{self.stored}: a tensor where none is expected, or none where one is")
        return value


def ports(value: Any) -> Iterator[int]:
    """The inputs of the call that an argument is, or lists, in their order."""
    if isinstance(value, Tensor):
        yield value.port
    elif isinstance(value, list):
        for item in value:
            yield from ports(item)
