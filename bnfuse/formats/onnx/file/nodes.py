"""The nodes of a large graph as the bytes that they are stored in, parsed a few at a time.

A parsed node takes ten times the bytes of a stored one, and a plan looks at each once or twice. So a large
graph is read as an outline, the model without the nodes of its main graph, and its nodes one after another.
When it does not act: where the nodes do not lie in one stretch, or not all is as ONNX's schema has it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import overload

import onnx

from bnfuse.formats.onnx.file.protobuf import tag, varint
from bnfuse.formats.onnx.file.text import is_text

# Stretches of nodes below this are parsed as a whole.
LEAST_BYTES = 1 << 22
_EACH, _KEPT = 32, 16  # nodes that are parsed together, and how many such parts are kept
_GRAPH, _NODE = tag(7, 2), tag(1, 2)[0]


class _Nodes(Sequence[onnx.NodeProto], ABC):
    """Nodes by their positions."""

    @abstractmethod
    def one(self, at: int) -> onnx.NodeProto:
        """The node at a position."""

    @overload
    def __getitem__(self, at: int) -> onnx.NodeProto: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[onnx.NodeProto]: ...
    def __getitem__(self, at: int | slice) -> onnx.NodeProto | Sequence[onnx.NodeProto]:
        if isinstance(at, slice):
            return [self[k] for k in range(*at.indices(len(self)))]
        return self.one(at)


class StoredNodes(_Nodes):
    """Nodes that are messages only while somebody looks at them; who changes some takes ``ChangedNodes``."""

    def __init__(self, stored: bytes, starts: array[int], count: int) -> None:
        self._stored = stored
        self._starts = starts  # of every ``_EACH``th node, and where the last one stops
        self._count = count
        self._part = lru_cache(_KEPT)(self._parsed)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[onnx.NodeProto]:
        return chain.from_iterable(map(self._parsed, range(len(self._starts) - 1)))

    def one(self, at: int) -> onnx.NodeProto:
        """The node at a position."""
        part, place = divmod(at, _EACH)
        return self._part(part)[place]

    def are_sound(self) -> bool:
        """Whether all of them can be parsed, and all their strings are text."""
        return all(
            is_text(_GRAPH + varint(len(nodes)) + nodes)
            for nodes in map(self._bytes, range(len(self._starts) - 1))
        )

    def join(self, graph: onnx.GraphProto) -> None:
        """Make them nodes of the graph that they were left out of."""
        graph.MergeFromString(self._stored)

    def _bytes(self, part: int) -> bytes:
        return self._stored[self._starts[part] : self._starts[part + 1]]

    def _parsed(self, part: int) -> Sequence[onnx.NodeProto]:
        return onnx.GraphProto.FromString(self._bytes(part)).node


class ChangedNodes(_Nodes):
    """Stored nodes that may be changed: who asks for one by its place gets a message that stays.

    To go through all of them makes no message that stays.
    """

    def __init__(self, stored: StoredNodes) -> None:
        self._stored = stored
        self._own: dict[int, onnx.NodeProto] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> Iterator[onnx.NodeProto]:
        return (self._own.get(at, node) for at, node in enumerate(self._stored))

    def one(self, at: int) -> onnx.NodeProto:
        """The node at a position, which may be changed."""
        own = self._own.get(at)
        if own is None:
            own = self._own[at] = onnx.NodeProto()
            own.CopyFrom(self._stored.one(at))
        return own


def parted(model: bytes) -> tuple[bytes, StoredNodes] | None:
    """A model without the nodes of its main graph, and these; None where it is to be parsed whole."""
    try:
        graphs = [place for place in _fields(model, 0, len(model)) if place[0] == 7]
        if len(graphs) != 1:
            return None
        _, begin, body, stop = graphs[0]
        first = next((at for number, at, _, _ in _fields(model, body, stop) if number == 1), stop)
        starts, count = _stretch(model, first, stop)
        last = first + starts[-1]
        if last - first < LEAST_BYTES or any(number == 1 for number, *_ in _fields(model, last, stop)):
            return None
    except (IndexError, ValueError):
        return None
    rest = model[body:first] + model[last:stop]
    outline = b"".join((model[:begin], _GRAPH, varint(len(rest)), rest, model[stop:]))
    nodes = StoredNodes(model[first:last], starts, count)
    return (outline, nodes) if is_text(outline) and nodes.are_sound() else None


def _stretch(model: bytes, at: int, stop: int) -> tuple[array[int], int]:
    """Where in a stretch of nodes every ``_EACH``th begins, and it ends; how many there are.

    Raises:
        IndexError, ValueError: they go beyond ``stop``.
    """
    starts, count, first = array("q"), 0, at
    while at < stop and model[at] == _NODE:
        if count % _EACH == 0:
            starts.append(at - first)
        count += 1
        length = model[at + 1]
        at += 2
        if length > 0x7F:
            length, at = _varint(model, at - 1)
        at += length
    if at > stop:
        raise ValueError("truncated")
    starts.append(at - first)
    return starts, count


def _fields(model: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, where it begins, where its body begins, where it stops) of the fields of a message.

    Raises:
        IndexError, ValueError: it is none, or holds what no ONNX file does.
    """
    while at < stop:
        begin = at
        key, at = _varint(model, at)
        if key & 7 == 2:
            length, at = _varint(model, at)
            end = at + length
        elif key & 7 == 0:
            _, end = _varint(model, at)
        else:
            raise ValueError("a field of another kind")
        if end > stop:
            raise ValueError("truncated")
        yield key >> 3, begin, at, end
        at = end


def _varint(model: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while model[at] > 0x7F and shift < 63:
        value |= (model[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return value | model[at] << shift, at + 1
