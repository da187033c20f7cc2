"""Planning takes work in proportion to the graph, whatever a stranger made of it: counted, not timed.

Each kind of graph is planned in two sizes, one three times the other. What counts is every value that an
attempt asks something of, every earlier edit that is composed anew, and every value a region is found over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bnfuse.core.planning import search
from bnfuse.core.planning.bars import Bars
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.onnx_graphs import Net

C = 2
Kind = Callable[[Net, int], str]
Readings = dict[str, ReadOptions]
READINGS: Readings = {
    "plain": ReadOptions(),
    "no-bn": ReadOptions(target="no-bn"),
}


def _bn(net: Net, x: str, n: int = C) -> str:
    return net.bn(x, n, positive=True)


def _closed(net: Net) -> str:
    """What no scale and no shift passes."""
    return net.op("Tanh", "x")


def _into_a_concat(net: Net, n: int) -> str:
    return net.op("Tanh", net.op("Concat", *[_bn(net, net.op("Relu", "x")) for _ in range(n)], axis=1))


def _through_a_concat(net: Net, n: int) -> str:
    """All of them fold into one layer, edit by edit."""
    joined = net.op("Concat", *[_bn(net, _closed(net)) for _ in range(n)], axis=1)
    return net.op("Tanh", net.op("Conv", joined, net.weight(1, C * n, 1, 1, fan_in=n)))


def _through_a_concat_and_a_clamp(net: Net, n: int) -> str:
    joined = net.op("Concat", *[_bn(net, _closed(net)) for _ in range(n)], axis=1)
    return net.op("Tanh", net.op("Conv", net.op("Relu", joined), net.weight(1, C * n, 1, 1, fan_in=n)))


def _out_of_a_split(net: Net, n: int) -> str:
    x = net.op("Conv", "x", net.weight(C * n, C, 1, 1, fan_in=C))
    parts = [f"part{k}" for k in range(n)]
    net.op("Split", x, net.const(np.full(n, C, np.int64)), out=parts, axis=1)
    return [net.op("Tanh", _bn(net, part)) for part in parts][-1]


def _into_a_sum(net: Net, n: int) -> str:
    return net.op("Tanh", net.op("Sum", *[_bn(net, net.op("Relu", "x")) for _ in range(n)]))


def _shifts_into_a_sum(net: Net, n: int) -> str:
    """Each has as many ways to go as the sum has inputs."""
    shift = net.const(np.reshape([1.0, 2.0], (C, 1, 1)))
    return net.op("Tanh", net.op("Sum", *[net.op("Add", net.op("Relu", "x"), shift) for _ in range(n)]))


def _in_a_row(net: Net, n: int) -> str:
    x = _closed(net)
    for _ in range(n):
        x = _bn(net, x)
    return net.op("Tanh", x)


def _on_a_stream(net: Net, n: int) -> str:
    x = _closed(net)
    for _ in range(n):
        x = net.op("Add", x, net.op("Relu", _bn(net, x)))
    return x


def _gates(net: Net, n: int) -> str:
    x = _closed(net)
    for _ in range(n):
        x = net.op("Mul", x, _bn(net, x))
    return x


def _behind_one(net: Net, n: int) -> str:
    x = _bn(net, _closed(net))
    return [net.op("Tanh", net.conv(x, C, C, 1, 1)) for _ in range(n)][-1]


KINDS: list[Kind] = [
    _into_a_concat,
    _through_a_concat,
    _through_a_concat_and_a_clamp,
    _out_of_a_split,
    _into_a_sum,
    _shifts_into_a_sum,
    _in_a_row,
    _on_a_stream,
    _gates,
    _behind_one,
]


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

    def settling(self: Worklist, node: Any) -> Any:
        done[0] += 1
        return settled(self, node)

    def reacting(self: Worklist, *arguments: Any) -> Any:
        done[0] += 1
        return react(self, *arguments)

    react = Worklist._react
    monkeypatch.setattr(Linear, "composed", composing)
    monkeypatch.setattr(Bars, "_across", crossing)
    monkeypatch.setattr(Worklist, "_settle", settling)
    monkeypatch.setattr(Worklist, "_react", reacting)
    return done


@pytest.mark.parametrize(
    ("kind", "reading"),
    [(kind, name) for kind in KINDS for name in READINGS if name == "plain" or kind is not _on_a_stream],
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
    assert took[0] > 27 and took[1] <= 4.5 * took[0]  # a square would be nine times
