"""The use case ``diff``: what differs between any two models, from their files alone.

Reads both → matches nodes and weights → compares what they say, how they are linked, and the numbers.
Nothing is run, and no weight is ever whole in memory (one of HDF5 that is stored in chunks is). Models of
different formats have no nodes or weights in common: of them the interface, the operators and the number
of parameters are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from math import prod
from os import PathLike
from pathlib import Path

from msgspec.structs import replace

from bnfuse.core.quantising.channel_ranges import ChannelRanges, channel_ranges
from bnfuse.difference import interface
from bnfuse.difference.graph import ContentGraph
from bnfuse.difference.match import Matching
from bnfuse.difference.ranges import names_of, paired
from bnfuse.difference.result import (
    Changed,
    Difference,
    FactChange,
    InterfaceChange,
    NodeChange,
    Side,
    WeightChange,
)
from bnfuse.difference.weights import Pairs, change, names_are_believed
from bnfuse.difference.wiring import Wiring
from bnfuse.errors import UsageError
from bnfuse.files.stamps import watched
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.contents import Contents, NodeItem
from bnfuse.garbage import without_collections
from bnfuse.results import FileInfo
from bnfuse.use_cases.provenance import sha256, versions
from bnfuse.use_cases.unpacking import Opened, unpacked_together

_NO_PARAMETERS = frozenset({"int64", "bool", "string"})
_DOUBTED = (
    "weights of one name mostly have different shapes, so names mean different things in the two models: "
    "weights and nodes were matched by content and place first"
)
_TWO_FORMATS = (
    "the models are of different formats: only interface, operators and numbers of parameters were compared "
    "(`bnfuse verify` compares what they compute)"
)


@without_collections()
def diff(
    a: str | PathLike[str],
    b: str | PathLike[str],
    *,
    weights: Sequence[str | PathLike[str]] = (),
    ignore_below: float = 0.0,
    ranges: bool = False,
    hashes: bool = False,
    progress: Callable[[str], object] | None = None,
) -> Difference:
    """What differs between two models.

    Args:
        a: the one file, of any format.
        b: the other.
        weights: those of the architectures in JSON among them, in order; else files of a like name.
        ignore_below: weights whose largest change is below this fraction of their largest value are
            counted, but not listed.
        ranges: whether to look at the channel ranges, too: what 8 bits would leave of each layer's weight.
        hashes: whether to compute the files' SHA-256.
        progress: called with each phase.

    Raises:
        UnreadableModel: one of them is not a whole, valid model of a known format.
        UnsafeModel: it reaches outside its own folder.
        UsageError: ``ignore_below`` is negative or not a number; more ``weights`` than architectures.
    """
    if not ignore_below >= 0:
        raise UsageError(f"a change cannot be below {ignore_below}: give a fraction such as 1e-6")
    say = progress or (lambda _phase: None)
    started = time.perf_counter()
    say("reading")
    with ExitStack() as stack:
        opened = stack.enter_context(unpacked_together((Path(a), Path(b)), weights))
        before, after = (source.path for source in opened)
        files = stack.enter_context(watched(before, after))
        one, other = (stack.enter_context(closing(detect(path).contents(path))) for path in (before, after))
        sides = _side(opened[0], one, hashes=hashes), _side(opened[1], other, hashes=hashes)
        read = time.perf_counter()
        if one.form != other.form:
            found = Difference(*sides, False, tuple(_interface(one, other)), notes=(_TWO_FORMATS,))
            names: dict[str, str] = {}
        else:
            found, names = _compared(one, other, *sides, ignore_below=ignore_below, say=say)
        seconds = {"read": read - started, "compare": time.perf_counter() - read}
        if ranges:
            say("looking at channel ranges")
            found = replace(found, ranges=paired(_ranges(before), _ranges(after), names))
            seconds["ranges"] = time.perf_counter() - started - sum(seconds.values())
        files.check()
    return replace(found, seconds=seconds, versions=versions())


def _ranges(path: Path) -> list[ChannelRanges | None]:
    """Of all linear layers; only the rules of a graph know which they are, and how a weight is laid out."""
    with closing(detect(path).read(path, ReadOptions())) as model:
        return list(channel_ranges(model.graph))


def _side(source: Opened, contents: Contents, *, hashes: bool) -> Side:
    path, packing, items = source.path, source.packing, contents.weights.values()
    file = FileInfo(path, contents.form, sha256(path) if hashes else "", contents.total_bytes)
    return Side(
        file=source.info(file),
        operators={
            scope: dict(counts) for scope, counts in contents.operators.items() if counts or not scope
        },
        weights=len(items),
        parameters=sum(prod(item.shape) for item in items if item.dtype not in _NO_PARAMETERS),
        weight_bytes=sum(item.size_bytes for item in items),
        storage=contents.storage if packing is None else {**contents.storage, "container": packing.form},
    )


def _compared(
    one: Contents,
    other: Contents,
    before: Side,
    after: Side,
    *,
    ignore_below: float,
    say: Callable[[str], object],
) -> tuple[Difference, dict[str, str]]:
    """Two models of one format, and what nodes of the first are called in the second."""
    a, b = ContentGraph(one), ContentGraph(other)
    inputs = [(one.sources[i], other.sources[j]) for i, j in interface.pairs(one.inputs, other.inputs)]
    say("matching")
    believed = names_are_believed(a, b)
    weights, nodes = Pairs(a, b), Matching(a, b, inputs)
    _match(weights, nodes, believed=believed)
    wiring = Wiring(nodes, weights, inputs)
    changed, renamed = _nodes(nodes, wiring)
    say("comparing weights")
    found = replace(
        _weights(Difference(before, after, True), weights, ignore_below),
        interface=tuple(_interface(one, other, wiring)),
        facts=tuple(_facts(one.facts, other.facts)),
        nodes_same=len(nodes.after) - len(changed),
        nodes_renamed=tuple(renamed),
        nodes_changed=tuple(changed),
        nodes_removed=tuple(a.node_name(i) for i in range(len(a.nodes)) if i not in nodes.after),
        nodes_added=tuple(b.node_name(j) for j in range(len(b.nodes)) if j not in nodes.before),
        notes=() if believed else (_DOUBTED,),
    )
    return found, names_of(nodes)


def _match(weights: Pairs, nodes: Matching, *, believed: bool) -> None:
    """Pair weights and nodes, the surest evidence first."""
    if believed:
        weights.by_name()
        nodes.by_names()
    weights.by_content()
    nodes.by_weights(weights.after)
    nodes.by_place()
    nodes.by_names()
    nodes.by_name_alone()
    weights.by_place(nodes)
    weights.by_name()


def _interface(one: Contents, other: Contents, wiring: Wiring | None = None) -> list[InterfaceChange]:
    def computed(i: int, j: int) -> bool:
        return wiring is None or wiring.same(one.results[i], other.results[j])

    loose = wiring is None
    inputs = interface.changes("input", one.inputs, other.inputs, loose=loose, same_source=lambda *_: True)
    return inputs + interface.changes("output", one.outputs, other.outputs, loose=loose, same_source=computed)


def _facts(before: Mapping[str, str], after: Mapping[str, str]) -> list[FactChange]:
    labels = dict.fromkeys([*before, *after])
    every = [FactChange(label, before.get(label), after.get(label)) for label in labels]
    return [fact for fact in every if fact.before != fact.after]


def _nodes(nodes: Matching, wiring: Wiring) -> tuple[list[NodeChange], list[tuple[str, str]]]:
    """Matched nodes that differ, and the names of equal ones that are called differently."""
    a, b = nodes.a, nodes.b
    changed: list[NodeChange] = []
    renamed: list[tuple[str, str]] = []
    for i, j in sorted(nodes.after.items()):
        one, other = a.nodes[i], b.nodes[j]
        settings = _settings(a.contents, b.contents, one, other)
        inputs = tuple(wiring.changes(i, j))
        if settings or inputs or one.operator != other.operator:
            changed.append(NodeChange(a.node_name(i), b.node_name(j), settings, inputs))
        elif one.name != other.name or one.scope != other.scope:
            renamed.append((one.label, other.label))
    return changed, renamed


def _settings(a: Contents, b: Contents, one: NodeItem, other: NodeItem) -> tuple[Changed, ...]:
    if one.fingerprint == other.fingerprint and one.operator == other.operator:
        return ()
    before, after = a.settings(one), b.settings(other)
    return tuple(
        Changed(name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if repr(before.get(name)) != repr(after.get(name))  # so that NaN is NaN, and 1 is not True
    )


def _weights(found_so_far: Difference, pairs: Pairs, ignore_below: float) -> Difference:
    """With every pair's change; the rest came or went."""
    extra = pairs.settled()
    every = [(*pair, "") for pair in pairs.after.items()] + [(*pair, kind) for pair, kind in extra.items()]
    changed: list[WeightChange] = []
    renamed: list[tuple[str, str]] = []
    same = ignored = 0
    largest = 0.0
    for wa, wb, shared in every:
        found = change(pairs.a, pairs.b, wa, wb, shared)
        figures = None if found is None else found.figures
        if found is None:
            same += not shared
            if wa != wb and not shared:
                renamed.append((wa, wb))
        elif (
            figures is not None and figures.max_rel < ignore_below and not {"shape", "dtype"} & {*found.what}
        ):
            ignored += 1
            largest = max(largest, figures.max_rel)
        else:
            changed.append(found)
    changed.sort(key=_by_size)
    split = {wb for (_, wb), kind in extra.items() if kind == "split"}
    merged = {wa for (wa, _), kind in extra.items() if kind == "merged"}
    removed = [pairs.a.weight_name(w) for w in pairs.a.weights if w not in pairs.after and w not in merged]
    added = [pairs.b.weight_name(w) for w in pairs.b.weights if w not in pairs.before and w not in split]
    return replace(
        found_so_far,
        weights_same=same,
        weights_renamed=tuple(renamed),
        weights_ignored=ignored,
        largest_ignored=largest,
        weights_changed=tuple(changed),
        weights_removed=tuple(removed),
        weights_added=tuple(added),
    )


def _by_size(change: WeightChange) -> tuple[float, str]:
    """Largest first; other shapes and texts, which have no size of change, before all."""
    relative = None if change.figures is None else change.figures.max_rel
    return (-relative if relative is not None and relative == relative else float("-inf")), change.before.name
