"""``--target no-bn``: what cannot go is arithmetic in the end, or the run fails by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfuse.core.decisions import Keep
from bnfuse.formats.base import ReadOptions
from tests.command import FAST, call
from tests.onnx_graphs import fold_model, session
from tests.report_schema import assert_fits, assert_many_fit

C = 4
PARAMETERS = ("gamma", "beta", "mean", "var")
Nodes = list[onnx.NodeProto]


def statistics(seed: int, dtype: str = "float32", **given: Any) -> dict[str, np.ndarray]:
    """γ, β, μ and σ² of mixed signs and sizes."""
    rng = np.random.default_rng(seed)
    made = {
        "gamma": rng.uniform(0.5, 2, C) * np.array([1, -1, 1, 1]), "beta": rng.normal(size=C),
        "mean": rng.normal(size=C), "var": rng.uniform(0.5, 2, C), **given,
    }  # fmt: skip
    return {name: values.astype(dtype) for name, values in made.items()}


def bn(x: str, y: str, name: str = "bn", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(
        "BatchNormalization", [x, "gamma", "beta", "mean", "var"], [y], name, **attributes
    )


def save(
    path: Path, nodes: Nodes, arrays: dict[str, np.ndarray], shape: Any, *, opset: int = 17, kind: int = 1
) -> Path:
    infos = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    inits = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], inits)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def plain(x: str, y: str) -> onnx.NodeProto:
    """What no BatchNormalization passes, and none goes into."""
    return helper.make_node("Sigmoid", [x], [y])


def between(name: str = "bn") -> Nodes:
    return [plain("x", "a"), bn("a", "b", name), plain("b", "y")]


ones, zeros = np.ones(C), np.zeros(C)
FORMS: list[tuple[str, dict[str, Any], list[int], int, list[str]]] = [
    ("float32", {}, [2, C, 5, 3], 17, ["Mul", "Add"]),
    ("float32", {}, [2, C], 17, ["Mul", "Add"]),
    ("float32", {}, [2, C, 3, 2, 2], 9, ["Mul", "Add"]),
    ("float32", {}, [2, C, 6], 7, ["Mul", "Add"]),
    ("float16", {}, [2, C, 5, 3], 17, ["Mul", "Add"]),
    ("float64", {}, [2, C, 5, 3], 17, ["Mul", "Add"]),
    ("float32", {"beta": zeros, "mean": zeros}, [2, C, 5, 3], 17, ["Mul"]),
    ("float32", {"gamma": ones, "var": ones - 1e-5}, [2, C, 5, 3], 17, ["Mul", "Add"]),  # all but 1
    ("float64", {"gamma": ones, "var": ones}, [2, C, 5, 3], 17, ["Add"]),
    ("float32", {"gamma": np.array([0.0, 1.0, 2.0, 0.0])}, [2, C, 5, 3], 17, ["Mul", "Add"]),
]


@pytest.mark.parametrize(("dtype", "given", "shape", "opset", "becomes"), FORMS)
def test_what_stays_is_arithmetic(
    dtype: str, given: dict[str, Any], shape: list[int], opset: int, becomes: list[str], tmp_path: Path
) -> None:
    """Compared with the equation in float64, and by onnxruntime with the original."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    arrays = statistics(3, dtype, **given)
    nodes = between()
    if becomes == ["Add"]:
        nodes[1].attribute.append(helper.make_attribute("epsilon", 0.0))
    path = save(tmp_path / "m.onnx", nodes, arrays, shape, opset=opset, kind=kind)
    before = path.read_bytes()
    ran = call("optimize", path, "--target", "no-bn", "--no-bench", "--json", *FAST[:2])
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.stdout)
    assert_fits(report)
    (decision,) = report["decisions"]
    assert (decision["action"], decision["becomes"]) == ("keep", {"bn": " and ".join(becomes)})
    passed = {"option": "--target no-bn", "passed": True, "message": "no BatchNormalization is left"}
    assert report["gates"] == [passed]
    assert report["batchnorms"] == {"found": 1, "folded": 0, "kept": 1}
    assert "BatchNormalization" not in report["operators"]["after"]
    assert any("that cannot go stays as" in note for note in report["notes"])
    made = onnx.load(tmp_path / "m.fused.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert [n.op_type for n in made.graph.node] == ["Sigmoid", *becomes, "Sigmoid"]
    assert not {t.name for t in made.graph.initializer} & arrays.keys()
    assert {t.data_type for t in made.graph.initializer} == {kind}
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    old, new = (session(tmp_path / name).run(None, {"x": x})[0] for name in ("m.onnx", "m.fused.onnx"))
    axes = (1, C) + (1,) * (len(shape) - 2)
    gamma, beta, mean, var = (
        arrays[k].astype(np.float64).reshape(axes) for k in ("gamma", "beta", "mean", "var")
    )
    inner = 1 / (1 + np.exp(-x.astype(np.float64)))
    epsilon = 0.0 if becomes == ["Add"] else float(np.float32(1e-5))
    exact = 1 / (1 + np.exp(-(gamma * (inner - mean) / np.sqrt(var + epsilon) + beta)))
    unit = np.finfo(dtype).eps
    assert np.abs(new - exact).max() <= 8 * unit
    assert np.abs(new - old).max() <= 8 * unit
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({"gamma": np.array([1.0, 2.0, 1.0, 1.0]), "beta": np.array([0.0, 1.0, 0.0, 0.0])}, ["Mul", "Add"]),
        ({"gamma": np.array([1.0, 2.0, 1.0, 1.0]), "beta": zeros}, ["Mul"]),
        ({"gamma": ones, "beta": np.array([0.0, 1.0, 0.0, 0.0])}, ["Add"]),
    ],
)
def test_of_some_channels_only(given: dict[str, np.ndarray], becomes: list[str], tmp_path: Path) -> None:
    """One of the four is scaled, and shifted; outputs that are named empty go with the statistics."""
    arrays = statistics(3, "float64", mean=zeros, var=ones, **given)
    nodes = between()
    nodes[1].attribute.append(helper.make_attribute("epsilon", 0.0))
    path = save(tmp_path / "m.onnx", nodes, arrays, [2, C, 5], opset=9, kind=TensorProto.DOUBLE)
    model = onnx.load(path)
    model.graph.node[1].output.extend(["", ""])
    made = fold_model(model, tmp_path, ReadOptions(target="no-bn"))
    assert made.operators(made.after) == ["Sigmoid", *becomes, "Sigmoid"]
    onnx.checker.check_model(made.proto, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, C, 5))
    (new,) = session(made.after).run(None, {"x": x})
    scale, shift = (arrays[name].reshape(C, 1) for name in ("gamma", "beta"))
    inner = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(new, 1 / (1 + np.exp(-(scale * inner + shift))), rtol=1e-14)


