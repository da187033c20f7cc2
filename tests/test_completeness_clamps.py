"""Nothing removable is left where activations may move, by the equations of ``tests/removable.py``.

There every clamp lets every scale and shift through. What makes no node and costs no digits must go: with
γ > 0 no clamp takes two nodes. Where signs are mixed one may, so that a BatchNormalization that could go
stays for NO_GAIN. ``BNFUSE_FUZZ=1`` tries all networks.
"""

from __future__ import annotations

import os
from itertools import permutations
from pathlib import Path

import pytest

from bnfuse.core.decisions import Decision, Fold, Keep
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from tests.removable import Network, most_removable, removable
from tests.test_completeness import decided, random_twin

_ALL = "BNFUSE_FUZZ" in os.environ
_MOVE = ReadOptions(activations="move")
_MINDS = (Reason.NO_GAIN, Reason.PRECISION)  # it could go, and is not worth it


def _of(seed: int, path: Path) -> tuple[Network, dict[str, Decision]]:
    model, network = random_twin(seed, moves=True)
    path.write_bytes(model.SerializeToString())
    return network, decided(path, None, _MOVE)


def _removed(decisions: dict[str, Decision]) -> set[str]:
    return {y for y, decision in decisions.items() if isinstance(decision, Fold)}


def _minded(decision: Decision) -> bool:
    return isinstance(decision, Keep) and any(r.reason in _MINDS for r in decision.refusals)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000 if _ALL else 100, 50))
def test_nothing_removable_is_left_where_clamps_may_move(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 50):
        network, decisions = _of(seed, tmp_path / "a.onnx")
        removed = _removed(decisions)
        assert removable(network, removed), f"{seed}: the equations say that these cannot go"
        left = [y for y, d in decisions.items() if y not in removed and not _minded(d)]
        assert [y for y in left if removable(network, removed | {y})] == [], seed
        if not any(map(_minded, decisions.values())):
            assert len(removed) == most_removable(network), seed


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 250 if _ALL else 25, 25))
def test_no_order_of_trying_removes_more_where_clamps_may_move(first: int, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    for seed in range(first, first + 25):
        network, decisions = _of(seed, path)
        orders = permutations(range(len(network.batchnorms)))
        most = max(len(_removed(decided(path, order, _MOVE))) for order in orders)
        assert most == len(_removed(decisions)), seed


def test_clamps_that_move_let_more_go(tmp_path: Path) -> None:
    """The tests above prove nothing where nothing goes through a clamp, or nothing is worth it."""
    more = minded = 0
    for seed in range(60):
        network, decisions = _of(seed, tmp_path / "a.onnx")
        more += len(_removed(decisions)) > most_removable(
            Network(network.ops, network.channels, network.fixed)
        )
        minded += any(map(_minded, decisions.values()))
    assert more >= 5 and minded <= 15
