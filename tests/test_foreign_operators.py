"""Operators of other domains than the standard one: what they store, and when they are not believed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.decisions import Fold, Keep
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.onnx_graphs import Net, assert_equal, fold_model, session, why

_ML, _MS = "ai.onnx.ml", "com.microsoft"
Step = Callable[[Net, str], str]


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


def _turned(net: Net, x: str) -> str:
    return net.op("Transpose", x, perm=[1, 0])


def _zero(net: Net, x: str) -> str:
    return _scaler(net, x, 5, net.factors(5) * (np.arange(5) != 2))


def _zero_bn(net: Net, x: str) -> str:
    statistics = net.statistics(5)
    gamma = numpy_helper.to_array(net.initializers[-4]) * (np.arange(5) != 2)
    net.initializers[-4].CopyFrom(numpy_helper.from_array(gamma.astype(np.float32), statistics[0]))
    return net.op("BatchNormalization", x, *statistics)


def _bn(net: Net, x: str) -> str:
    return net.bn(x, 5)


def _shift(net: Net, x: str) -> str:
    one, nothing = net.const(np.ones(5)), net.const(np.zeros(5))
    return net.op("BatchNormalization", x, one, net.vector(5), nothing, one, epsilon=0.0)


def _scale(net: Net, x: str) -> str:
    return net.bn(x, 5, shift=False)


_ONE: list[Step] = [_bn, lambda net, x: _scaler(net, x, 1)]
CHAINS: dict[str, tuple[list[Step], list[str]]] = {
    "a number behind a zero": ([_zero_bn, _ONE[1]], ["BatchNormalization"]),
    "a zero before a Scaler": ([_zero_bn, lambda net, x: _scaler(net, x, 5)], ["BatchNormalization"]),
    "a zero in the Scaler": ([_bn, _zero], ["BatchNormalization"]),
    "a shift before a zero": ([_shift, _zero], ["BatchNormalization"]),
    "a scale before a zero": ([_scale, _zero], ["BatchNormalization"]),
    "features that are rows": ([_bn, _turned, _ONE[1]], ["BatchNormalization", "Transpose"]),
}


@pytest.mark.parametrize(("steps", "left"), CHAINS.values(), ids=CHAINS)
def test_what_a_scaler_cannot_store_goes_the_other_way(
    steps: list[Step], left: list[str], tmp_path: Path
) -> None:
    net = Net(10)
    y = net.op("Tanh", "x")
    for step in steps:
        y = step(net, y)
    made = _built(net, net.op("Tanh", y))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 5
    folded = fold_model(made, tmp_path)
    assert folded.operators(folded.after) == ["Tanh", *left, "Tanh"]
    assert_equal(folded.before, folded.after)


def test_a_scaler_of_three_axes_stores_nothing(tmp_path: Path) -> None:
    """One number there is no vector to be: the Scaler goes into the BN before it."""
    net = Net(11)
    y = net.op("Tanh", _scaler(net, net.bn(net.op("Tanh", "x"), 5), 1))
    made = _built(net, y)
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim.add().dim_value = 3
    folded = fold_model(made, tmp_path)
    assert folded.operators(folded.after) == ["Tanh", "BatchNormalization", "Tanh"]
    assert_equal(folded.before, folded.after)


_FEW = [1.0, 2.0, -0.5, 1.5]
_SCALERS: dict[str, tuple[dict[str, list[float]], Reason]] = {
    "nothing": ({}, Reason.BAD_PARAMETERS),
    "a scale alone": ({"scale": [*_FEW, 1.0]}, Reason.BAD_PARAMETERS),
    "one offset": ({"scale": [*_FEW, 1.0], "offset": [0.5]}, Reason.BAD_PARAMETERS),
    "one scale": ({"scale": [0.5], "offset": [*_FEW, 1.0]}, Reason.BAD_PARAMETERS),
    "an infinite scale": ({"scale": [*_FEW, np.inf], "offset": [0.0] * 5}, Reason.INVALID_STATISTICS),
    "an offset that is no number": ({"scale": [*_FEW, 1.0], "offset": [0, 0, 0, 0, np.nan]},
                                    Reason.INVALID_STATISTICS),
}  # fmt: skip


@pytest.mark.parametrize(("numbers", "reason"), _SCALERS.values(), ids=_SCALERS)
@pytest.mark.parametrize("more", [(), (3,)], ids=["two axes", "three axes"])
def test_a_scaler_whose_numbers_do_not_fit(
    numbers: dict[str, Any], reason: Reason, more: tuple[int, ...], tmp_path: Path
) -> None:
    """Nor do as many numbers as there are channels, of more than two axes."""
    net = Net(12)
    y = net.op("Tanh", net.op("Scaler", net.bn(net.op("Tanh", "x"), 5), domain=_ML, **numbers))
    made = _built(net, y)
    for value in (*made.graph.input, *made.graph.output) if more else ():
        value.type.tensor_type.shape.dim.add().dim_value = more[0]
    bn = fold_model(made, tmp_path).plan.decisions[0]
    wanted = reason if not more or len(numbers.get("scale", ())) < 2 else Reason.BAD_PARAMETERS
    assert wanted in why(bn)


# Coefficients of LinearRegressors and LinearClassifiers of 5 features, and how many numbers come out.
_MODELS: dict[str, tuple[str, dict[str, Any], int, Reason | None]] = {
    "one target": ("LinearRegressor", {"coefficients": [*_FEW, 3.0]}, 1, None),
    "a transform behind": (
        "LinearRegressor",
        {"coefficients": [*_FEW, *_FEW[::-1], 3.0, -1.0], "targets": 2, "post_transform": "SOFTMAX"}, 2, None,
    ),
    "too few": ("LinearRegressor", {"coefficients": _FEW}, 1, Reason.BAD_PARAMETERS),
    "no rows": ("LinearRegressor", {"coefficients": [*_FEW, 3.0], "targets": 0}, 1, Reason.BAD_PARAMETERS),
    "none": ("LinearRegressor", {}, 1, Reason.BAD_PARAMETERS),
    "a rest": ("LinearRegressor", {"coefficients": [*_FEW, 3.0] * 2 + [1.0], "targets": 2}, 2,
               Reason.BAD_PARAMETERS),
    "intercepts for others": (
        "LinearRegressor", {"coefficients": [*_FEW, 3.0], "intercepts": [1.0, 2.0]}, 1, Reason.BAD_PARAMETERS,
    ),
    "no classes": ("LinearClassifier", {"coefficients": [*_FEW, 3.0]}, 1, Reason.BAD_PARAMETERS),
}  # fmt: skip


@pytest.mark.parametrize(("op", "numbers", "width", "reason"), _MODELS.values(), ids=_MODELS)
def test_a_linear_model(op: str, numbers: dict[str, Any], width: int, reason: Reason | None,
                        tmp_path: Path) -> None:  # fmt: skip
    net = Net(13)
    out = ["y"] if op == "LinearRegressor" else ["label", "y"]
    net.op(op, net.bn("x", 5), out=out, domain=_ML, **numbers)
    made = _built(net, "y", width=width)
    folded = fold_model(made, tmp_path)
    (bn,) = folded.plan.decisions
    if reason is not None:
        assert reason in why(bn)
        if width == 1 and len(numbers.get("coefficients", ())) != 4:  # nor of an unknown shape
            made.graph.input[0].type.tensor_type.ClearField("shape")
            assert reason in why(fold_model(made, tmp_path).plan.decisions[0])
        return
    assert isinstance(bn, Fold), bn.message
    assert_equal(folded.before, folded.after)


@pytest.mark.parametrize(
    ("op", "out", "attributes"),
    [
        ("LinearRegressor", ["y"], {"targets": 2, "post_transform": "LOGISTIC"}),
        ("LinearClassifier", ["label", "y"], {"intercepts": [0.5, 1.0], "classlabels_ints": [0, 1]}),
    ],
)
def test_a_linear_model_that_transforms_takes_nothing_on_behind(
    op: str, out: list[str], attributes: dict[str, Any], tmp_path: Path
) -> None:
    net = Net(14)
    net.op(op, "x", out=out, domain=_ML, coefficients=[*_FEW, 3.0] * 2, **attributes)
    y = out[-1]
    folded = fold_model(_built(net, net.bn(y, 2), width=2), tmp_path)
    assert Reason.UNSUPPORTED_OP in why(folded.plan.decisions[0])


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX"])
def test_no_scale_reaches_the_labels_of_a_classifier(transform: str, tmp_path: Path) -> None:
    """Nothing is free to be rescaled there: they come first, and are no scores."""
    net, path = Net(16), tmp_path / "model.onnx"
    more = {"intercepts": [0.5, 1.0], "classlabels_ints": [0, 1], "post_transform": transform}
    net.op("LinearClassifier", "x", out=["label", "y"], domain=_ML, coefficients=[*_FEW, 3.0] * 2, **more)
    path.write_bytes(_built(net, "y", width=2).SerializeToString())
    with closing(FORMAT.read(path, ReadOptions())) as model:
        (node,) = (node for node in model.graph.nodes if node.op == "LinearClassifier")
        rule = model.graph.rule(node)
        assert isinstance(rule, Linear) and not rule.writes


@pytest.mark.parametrize(
    ("element", "more", "known"), [(TensorProto.DOUBLE, 0, True), (1, 1, True), (1, 0, False)]
)
def test_a_linear_model_of_other_inputs(element: int, more: int, known: bool, tmp_path: Path) -> None:
    """No matrix of float32; one whose shape is not told is one."""
    net = Net(15, "float64" if element == TensorProto.DOUBLE else "float32")
    y = net.op("LinearRegressor", net.bn("x", 5), domain=_ML, coefficients=[*_FEW, 3.0])
    made = _built(net, y, element=element, width=1)
    for _ in range(more):
        made.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 3
    if not known:
        made.graph.input[0].type.tensor_type.ClearField("shape")
    (bn,) = fold_model(made, tmp_path).plan.decisions
    assert isinstance(bn, Fold) if not known else Reason.UNSUPPORTED_OP in why(bn)


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