# dtype of x and of the statistics, γ, operator set, and why it is no arithmetic.
_NONE: list[tuple[str, str, float, int, str]] = [
    ("float16", "float32", 1.0, 15, "(of its types)"),
    ("float32", "float32", 1.0, 6, "(in operator set 6)"),
    ("float16", "float16", 6e4, 15, "(its scale and shift do not fit float16)"),
    ("float32", "float32", 1.0, 17, "(how many axes 'a' has is not known)"),
]


@pytest.mark.parametrize(("of_x", "of_numbers", "gamma", "opset", "why"), _NONE)
def test_what_is_no_arithmetic(
    of_x: str, of_numbers: str, gamma: float, opset: int, why: str, tmp_path: Path
) -> None:
    arrays = statistics(
        3, of_numbers, gamma=np.array([1.0, gamma, 1.0, 1.0]), beta=zeros, mean=zeros, var=ones / 100
    )
    nodes = between()
    if opset == 6:
        nodes[1].attribute.append(helper.make_attribute("is_test", 1))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(of_x))
    model = onnx.load(save(tmp_path / "m.onnx", nodes, arrays, [2, C, 5], opset=opset, kind=kind))
    if "axes" in why:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.ClearField("shape")
    (decision,) = fold_model(model, tmp_path, ReadOptions(target="no-bn")).plan.decisions
    assert isinstance(decision, Keep) and not decision.becomes
    assert why in decision.message


