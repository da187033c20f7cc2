"""Pre-activation streams: what folds, and that planning is linear in their length."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Decision, Fold, Keep
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.onnx_graphs import assert_equal
from tests.random_nets import preactivation


def _saved(folder: Path, blocks: int, positive: bool) -> Path:
    path = folder / f"stream{blocks}.onnx"
    path.write_bytes(preactivation(blocks, positive).SerializeToString())
    return path


def _work_to_plan(path: Path) -> int:
    """Calls of functions that one plan makes, reading not counted: the same on every machine."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    with closing(FORMAT.read(path, ReadOptions())) as model:
        sys.setprofile(count)
        try:
            plan(model.graph)
        finally:
            sys.setprofile(None)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("positive", [True, False], ids=["all γ positive", "a tenth of γ negative"])
def test_planning_twice_the_blocks_is_hardly_more_than_twice_the_work(tmp_path: Path, positive: bool) -> None:
    short, long = (_work_to_plan(_saved(tmp_path, blocks, positive)) for blocks in (75, 150))
    assert 1.8 * short < long < 2.2 * short


@pytest.mark.parametrize("blocks", [0, 1, 2, 5, 40])
def test_every_batchnorm_of_a_positive_stream_goes(tmp_path: Path, blocks: int) -> None:
    source = _saved(tmp_path, blocks, positive=True)
    model = FORMAT.read(source, ReadOptions())
    planned = plan(model.graph)
    decided = planned.plan
    assert decided.counts(batchnorm=True) == (2 * blocks + 1, 2 * blocks + 1, 0)
    patch = apply(model.graph, planned)
    assert "BatchNormalization" not in model.operators_after(patch)
    model.write(patch, tmp_path / "after.onnx")
    if blocks <= 5:  # further on, the stream's own values outgrow what they are compared to
        assert_equal(source, tmp_path / "after.onnx")


def _negatives(model: onnx.ModelProto) -> dict[str, int]:
    """How many channels of each BatchNormalization have a negative γ."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = (n for n in model.graph.node if n.op_type == "BatchNormalization")
    return {n.name: int((arrays[n.input[1]] < 0).sum()) for n in nodes}


def _by_position(blocks: int, folder: Path) -> tuple[list[Decision], list[Decision], onnx.ModelProto]:
    """Decisions on the BatchNormalizations that read the stream, and on those inside a branch."""
    source = _saved(folder, blocks, positive=False)
    decided = plan(FORMAT.read(source, ReadOptions()).graph).plan.decisions
    proto = onnx.load(source)
    writers = {n.output[0]: n.op_type for n in proto.graph.node}
    inputs = {n.name: n.input[0] for n in proto.graph.node}
    # The first of all reads the stem, a Conv, but so does the first sum.
    inner = [d for d in decided[1:] if writers[inputs[d.node]] == "Conv"]
    return [d for d in decided if d not in inner], inner, proto


@pytest.mark.parametrize("blocks", [1, 2, 5, 40])
def test_within_a_branch_signs_do_not_matter(tmp_path: Path, blocks: int) -> None:
    _, inner, _ = _by_position(blocks, tmp_path)
    assert len(inner) == blocks
    assert all(isinstance(d, Fold) for d in inner)


def test_positive_scales_go_beside_negative_ones(tmp_path: Path) -> None:
    """Each BN of the stream whose γ are all positive can go by itself: shift up, scale down."""
    stream, _, proto = _by_position(40, tmp_path)
    negatives = _negatives(proto)
    positive = [d for d in stream if negatives[d.node] == 0]
    assert len(positive) > 10
    assert sum(isinstance(d, Fold) for d in stream) >= len(positive)


def test_the_reason_names_how_many_channels_are_negative(tmp_path: Path) -> None:
    stream, _, _ = _by_position(5, tmp_path)
    kept = [d for d in stream if isinstance(d, Keep)]
    assert kept
    for decision in kept:
        told = [r for r in decision.refusals if r.reason is Reason.NEGATIVE_SCALE]
        assert told and "of 8 channels are negative" in told[0].detail


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_mixed_streams_compute_the_same(tmp_path: Path, blocks: int) -> None:
    source = _saved(tmp_path, blocks, positive=False)
    model = FORMAT.read(source, ReadOptions())
    model.write(apply(model.graph, plan(model.graph)), tmp_path / "after.onnx")
    assert_equal(source, tmp_path / "after.onnx")
