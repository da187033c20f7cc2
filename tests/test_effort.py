"""What the search may take of a graph ends. Then near ways alone are tried, and what is found stays exact."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Keep
from bnfuse.core.graph import Graph
from bnfuse.core.planning import effort, settle
from bnfuse.core.planning import plan as planning
from bnfuse.core.planning.effort import Effort, set_aside
from bnfuse.core.planning.explain import explain
from bnfuse.core.planning.narrow import places
from bnfuse.core.planning.offers import whole
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.planning.propagate import Worklist
from bnfuse.core.planning.retrace import retrace
from bnfuse.core.planning.search import Observer, SearchResult, removal
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.reasons import Reason
from bnfuse.core.reparam import from_backward
from bnfuse.core.rules.affine import candidate
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.core_nets import CoreNet, computed, row
from tests.onnx_graphs import Net, assert_equal, fold_model
from tests.strange_graphs import (
    KINDS,
    C,
    Kind,
    into_a_sum,
    on_a_stream,
    out_of_a_split,
    shifts_into_a_sum,
    through_a_concat,
    through_a_concat_and_a_clamp,
)
from tests.test_narrow_places import Scene, _concat
from tests.test_work_grows_evenly import READINGS

NOTHING_LEFT = Effort(most_steps=0, steps=1)
MODELS = Path(__file__).parents[2] / "shared" / "models"

# --- what is asked once nothing is left ------------------------------------------------------------


def _read_by(net: CoreNet, many: int) -> dict[str, Any]:
    y = net.bn(net.tanh("x"), name="bn")
    for _ in range(many):
        net.tanh(net.conv(y))
    return {}


def _joined_with(net: CoreNet, many: int) -> dict[str, Any]:
    """The whole is a port, too."""
    parts = [net.tanh("x") for _ in range(many - 2)]
    net.tanh(net.conv(net.concat(*parts, net.bn(net.tanh("x"), name="bn")), name="conv"))
    return {}


def _behind_a_layer_called(net: CoreNet, many: int) -> dict[str, Any]:
    """The other calls are read by layers that undo it; ``many`` counts the others."""
    first = net.conv("x", name="conv")
    net.tanh(net.bn(first, [2, -3, 0.5], [1, 0, -2], name="bn"))
    calls = [net.node("conv")]
    for at in range(many):
        net.add("Conv", net.rules[calls[0]], net.tanh("x"), name=f"call {at}")
        calls.append(net.node(f"call {at}"))
        # All of them read it through one sum: a node for each would be further than near by.
    net.tanh(net.conv(net.sum(*[call.outputs[0] for call in calls[1:]])))
    return {"tied": dict.fromkeys(calls, tuple(calls))}


def _called(net: CoreNet, many: int) -> dict[str, Any]:
    outputs = [net.bn(net.conv("x"), [2, 3, 0.5], [1, 0, -2], name="bn")]
    calls = [net.node("bn")]
    for at in range(many - 1):
        again = net.add("BatchNormalization", net.rules[calls[0]], net.conv("x"), name=f"bn {at}")
        outputs.append(again)
        calls.append(net.candidates.pop())
    net.tanh(*outputs)
    return {"tied": dict.fromkeys(calls, tuple(calls))}


def _far(net: CoreNet, many: int) -> dict[str, Any]:
    """The layer that takes it is a node, too."""
    net.tanh(net.conv(row(net, net.bn(net.tanh("x"), name="bn"), many - 1)))
    return {}


def _ways(net: CoreNet, many: int) -> dict[str, Any]:
    """The first branch of a sum takes no shift, the last one does."""
    branches = [net.relu(net.conv("x")) for _ in range(many)]
    net.tanh(net.bn(net.sum(*branches, net.conv("x")), 2.0, 1.0, name="bn"))
    return {}


def _searched(graph: Graph, spent: Effort) -> SearchResult:
    (node,) = graph.candidates
    state = State(graph, effort=spent)
    return removal(state, whole(state, candidate(graph, node)), Observer(), moves_bounds=False)


@pytest.mark.parametrize(
    ("scene", "most"),
    [(_read_by, 23), (_joined_with, 24), (_behind_a_layer_called, 20), (_called, 24), (_far, 24), (_ways, 0)],
)
def test_once_nothing_is_left_near_ways_alone_are_tried(
    scene: Callable[[CoreNet, int], dict[str, Any]], most: int
) -> None:
    for many, near in ((most, True), (max(most + 1, 26 if most else 1), False)):
        net = CoreNet(many)
        graph = net.graph(**scene(net, many))
        assert _searched(graph, Effort()).best is not None
        found = _searched(graph, NOTHING_LEFT)
        assert (found.best is not None) is near, (many, found.refusals)
        assert near or Reason.TOO_LARGE in {refusal.reason for refusal in found.refusals}


def test_many_calls_are_not_asked_at_all() -> None:
    net, spent = CoreNet(5), Effort(most_steps=0, steps=1)
    assert _searched(net.graph(**_called(net, 30)), spent).best is None
    assert spent.steps == 1


@pytest.mark.parametrize("scene", [_far, _read_by, _joined_with])
def test_what_was_found_before_is_found_again_however_little_is_left(
    scene: Callable[[CoreNet, int], dict[str, Any]],
) -> None:
    """A plan that is read back has taken its effort elsewhere."""
    net = CoreNet(6)
    graph = net.graph(**scene(net, 40))
    (node,) = graph.candidates
    found = _searched(graph, Effort()).best
    assert found is not None
    state = State(graph, effort=NOTHING_LEFT)
    again = retrace(state, whole(state, candidate(graph, node)), found.split, dict(found.choices))
    assert isinstance(again, Propagation)
    assert again.into == found.into and again.through == found.through


@pytest.mark.parametrize("scene", [_far, _ways])
def test_other_reasons_are_no_matter_of_effort(
    scene: Callable[[CoreNet, int], dict[str, Any]],
) -> None:
    """Near by alone, or one way alone, is not all that there is."""
    net = CoreNet(7)
    graph = net.graph(**scene(net, 40))
    refused = _searched(graph, NOTHING_LEFT).refusals
    assert {r.reason for r in refused} & {Reason.TOO_FAR, Reason.TOO_MANY_CHOICES} == set()
    assert any(r.reason is Reason.TOO_LARGE for r in refused)


@pytest.mark.parametrize(("channels", "steps"), [(3, 1), (3000, 1 + 5)])
def test_each_demand_is_a_step_and_its_numbers_count(channels: int, steps: int) -> None:
    net, spent = CoreNet(8), Effort()
    y = net.conv("x", channels)
    net.tanh(y)
    run = Worklist(State(net.graph(), effort=spent), None, {}, None)
    run.propagate([(y, from_backward((1,), np.full(channels, 2.0), np.zeros(channels)))])
    assert spent.steps == steps


def test_what_is_too_large_is_named() -> None:
    for scene, where in ((_read_by, "Conv 'conv2'"), (_joined_with, "Concat 'concat30'")):
        net = CoreNet(1)
        graph = net.graph(**scene(net, 30))
        refused = next(r for r in _searched(graph, NOTHING_LEFT).refusals if r.reason is Reason.TOO_LARGE)
        assert refused.node == where
        assert refused.sentence == (
            f"all that is set aside to search a graph of this size was taken, short of {where}"
        )


def test_no_move_past_a_join_of_many_is_looked_for() -> None:
    for many, looked in ((23, True), (24, False)):
        scene = Scene(_concat(*[2] * many), tuple(f"v{at}" for at in range(many)), 2 * many)
        assert places(scene.state, scene.moving)
        scene.state.effort = NOTHING_LEFT
        assert bool(places(scene.state, scene.moving)) is looked


# --- what is set aside -----------------------------------------------------------------------------


def test_each_candidate_adds_its_share() -> None:
    nothing, more = CoreNet(2), CoreNet(2)
    nothing.tanh("x")
    more.tanh(more.bn(more.bn("x")))
    base, both = set_aside(nothing.graph(stored_bytes=1000)), set_aside(more.graph())
    assert base.most_read == effort.READ + 1000 * effort.READ_A_BYTE
    assert (base.most_steps, base.most_numbers) == (effort.STEPS, effort.NUMBERS)
    assert both.most_steps == effort.STEPS + 2 * effort.STEPS_EACH
    assert both.most_numbers == effort.NUMBERS + 2 * 3 * effort.NUMBERS_EACH
    graph = more.graph()
    graph.moves_bounds = True
    assert set_aside(graph).most_steps == effort.STEPS + 4 * 2 * effort.STEPS_EACH


@pytest.mark.parametrize(("taken", "over"), [((5, 7), False), ((6, 7), True), ((5, 8), True)])
def test_it_is_over_beyond_either_bound(taken: tuple[int, int], over: bool) -> None:
    assert Effort(5, 7, steps=taken[0], numbers=taken[1]).is_over is over
    assert not Effort(steps=taken[0], numbers=taken[1]).is_over


def test_what_is_quick_counts_in_parts() -> None:
    spent = Effort()
    for times in (1, 2):
        spent.take(3, values=17, numbers=1025)
        assert spent.steps == times * (3 + 2 + 2)


def _models() -> list[Path]:
    return sorted([*MODELS.rglob("*.onnx"), *(Path(__file__).parents[1] / "fixtures").rglob("*.onnx")])


@pytest.mark.parametrize("path", _models(), ids=lambda path: path.stem)
def test_no_published_model_comes_near_it(path: Path) -> None:
    with closing(FORMAT.read(path, ReadOptions())) as opened:
        spent = plan(opened.graph).state.effort
    assert 8 * spent.steps < spent.most_steps and 8 * spent.numbers < spent.most_numbers


ASK_MUCH = (into_a_sum, shifts_into_a_sum, through_a_concat_and_a_clamp)  # of all others


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ASK_MUCH])
@pytest.mark.parametrize("reading", READINGS)
def test_where_candidates_ask_little_of_one_another_each_stays_below_its_share(
    kind: Kind, reading: str, tmp_path: Path
) -> None:
    """So that there is no size at which less is found."""
    net = Net(50)
    onnx.save(net.build({"x": (1, C, 2, 2)}, kind(net, 50)), path := tmp_path / "model.onnx")
    with closing(FORMAT.read(path, READINGS[reading])) as opened:
        graph = opened.graph
        taken = plan(graph).state.effort.steps
    share = set_aside(graph).most_steps - effort.STEPS
    assert taken <= 0.75 * share


# --- what comes of a graph that takes more ---------------------------------------------------------


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets aside that many steps for any graph."""

    def set_steps(steps: int) -> None:
        monkeypatch.setattr(effort, "STEPS", steps)
        monkeypatch.setattr(effort, "STEPS_EACH", 0)

    return set_steps


