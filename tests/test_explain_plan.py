"""``inspect --explain``: what it says is what the plan did, and the alternatives it names do work."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Plan, Split
from bnfuse.core.explain import explain
from bnfuse.core.plan import plan
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.command import ROOT
from tests.explained_nets import NETS, explained, outcome, saved
from tests.onnx_graphs import assert_equal

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
    model = FORMAT.read(path, ReadOptions())
    (decided,) = plan(model.graph).order
    forced = replace(decided, split=split, into=trial.into, through=trial.through)
    after = tmp_path / "after.onnx"
    model.write(apply(model.graph, Plan((forced,), (forced,))), after)
    assert "BatchNormalization" not in {n.op_type for n in onnx.load(after).graph.node}
    assert_equal(path, after)


def _check_against_the_plan(path: Path) -> Counter[str]:
    """Every trial ends as the decision says; returns how many ended how."""
    model = detect(path).read(path, ReadOptions())
    decided = plan(model.graph)
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
            # None of the ways that would have worked is shorter than the one taken.
            assert all(
                t.attempts[-1].reached >= one.attempts[-1].reached
                for t in explanation.trials
                if not t.refusal
            )
        elif explanation.trials:
            assert not taken
            assert [t.refusal for t in explanation.trials] == list(decision.refusals)
        seen.update(
            "taken" if t.taken else "refused" if t.refusal else "possible" for t in explanation.trials
        )
    again = plan(detect(path).read(path, ReadOptions()).graph)
    assert again == decided
    model.close()
    return seen


@pytest.mark.parametrize("name", NETS)
def test_agrees_with_the_plan_on_small_nets(name: str, tmp_path: Path) -> None:
    for seed in range(3):
        _check_against_the_plan(saved(name, tmp_path, seed))


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
        decided = plan(model.graph)
        if asked:
            assert explain(model.graph, decided, ["bn"])
        after = tmp_path / f"after{asked}.onnx"
        model.write(apply(model.graph, decided), after)
        results.append(after.read_bytes())
    assert results[0] == results[1]
