"""Whatever scales are free in random ONNX graphs: with random ones the outputs are what they were."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.planning.plan import plan
from bnfuse.core.quantising.freedoms import freedoms, rescaled
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.onnx_graphs import session
from tests.random_moves import NAMES, STEPS
from tests.random_nets import build, feeds, recipe

pytestmark = pytest.mark.usefixtures("shapes_inferred_here")

_GRAPHS = int(os.environ.get("BNFUSE_FUZZ", "2200")) // 10
_FIRST_SEED = int(os.environ.get("BNFUSE_FUZZ_SEED", "0"))
# Of the output's range; graphs of a dozen steps with badly scaled statistics add up roundings.
_TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


def _rescale(source: Path, target: Path, seed: int) -> int:
    """Fold a file and hold all that is free with scales of 1/30 to 30; how many channels that are."""
    rng = np.random.default_rng(seed)
    moves_bounds = seed % 2 == 1
    options = ReadOptions(activations="move" if moves_bounds else "keep")
    with closing(FORMAT.read(source, options)) as model:
        planned = plan(model.graph)
        state = planned.state
        state.waiting, state.moves_bounds = set(state.narrowed), moves_bounds
        count = 0
        for freedom in freedoms(state):
            scale = np.where(freedom.free, 10 ** rng.uniform(-1.5, 1.5, freedom.free.size), 1.0)
            found = rescaled(state, freedom.writer, freedom.axis, scale, freedom.choices)
            assert found is not None, "what is free takes any scale"
            state.accept_rescaling(found)
            count += int(freedom.free.sum())
        model.write(apply(model.graph, planned), target)
        return count


@pytest.mark.slow
def test_any_scales_of_what_is_free_leave_a_random_graph_what_it_computes(tmp_path: Path) -> None:
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    rescaled_graphs = channels = 0
    for seed in range(_FIRST_SEED, _FIRST_SEED + _GRAPHS):
        proto = build(recipe(seed, NAMES), STEPS)
        source.write_bytes(proto.SerializeToString())
        count = _rescale(source, target, seed)
        rescaled_graphs, channels = rescaled_graphs + bool(count), channels + count
        fed = feeds(proto, seed)
        outputs = (session(path).run(None, fed) for path in (source, target))
        for old, new in zip(*outputs, strict=True):
            span = max(float(np.abs(old).max()), float(np.ptp(old)))
            error = float(np.abs(old - new).max())
            assert error <= _TOLERANCE[old.dtype.name] * span, f"seed {seed}: {error:.3g} of {span:.3g}"
    assert rescaled_graphs > _GRAPHS // 15, "the test proves nothing where nothing is free"
    assert channels >= 3 * rescaled_graphs