@pytest.mark.parametrize(
    ("kind", "reading"),
    [(kind, name) for kind in KINDS for name in READINGS if name == "plain" or kind is not on_a_stream],
)
def test_what_is_found_until_then_is_found_again(
    kind: Kind, reading: str, little: Callable[[int], None], tmp_path: Path
) -> None:
    """The same plan comes of the graph when it is explained, and the same folds of what was written down."""
    net = Net(30)
    onnx.save(net.build({"x": (1, C, 2, 2)}, kind(net, 30)), path := tmp_path / "model.onnx")
    little(150)
    with closing(FORMAT.read(path, READINGS[reading])) as opened:
        made = plan(opened.graph)
        assert explain(opened.graph, made.plan, [node.name for node in opened.graph.candidates[::9]])
        again = replay(opened.graph, made.plan)
    assert again.state.removed == made.state.removed
    assert again.state.edits.keys() == made.state.edits.keys()


@pytest.mark.parametrize("kind", [through_a_concat, out_of_a_split])
def test_it_computes_the_same_wherever_the_search_ends(
    kind: Kind, little: Callable[[int], None], tmp_path: Path
) -> None:
    left = []
    for steps in (0, 40, 10_000):
        net = Net(30)
        little(steps)
        done = fold_model(net.build({"x": (1, C, 2, 2)}, kind(net, 30)), tmp_path)
        assert_equal(done.before, done.after)
        left.append(sum(isinstance(decision, Keep) for decision in done.plan.decisions))
    assert left[0] > left[1] > left[2]


