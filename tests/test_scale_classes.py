"""Classes of values that are scaled together, against a search of the whole graph for every value."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from bnfuse.core.axes import Permute, Relabel
from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.planning.classes import Classes
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import IDENTITY, Reparam, from_backward
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Pass, Rule, ShapeOnly, Sign
from bnfuse.core.rules.operands import Operand
from bnfuse.core.rules.weighted_sum import WeightedSum

LEVEL, LOW, REPEATED = Operand(0, frozenset()), Operand(1, frozenset()), Operand(0, frozenset({1}))
MAP = (np.full(2, 2.0), np.ones(2))

# Rule, how many inputs, which ports are one value up to a scale, which of them take positive scales only.
KINDS: dict[str, tuple[Rule, int, tuple[Port, ...], tuple[Port, ...]]] = {
    "identity": (Pass(), 1, (0, ~0), ()),
    "transpose": (Pass(axes=Permute((0, 2, 1))), 1, (0, ~0), ()),
    "relu": (Pass(Sign.NONNEGATIVE), 1, (0, ~0), (0, ~0)),
    "squeeze": (Pass(axes=Relabel((0, None), 1)), 1, (), ()),
    "greatest over space": (Pass(Sign.NONNEGATIVE, mixed_out={2}), 1, (), (0, ~0)),
    "second input": (Pass(Sign.NONNEGATIVE, in_port=1), 2, (1, ~0), (1, ~0)),
    "sum": (WeightedSum((1.0, -1.0), (LEVEL, LEVEL)), 2, (0, 1, ~0), ()),
    "sum of two ranks": (WeightedSum((1.0, 1.0), (LEVEL, LOW)), 2, (), ()),
    "sum of a repeated one": (WeightedSum((1.0, 1.0), (REPEATED, LEVEL)), 2, (), ()),
    "shape": (ShapeOnly(), 1, (), ()),
    "affine": (Affine(MAP, (1,)), 1, (), ()),
}
OPAQUE = Opaque(Reason.NONLINEAR, "so it is")


def graph_of(rng: np.random.Generator, count: int) -> Graph:
    """Nodes of all kinds, each reading values that are there already; some values are known outside."""
    names = [*KINDS, "opaque"]
    values, nodes = ["x"], []
    for at in range(count):
        kind = names[rng.integers(len(names))]
        inputs = KINDS[kind][1] if kind in KINDS else 1
        read = tuple(values[max(0, len(values) - 1 - int(rng.integers(5)))] for _ in range(inputs))
        nodes.append(Node(f"n{at}", kind, read, (f"v{at}",)))
        values.append(f"v{at}")
    pinned = {values[-1]: Reason.GRAPH_OUTPUT}
    if rng.random() < 0.5:
        pinned["x"] = Reason.GRAPH_INPUT
    return Graph(nodes, pinned, [], lambda node: OPAQUE if node.op == "opaque" else KINDS[node.op][0])


def links(graph: Graph, removed: set[Node]) -> list[tuple[str, str]]:
    found = []
    for node in graph.nodes:
        if node.op == "opaque":
            continue
        ports: tuple[Port, ...] = (0, ~0) if node in removed else KINDS[node.op][2]
        found += list(combinations([node.value(port) for port in ports], 2))
    return found


def together(graph: Graph, removed: set[Node], value: str) -> set[str]:
    found, pairs = {value}, links(graph, removed)
    while True:
        more = {v for pair in pairs if found & set(pair) for v in pair} - found
        if not more:
            return found
        found |= more


def expected(graph: Graph, removed: set[Node], value: str) -> tuple[bool, bool]:
    """Whether a scale is refused, and whether a negative one is."""
    same = together(graph, removed, value)
    fixed = bool(same & set(graph.pinned))
    positive = False
    for node in graph.nodes:
        ports = (*range(len(node.inputs)), ~0)
        if node.op == "opaque":
            fixed |= any(node.value(port) in same for port in ports)
        else:
            positive |= any(node.value(port) in same for port in KINDS[node.op][3])
    return fixed, positive


UP, DOWN = (from_backward((1,), np.array(s), np.ones(2)) for s in ([2.0, 1.0], [-2.0, 1.0]))
SHIFT = from_backward((1,), np.ones(2), np.ones(2))


def assert_all(graph: Graph, removed: set[Node], classes: Classes, values: list[str]) -> None:
    for value in values:
        fixed, positive = expected(graph, removed, value)
        assert classes.refusal(value, IDENTITY) is None and classes.refusal(value, SHIFT) is None
        assert (classes.refusal(value, UP) is not None) == fixed, value
        down = classes.refusal(value, DOWN)
        assert (down is not None) == (fixed or positive), value
        if down is not None and not fixed:
            assert (down.reason, down.detail) == (Reason.NEGATIVE_SCALE, "1 of 2 channels are negative")


@pytest.mark.parametrize("seed", range(40))
def test_what_is_known_is_what_a_search_finds(seed: int) -> None:
    """Also as affines go one after the other, whatever was asked for before."""
    rng = np.random.default_rng(seed)
    graph = graph_of(rng, 14)
    values = ["x", *(node.outputs[0] for node in graph.nodes)]
    removed: set[Node] = set()
    classes = Classes(graph, removed)
    asked = list(rng.permutation(values)[: rng.integers(0, len(values))])
    assert_all(graph, removed, classes, asked)
    for node in [n for n in graph.nodes if n.op == "affine"]:
        removed.add(node)
        classes.merge(node.inputs[0], node.outputs[0])
        assert_all(graph, removed, classes, list(rng.permutation(values)[:6]))
    assert_all(graph, removed, classes, values)


def test_the_refusal_names_who_refuses() -> None:
    nodes = [
        Node("a", "relu", ("x",), ("v",)),
        Node("b", "identity", ("v",), ("w",)),
        Node("c", "opaque", ("w",), ("y",)),
    ]
    graph = Graph(nodes[:2], {}, [], lambda node: KINDS[node.op][0])
    told = Classes(graph, set()).refusal("w", DOWN)
    assert told is not None and told.node == "relu 'a'"
    assert told.value in ("x", "v") and told.detail == "1 of 2 channels are negative"
    graph = Graph(nodes, {}, [], lambda node: OPAQUE if node.op == "opaque" else KINDS[node.op][0])
    assert Classes(graph, set()).refusal("x", UP) == Refusal(Reason.NONLINEAR, "opaque 'c'", "w", "so it is")
    graph = Graph(nodes[:2], {"w": Reason.GRAPH_OUTPUT}, [], lambda node: KINDS[node.op][0])
    assert Classes(graph, set()).refusal("x", UP) == Refusal(Reason.GRAPH_OUTPUT, value="w")


def _told(classes: Classes, value: str, held: Reparam) -> tuple[Reason, str, str]:
    refusal = classes.refusal(value, held)
    assert refusal is not None
    return refusal.reason, refusal.node, refusal.value


def test_of_several_who_refuse_the_nearest_is_told() -> None:
    """x → relu → v → relu → w, an opaque reader at each; or both ends known outside."""
    relus = [Node("a", "relu", ("x",), ("v",)), Node("b", "relu", ("v",), ("w",))]
    opaques = [Node(f"reads {v}", "opaque", (v,), (f"{v} read",)) for v in "xvw"]

    def fresh(nodes: list[Node], **pinned: Reason) -> Classes:
        rules = {"opaque": OPAQUE, "relu": KINDS["relu"][0]}
        return Classes(Graph(nodes, pinned, [], lambda node: rules[node.op]), set())

    assert _told(fresh(relus), "x", DOWN) == (Reason.NEGATIVE_SCALE, "relu 'a'", "x")
    assert _told(fresh(relus), "w", DOWN) == (Reason.NEGATIVE_SCALE, "relu 'b'", "w")
    for value in "xw":
        told = _told(fresh([*relus, *opaques]), value, UP)
        assert told == (Reason.NONLINEAR, f"opaque 'reads {value}'", value)
        ends = {"x": Reason.GRAPH_INPUT, "w": Reason.GRAPH_OUTPUT}
        assert _told(fresh(relus, **ends), value, UP) == (ends[value], "", value)
    ends = {"x": Reason.GRAPH_INPUT}
    assert _told(fresh([relus[0], opaques[1]], **ends), "x", UP) == (Reason.GRAPH_INPUT, "", "x")
    assert _told(fresh([relus[0], opaques[1]], **ends), "v", UP) == (
        Reason.NONLINEAR,
        "opaque 'reads v'",
        "v",
    )


def test_what_is_known_is_not_searched_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value of two rows is looked at once, however often it is asked for, also once they are one."""
    looked: list[str] = []
    adjacent = Graph.adjacent

    def counted(self: Graph, value: str) -> list[tuple[Node, Port]]:
        looked.append(value)
        return adjacent(self, value)

    monkeypatch.setattr(Graph, "adjacent", counted)
    nodes = [
        Node(f"{row}{k}", "identity", (f"{row}{k}",), (f"{row}{k + 1}",)) for row in "ab" for k in range(9)
    ]
    link = Node("link", "affine", ("a9",), ("b0",))
    removed: set[Node] = set()
    classes = Classes(Graph([*nodes, link], {}, [], lambda node: KINDS[node.op][0]), removed)
    values = [f"{row}{k}" for row in "ab" for k in range(10)]
    for value in values:
        assert classes.refusal(value, UP) is None
    removed.add(link)
    classes.merge("a9", "b0")
    for value in values:
        assert classes.refusal(value, UP) is None
    assert sorted(looked) == values
