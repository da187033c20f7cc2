"""The figures of each rewritten layer are those of the file that was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfuse.annotations.weight_changes import MOST_RANGES, quantiles
from bnfuse.results import LayerChange
from tests.calls import optimize
from tests.command import call
from tests.onnx_graphs import Net

Made = tuple[LayerChange, onnx.ModelProto, onnx.ModelProto]


def _norm(net: Net, x: str, channels: int) -> str:
    scale = net.rng.uniform(0.2, 3, channels) * net.rng.choice((-1.0, 1.0), channels)
    rest = (
        net.rng.standard_normal(channels),
        net.rng.standard_normal(channels),
        net.rng.uniform(0.1, 4, channels),
    )
    return net.op("BatchNormalization", x, *(net.const(v) for v in (scale, *rest)))


def _folded(net: Net, y: str, folder: Path, channels: int) -> list[Made]:
    """Each change, beside the model it was made in and the one that was written."""
    model = net.build({"x": ("N", channels, 9, 7)}, net.op("Softsign", y))
    path = folder / "model.onnx"
    onnx.save(model, path)
    report = optimize(path, verify=False, bench=False, details=True)
    assert report.details is not None and report.output is not None
    after = onnx.load(report.output.path)
    return [(change, model, after) for change in report.details.layers]


def _weight(model: onnx.ModelProto, node: str) -> np.ndarray:
    """(o, i·k) of a Conv; a depthwise ConvTranspose's (i, o, k) has the same order of channels."""
    (name,) = [n.input[1] for n in model.graph.node if n.name == node]
    (stored,) = [t for t in model.graph.initializer if t.name == name]
    array = numpy_helper.to_array(stored).astype(np.float64)
    return array.reshape(array.shape[0], -1)


def _agrees(made: Made) -> None:
    """All figures against the weights of both files."""
    change, model, result = made
    old, new = _weight(model, change.node), _weight(result, change.node)
    ratio = np.abs(new[old != 0] / old[old != 0])
    before, after = np.abs(old).max(axis=1), np.abs(new).max(axis=1)
    rounding = 1e-6  # float32's, twice
    assert change.factor_min == pytest.approx(ratio.min(), rel=rounding)
    assert change.factor_max == pytest.approx(ratio.max(), rel=rounding)
    assert change.largest_change == pytest.approx(np.abs(new - old).max() / np.abs(old).max(), rel=1e-5)
    assert change.ranges_before == pytest.approx(np.sort(before), rel=rounding)
    assert change.ranges_after == pytest.approx(np.sort(after), rel=rounding)
    assert change.spread_before == pytest.approx(before.max() / np.median(before), rel=rounding)
    assert change.spread_after == pytest.approx(after.max() / np.median(after), rel=rounding)


def test_a_convolution_that_takes_a_scale_at_its_output(tmp_path: Path) -> None:
    net = Net(11)
    x = net.op("Conv", "x", net.const(net.rng.standard_normal((6, 4, 3, 2))), name="conv")
    (made,) = _folded(net, _norm(net, x, 6), tmp_path, 4)
    _agrees(made)
    assert (made[0].shape, made[0].dtype, made[0].bias, made[0].op) == (
        (6, 4, 3, 2),
        "float32",
        "made",
        "Conv",
    )
    assert len(made[0].folded) == 1


def test_a_convolution_that_takes_a_scale_at_its_input(tmp_path: Path) -> None:
    net = Net(12)
    w, b = net.const(net.rng.standard_normal((6, 4, 3, 2))), net.const(net.rng.standard_normal(6))
    x = net.op("Conv", _norm(net, "x", 4), w, b, name="conv")
    (made,) = _folded(net, x, tmp_path, 4)
    _agrees(made)
    assert made[0].bias == "changed"


def test_a_convolution_between_two(tmp_path: Path) -> None:
    """The factors of an output channel meet those of every input channel of its group, and no others."""
    net = Net(13)
    w = net.const(net.rng.standard_normal((6, 2, 3, 2)))
    x = net.op("Conv", _norm(net, "x", 4), w, group=2, name="conv")
    (made,) = _folded(net, _norm(net, x, 6), tmp_path, 4)
    _agrees(made)
    assert len(made[0].folded) == 2


def test_a_silent_channel_is_left_out_of_the_spread(tmp_path: Path) -> None:
    net = Net(14)
    weight = net.rng.standard_normal((5, 3, 1, 1))
    weight[2] = 0.0
    x = net.op("Conv", "x", net.const(weight), name="conv")
    ((change, _, result),) = _folded(net, _norm(net, x, 5), tmp_path, 3)
    after = np.abs(_weight(result, "conv")).max(axis=1)
    live = after[after > 0]
    assert len(live) == 4
    assert change.spread_after == pytest.approx(live.max() / np.median(live), rel=1e-6)
    assert change.ranges_after[0] == 0.0


def test_a_scale_that_stays_and_absorbs_another(tmp_path: Path) -> None:
    """BN → BN before a nonlinear op and behind one: one goes into the other."""
    net = Net(15)
    x = _norm(net, _norm(net, net.op("Tanh", "x"), 4), 4)
    ((change, model, result),) = _folded(net, x, tmp_path, 4)
    assert change.kind == "scale" and change.shape == (4,) and change.bias == "changed"

    def scale(made: onnx.ModelProto, name: str) -> np.ndarray:
        (node,) = [n for n in made.graph.node if n.name == name]
        arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in made.graph.initializer}
        gamma, _, _, variance = (arrays[i] for i in node.input[1:5])
        return gamma / np.sqrt(variance + 1e-5)

    old, new = scale(model, change.node), scale(result, change.node)
    assert change.ranges_before == pytest.approx(np.sort(np.abs(old)), rel=1e-5)
    assert change.ranges_after == pytest.approx(np.sort(np.abs(new)), rel=1e-5)
    assert change.largest_change == pytest.approx(np.abs(new - old).max() / np.abs(old).max(), rel=1e-5)


@pytest.mark.parametrize("count", [1, MOST_RANGES, MOST_RANGES + 1, 1000])
def test_ranges_of_many_channels_are_quantiles(count: int) -> None:
    ranges = np.random.default_rng(count).permutation(np.arange(count, dtype=np.float64))
    told = quantiles(ranges)
    assert list(told) == sorted(told) and set(told) <= set(ranges)
    assert (told[0], told[-1]) == (0.0, count - 1)
    assert len(told) == min(count, MOST_RANGES + 1)
    steps = np.diff(told) if count > 1 else np.ones(1)
    assert steps.max() - steps.min() <= 1


def test_reports_hold_the_layers_only_where_a_file_asks_for_them(tmp_path: Path) -> None:
    net = Net(16)
    x = net.op("Conv", "x", net.const(net.rng.standard_normal((6, 4, 3, 2))), name="conv")
    path = tmp_path / "model.onnx"
    onnx.save(net.build({"x": ("N", 4, 9, 7)}, _norm(net, x, 6)), path)
    for command in (("optimize", "--no-verify", "--no-bench", "--force"), ("inspect",)):
        verb, *options = command
        told = json.loads(call(verb, path, "--json", *options).stdout)
        assert told["layers"] is None and "details" not in told["seconds"]
        assert call(verb, path, *options, "--report", tmp_path / "r.json").exit_code == 0
        (layer,) = json.loads((tmp_path / "r.json").read_text())["layers"]
        assert (layer["name"], layer["bias"], layer["shape"]) == ("conv", "made", [6, 4, 3, 2])
        assert layer["factor_min"] < layer["factor_max"]