def test_what_is_left_costs_in_proportion(little: Callable[[int], None], tmp_path: Path) -> None:
    """Demands, and numbers in them, beyond a bound that all of these sizes reach."""
    beyond = []
    for n in (50, 100, 200):
        net = Net(n)
        onnx.save(net.build({"x": (1, C, 2, 2)}, through_a_concat(net, n)), path := tmp_path / "model.onnx")
        little(50)
        with closing(FORMAT.read(path, ReadOptions())) as opened:
            beyond.append(plan(opened.graph).state.effort.steps - 50)
    assert beyond[0] > 0 and beyond[2] - beyond[1] <= 3 * (beyond[1] - beyond[0])  # a square: 4 times


def test_the_numbers_that_folds_hold_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each of 40 folds holds two numbers for each of 80 channels; after the tenth there is no more room."""
    monkeypatch.setattr(effort, "NUMBERS", 9 * 2 * 80)
    monkeypatch.setattr(effort, "NUMBERS_EACH", 0)
    net = Net(40)
    done = fold_model(net.build({"x": (1, C, 2, 2)}, out_of_a_split(net, 40)), tmp_path)
    kept = [d for d in done.plan.decisions if isinstance(d, Keep)]
    assert len(kept) == 30
    assert {refusal.reason for d in kept for refusal in d.refusals} >= {Reason.TOO_LARGE}
    assert_equal(done.before, done.after)


def test_integers_that_many_layers_have_are_not_mirrored_for_each_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three of six: each counts four times the 16 numbers of the one weight."""
    monkeypatch.setattr(effort, "READ", 3 * 4 * 16)
    monkeypatch.setattr(effort, "READ_A_BYTE", 0)
    net = Net(41)
    stored = net.const(net.rng.integers(-90, 90, (4, 4, 1, 1)).astype(np.int8))
    scale, zero = net.const(net.rng.uniform(0.01, 0.02, 4)), net.const(np.array([1, -2, 3, 0], np.int8))
    parts = []
    for _ in range(6):
        weight = net.op("DequantizeLinear", stored, scale, zero, axis=0)
        parts.append(net.op("Sigmoid", net.bn(net.op("Conv", net.op("Tanh", "x"), weight), 4)))
    done = fold_model(net.build({"x": (1, 4, 2, 2)}, net.op("Concat", *parts, axis=1)), tmp_path)
    kept = [d for d in done.plan.decisions if isinstance(d, Keep)]
    assert len(kept) == 3
    assert all(Reason.TOO_LARGE in {refusal.reason for refusal in d.refusals} for d in kept)
    assert_equal(done.before, done.after)


