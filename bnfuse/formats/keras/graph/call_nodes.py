"""Core nodes of calls of layers: what the Keras format remembers of them, and which of them may move."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from msgspec import Struct

from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Pair
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Pass, Rule
from bnfuse.core.weights.scaled import round_once
from bnfuse.formats.child.messages import dtype_named
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.rows.kind import Trait
from bnfuse.formats.keras.rows.ops import named
from bnfuse.formats.keras.rows.site import Part, Site
from bnfuse.formats.table import Malformed


class CallHandle(Struct, frozen=True, eq=False):
    """What the Keras format remembers of a core node."""

    site: Site
    part: Part


def movable(graph: Graph, node: Node, joint: Node, port: Port) -> bool:
    """Both are called once, in one network, and the outside world knows the BatchNormalization by no name."""
    ours, theirs = handle_of(node).site, handle_of(joint).site
    called_once = all(len(s.layer.calls) == 1 and s.call is s.layer.calls[0] for s in (ours, theirs))
    joins = Trait.JOINT in named(theirs.layer.class_name).traits
    plain = called_once and joins and not ours.locked and not ours.lead and len(ours.inputs) == 1  # no mask
    known = plain and theirs.shapes[port] is not None and not theirs.layer.calls[0].constants
    return known and ours.path[:-1] == theirs.path[:-1] and node.outputs[0] not in graph.pinned


def spelled(node: Node, pair: Pair, *, masked: bool) -> tuple[str, ...] | Refusal:
    """A Rescaling in place of a BatchNormalization along one axis.

    ``masked`` tells that its input may carry a mask which no Rescaling of the Keras at hand takes.
    """
    site, rule = handle_of(node).site, rule_of(node)
    rank = site.rank()
    if masked:
        return Refusal(Reason.NO_ARITHMETIC, node.label, detail="a Rescaling of Keras 2 takes no mask")
    if rank is None or not isinstance(rule, Affine) or len(rule.axes) != 1:
        return Refusal(Reason.NO_ARITHMETIC, node.label, detail="a Rescaling works along one axis")
    with np.errstate(over="ignore"):
        narrow = all((each == each.astype(np.float32)).all() for each in pair)
    if site.compute_dtype == "float64" and not narrow:
        return Refusal(Reason.NO_ARITHMETIC, node.label, detail="a Rescaling holds no numbers of float64")
    try:
        for each in pair:
            round_once(each, dtype_named(site.compute_dtype))
    except FloatingPointError:
        detail = f"its scale and shift do not fit {site.compute_dtype}"
        return Refusal(Reason.NO_ARITHMETIC, node.label, detail=detail)
    return ("Rescaling",)


def graph_of(nodes: list[Node], pinned: dict[str, Reason], sized: Collection[str]) -> Graph:
    """Core's graph of nodes that have such handles, without candidates."""
    graph = Graph(nodes, pinned, [], rule_of, movable=movable, sized=sized)
    graph.constant_through, graph.takes_channel = constant_through, takes_channel
    return graph


# Layers whose config says how many channels they put out.
WIDENED = {
    "Dense": "units",
    **{f"Conv{n}D": "filters" for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": "filters" for n in (1, 2, 3)},
}


def takes_channel(node: Node, letter: str) -> bool:
    """Whether a layer can be written with one more channel of its output (o) or its input (i).

    It is built from what ``build_config`` says of its input.
    """
    site = handle_of(node).site
    entry = site.layer.entry
    built = entry.get("build_config")
    tells = built is None or (isinstance(built, dict) and as_shape(built.get("input_shape")) is not None)
    own = site.layer.class_name in WIDENED and not site.lead and not site.inside
    return own and (letter == "o" or tells)


def constant_through(node: Node, value: float) -> float | None:
    """What a node makes of a channel that is one positive number everywhere; None where that is not known.

    What commutes with every scale and shift commutes with a scale of 0: f(0·x + t) = 0·f(x) + t.
    """
    constant = handle_of(node).part.constant
    if constant is not None:
        return constant(value)
    rule = rule_of(node)
    return value if isinstance(rule, Pass) and rule.shift is None else None


def rule_of(node: Node) -> Rule:
    """Its row's rule; opaque where its settings are none that Keras takes."""
    try:
        rule = handle_of(node).part.rule
        return rule if isinstance(rule, Rule) else rule(node.label)
    except Malformed as e:
        return Opaque(Reason.BAD_PARAMETERS, f"{e}")


def handle_of(node: Node) -> CallHandle:
    """The handle that the reader gave a node."""
    assert isinstance(node.handle, CallHandle)
    return node.handle
