"""Where a model and its folded twin must agree again: the *seams*.

A fold holds some values in another way (``Spread.held``) and changes the nodes beside them. What a changed
node puts out and what is held as it was is a seam: there both models hold the same numbers up to the
rounding of the few operations since the seams before it. Everything between is untouched, so models that
agree at every seam, each stretch on the same inputs, agree as a whole.

Where a runtime does not show a value (between the kernel of a layer and its activation, in a function), it is
looked past: what reads it is untouched, so the next value that is shown is held as it was as well, and there
the folds are felt. What nobody in the graph reads is a seam all the same, for nothing else tells of it.

Told of each seam: the folds that can be felt there, which are those whose changes reach it through values
that are held in another way, and the seams before it. The outputs of the model that lie behind seams are
told as well, though no fold is felt at those that untouched nodes write.

Does not decide what a runtime shows: it is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct

from bnfuse.core.graph import Graph, Node
from bnfuse.core.planning.state import Propagation
from bnfuse.core.reasons import Reason


class Seam(Struct, frozen=True):
    """One value that both models hold alike, behind changed nodes.

    Attributes:
        value: its name in core's graph.
        folds: positions, among the steps, of the folds that are felt here.
        before: positions, among the seams, of those that its stretch begins at.
        is_output: whether it is an output of the model.
    """

    value: str
    folds: tuple[int, ...]
    before: tuple[int, ...]
    is_output: bool


def seams(
    graph: Graph, steps: Sequence[Propagation], shown: Collection[str] | None = None
) -> tuple[Seam, ...]:
    """All seams, in graph order.

    Args:
        graph: the model as core sees it.
        steps: its folds, in the order in which they were made.
        shown: the values that a runtime can be asked for, beside outputs of the model; None for all.
    """
    changed = {value for step in steps for value in step.held}

    def unseen(value: str) -> bool:
        looks_on = value not in graph.pinned and graph.reader_count(value) > 0
        return shown is not None and value not in shown and looks_on

    touching = _touching(graph, steps)
    felt: dict[str, int] = {}  # folds, as bits, by changed value
    since: dict[str, int] = {}  # the last seams before a value, as bits
    found: list[tuple[str, int, int]] = []
    for node in graph.nodes:
        folds, before = touching.get(node, 0), 0
        for value in node.inputs:
            folds |= felt.get(value, 0)
            before |= since.get(value, 0)
        for value in node.outputs:
            if not value:
                continue
            if value in changed or (folds and unseen(value)):
                felt[value], since[value] = folds, before
            elif folds:
                since[value] = 1 << len(found)
                found.append((value, folds, before))
            elif before:
                since[value] = before
                if graph.pinned.get(value) is Reason.GRAPH_OUTPUT:
                    found.append((value, 0, before))
    return tuple(_seam(graph, *each) for each in found)


def _touching(graph: Graph, steps: Sequence[Propagation]) -> dict[Node, int]:
    """The folds that change a node, as bits."""
    touching: dict[Node, int] = {}
    for at, step in enumerate(steps):
        bit = 1 << at
        for node in (*graph.calls(step.node), *step.touched):
            touching[node] = touching.get(node, 0) | bit
    return touching


def _seam(graph: Graph, value: str, folds: int, before: int) -> Seam:
    is_output = graph.pinned.get(value) is Reason.GRAPH_OUTPUT
    return Seam(value, tuple(_bits(folds)), tuple(_bits(before)), is_output)


def _bits(mask: int) -> Iterator[int]:
    """Positions of the ones, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
