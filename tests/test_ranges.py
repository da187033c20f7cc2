"""The warning that folding spread a layer's channel ranges: its figures, and in which reports it stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfuse.core.apply import Patch, apply
from bnfuse.core.planning.plan import plan
from bnfuse.core.quantising.extents import largest
from bnfuse.core.quantising.growth import GROWTH, MOST, widened
from bnfuse.core.weights.linear import linear_form
from bnfuse.core.weights.tensor import ArrayTensor
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.command import call
from tests.onnx_graphs import Net, Shape

FORMS = {
    "go i k*": (6, 4, 3, 2),
    "gi o k*": (4, 3, 2, 3),
    "i o": (700, 900),
    "o i": (900, 700),
    "k* i o": (2, 5, 7),
    "k* g o": (3, 3, 4, 2),
    "k* o i": (3, 2, 5, 4),
}


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", FORMS)
def test_ranges_are_those_of_the_channels(layout: str, dtype: str, factors: bool) -> None:
    """Element by element: which output and which input channel it belongs to."""
    rng = np.random.default_rng(len(layout))
    stored = rng.standard_normal(FORMS[layout]).astype(dtype)
    form = linear_form(stored.shape, layout, 2 if layout[:2] in ("go", "gi") else 1)
    p = rng.uniform(0, 2, form.channels_in) if factors else np.ones(form.channels_in)
    at = {x: np.indices(form.dims)[form.letters.index(x)] if x in form.letters else 0 for x in "goi"}
    outputs = at["g"] * (form.channels_out // form.groups) + at["o"]
    inputs = at["g"] * (form.channels_in // form.groups) + at["i"]
    want = np.zeros(form.channels_out)
    np.maximum.at(want, outputs, np.abs(stored.astype(np.float64).reshape(form.dims)) * p[inputs])
    got = largest(ArrayTensor(stored), form, p if factors else None)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@dataclass(frozen=True)
class Case:
    """Conv → BN with factors a (or BN → Conv with factors p); by how much it should spread."""

    scale: tuple[float, ...]
    warns: bool


CASES = {
    "one channel 100 times as large": Case((1, 1, 1, 1, 1, 100), True),
    "one channel a hundredth": Case((1, 1, 1, 1, 1, 0.01), False),  # the median does not move
    "most channels a hundredth": Case((0.01, 0.01, 0.01, 0.01, 1, 1), True),
    "all channels alike": Case((100,) * 6, False),
    "mixed signs, within a factor of 3": Case((1, -3, 2, -1, 1.5, 3), False),
    "a silent channel": Case((1, 1, 1, 1, 1, 0), False),
    "a silent channel and a loud one": Case((1, 1, 1, 1, 0, -80), True),
}


def _build(net: Net, scale: tuple[float, ...], *, forward: bool) -> onnx.ModelProto:
    c = len(scale)
    w = net.rng.uniform(0.5, 1, (c, c, 3, 3)) * net.rng.choice((-1.0, 1.0), (c, c, 3, 3))
    stats = [net.const(v) for v in (np.array(scale, np.float64), np.ones(c), np.zeros(c), np.ones(c))]
    x = "x"
    if forward:
        x = net.op("BatchNormalization", x, *stats, epsilon=0.0)
    x = net.op("Conv", x, net.const(w), name="the conv")
    if not forward:
        x = net.op("BatchNormalization", x, *stats, epsilon=0.0)
    shape: dict[str, Shape] = {"x": ("N", c, 8, 7)}
    return net.build(shape, net.op("Tanh", x))


def _patch(made: onnx.ModelProto, folder: Path) -> Patch:
    path = folder / "model.onnx"
    onnx.save(made, path)
    graph = FORMAT.read(path, ReadOptions()).graph
    return apply(graph, plan(graph))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_layer_is_told_by_what_its_channels_become(case: Case, tmp_path: Path) -> None:
    made = _build(Net(1), case.scale, forward=False)
    found = widened(_patch(made, tmp_path))
    assert bool(found) is case.warns
    stored = np.abs(numpy_helper.to_array(made.graph.initializer[4]).astype(np.float64)).max(axis=(1, 2, 3))
    ranges = stored * np.abs(case.scale)
    after = ranges.max() / np.median(ranges[ranges > 0])
    before = stored[ranges > 0].max() / np.median(stored[ranges > 0])
    assert bool(after > MOST and after > GROWTH * before) is case.warns
    for one in found:
        assert one.node == "the conv"
        assert [one.before, one.after] == pytest.approx([before, after])


def test_factors_of_the_inputs_do_not_spread_outputs_that_all_read_them(tmp_path: Path) -> None:
    made = _build(Net(2), (1, 1, 1, 1, 1, 100), forward=True)
    assert not widened(_patch(made, tmp_path))


def test_factors_of_the_inputs_spread_the_outputs_of_a_depthwise_convolution(tmp_path: Path) -> None:
    net = Net(3)
    stats = [net.const(v) for v in (np.array([1, 1, 1, 1, 50.0]), np.ones(5), np.zeros(5), np.ones(5))]
    x = net.op("BatchNormalization", "x", *stats, epsilon=0.0)
    x = net.op("Conv", x, net.const(net.rng.uniform(0.5, 1, (5, 1, 3, 3))), group=5, name="depthwise")
    patch = _patch(net.build({"x": ("N", 5, 8, 7)}, net.op("Tanh", x)), tmp_path)
    (found,) = widened(patch)
    assert found.node == "depthwise" and found.after > 8 * found.before


def test_every_report_says_it_and_only_where_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_build(Net(4), (1, 1, 1, 1, 1, 90), forward=False), path)
    reports = [tmp_path / f"report{suffix}" for suffix in (".json", ".md", ".html", ".xml")]
    wanted = [word for report in reports for word in ("--report", report)]
    done = call("optimize", path, "--no-verify", "--no-bench", *wanted)
    assert done.exit_code == 0, done.stderr
    for text in (done.stdout, *(r.read_text(encoding="utf-8") for r in reports)):
        assert "before you quantise" in text.replace("&#45;", "-") and "the conv" in text
    (note,) = [n for n in json.loads(reports[0].read_text(encoding="utf-8"))["notes"] if "quantise" in n]
    assert "one layer" in note and "per channel" in note
    fast = call("optimize", path, "--no-verify", "--no-bench", "--force")
    assert fast.exit_code == 0 and "quantise" not in fast.stdout
