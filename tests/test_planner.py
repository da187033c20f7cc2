"""The planner on small graphs of core's own: the most goes, and what is left computes the same in float64.

Against two routes that share nothing with it: the equations of ``tests/removable.py``, and the definitions of
the operators (``tests/core_nets.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Keep
from bnfuse.core.graph import Graph, Node
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.seams import seams
from tests.core_nets import CoreNet, computed
from tests.random_core import random_net, random_network
from tests.removable import most_removable, removable


def assert_computes_the_same(net: CoreNet, graph: Graph, outputs: Sequence[str]) -> None:
    """By the patch that follows planning, and by one that is replayed from the plan alone."""
    feeds = net.feeds()
    wanted = computed(graph, feeds)
    planned = plan(graph)
    decided = planned.plan
    for patch in (apply(graph, planned), apply(graph, replay(graph, decided))):
        made = computed(graph, feeds, patch)
        for value in outputs:
            size = np.abs(wanted[value]).max()
            np.testing.assert_allclose(made[value], wanted[value], rtol=0, atol=1e-9 * (1 + size))
        assert patch.removed == {n for n, d in _decisions(graph, decided.decisions) if isinstance(d, Fold)}
        for seam in seams(graph, patch.steps):
            size = np.abs(wanted[seam.value]).max()
            np.testing.assert_allclose(made[seam.value], wanted[seam.value], rtol=0, atol=1e-9 * (1 + size))


def _decisions(graph: Graph, decisions: Sequence[Fold | Keep]) -> list[tuple[Node, Fold | Keep]]:
    return list(zip(graph.candidates, decisions, strict=True))


@pytest.mark.parametrize("seeds", [range(k, k + 20) for k in range(0, 100, 20)], ids=str)
def test_the_most_goes(seeds: range) -> None:
    for seed in seeds:
        net, network = random_network(seed)
        outputs = [v for v in network.fixed if v != "x"]
        graph = net.graph(*outputs)
        decided = plan(graph).plan.decisions
        removed = {n.outputs[0] for n, d in _decisions(graph, decided) if isinstance(d, Fold)}
        assert len(removed) == most_removable(network), seed
        assert removable(network, removed), seed
        assert_computes_the_same(net, graph, outputs)


@pytest.mark.parametrize("seeds", [range(k, k + 20) for k in range(0, 100, 20)], ids=str)
def test_what_is_left_computes_the_same(seeds: range) -> None:
    for seed in seeds:
        net, outputs = random_net(seed)
        assert_computes_the_same(net, net.graph(*outputs), outputs)
