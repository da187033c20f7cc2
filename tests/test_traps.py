"""What tools of this kind get wrong: tables of what must fold, and of what must stay and why (``traps``).

Every model, folded or not, is compared with its original in onnxruntime, its own optimisation off.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from bnfuse.core.decisions import Fold
from tests.onnx_graphs import Net, assert_equal, fold, fold_model, why
from tests.traps.table import FOLD, TRAPS, Trap

for _table in ("statistics", "sharing", "inputs", "constants", "modes", "dtypes"):
    import_module(f"tests.traps.{_table}")  # adds its rows


@pytest.mark.parametrize("case", TRAPS, ids=lambda t: t.name)
def test_trap(case: Trap, tmp_path: Path) -> None:
    made = case.build(Net(sum(case.name.encode()), case.dtype))
    folded = fold_model(made, tmp_path, case.options)
    decisions = folded.plan.decisions
    if case.decisions is None:
        assert not folded.plan.order
    else:
        assert len(decisions) == len(case.decisions), [d.message for d in decisions]
    for decision, reason in zip(decisions, case.decisions or (), strict=False):
        if reason is FOLD:
            assert isinstance(decision, Fold), decision.message
        else:
            assert reason in why(decision), decision.message
    assert len(folded.operators(folded.after)) <= len(folded.operators(folded.before))
    if case.runs:
        assert_equal(folded.before, folded.after)


@pytest.mark.parametrize("case", [t for t in TRAPS if t.runs], ids=lambda t: t.name)
def test_folding_twice_finds_nothing_and_two_runs_are_identical(case: Trap, tmp_path: Path) -> None:
    made = case.build(Net(1, case.dtype))
    first = fold_model(made, tmp_path, case.options)
    again = fold(first.before, tmp_path / "again" / "after.onnx", case.options)
    assert first.after.read_bytes() == again.after.read_bytes()
    assert not fold(first.after, tmp_path / "twice.onnx", case.options).plan.order