def test_rounds_end(monkeypatch: pytest.MonkeyPatch, little: Callable[[int], None]) -> None:
    """Each fold makes room for the one before it alone: a round for each, while there is effort."""
    rounds = []
    for steps in (effort.STEPS, 0):
        net = CoreNet(3)
        y = net.tanh("x")
        for at in range(12):
            y = net.bn(y, [2, -3, 0.5], [1, 0, -2], name=f"bn {at}")
        net.tanh(net.conv(y))
        asked: list[str] = []
        decide = planning._decide

        def deciding(state: State, node: Any, *more: Any, **keywords: Any) -> Any:
            asked.append(node.name)  # noqa: B023
            return decide(state, node, *more, **keywords)  # noqa: B023

        monkeypatch.setattr(planning, "_decide", deciding)
        little(steps)
        graph = net.graph()
        made = plan(graph)
        monkeypatch.undo()
        rounds.append(asked.count("bn 0"))
        feeds = net.feeds()
        before, after = computed(graph, feeds), computed(graph, feeds, apply(graph, made))
        for node in net.nodes:
            if node.op == "Tanh":
                value = node.outputs[0]
                np.testing.assert_allclose(after[value], before[value], rtol=1e-9, atol=1e-9)
    assert rounds[0] > 4 >= rounds[1]


def test_settling_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something goes in every round, so that there is a next one, while there is effort."""
    for spent, wanted in ((Effort(), 4), (NOTHING_LEFT, 1)):
        net = CoreNet(4)
        net.tanh("x")
        state, done = State(net.graph(), effort=spent), [0]

        def offers(*_: Any) -> list[Any]:
            done[0] += 1  # noqa: B023
            return []

        monkeypatch.setattr(settle, "_offers", offers)
        assert settle.settle(state, [], lambda offer: None, lambda *_: ()) == ()
        assert done[0] <= wanted


def test_calls_of_a_layer_are_asked_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by each of them: three times the calls take three times the demands, not nine times."""
    asked, demand = [0], Worklist._demand

    def demanding(self: Worklist, *arguments: Any) -> Any:
        asked[0] += 1
        return demand(self, *arguments)

    monkeypatch.setattr(Worklist, "_demand", demanding)
    took = []
    for many in (20, 60):
        net, asked[0] = CoreNet(many), 0
        assert _searched(net.graph(**_behind_a_layer_called(net, many)), Effort()).best is not None
        took.append(asked[0])
    assert took[1] <= 4 * took[0]
