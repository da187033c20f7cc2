"""``inspect --explain``: what it says is what the plan did, and the alternatives it names do work."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import onnx
import pytest
from msgspec.structs import replace

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Keep, Plan, Split
from bnfuse.core.explanation import Trial
from bnfuse.core.planning.explain import explain
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.reasons import Reason
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.command import ROOT
from tests.explained_nets import NETS, explained, outcome, saved
from tests.onnx_graphs import Net, assert_equal, fold_model, why
from tests.random_moves import NAMES, STEPS
from tests.random_nets import build, recipe
from tests.test_completeness import random_twin

pytestmark = pytest.mark.usefixtures("shapes_inferred_here")

FIXTURES = [
    ROOT / "fixtures" / name
    for name in ("digits_cnn.onnx", "digits_mlp.onnx", "digits_a.keras", "digits_b.h5")
]
REAL = sorted((ROOT.parent / "shared" / "models").glob("*/*.*"))


@pytest.mark.parametrize("split", [Split.DOWN, Split.SHIFT_UP, Split.SCALE_UP])
def test_splits_called_possible_do_fold(split: Split, tmp_path: Path) -> None:
    """Each alternative is forced on the writer; onnxruntime finds the result equal."""
    path = saved("between", tmp_path, seed=3)
    assert outcome(explained(path), split.value) == "possible"
    trial = next(t for t in explained(path).trials if t.split is split)
    after = tmp_path / "after.onnx"
    with closing(FORMAT.read(path, ReadOptions())) as model:
        (decided,) = plan(model.graph).plan.order
        forced = replace(decided, split=split, into=trial.into, through=trial.through)
        model.write(apply(model.graph, replay(model.graph, Plan((forced,), (forced,)))), after)
    assert "BatchNormalization" not in {n.op_type for n in onnx.load(after).graph.node}
    assert_equal(path, after)


def _size(trial: Trial) -> tuple[int, int]:
    """What the planner goes by: nodes made, nodes touched."""
    return trial.makes, trial.attempts[-1].reached


def _check_against_the_plan(path: Path) -> Counter[str]:
    """Every trial ends as the decision says; returns how many ended how."""
    with closing(detect(path).read(path, ReadOptions())) as model:
        planned = plan(model.graph)
        decided = planned.plan
        names = [d.node for d in decided.decisions]
        told = explain(model.graph, decided, names)
    assert [e.decision for e in told] == list(decided.decisions)
    seen: Counter[str] = Counter()
    for explanation in told:
        decision = explanation.decision
        taken = [t for t in explanation.trials if t.taken]
        if isinstance(decision, Fold):
            (one,) = taken
            assert (one.split, one.into, one.through) == (decision.split, decision.into, decision.through)
            assert one.refusal is None
            # None of the ways that would have worked makes fewer nodes, or as few and touches fewer.
            possible = [t for t in explanation.trials if t.refusal is None]
            assert min((t.makes, t.attempts[-1].reached) for t in possible) == _size(one)
        elif explanation.trials:
            assert not taken
            assert [t.refusal for t in explanation.trials] == list(decision.refusals)
        for t in explanation.trials:
            assert t.attempts, "every split was tried"
            went = t.attempts[-1].refusal is None
            assert went or not (t.into or t.through)
            assert went or t.refusal is not None
        seen.update(
            "taken" if t.taken else "refused" if t.refusal else "possible" for t in explanation.trials
        )
    with closing(detect(path).read(path, ReadOptions())) as model:
        assert plan(model.graph).plan == decided
    return seen


@pytest.mark.parametrize("name", NETS)
def test_agrees_with_the_plan_on_small_nets(name: str, tmp_path: Path) -> None:
    for seed in range(3):
        _check_against_the_plan(saved(name, tmp_path, seed))


def test_agrees_with_the_plan_on_random_graphs(tmp_path: Path) -> None:
    """Among them seed 3, in which a way past a node that waited was once called possible, and shorter."""
    path = tmp_path / "random.onnx"
    seen: Counter[str] = Counter()
    for seed in range(90):
        path.write_bytes(build(recipe(seed, NAMES), STEPS).SerializeToString())
        seen += _check_against_the_plan(path)
        path.write_bytes(random_twin(seed)[0].SerializeToString())
        seen += _check_against_the_plan(path)
    assert min(seen["taken"], seen["possible"], seen["refused"]) > 30


def test_a_node_that_waits_says_so(tmp_path: Path) -> None:
    """Conv → BN → Identity → BN → Relu: the first goes up, and while the second may go it takes nothing on.

    A node that stays was refused when nobody waited any more, so it is never told so.
    """
    net = Net(1)
    value = net.op("Identity", net.bn(net.conv("x", 3, 4, 1, 1), 4, name="one"))
    value = net.op("Relu", net.bn(value, 4, name="two"))
    path = tmp_path / "waits.onnx"
    onnx.save(net.build({"x": (2, 3, 6, 7)}, value), path)
    trials = {t.split: t for t in explained(path, "one").trials}
    assert trials[Split.UP].taken
    refusal = trials[Split.DOWN].refusal
    assert refusal is not None
    assert refusal.reason is Reason.WAITING
    assert refusal.sentence.startswith("BatchNormalization 'two' may still be removed itself, so")


@pytest.mark.parametrize(
    ("branches", "told"), [(64, Reason.SHIFT_THROUGH_ACTIVATION), (65, Reason.TOO_MANY_CHOICES)]
)
def test_a_search_that_ended_at_its_bound_says_so(branches: int, told: Reason, tmp_path: Path) -> None:
    """The shift could go to any branch of a sum, and none takes it; 64 ways are tried."""
    net = Net(2)
    ends = [net.op("Relu", net.conv("x", 2, 3, 1)) for _ in range(branches)]
    value = net.bn(net.op("Sum", *ends, name="sum"), 3, positive=True, name="bn")
    folded = fold_model(net.build({"x": (2, 2, 4)}, net.op("Sigmoid", value)), tmp_path)
    (decision,) = folded.plan.decisions
    assert isinstance(decision, Keep)
    up = next(r for r in decision.refusals if r.split == "up")
    assert up.reason is told
    trial = next(t for t in explained(folded.before).trials if t.split is Split.UP)
    assert len(trial.attempts) == 64
    assert all(a.refusal is not None for a in trial.attempts)
    assert {a.refusal.reason for a in trial.attempts if a.refusal} == {Reason.SHIFT_THROUGH_ACTIVATION}
    if told is Reason.TOO_MANY_CHOICES:
        assert up.sentence == "there are too many ways to route the shift past Sum 'sum' to try them all"


def test_the_last_way_within_the_bound_is_found(tmp_path: Path) -> None:
    """As above, but the 64th branch takes the shift."""
    net = Net(3)
    ends = [net.op("Relu", net.conv("x", 2, 3, 1)) for _ in range(63)] + [net.conv("x", 2, 3, 1)]
    value = net.bn(net.op("Sum", *ends), 3, positive=True, name="bn")
    folded = fold_model(net.build({"x": (2, 2, 4)}, value), tmp_path)
    assert not why(folded.plan.decisions[0])
    assert_equal(folded.before, folded.after)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.name)
def test_agrees_with_the_plan_on_fixtures(path: Path) -> None:
    seen = _check_against_the_plan(path)
    assert seen["taken"] >= 3
    assert seen["refused"] + seen["possible"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_agrees_with_the_plan_on_real_models(path: Path) -> None:
    _check_against_the_plan(path)


def test_explaining_changes_nothing(tmp_path: Path) -> None:
    """The patch that follows is byte for byte the one without it."""
    path = saved("preactivation", tmp_path)
    results = []
    for asked in (False, True):
        model = FORMAT.read(path, ReadOptions())
        planned = plan(model.graph)
        decided = planned.plan
        if asked:
            assert explain(model.graph, decided, ["bn"])
        after = tmp_path / f"after{asked}.onnx"
        model.write(apply(model.graph, planned), after)
        results.append(after.read_bytes())
    assert results[0] == results[1]
