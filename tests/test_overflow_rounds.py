"""However many new weights overflow, the model is planned a few times, not once for each of them.

Hostile files of some kilobytes took minutes: a chain of scales whose product leaves float32, and many layers
of which each overflows by itself. Plans are counted, as time says little on a busy machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bnfuse.core.apply import OverflowingFold, Patch
from bnfuse.core.decisions import Fold, Keep
from bnfuse.core.planning import plan as planning
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from bnfuse.use_cases import folding
from bnfuse.use_cases.folding import Phases, planned_to_fit
from tests.calls import optimize
from tests.keras_handmade import dense, legacy, norm
from tests.onnx_graphs import Net

CHANNELS = 3


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many candidates were banned from each plan that was made."""
    made: list[int] = []

    def counted(graph: Any, *, banned: Any, equalizes: bool) -> Any:
        made.append(len(banned))
        return planning.plan(graph, banned, equalizes=equalizes)

    monkeypatch.setattr(folding, "plan_folds", counted)
    return made


def _scales(net: Net, x: str) -> str:
    """1.3^500 is 9e56, and 0.6^500 is nothing that float32 can tell from zero."""
    for _ in range(500):
        x = net.op("Mul", x, net.const(np.reshape([1.3, 0.6, -0.9], (3, 1, 1))))
    return x


def _quotients(net: Net, x: str) -> str:
    for _ in range(500):
        x = net.op("Div", x, net.const(np.reshape([1.3, 0.6, -0.9], (3, 1, 1))))
    return x


def _norms(net: Net, x: str) -> str:
    for _ in range(400):
        a, zero = np.array([1.3, 0.6, -0.9]), np.zeros(3)
        x = net.op("BatchNormalization", x, *map(net.const, (a, zero, zero, np.ones(3))), epsilon=0.0)
    return x


CHAINS: list[Callable[[Net, str], str]] = [_scales, _quotients, _norms]


@pytest.mark.parametrize("build", CHAINS)
def test_a_chain_whose_product_leaves_the_type(
    build: Callable[[Net, str], str], plans: list[int], tmp_path: Path
) -> None:
    """It becomes a few nodes, each as large as can be, and says the same."""
    net, path, out = Net(1), tmp_path / "model.onnx", tmp_path / "out.onnx"
    x = net.op("Tanh", "x")
    y = net.op("Tanh", build(net, x))
    onnx.save(net.build({"x": ("N", CHANNELS, 2, 2)}, y), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = optimize(path, out, verify=False, bench=False)
    assert len(plans) <= 2
    kept = [d for d in done.plan.decisions if isinstance(d, Keep)]
    assert 0 < len(kept) <= 0.1 * len(done.plan.decisions)
    assert any(r.reason is Reason.OVERFLOW for r in kept[-1].refusals)
    fed = np.random.default_rng(2).standard_normal((4, CHANNELS, 2, 2)).astype("f4")
    np.testing.assert_allclose(_run(out, fed), _run(path, fed), rtol=1e-4, atol=1e-6)


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


@pytest.mark.parametrize("side", [1, 40], ids=["small weights", "streamed weights"])
def test_many_layers_of_which_each_overflows_by_itself(side: int, plans: list[int], tmp_path: Path) -> None:
    """3e38 times 10: harmless factors, so that only who makes the weights finds out."""
    net, path = Net(1), tmp_path / "model.onnx"
    x = "x"
    for k in range(12):
        weight = np.full((2, 2, side, side), 1e-3)
        weight[1, 1, -1, 0] = 3e38 if k % 2 else 3e-3
        pads = [side // 2, side // 2, (side - 1) // 2, (side - 1) // 2]
        x = net.op("Conv", net.op("Tanh", x), net.const(weight), pads=pads)
        stats = map(net.const, (np.full(2, 10.0), np.zeros(2), np.zeros(2), np.ones(2)))
        x = net.op("BatchNormalization", x, *stats, name=f"bn{k}")
    onnx.save(net.build({"x": (1, 2, 4, 4)}, net.op("Tanh", x)), path)
    done = optimize(path, tmp_path / "out.onnx", verify=False, bench=False)
    assert plans == [0, 6]
    kept = {d.node: d.primary.reason for d in done.plan.decisions if isinstance(d, Keep)}
    assert kept == {f"bn{k}": Reason.OVERFLOW for k in range(1, 12, 2)}


def test_many_layers_of_a_keras_file(plans: list[int], tmp_path: Path) -> None:
    layers: list[dict[str, Any]] = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 3], "name": "x"}}
    ]
    weights: dict[str, dict[str, np.ndarray]] = {}
    stats = {
        "gamma": np.full(3, 10.0),
        "beta": np.zeros(3),
        "moving_mean": np.zeros(3),
        "moving_variance": np.ones(3),
    }
    for k in range(12):
        kernel = np.diag([1.0, 1.0, 3e38 if k % 2 else 3.0])
        layers += [dense(f"d{k}"), norm(f"bn{k}", axis=[-1]), _tanh(f"t{k}")]
        held = {"kernel": kernel, "bias": np.zeros(3)}
        weights[f"d{k}"] = {f"d{k}/{name}:0": value.astype("f4") for name, value in held.items()}
        weights[f"bn{k}"] = {f"bn{k}/{name}:0": value.astype("f4") for name, value in stats.items()}
    path = legacy(tmp_path / "model.h5", layers, weights)
    done = optimize(path, tmp_path / "out.h5", verify=False, bench=False)
    assert plans == [0, 6]
    kept = {d.node: d.primary.reason for d in done.plan.decisions if isinstance(d, Keep)}
    assert kept == {f"bn{k}": Reason.OVERFLOW for k in range(1, 12, 2)}


def _tanh(name: str) -> dict[str, Any]:
    return {"class_name": "Activation", "config": {"name": name, "activation": "tanh"}}


def test_what_never_comes_to_an_end_keeps_all(plans: list[int], tmp_path: Path) -> None:
    """Whoever finds another overflow in every plan is asked ten times."""
    net, path = Net(1), tmp_path / "model.onnx"
    x = "x"
    for k in range(40):
        x = net.bn(net.op("Tanh", net.conv(x, 2, 2, 1, 1)), 2, name=f"bn{k}")
    onnx.save(net.build({"x": (1, 2, 4, 4)}, net.conv(x, 2, 2, 1, 1)), path)

    def attempt(model: Any, patch: Patch, number: int) -> int:
        if patch.steps:
            raise OverflowingFold([patch.steps[-1].node.name])
        return number

    options = ReadOptions()
    model = FORMAT.read(path, options)
    done = planned_to_fit(model, FORMAT, options, Phases(lambda _: None), attempt)
    done.model.close()
    assert plans == [*range(9), 40] and done.outcome == 40
    assert not any(isinstance(decision, Fold) for decision in done.plan.decisions)
