"""What the graph says of its values, and where a model and its folded twin must agree again."""

from __future__ import annotations

import pytest

from bnfuse.core.decisions import Split
from bnfuse.core.graph import Graph, Node, unique_names
from bnfuse.core.planning.state import Propagation
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.core.seams import Seam, seams
from tests.core_nets import CoreNet

A = Node("a", "Op", ("x", "", "w"), ("v", "", "u"))
B = Node("b", "Op", ("v", "u", "v"), ("y",))
C = Node("c", "BatchNormalization", ("y", "x"), ("z",), is_batchnorm=True)


def _graph() -> tuple[Graph, list[Node]]:
    asked: list[Node] = []

    def rule_of(node: Node) -> Rule:
        asked.append(node)
        return Opaque()

    return Graph([A, B, C], {}, [C], rule_of), asked


def test_ports_and_labels() -> None:
    assert [A.value(port) for port in (0, 1, 2, ~0, ~1, ~2)] == ["x", "", "w", "v", "", "u"]
    assert (A.label, C.label) == ("Op 'a'", "BatchNormalization 'c'")
    assert [n.is_batchnorm for n in (A, B, C)] == [False, False, True]


# value → who writes it, which ports read it
VALUES = {
    "x": (None, [(A, 0), (C, 1)]),
    "w": (None, [(A, 2)]),
    "v": (A, [(B, 0), (B, 2)]),
    "u": (A, [(B, 1)]),
    "y": (B, [(C, 0)]),
    "z": (C, []),
    "": (None, []),
    "nowhere": (None, []),
}


@pytest.mark.parametrize(("value", "writer", "readers"), [(v, *told) for v, told in VALUES.items()])
def test_who_writes_and_who_reads(value: str, writer: Node | None, readers: list[tuple[Node, int]]) -> None:
    graph, _ = _graph()
    written = {"v": [(A, ~0)], "u": [(A, ~2)], "y": [(B, ~0)], "z": [(C, ~0)]}.get(value, [])
    assert graph.adjacent(value) == [*written, *readers]
    assert graph.writer(value) is writer
    assert list(graph.readers(value)) == [node for node, _ in readers]
    assert graph.reader_count(value) == len(readers)


def test_places_and_rules() -> None:
    graph, asked = _graph()
    assert [graph.place(n) for n in (C, A, B, A)] == [2, 0, 1, 0]
    rules = [graph.rule(n) for n in (A, B, A)]
    assert rules[0] is rules[2] is not rules[1]
    assert asked == [A, B]
    assert not graph.movable(graph, C, B, 0)


# The first of each name keeps it; what is made up is nobody else's.
NAMES = {
    "a b c": "a b c",
    "a a b a": "a a#2 b a#3",
    "a a#2 a": "a a#2 a#3",
    "a#2 a a": "a#2 a a#3",
    "a a a#2": "a a#2 a#2#1",
    "a a b#1 b b": "a a#2 b#1 b b#2",
    "a a#2 a#3 a a a": "a a#2 a#3 a#4 a#5 a#6",
}


@pytest.mark.parametrize(("wanted", "made"), NAMES.items())
def test_names_are_made_unique(wanted: str, made: str) -> None:
    assert list(unique_names(wanted.split())) == made.split()


# --- seams ----------------------------------------------------------------------------------------


def _step(net: CoreNet, name: str, touched: str, held: str) -> Propagation:
    nodes = tuple(net.node(n) for n in touched.split())
    return Propagation(net.node(name), Split.UP, (), nodes, (), tuple(f"{v}_out" for v in held.split()))


def _chain(net: CoreNet, names: str, x: str = "x") -> str:
    for name in names.split():
        x = net.identity(x, name=name)
    return x


def test_a_seam_behind_each_fold_names_the_one_before() -> None:
    net = CoreNet()
    y = _chain(net, "a b c d e f g h")
    steps = [_step(net, "b", "a", "a"), _step(net, "d", "c", "c"), _step(net, "g", "f h", "f g")]
    assert seams(net.graph(y), steps) == (
        Seam("b_out", (0,), (), False),
        Seam("d_out", (1,), (0,), False),
        Seam("h_out", (2,), (1,), True),
    )
    assert seams(net.graph(y), []) == ()


def test_folds_that_meet_share_a_seam_and_stretches_join() -> None:
    """Two rows meet in a sum twice: changed, and as they were; a third is touched by nobody."""
    net = CoreNet()
    left, right = _chain(net, "a b c"), _chain(net, "p q r")
    y = net.sum(left, right, _chain(net, "u w"), name="sum")
    y = net.sum(y, net.node("b").outputs[0], net.node("q").outputs[0], name="end")
    steps = [_step(net, "a", "b", "a"), _step(net, "p", "q", "p"), _step(net, "c", "sum", "c"),
             _step(net, "r", "sum", "r")]  # fmt: skip
    assert seams(net.graph(y), steps) == (
        Seam("b_out", (0,), (), False),
        Seam("q_out", (1,), (), False),
        Seam("sum_out", (2, 3), (0, 1), False),
        Seam("end_out", (), (0, 1, 2), True),
    )
    more = [*steps, _step(net, "end", "", "")]
    assert seams(net.graph(y), more)[-1] == Seam("end_out", (4,), (0, 1, 2), True)


def test_what_a_changed_value_carries_on_is_felt_where_it_ends() -> None:
    """A fold whose values are held otherwise past a node that another fold touches."""
    net = CoreNet()
    y = _chain(net, "a b c d e")
    steps = [_step(net, "a", "", "a"), _step(net, "b", "", "b"), _step(net, "c", "", "c")]
    assert seams(net.graph(y), steps) == (Seam("d_out", (0, 1, 2), (), False), Seam("e_out", (), (0,), True))
    steps.append(_step(net, "d", "", ""))
    assert seams(net.graph(y), steps) == (
        Seam("d_out", (0, 1, 2, 3), (), False),
        Seam("e_out", (), (0,), True),
    )


def test_all_outputs_of_a_node_and_all_calls_of_a_layer_are_seams() -> None:
    net = CoreNet()
    rule = Opaque()
    for name in ("one", "other"):
        net.add("Two", rule, "x", name=name, outputs=(f"{name}_a", "", f"{name}_b"))
    net.add("Tanh", rule, "one_a", name="last")
    one, other = net.node("one"), net.node("other")
    graph = net.graph("one_b", tied=dict.fromkeys((one, other), (one, other)))
    told = seams(graph, [_step(net, "one", "", ""), _step(net, "last", "", "")])
    assert told == (
        Seam("one_a", (0,), (), False),
        Seam("one_b", (0,), (), True),
        Seam("other_a", (0,), (), False),
        Seam("other_b", (0,), (), False),
        Seam("last_out", (1,), (0,), False),
    )
