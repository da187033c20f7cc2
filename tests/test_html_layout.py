"""Small graphs as they are drawn: writers above readers, nothing on top of anything, the same every time."""

from __future__ import annotations

import json
from itertools import combinations, pairwise

import numpy as np
import pytest

from bnfuse.report.html.graphs import data_block
from bnfuse.report.html.layout import NODE_HEIGHT, NODE_WIDTH, Layout, layout
from bnfuse.results import Neighbourhood
from tests.html_pages import neighbourhood

SEEDS = range(60)


def _graph(seed: int) -> tuple[int, list[tuple[int, int]]]:
    """Up to 24 nodes in topological order, some without any edge."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 25))
    pairs = [(a, b) for a, b in combinations(range(count), 2) if rng.random() < 2.0 / count]
    return count, pairs


def _overlaps(made: Layout) -> list[tuple[int, int]]:
    return [
        (i, k)
        for (i, (x, y)), (k, (u, v)) in combinations(enumerate(made.nodes), 2)
        if abs(x - u) < NODE_WIDTH and abs(y - v) < NODE_HEIGHT
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_graphs_are_placed(seed: int) -> None:
    count, edges = _graph(seed)
    made = layout(count, edges)
    assert made == layout(count, edges)
    assert not _overlaps(made)
    for (a, b), bends in zip(edges, made.bends, strict=True):
        ys = [made.nodes[a][1], *(y for _, y in bends), made.nodes[b][1]]
        assert all(y < v for y, v in pairwise(ys))  # ever downwards, a bend per layer
        assert len({v - y for y, v in pairwise(ys)}) == 1
    for x, y in made.nodes:
        assert NODE_WIDTH // 2 <= x <= made.width - NODE_WIDTH // 2
        assert NODE_HEIGHT // 2 <= y <= made.height - NODE_HEIGHT // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_bends_pass_beside_the_nodes(seed: int) -> None:
    count, edges = _graph(seed)
    made = layout(count, edges)
    for bends in made.bends:
        for x, y in bends:
            assert not [u for u, v in made.nodes if v == y and abs(u - x) < NODE_WIDTH / 2]


def test_a_chain_is_straight() -> None:
    made = layout(5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    assert len({x for x, _ in made.nodes}) == 1
    assert made.width < 2 * NODE_WIDTH


def test_a_writer_from_outside_stands_above_its_reader() -> None:
    made = layout(5, [(0, 1), (1, 2), (2, 4), (3, 4)])
    assert made.nodes[3][1] == made.nodes[2][1]


def test_the_data_block_tells_places_roles_and_what_goes() -> None:
    block = data_block((neighbourhood("n"), None))
    document = json.loads(block.partition(">")[2].removesuffix("</script>"))
    first, second = document["graphs"]
    assert second is None and document["names"] == ["n"] and document["ops"] == ["input", "n", "output"]
    width, height, left_out, nodes, edges = first
    placed = layout(5, neighbourhood("n").edges)
    assert (width, height, left_out) == (placed.width, placed.height, 7)
    assert [tuple(node[2:4]) for node in nodes] == list(placed.nodes)
    assert [node[4] for node in nodes] == [16, 2, 1 + 8, 0, 32]
    assert edges == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_nothing_to_draw_is_no_block() -> None:
    assert data_block(()) == data_block((None, None)) == ""


def test_five_hundred_graphs_are_light() -> None:
    name = "/backbone/stage3/block42/layer342/"
    one = neighbourhood("n")
    many = [
        Neighbourhood(
            tuple(
                type(n)(f"{name}{i}.{k}", n.op, n.kind, n.role, n.removed) for k, n in enumerate(one.nodes)
            ),
            one.edges,
        )
        for i in range(500)
    ]
    assert len(data_block(many)) < 300_000
