"""What 8 bits leave of a weight: the figures against weights that are rounded, and ``diff --ranges``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfuse.core.quantising.channel_ranges import MOST_POINTS, channel_ranges
from bnfuse.core.quantising.extents import extents
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import linear_form
from tests.cli_models import convnet
from tests.command import ROOT, call
from tests.core_nets import CoreNet, stored
from tests.diff_schema import assert_fits

LAYOUTS = {
    "go i k*": (12, 16, 3, 3),
    "gi o k*": (24, 7, 3, 3),
    "i o": (600, 70),
    "o i": (70, 600),  # more than one block
    "k* i o": (3, 30, 20),
    "k* g o": (5, 5, 12, 2),
    "k* o i": (3, 20, 30),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_figures_are_those_of_rounded_weights(layout: str, dtype: str) -> None:
    """Element by element: each output channel's weights, rounded with one step for all and with its own."""
    rng = np.random.default_rng(len(layout))
    shape = LAYOUTS[layout]
    groups = shape[2] if "g o" in layout else 2 if layout[:2] in ("go", "gi") else 1
    form = linear_form(shape, layout, groups)
    indices = dict(zip(form.letters, np.indices(form.dims), strict=True))
    nothing = np.zeros(form.dims, int)
    group, out = (indices.get(letter, nothing).ravel() for letter in "go")
    channel = group * (form.channels_out // form.groups) + out
    weight = rng.standard_normal(shape).astype(dtype).ravel()
    weight *= np.exp(rng.normal(0, 1.5, form.channels_out))[channel].astype(dtype)
    weight[channel == 3] = 0
    rows = [weight[channel == c].astype(np.float64) for c in range(form.channels_out)]
    net = CoreNet()
    rule = Linear(stored(weight.reshape(shape)), form, None, 1, 1)
    net.add("Conv", rule, "x", channels=form.channels_out)
    (found,) = channel_ranges(net.graph())
    assert found is not None
    most, squares = extents(rule.weight, form)
    assert np.allclose(most, [np.abs(row).max() for row in rows], rtol=1e-12)
    assert np.allclose(squares, [np.square(row).sum() for row in rows], rtol=1e-12)
    live = most[most > 0]
    assert (found.channels, found.largest, found.ratio) == (live.size, live.max(), live.max() / live.min())
    assert found.spread == live.max() / np.median(live)
    assert list(found.points) == sorted(found.points) and found.points[-1] == live.max()
    assert len(found.points) == min(live.size, MOST_POINTS)
    assert found.per_channel_db == pytest.approx(_rounded_db(rows, most / 127), abs=0.3)
    one_step = np.full_like(most, most.max() / 127)
    assert found.per_tensor_db == pytest.approx(_rounded_db(rows, one_step), abs=1)
    assert found.loss_db > 6.0


def _rounded_db(rows: list[np.ndarray], steps: np.ndarray) -> float:
    told = []
    for row, step in zip(rows, steps, strict=True):
        if row.any():
            error = np.square(np.rint(row / step) * step - row).sum()
            told.append(10 * np.log10(np.square(row).sum() / error))
    return float(np.mean(told))


def test_nothing_is_told_of_what_is_zero_or_not_finite() -> None:
    net = CoreNet()
    for fill in (0.0, np.inf, np.nan):
        net.add("Conv", Linear(stored(np.full((3, 3), fill)), linear_form((3, 3), "o i"), None, 1, 1), "x")
    assert list(channel_ranges(net.graph())) == [None] * 3


def _spread(path: Path) -> Path:
    """A convolution whose channels lie four decades apart once its BatchNormalization is folded."""
    model = convnet()
    (gamma,) = (t for t in model.graph.initializer if t.name == "gamma")
    scales = numpy_helper.to_array(gamma) * np.array([1, 1e-2, 1e-4, 1e-3, 1], np.float32)
    gamma.CopyFrom(numpy_helper.from_array(scales, "gamma"))
    onnx.save(model, path)
    return path


def test_diff_tells_who_suffers_before_and_after(tmp_path: Path) -> None:
    before, after = _spread(tmp_path / "before.onnx"), tmp_path / "after.onnx"
    assert call("optimize", before, "-o", after, "--no-verify", "--no-bench", "-q").exit_code == 0
    reports = [tmp_path / f"r.{form}" for form in ("json", "md", "html")]
    done = call("diff", before, after, "--ranges", *(part for r in reports for part in ("--report", r)))
    assert "largest / least" in " ".join(done.stdout.split()).replace(" │ ", " ")
    assert done.exit_code == 0, done.stderr
    verdict = "more than 12 dB (2 of 8 bits) with one step per tensor: none before, 1 after (conv)"
    assert verdict in " ".join(done.stdout.split())
    document, markdown, page = (report.read_text(encoding="utf-8") for report in reports)
    found = json.loads(document)
    assert_fits(found)
    (layer,) = found["ranges"]["layers"]
    for side, path in (("before", before), ("after", after)):
        weight = next(t for t in onnx.load(path).graph.initializer if t.name == "w")
        ranges = np.abs(numpy_helper.to_array(weight).astype(np.float64)).reshape(5, -1).max(axis=1)
        assert layer[side]["name"] == "conv" and layer[side]["channels"] == 5
        assert layer[side]["spread"] == pytest.approx(ranges.max() / np.median(ranges))
        assert layer[side]["ratio"] == pytest.approx(ranges.max() / ranges.min())
    assert layer["after"]["loss_db"] > 24 > 12 > layer["before"]["loss_db"]
    # Rounded with a step of its own, no channel is worse off for its factor.
    assert layer["after"]["per_channel_db"] == pytest.approx(layer["before"]["per_channel_db"], abs=1e-4)
    assert verdict in markdown.replace("\\", "") and "| <code>conv</code> | Conv | 5 |" in markdown
    assert 'class="spark"' in page and "Channel ranges in 8 bits" in page
    plain = call("diff", before, after, "--json")
    assert json.loads(plain.stdout)["ranges"] is None
    assert call("diff", before, before, "--ranges", "--exit-code").exit_code == 0  # ranges are no difference


@pytest.mark.parametrize("names", [("digits_a.keras", "digits_b.h5"), ("digits_a.keras", "digits_mlp.onnx")])
def test_any_two_models_have_ranges(names: tuple[str, str]) -> None:
    """Layers that the other model lacks stand alone; formats may differ."""
    done = call("diff", *(ROOT / "fixtures" / name for name in names), "--ranges", "--json")
    document = json.loads(done.stdout)
    assert_fits(document)
    sides = [[one[side] for one in document["ranges"]["layers"]] for side in ("before", "after")]
    assert all(any(sides[k]) for k in (0, 1)) and document["ranges"]["left_out"] == 0
    losses = [max(s["loss_db"] for s in pair if s) for pair in zip(*sides, strict=True)]
    assert losses == sorted(losses, reverse=True)
