"""Which scales a graph leaves free: by hand, and on random graphs against their equations in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bnfuse.core.apply import Planned, apply
from bnfuse.core.decisions import Plan
from bnfuse.core.graph import Graph
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.state import State
from bnfuse.core.quantising.freedoms import Freedom, freedoms, rescaled
from bnfuse.core.rules.joint import ConcatSplit
from tests.core_nets import CoreNet, computed
from tests.random_core import random_net

# By writer: which channels are free, and the ports ("conv0<" reads, "conv0>" writes) that hang on them.
Free = dict[str, tuple[str, set[str]]]


def _chain(net: CoreNet) -> list[str]:
    return [net.conv(net.relu(net.conv("x", 4, name="a")), 2, name="b")]


def _saturating(net: CoreNet) -> list[str]:
    return [net.conv(net.tanh(net.conv("x", name="a")), name="b")]


def _put_out(net: CoreNet) -> list[str]:
    inner = net.conv("x", name="a")
    return [net.conv(net.relu(inner), name="b"), inner]


def _residual(net: CoreNet) -> list[str]:
    """Both writers of the stream, and both of its readers, share one scale."""
    stream = net.conv("x", name="a")
    inner = net.relu(net.conv(stream, 5, name="b"))
    stream = net.sum(stream, net.conv(inner, name="c"))
    return [net.conv(stream, name="d")]


def _side_by_side(net: CoreNet) -> list[str]:
    """Each branch has its own part of what the reader reads."""
    parts = net.conv("x", 2, name="a"), net.conv("x", 3, name="b")
    return [net.conv(net.relu(net.concat(*parts)), name="c")]


def _half_put_out(net: CoreNet) -> list[str]:
    """What an output needs stays, the rest is free."""
    whole = net.conv("x", 4, name="a")
    rule = ConcatSplit(0, (~0, ~1), 1, (2, 2))
    net.add("Split", rule, whole, name="s", outputs=("one", "two"), does=lambda v: [v[:, :2], v[:, 2:]])
    net.channels |= {"one": 2, "two": 2}
    return ["one", net.conv(net.relu("two"), name="b")]


def _batchnorm_stays(net: CoreNet) -> list[str]:
    """A BatchNormalization that nobody takes absorbs as well as a layer does."""
    return [net.tanh(net.bn(net.tanh("x"))), net.conv(net.relu(net.conv("x", name="a")), name="b")]


CASES: list[tuple[Callable[[CoreNet], list[str]], Free]] = [
    (_chain, {"a": ("1111", {"a>", "b<"})}),
    (_saturating, {}),
    (_put_out, {}),
    (_residual, {"a": ("111", {"a>", "b<", "c>", "d<"}), "b": ("11111", {"b>", "c<"})}),
    (_side_by_side, {"a": ("11", {"a>", "c<"}), "b": ("111", {"b>", "c<"})}),
    (_half_put_out, {"a": ("0011", {"a>", "b<"})}),
    (_batchnorm_stays, {"a": ("111", {"a>", "b<"})}),
]


def _told(free: list[Freedom]) -> Free:
    return {
        one.writer.name: (
            "".join("01"[int(channel)] for channel in one.free),
            {f"{tie.node.name}{'<' if tie.port >= 0 else '>'}" for tie in one.ties},
        )
        for one in free
    }


@pytest.mark.parametrize(("build", "expected"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_what_is_free(build: Callable[[CoreNet], list[str]], expected: Free) -> None:
    net = CoreNet()
    graph = net.graph(*build(net))
    found = freedoms(State(graph))
    assert _told(found) == expected
    for one in found:  # each free channel hangs together with some channel of every port that is named
        for tie in one.ties:
            known = tie.channels[tie.channels >= 0]
            assert one.free[known].all() and known.size


def test_the_parts_of_a_concatenation_know_their_places() -> None:
    net = CoreNet()
    graph = net.graph(*_side_by_side(net))
    first, second = freedoms(State(graph))
    places = {one.writer.name: one.ties[-1].channels.tolist() for one in (first, second)}
    assert places == {"a": [0, 1, -1, -1, -1], "b": [-1, -1, 0, 1, 2]}


def _stirred(graph: Graph, state: State, seed: int) -> int:
    rng = np.random.default_rng(seed)
    count = 0
    for one in freedoms(state):
        scale = np.where(one.free, np.exp(rng.uniform(-3.0, 3.0, one.free.size)), 1.0)
        found = rescaled(state, one.writer, one.axis, scale, one.choices)
        assert found is not None, "what is free takes any scale"
        state.accept_rescaling(found)
        count += int(one.free.sum())
    return count


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_any_scales_leave_a_random_graph_what_it_computes(first: int) -> None:
    """Folded before or not: the outputs agree to the roundings of float64."""
    free = 0
    for seed in range(first, first + 100):
        net, outputs = random_net(seed)
        graph, feeds = net.graph(*outputs), net.feeds()
        planned = plan(graph) if seed % 2 else Planned(Plan(()), State(graph))
        planned.state.waiting = set(planned.state.narrowed)
        free += _stirred(graph, planned.state, seed)
        before, after = computed(graph, feeds), computed(graph, feeds, apply(graph, planned))
        for value in outputs:
            span = float(np.abs(before[value]).max())
            assert np.abs(before[value] - after[value]).max() <= 1e-11 * span, (seed, value)
    assert free > 100, "the test proves nothing where nothing is free"
