"""Which weight of one model is which of the other, and how far each pair is apart.

By name first, then, of those left, by content where it is unmistakable, then by the node and slot that
reads it. Names are not believed where they mean different things in the two models: exporters number
their values, so that ``onnx::Conv_503`` may be any layer. That shows in the shapes: where most weights of
one name differ in shape, content and place come first and names last.

A weight that several nodes read is one weight. Where only one of the models shares it, the shared array is
compared with each of the others, and the change says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

from msgspec import Struct, field

from bnfuse.core.weights.tensor import size
from bnfuse.difference.graph import ContentGraph
from bnfuse.difference.match import Matching
from bnfuse.difference.result import WeightChange
from bnfuse.difference.values import compare
from bnfuse.formats.contents import WeightItem

_SAMPLE = 1024  # elements at each end that stand for a large array
_LEAST = 8  # elements; smaller arrays are alike by chance


class Pairs(Struct, eq=False):
    """Pairs of weights by name, one to one, and ``extra`` ones of which one half is in a pair already."""

    a: ContentGraph
    b: ContentGraph
    after: dict[str, str] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    extra: dict[tuple[str, str], str] = field(default_factory=dict)  # "split" or "merged"

    def pair(self, wa: str, wb: str) -> None:
        """Pair two that are free."""
        if wa not in self.after and wb not in self.before:
            self.after[wa], self.before[wb] = wb, wa

    def by_name(self) -> None:
        """Weights of one name."""
        for name in self.a.weights:
            if name in self.b.weights:
                self.pair(name, name)

    def by_content(self) -> None:
        """Large enough weights whose content and shape nobody else has; those of one name before."""
        left = _by_content(self.a, self.after)
        right = _by_content(self.b, self.before) if left else {}
        shared = [(names, right[key]) for key, names in left.items() if key in right]
        for names, others in shared:
            for name in set(names) & set(others):
                self.pair(name, name)
        for names, others in shared:
            if len(names) == len(others) == 1:
                self.pair(names[0], others[0])

    def by_place(self, nodes: Matching) -> None:
        """Weights that matched nodes read at the same slot."""
        if len(self.after) == len(self.a.weights) and len(self.before) == len(self.b.weights):
            return
        for i, j in nodes.after.items():
            held = dict(self.b.nodes[j].weights)
            for slot, wa in self.a.nodes[i].weights:
                wb = held.get(slot)
                if wb is None:
                    continue
                if wa in self.after and wb not in self.before:
                    self.extra.setdefault((wa, wb), "split")
                elif wb in self.before and wa not in self.after:
                    self.extra.setdefault((wa, wb), "merged")
                else:
                    self.pair(wa, wb)

    def settled(self) -> dict[tuple[str, str], str]:
        """``extra`` without those whose free half found a partner after all."""
        return {
            (wa, wb): kind
            for (wa, wb), kind in self.extra.items()
            if (wb not in self.before if kind == "split" else wa not in self.after)
        }


def names_are_believed(a: ContentGraph, b: ContentGraph) -> bool:
    """Whether at least half of the weights that have one name in both models have one shape, too."""
    common = [name for name in a.weights if name in b.weights]
    alike = sum(a.weights[name].shape == b.weights[name].shape for name in common)
    return 2 * alike >= len(common)


def _by_content(graph: ContentGraph, taken: dict[str, str]) -> dict[Hashable, list[str]]:
    found: dict[Hashable, list[str]] = {}
    for name, item in graph.weights.items():
        if name not in taken:
            key = _content(item)
            if key is not None:
                found.setdefault(key, []).append(name)
    return found


def _content(item: WeightItem) -> Hashable | None:
    """Shape, type and a sample of the values; None for what is small or of one repeated value."""
    if item.dtype == "string" or item.size_bytes == 0:
        return None
    tensor = item.open()
    count = size(tensor)
    if count < _LEAST:
        return None
    digest = hashlib.blake2b(digest_size=16)
    varied = False
    for start in {0, max(0, count - _SAMPLE)}:
        sample = tensor.read(start, min(count, start + _SAMPLE)).copy()
        data = sample.tobytes()
        one = data[: sample.dtype.itemsize]
        varied = varied or data != one * len(sample)
        digest.update(data)
    return (item.shape, item.dtype, digest.digest()) if varied else None


def change(a: ContentGraph, b: ContentGraph, wa: str, wb: str, shared: str = "") -> WeightChange | None:
    """How a pair differs in shape, type or values; None where it does not.

    Raises:
        UnreadableModel: a weight cannot be read.
    """
    one, other = a.weights[wa], b.weights[wb]
    alike = _squeezed(one.shape) == _squeezed(other.shape)
    one_place = one.place is not None and one.place == other.place and one.dtype == other.dtype
    differ = alike and not one_place and 0 not in one.shape
    figures = compare(one.open(), other.open()) if differ else None
    what = []
    if figures is not None or not alike:
        what.append("values")
    if one.shape != other.shape:
        what.append("shape")
    if one.dtype != other.dtype:
        what.append("dtype")
    if not what:
        return None
    if wa != wb and not shared:
        what.append("renamed")
    return WeightChange(a.weight_name(wa), b.weight_name(wb), tuple(what), figures, shared)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)
