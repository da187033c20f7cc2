"""Operators of other domains than the standard one: what they store, and when they are not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfuse.core.decisions import Fold, Keep
from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net, assert_equal, fold_model, session, why

_ML, _MS = "ai.onnx.ml", "com.microsoft"


def _built(net: Net, y: str, *, element: int = TensorProto.FLOAT, width: int = 5) -> onnx.ModelProto:
    """x (N, 5) to y (N, width)."""
    x = helper.make_tensor_value_info("x", element, ["N", 5])
    out = helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", width])
    graph = helper.make_graph(net.nodes, "net", [x], [out], net.initializers)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(_ML, 3), helper.make_opsetid(_MS, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _scaler(net: Net, x: str, n: int, scale: np.ndarray | None = None) -> str:
    numbers = {"offset": net.rng.standard_normal(n), "scale": net.factors(n) if scale is None else scale}
    return net.op("Scaler", x, domain=_ML, **{k: v.tolist() for k, v in numbers.items()})


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("before", [True, False])
def test_a_scaler_and_a_batchnorm_between_nonlinear_operators_become_one(
    tmp_path: Path, n: int, before: bool
) -> None:
    """The first goes into the second; a Scaler has as many numbers as there are features from then on."""
    net = Net(3)
    y = net.op("Tanh", "x")
    y = net.bn(_scaler(net, y, n), 5) if before else _scaler(net, net.bn(y, 5), n)
    folded = fold_model(_built(net, net.op("Tanh", y)), tmp_path)
    stays = "BatchNormalization" if before else "Scaler"
    assert folded.operators(folded.after) == ["Tanh", stays, "Tanh"]
    assert_equal(folded.before, folded.after)


def test_a_scaler_goes_into_what_follows_and_its_domain_stays(tmp_path: Path) -> None:
    net = Net(4)
    y = net.op("MatMul", _scaler(net, "x", 5), net.weight(5, 4, fan_in=5))
    made = _built(net, net.op("Relu", net.op("Add", y, net.vector(4))), width=4)
    folded = fold_model(made, tmp_path)
    assert folded.operators(folded.after) == ["MatMul", "Add", "Relu"]
    assert [(o.domain, o.version) for o in folded.proto.opset_import] == [
        (o.domain, o.version) for o in made.opset_import
    ]
    assert_equal(folded.before, folded.after)


@pytest.mark.parametrize(("op", "first"), [("LinearRegressor", 0), ("LinearClassifier", 1)])
def test_a_scaler_goes_into_a_linear_model(tmp_path: Path, op: str, first: int) -> None:
    """What scikit-learn's pipelines are exported as."""
    net = Net(5)
    more: dict[str, Any] = {"targets": 3} if not first else {"classlabels_ints": [0, 1, 2]}
    out = ["label", "scores"][1 - first :]
    net.op(op, _scaler(net, "x", 5), out=out, domain=_ML, coefficients=net.rng.standard_normal(15).tolist(),
           intercepts=[0.1, 0.2, -0.3], **more)  # fmt: skip
    folded = fold_model(_built(net, out[-1], width=3), tmp_path)
    assert folded.operators(folded.after) == [op]
    assert_equal(folded.before, folded.after)


def test_a_scaler_that_changes_the_type_stays(tmp_path: Path) -> None:
    net = Net(6)
    y = net.op("MatMul", _scaler(net, "x", 5), net.weight(5, 4, fan_in=5))
    folded = fold_model(_built(net, net.op("Relu", y), element=TensorProto.INT64, width=4), tmp_path)
    assert folded.plan.decisions == ()
    fed = {"x": np.arange(15).reshape(3, 5)}
    old, new = (session(path).run(None, fed)[0] for path in (folded.before, folded.after))
    np.testing.assert_array_equal(new, old)


def test_a_scaler_with_a_zero_takes_nothing_on(tmp_path: Path) -> None:
    """Its shift is a multiple of its scale: behind a zero there is none."""
    net = Net(7)
    y = _scaler(net, net.op("Tanh", "x"), 5, net.factors(5) * (np.arange(5) != 2))
    y = net.op("Tanh", net.op("BatchNormalization", y, *net.statistics(5)))
    folded = fold_model(_built(net, y), tmp_path)
    assert folded.operators(folded.after) == ["Tanh", "BatchNormalization", "Tanh"]  # the Scaler goes down
    assert_equal(folded.before, folded.after)


def test_a_function_of_the_model_counts_for_its_operators(tmp_path: Path) -> None:
    """A FusedMatMul that the model itself defines, as a sum of squares."""
    net = Net(8)
    y = net.op("FusedMatMul", net.bn("x", 5), net.weight(5, 4, fan_in=5), domain=_MS)
    made = _built(net, y, width=4)
    body = [
        helper.make_node("Mul", ["a", "a"], ["s"]),
        helper.make_node("MatMul", ["s", "b"], ["y"]),
    ]
    imports = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function(_MS, "FusedMatMul", ["a", "b"], ["y"], body, imports))
    folded = fold_model(made, tmp_path)
    bn = next(d for d in folded.plan.decisions if d.is_batchnorm)
    assert isinstance(bn, Keep) and Reason.UNSUPPORTED_OP in why(bn)


@pytest.mark.parametrize("spoiled", [{"alpha": "2"}, {"beta": 2.0}])
def test_attributes_that_are_not_known_are_not_believed(tmp_path: Path, spoiled: dict[str, Any]) -> None:
    net = Net(9)
    y = net.op("FusedMatMul", net.bn("x", 5), net.weight(5, 4, fan_in=5), domain=_MS, **spoiled)
    folded = fold_model(_built(net, y, width=4), tmp_path)
    (decision,) = folded.plan.decisions
    assert not isinstance(decision, Fold) and Reason.BAD_PARAMETERS in why(decision)
