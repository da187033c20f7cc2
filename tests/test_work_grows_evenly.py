"""Planning takes steps in proportion to the graph, whatever a stranger made of it: counted, not timed.

Each kind of graph is planned in two sizes, one three times the other. What counts is every value that an
attempt asks something of, every earlier edit that is composed anew, and every value a region or a class is
found over. How long the vectors are is not counted: those through a join of n parts have the channels of all
of them, which ends where ``effort`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import onnx
import pytest
from msgspec.structs import replace

from bnfuse.core.apply import overflows
from bnfuse.core.decisions import Keep
from bnfuse.core.planning import effort, search
from bnfuse.core.planning.bars import Bars
from bnfuse.core.planning.classes import Classes
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.state import Propagation
from bnfuse.core.planning.worth import objection
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.onnx_graphs import Net
from tests.strange_graphs import KINDS, C, Kind, on_a_stream

Readings = dict[str, ReadOptions]
READINGS: Readings = {
    "plain": ReadOptions(),
    "no-bn": ReadOptions(target="no-bn"),
}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A counter of what was done; the bound on ways to go is lowered, so that these sizes meet it."""
    monkeypatch.setattr(search, "MAX_ATTEMPTS", 8)
    monkeypatch.setattr(search, "_MANY_WAYS", 9)
    done = [0]
    composed, across, settled = Linear.composed, Bars._across, Worklist._settle

    def composing(self: Linear, edits: Any, onto: Any = None) -> Any:
        edits = list(edits)
        done[0] += len(edits)
        return composed(self, edits, onto)

    def crossing(self: Bars, *arguments: Any) -> Any:
        done[0] += 1
        return across(self, *arguments)

    def finding(self: Classes, *arguments: Any) -> Any:
        done[0] += 1
        return found(self, *arguments)

    def settling(self: Worklist, node: Any) -> Any:
        done[0] += 1
        return settled(self, node)

    def reacting(self: Worklist, *arguments: Any) -> Any:
        done[0] += 1
        return react(self, *arguments)

    react, found = Worklist._react, Classes._find
    monkeypatch.setattr(Classes, "_find", finding)
    monkeypatch.setattr(Linear, "composed", composing)
    monkeypatch.setattr(Bars, "_across", crossing)
    monkeypatch.setattr(Worklist, "_settle", settling)
    monkeypatch.setattr(Worklist, "_react", reacting)
    return done


@pytest.mark.parametrize(
    ("kind", "reading"),
    [(kind, name) for kind in KINDS for name in READINGS if name == "plain" or kind is not on_a_stream],
)
def test_three_times_the_graph_is_three_times_the_work(
    kind: Kind, reading: str, work: list[int], tmp_path: Path
) -> None:
    path, took = tmp_path / "model.onnx", []
    for n in (27, 81):  # more than what counts as many readers
        net = Net(n)
        onnx.save(net.build({"x": (1, C, 2, 2)}, kind(net, n)), path)
        work[0] = 0
        with closing(FORMAT.read(path, READINGS[reading])) as opened:
            plan(opened.graph)
        took.append(work[0])
    assert took[0] > 0 and took[1] <= 4.5 * took[0]  # a square would be nine times


class _Counted(tuple[Any, ...]):
    """Edits that count how often they are gone through."""

    rounds = 0

    def __iter__(self) -> Iterator[Any]:
        _Counted.rounds += 1
        return super().__iter__()


def test_edits_are_not_gone_through_for_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt may change as many layers as there are: what is asked of all is asked at once."""
    judged: list[int] = []

    def counting(state: Any, offer: Any, found: Propagation, makes: int) -> Any:
        _Counted.rounds = 0
        answer = objection(state, offer, replace(found, edits=_Counted(found.edits)), makes)
        judged.append(_Counted.rounds)
        return answer

    monkeypatch.setattr(search, "objection", counting)
    path, net = tmp_path / "model.onnx", Net(1)
    x = net.bn(net.op("Tanh", "x"), C)
    ys = [net.op("Tanh", net.conv(x, C, C, 1, 1)) for _ in range(60)]
    onnx.save(net.build({"x": (1, C, 2, 2)}, ys), path)
    with closing(FORMAT.read(path, ReadOptions())) as opened:
        assert len(plan(opened.graph).plan.order) == 1
    assert judged and max(judged) < 10


@pytest.mark.parametrize("most", [10, 3])
def test_a_weight_that_many_layers_have_is_not_read_for_all_of_them(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To tell whether it fits its 16 bits it is read each time; whoever is left stays, and says so."""
    read = [0]

    def counting(rule: Linear, rewrite: Any) -> bool:
        read[0] += 1
        return overflows(rule, rewrite)

    monkeypatch.setattr("bnfuse.core.planning.worth.overflows", counting)
    monkeypatch.setattr(effort, "READ", most * 36)
    monkeypatch.setattr(effort, "READ_A_BYTE", 0)
    path, net, y = tmp_path / "model.onnx", Net(1, "float16"), "x"
    weight = net.weight(6, 6, fan_in=6)
    for _ in range(6):
        y = net.op("Tanh", net.op("MatMul", net.bn(net.op("Tanh", y), 6), weight))
    onnx.save(net.build({"x": (1, 6)}, y), path)
    with closing(FORMAT.read(path, ReadOptions())) as opened:
        made = plan(opened.graph).plan
    kept = [each.refusals for each in made.decisions if isinstance(each, Keep)]
    assert len(made.order) == read[0] == min(most, 6)
    assert all(Reason.TOO_LARGE in {each.reason for each in refusals} for refusals in kept)


class _Whole(list[Any]):
    """What may be looked up, and not gone through."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("all readers were gone through")


def test_who_writes_a_value_is_told_without_going_through_its_readers(tmp_path: Path) -> None:
    """Nobody writes an input, and all that reads it would be asked."""
    path, net = tmp_path / "model.onnx", Net(1)
    ys = [net.bn(net.op("Mul", "x", net.op("Tanh", "x")), C) for _ in range(5)]
    onnx.save(net.build({"x": (1, C, 2, 2)}, ys), path)
    with closing(FORMAT.read(path, ReadOptions())) as opened:
        graph = opened.graph
        assert graph.reader_count("x") == 10
        graph._adjacent = {value: _Whole(each) for value, each in graph._adjacent.items()}
        assert graph.writer("x") is None
        for node in graph.nodes:
            assert all(graph.writer(value) is node for value in node.outputs)