def test_a_constant_that_others_read_stays(tmp_path: Path) -> None:
    """Two calls share their statistics, and γ is added to what comes of them."""
    nodes = [
        *between("one")[:2],
        plain("b", "c"),
        bn("c", "d", "two"),
        helper.make_node("Add", ["d", "gamma4"], ["y"]),
    ]
    arrays = statistics(5) | {"gamma4": np.ones((1, C, 1, 1), np.float32)}
    path = save(tmp_path / "m.onnx", nodes, arrays, [2, C, 5, 3])
    ran = call("optimize", path, "--target", "no-bn", "--no-bench", "--json", *FAST[:2])
    assert ran.exit_code == 0, ran.output
    x = np.random.default_rng(0).standard_normal((2, C, 5, 3)).astype(np.float32)
    old, new = (session(tmp_path / name).run(None, {"x": x})[0] for name in ("m.onnx", "m.fused.onnx"))
    assert np.abs(old - new).max() <= 1e-6 * np.abs(old).max()
    assert "BatchNormalization" not in [n.op_type for n in onnx.load(tmp_path / "m.fused.onnx").graph.node]


def in_a_body() -> Nodes:
    """The one BatchNormalization lies in both branches of an If."""

    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [2, C, 5, 3])
        return helper.make_graph(
            [plain("a", f"{name}_a"), bn(f"{name}_a", f"{name}_y", name)], name, [], [out]
        )

    total = helper.make_node("ReduceSum", ["a"], ["s"], keepdims=0)
    return [
        plain("x", "a"), total, helper.make_node("Greater", ["s", "zero"], ["yes"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch("then"), else_branch=branch("else")),
    ]  # fmt: skip


def test_in_bodies_too(tmp_path: Path) -> None:
    arrays = statistics(7) | {"zero": np.zeros((), np.float32)}
    path = save(tmp_path / "m.onnx", in_a_body(), arrays, [2, C, 5, 3])
    ran = call("optimize", path, "--target", "no-bn", "--no-bench", "--json", *FAST[:2])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["operators"]["after"].get("BatchNormalization", 0) == 0
    x = np.random.default_rng(0).standard_normal((2, C, 5, 3)).astype(np.float32)
    old, new = (session(tmp_path / name).run(None, {"x": x})[0] for name in ("m.onnx", "m.fused.onnx"))
    assert np.abs(old - new).max() <= 1e-6 * np.abs(old).max()


def _training() -> Nodes:
    node = bn("a", "b", training_mode=1)
    node.output.extend(["running_mean", "running_var"])
    return [plain("x", "a"), node, plain("b", "y")]


def _computed() -> Nodes:
    scale = [helper.make_node("ReduceMean", ["x"], ["gamma_now"], axes=[0, 2, 3], keepdims=0)]
    node = bn("a", "b")
    node.input[1] = "gamma_now"
    return [*scale, plain("x", "a"), node, plain("b", "y")]


LEFT: list[tuple[Callable[[], Nodes], Any, tuple[str, ...], str]] = [
    (_training, [2, C, 5, 3], (), "training"),
    (_computed, [2, C, 5, 3], (), "at run time"),
    (between, None, (), "how many axes"),
    (between, [C], (), "has no axis of channels"),
    (between, [2, C, 5, 3], ("--keep", "bn"), "as you asked"),
]


@pytest.mark.parametrize(("nodes", "shape", "more", "why"), LEFT)
@pytest.mark.parametrize("checks", [False, True])
def test_what_must_stay_fails_the_run_by_name(
    nodes: Callable[[], Nodes], shape: Any, more: tuple[str, ...], why: str, checks: bool, tmp_path: Path
) -> None:
    path = save(tmp_path / "m.onnx", nodes(), statistics(1), shape)
    ran = call("optimize", path, "--target", "no-bn", "--no-bench", *more, *(["--check"] if checks else []))
    assert ran.exit_code == 1, ran.output
    assert "1 BatchNormalization would be left" in ran.stderr
    assert "'bn'" in ran.stderr and why in ran.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_gates_that_passed_are_told_together(tmp_path: Path) -> None:
    path = save(tmp_path / "goes.onnx", between(), statistics(1), [2, C, 5, 3])
    xml = tmp_path / "r.xml"
    ran = call("optimize", path, "--target=no-bn", "--fail-if-slower=9900%", "--report", xml, "--json", *FAST)
    gates = json.loads(ran.stdout)["gates"]
    assert [gate["option"] for gate in gates] == ["--target no-bn", "--fail-if-slower 9900%"]
    assert gates[0]["passed"] and ran.exit_code == (0 if gates[1]["passed"] else 1)
    cases = {case.get("name"): case for case in ElementTree.fromstring(xml.read_text()).iter("testcase")}
    assert cases["--target no-bn"].find("failure") is None


@pytest.mark.parametrize("beside", [False, True])
def test_every_report_tells_that_the_target_said_no(beside: bool, tmp_path: Path) -> None:
    """Alone, and as one of several models; a gate on speed has no say in what was not written."""
    models = [save(tmp_path / "stays.onnx", _training(), statistics(1), [2, C, 5, 3])]
    if beside:
        models.append(save(tmp_path / "goes.onnx", between(), statistics(1), [2, C, 5, 3]))
    reports = [tmp_path / f"r{suffix}" for suffix in (".json", ".md", ".html", ".xml", ".sarif")]
    asked = (f"--report={path}" for path in reports)
    ran = call("optimize", *models, "--target=no-bn", "--fail-if-slower=9900%", *asked, "--json", *FAST)
    told = json.loads(reports[0].read_text())
    (assert_many_fit if beside else assert_fits)(told)
    alone = told["reports"][0]["report"] if beside else told
    gate = alone["gates"][0]
    assert (ran.exit_code, len(alone["gates"])) == (1, 1)
    assert (gate["option"], gate["passed"]) == ("--target no-bn", False)
    assert "training mode" in gate["message"] and gate["message"] in ran.stderr
    assert ran.stderr.count("would be left") == 1
    run = json.loads(reports[4].read_text())["runs"][0]
    assert run["invocations"][0]["exitCode"] == 1
    errors = [result for result in run["results"] if result["level"] == "error"]
    # (Of the other model a busy machine may measure nothing in this time, and then its gate says no.)
    assert [e["ruleId"] for e in errors if "stays.onnx" in json.dumps(e["locations"])] == ["gate"]
    suites = ElementTree.fromstring(reports[3].read_text())
    assert len(suites) == len(models)
    failed = suites[0].findall("testcase/failure")
    assert [found.attrib["message"] for found in failed] == [gate["message"]]
    for page in reports[1:3]:
        assert "would be left, where the target has none" in page.read_text()


def test_check_asks_for_what_would_change(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", between(), statistics(1), [2, C, 5, 3])
    assert call("optimize", path, "--check").exit_code == 0
    assert call("optimize", path, "--check", "--target", "no-bn").exit_code == 1
    assert call("optimize", path, "--target", "no-bn", "--merge-affines").exit_code == 2


def test_activations_move_first(tmp_path: Path) -> None:
    """Relu → BN → zero-padded Conv: nothing is left to be arithmetic."""
    weight = np.random.default_rng(2).standard_normal((C, C, 3, 3)).astype(np.float32)
    arrays = statistics(2, gamma=np.array([1.0, 0.5, 2.0, 1.5])) | {"w": weight, "v": weight}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["c"]), helper.make_node("Relu", ["c"], ["r"]), bn("r", "n"),
        helper.make_node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    path = save(tmp_path / "m.onnx", nodes, arrays, [2, C, 5, 3])
    ran = call("optimize", path, "--target", "no-bn", "--no-bench", "--json", *FAST[:2])
    assert ran.exit_code == 0, ran.output
    assert [n.op_type for n in onnx.load(tmp_path / "m.fused.onnx").graph.node] == ["Conv", "Max", "Conv"]


def test_a_part_goes_only_where_the_rest_can_be_written(tmp_path: Path) -> None:
    """Without its scale of 1e-30, which a Conv behind could take on, the shift of 1e10 would be 1e40."""
    given: dict[str, Any] = {"gamma": ones * 1e-30, "beta": ones * 1e10, "mean": zeros, "var": ones}
    arrays = statistics(0, **given) | {"w": np.full((C, C, 1, 1), 1e-10, "f4")}
    nodes = [
        plain("x", "a"),
        bn("a", "b"),
        helper.make_node("LeakyRelu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w"], ["d"]),
        plain("d", "y"),
    ]
    path, out = save(tmp_path / "m.onnx", nodes, arrays, [2, C, 5, 3]), tmp_path / "out.onnx"
    done = call("optimize", path, "-o", out, "--target", "no-bn", *FAST, "--no-bench", "--json")
    assert done.exit_code == 0, done.output
    (decision,) = json.loads(done.stdout)["decisions"]
    assert decision["becomes"] == {"bn": "Mul and Add"}
    fed = {"x": np.random.default_rng(0).standard_normal((2, C, 5, 3)).astype("f4")}
    before, after = (session(each).run(None, fed)[0] for each in (path, out))
    np.testing.assert_allclose(after, before, rtol=1e-5)
