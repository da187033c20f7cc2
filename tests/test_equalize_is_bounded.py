"""Equalising takes time and memory in proportion to the file: counted, not timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bnfuse import inspect
from bnfuse.core.planning import effort
from bnfuse.core.quantising import equalize, moments, noise
from bnfuse.core.quantising.noise import NoiseLayer, quietest
from bnfuse.formats.base import ReadOptions
from tests.onnx_graphs import Net


def _layer(rows: list[int], columns: list[int]) -> NoiseLayer:
    outs, ins = len(rows), len(columns)
    rng = np.random.default_rng(outs + ins)
    vectors = [rng.uniform(0.5, 2.0, n) for n in (ins, ins, outs, ins)]
    squares, reach, gains, input_gains = vectors
    places = np.array(rows), np.array(columns)
    largest = rng.uniform(0.5, 2.0, (1, outs, ins))
    return NoiseLayer(None, largest, 1, squares, reach, *places, gains, input_gains)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_scales_that_hang_together_are_those_that_a_walk_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 40
    layers = [
        _layer(rng.integers(-1, count, 3).tolist(), rng.integers(0, count, 2).tolist()) for _ in range(7)
    ]
    found = equalize._meeting(layers, count + 1)
    classes = [{k} for k in range(count + 1)]
    for layer in layers:
        for tensor in (layer.rows, layer.columns):
            for each in tensor[1:]:
                one, other = (next(c for c in classes if k % (count + 1) in c) for k in (tensor[0], each))
                if one is not other:
                    classes.remove(other)
                    one |= other
    assert {frozenset(np.flatnonzero(found == root).tolist()) for root in set(found.tolist())} == {
        frozenset(each) for each in classes
    }


def test_scales_are_not_copied_for_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each step, however many layers there are."""
    done = [0]
    padded = noise.padded

    def counting(scale: Any) -> Any:
        done[0] += 1
        return padded(scale)

    monkeypatch.setattr(noise, "padded", counting)
    quietest([_layer([k, k + 1], [k + 2, k + 3]) for k in range(100)], np.ones(104))
    assert done[0] == 1 + noise._STEPS


def _two_layers(net: Net, between: int) -> str:
    """Two convolutions of uneven channels, with a Relu and some poolings between them."""
    x = net.op("Conv", "x", net.const(np.outer([0.01, 100.0, 1.0], [1.0, 1.0]).reshape(3, 2, 1, 1)))
    x = net.op("Relu", x)
    for _ in range(between):
        x = net.op("MaxPool", x, kernel_shape=[1, 1])
    return net.op("Tanh", net.conv(x, 3, 4, 1, 1))


def test_layers_of_more_weights_than_the_file_holds_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have one weight together: 6 and 12 pairs of channels here."""
    monkeypatch.setattr(equalize, "PAIRS_A_BYTE", 0)
    path, net = tmp_path / "model.onnx", Net(1)
    onnx.save(net.build({"x": (1, 2, 3, 4)}, _two_layers(net, 1)), path)
    found = []
    for most in (18, 17):
        monkeypatch.setattr(equalize, "SHARED_PAIRS", most)
        found.append(inspect(path, read=ReadOptions(equalize=True)).plan.equalized)
    assert found[0] is not None and found[1] is None


def test_what_comes_out_of_a_relu_is_looked_for_near_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many layers may read one long row, each further down."""
    monkeypatch.setattr(moments, "_MOST_BACK", 3)
    ends: list[bool] = []
    ceiling = moments.ceiling

    def noting(*arguments: Any) -> Any:
        top = ceiling(*arguments)
        ends.append(top is not None)
        return top

    monkeypatch.setattr("bnfuse.core.quantising.sensitivities.ceiling", noting)
    for between in (1, 20):
        path, net = tmp_path / f"{between}.onnx", Net(1)
        onnx.save(net.build({"x": (1, 2, 3, 4)}, _two_layers(net, between)), path)
        inspect(path, read=ReadOptions(equalize=True))
    assert ends == [False, True, False, False]  # of the first layer and the second one, in either model


def test_what_is_free_is_not_looked_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each of many layers writes into what all others do, nothing is equalised: all or none is."""
    path, net = tmp_path / "model.onnx", Net(1)
    onnx.save(net.build({"x": (1, 2, 3, 4)}, _two_layers(net, 1)), path)
    found = []
    for steps in (effort.STEPS, -1):
        monkeypatch.setattr(effort, "STEPS", steps)
        found.append(inspect(path, read=ReadOptions(equalize=True)).plan.equalized)
    assert found[0] is not None and found[1] is None
