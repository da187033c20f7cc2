"""Values that many nodes read: planning stays near-linear in them, and decides as if it visited everybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfuse.core.decisions import Decision, Fold, Keep, Plan
from bnfuse.core.planning import propagate
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.explained_nets import explained
from tests.onnx_graphs import Net, assert_equal, fold
from tests.random_moves import NAMES, STEPS
from tests.random_nets import build, recipe
from tests.test_completeness import random_twin

pytestmark = pytest.mark.usefixtures("shapes_inferred_here")


def _unrolled(steps: int, cut: str, *, equal: bool = False, end: str = "Relu") -> onnx.ModelProto:
    """x(2, steps, 5)·W, then every step of it → BN → activation; γ of both signs."""
    net = Net(steps)
    value = net.op("MatMul", "x", net.weight(5, 4, fan_in=5))
    axes = net.const(np.array([1]))
    if cut == "Split":
        parts = [f"part{t}" for t in range(steps)]
        net.op("Split", value, net.const(np.ones(steps, np.int64)), out=parts, axis=1)
    elif cut == "Slice":
        bounds = [net.const(np.array([t])) for t in range(steps + 1)]
        parts = [net.op("Slice", value, bounds[t], bounds[t + 1], axes) for t in range(steps)]
    else:  # everybody reads the whole of it
        return net.build({"x": (2, 5)}, net.op("Concat", *_ends(net, [value] * steps, equal, end), axis=1))
    steps_of = [net.op("Squeeze", part, axes) for part in parts]
    made = [net.op("Unsqueeze", value, axes) for value in _ends(net, steps_of, equal, end)]
    return net.build({"x": (2, steps, 5)}, net.op("Concat", *made, axis=1))


def _ends(net: Net, values: list[str], equal: bool, end: str) -> list[str]:
    shared = net.statistics(4)
    made = []
    for value in values:
        statistics = shared if equal else net.statistics(4)
        made.append(net.op(end, net.op("BatchNormalization", value, *statistics)))
    return made


def _planned(model: onnx.ModelProto | Path, folder: Path) -> Plan:
    path = folder / "a.onnx"
    if isinstance(model, Path):
        path = model
    else:
        path.write_bytes(model.SerializeToString())
    with closing(FORMAT.read(path, ReadOptions())) as opened:
        return plan(opened.graph).plan


@pytest.mark.parametrize("end", ["Relu", "Sigmoid"])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("cut", ["Slice", "Split", "all of it"])
def test_planning_is_near_linear_in_the_readers(
    cut: str, equal: bool, end: str, met: list[int], tmp_path: Path
) -> None:
    """Twice the steps: about twice the nodes met (they were four times as many)."""
    costs = []
    for steps in (30, 60):  # more than ``WIDE``
        met[0] = 0
        decided = _planned(_unrolled(steps, cut, equal=equal, end=end), tmp_path)
        costs.append(met[0])
        assert decided.counts(batchnorm=True)[1] == (steps if equal else 1)
    assert costs[1] <= 2.1 * costs[0]


def test_what_goes_past_a_hub_is_right(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(_unrolled(40, "Slice").SerializeToString())
    folded = fold(path)
    assert folded.plan.counts(batchnorm=True) == (40, 1, 39)
    assert_equal(folded.before, folded.after)


def test_who_refuses_behind_a_hub_is_told(tmp_path: Path) -> None:
    """The first BatchNormalization went up: its activation refuses what the others ask of the projection."""
    path = tmp_path / "a.onnx"
    path.write_bytes(_unrolled(40, "Slice").SerializeToString())
    first, *others = _planned(path, tmp_path).decisions
    assert isinstance(first, Fold)
    (relu,) = [n.name for n in onnx.load(path).graph.node if n.op_type == "Relu"][:1]
    for kept in others:
        assert isinstance(kept, Keep)
        up = kept.refusals[0]
        assert up.node == f"Relu '{relu}'"
        assert up.reason in (Reason.SHIFT_THROUGH_ACTIVATION, Reason.NEGATIVE_SCALE)
    told = explained(path, others[-1].node)
    assert [t.refusal for t in told.trials] == list(others[-1].refusals)  # type: ignore[union-attr]
    steps = [step.op for step in told.trials[0].steps]
    assert steps[:3] == ["Squeeze", "Slice", "MatMul"]


@contextmanager
def _hubs_from(ports: int) -> Iterator[None]:
    """As if values with more ports than this were hubs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(propagate, "WIDE", ports)
        yield


def _fate(decision: Decision) -> object:
    if isinstance(decision, Keep):
        return decision.node
    return decision.node, decision.split, sorted(decision.into), sorted(decision.through)


@pytest.mark.parametrize("ports", [1, 2])
def test_what_is_remembered_of_hubs_changes_no_fold(ports: int, tmp_path: Path) -> None:
    """Random graphs, once without hubs, once with one at every value: the same goes, into the same nodes."""
    for seed in range(70):
        for model in (build(recipe(seed, NAMES), STEPS), random_twin(seed)[0]):
            with _hubs_from(10**9):
                wanted = [_fate(d) for d in _planned(model, tmp_path).decisions]
            with _hubs_from(ports):
                found = [_fate(d) for d in _planned(model, tmp_path).decisions]
            assert found == wanted
