"""Every kind of place in which a BatchNormalization (or its arithmetic) can stand, folded and compared.

The comparison is onnxruntime's, its own graph optimisation off."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bnfuse.core.decisions import Fold
from tests import peer_rows_linear, peer_rows_passing
from tests.onnx_graphs import Net, assert_equal, fold_model, why
from tests.peer_rows import FOLD, Row

ROWS = peer_rows_linear.ROWS + peer_rows_passing.ROWS


@pytest.mark.parametrize("case", ROWS, ids=lambda r: r.name)
def test_row(case: Row, tmp_path: Path) -> None:
    seed = sum(case.name.encode())
    folded = fold_model(case.build(Net(seed)), tmp_path)
    assert len(folded.plan.decisions) == len(case.decisions)
    for decision, expected in zip(folded.plan.decisions, case.decisions, strict=True):
        if expected is FOLD:
            assert isinstance(decision, Fold), decision.message
        else:
            assert expected in why(decision), decision.message
    before, after = folded.operators(folded.before), folded.operators(folded.after)
    assert len(before) - len(after) == case.gone
    kept = sum(not isinstance(d, Fold) and d.is_batchnorm for d in folded.plan.decisions)
    assert after.count("BatchNormalization") == kept
    onnx.checker.check_model(folded.after, full_check=True)
    assert_equal(folded.before, folded.after)
