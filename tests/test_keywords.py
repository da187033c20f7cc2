"""What the command line asks with options, Python asks with keywords: ``activations`` and ``keep``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bnfuse
from bnfuse.api.requests import read_options
from bnfuse.core.decisions import Keep
from bnfuse.core.reasons import Reason
from bnfuse.errors import UsageError
from bnfuse.formats.base import ReadOptions

FIXTURE = Path(__file__).parents[1] / "fixtures" / "digits_cnn.onnx"
KEPT = [("residual_10.bn1", 1), ("residual_10.*", 2), (["residual_10.bn1", "batchnorm2d_1"], 2), ((), 0)]


@pytest.mark.parametrize(("keep", "count"), KEPT)
def test_keep(tmp_path: Path, keep: Any, count: int) -> None:
    plans = [bnfuse.inspect(FIXTURE, keep=keep).plan]
    plans.append(bnfuse.optimize(FIXTURE, tmp_path / "out.onnx", keep=keep, verify=False, bench=False).plan)
    for plan in plans:
        stays = [decision for decision in plan.decisions if isinstance(decision, Keep)]
        assert (
            sum(one.primary.reason is Reason.BY_REQUEST and one.node in one.primary.node for one in stays)
            == count
        )


OPTIONS = [
    ((None, None, ()), ReadOptions()),
    ((None, "move", ("a",)), ReadOptions(activations="move", keep=("a",))),
    (
        (ReadOptions(activations="move", keep=("a",)), None, "b"),
        ReadOptions(activations="move", keep=("a", "b")),
    ),
    ((ReadOptions(activations="move"), "keep", ()), ReadOptions()),
]


@pytest.mark.parametrize(("given", "expected"), OPTIONS)
def test_keywords_add_to_the_options(given: Any, expected: ReadOptions) -> None:
    assert read_options(dict(zip(("read", "activations", "keep"), given, strict=True))) == expected


def test_activations_are_kept_or_moved() -> None:
    with pytest.raises(UsageError, match="'keep' or 'move', not 'moved'"):
        bnfuse.inspect(FIXTURE, activations="moved")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'no-bn', not 'none'"):
        bnfuse.inspect(FIXTURE, target="none")  # type: ignore[arg-type]


_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"target": "no-bn", "merge_affines": True}, "makes BatchNormalizations"),
    ({"samples": 0}, "samples is 0: give a whole number above 0"),
    ({"samples": -3}, "samples is -3"),
    ({"seed": -1}, "seed is -1: give a whole number, 0 or above"),
    ({"seed": "a"}, "seed is 'a'"),
]


@pytest.mark.parametrize(("options", "why"), _REFUSED, ids=[str(options) for options, _ in _REFUSED])
def test_what_no_run_can_have(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    """As on the command line: a proof of no samples, or a target without what another option makes."""
    with pytest.raises(UsageError, match=why):
        bnfuse.optimize(FIXTURE, tmp_path / "out.onnx", bench=False, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("named", [False, True])
def test_arrays_that_do_not_fit_are_called_inputs(named: bool, tmp_path: Path) -> None:
    """And not by a file that the caller never made."""
    image = np.ones((2, 3, 5), np.float32)
    (name,) = (value.name for value in onnx.load(FIXTURE).graph.input)
    with pytest.raises(UsageError) as raised:
        bnfuse.optimize(FIXTURE, tmp_path / "out.onnx", bench=False, inputs={name: image} if named else image)
    assert str(raised.value).startswith("<inputs>")
    assert "bnfuse-" not in str(raised.value)
