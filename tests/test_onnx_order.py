"""Nodes listed in an order in which some read what is written later: read, folded and written all the same.

onnxruntime takes the main graph in any order without a cycle; it runs the file as it is listed and the
result of folding it, its own graph optimisation off. Bodies and functions it takes in order alone: there
the result is put in order here before it is compared with the model as it was made.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.command import call, optimized
from tests.onnx_graphs import Net, Shape, all_nodes, assert_equal, session
from tests.random_moves import NAMES, STEPS
from tests.random_nets import build, recipe
from tests.runtime_versions import TELLS_FUNCTIONS_APART
from tests.test_onnx_functions import ROWS as FUNCTIONS
from tests.test_onnx_scopes import ROWS as SCOPES

pytestmark = pytest.mark.usefixtures("shapes_inferred_here")

IMAGE: dict[str, Shape] = {"x": ("N", 3, 8, 7)}
Reorder = Callable[[list[onnx.NodeProto]], list[onnx.NodeProto]]


def reorder(body: Any, how: Reorder) -> None:
    """Another order of the nodes of a graph or function."""
    nodes = how([onnx.NodeProto.FromString(node.SerializeToString()) for node in body.node])
    del body.node[:]
    body.node.extend(nodes)


def reordered(model: onnx.ModelProto, how: Reorder, *, inside: bool = False) -> onnx.ModelProto:
    """A copy with the nodes of the main graph in another order, or those of all bodies and functions."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not inside:
        reorder(copy.graph, how)
        return copy
    bodies = [a.g for node in all_nodes(copy.graph) for a in node.attribute if a.HasField("g")]
    for body in (*bodies[::-1], *copy.functions):  # inner ones first: reordering copies what is in a node
        reorder(body, how)
    return copy


def sort(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Again and again the first node that reads nothing which a later one writes."""
    left, found = list(nodes), []
    while left:
        waits = {name for node in left for name in node.output}
        at = next(k for k, n in enumerate(left) if waits.isdisjoint(_seen(n)))
        found.append(left.pop(at))
    return found


def _seen(node: onnx.NodeProto) -> set[str]:
    """What a node reads, and what nodes inside it do."""
    inner = [a.g for a in node.attribute if a.HasField("g")]
    return {*node.input, *(name for graph in inner for n in all_nodes(graph) for name in n.input)}


def shuffle(seed: int) -> Reorder:
    rng = random.Random(seed)

    def how(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        return rng.sample(nodes, len(nodes))

    return how


def with_constants_behind(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every initializer is a Constant node, listed behind all that read it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        copy.graph.node.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
    del copy.graph.initializer[:]
    return copy


def residual(net: Net) -> onnx.ModelProto:
    """Pre-activation blocks, a bias of its own behind a MatMul, an operand of a sum, weights of subgraphs."""
    x = net.conv("x", 3, 4, 1, 1)
    for _ in range(2):
        y = net.op("Relu", net.bn(x, 4, positive=True))
        w = net.op("Neg", net.op("Unsqueeze", net.weight(4, 4, 1, fan_in=4), net.const(np.array([-1]))))
        x = net.op("Add", x, net.op("Conv", y, w))
    x = net.op("Add", x, net.weight(1, 4, 8, 7, fan_in=1))
    x = net.op("Transpose", net.bn(x, 4), perm=[0, 2, 3, 1])
    x = net.op("Add", net.vector(5), net.op("MatMul", x, net.weight(4, 5, fan_in=4)))
    return net.build(IMAGE, net.op("Tanh", net.op("Mul", x, net.const(net.factors(5)))))


def _folded(model: onnx.ModelProto, folder: Path) -> tuple[dict[str, str | None], bytes]:
    done = optimized(model, folder, proof="skipped")
    assert_equal(done.before, done.after)
    return done.decisions, done.after.read_bytes()


ORDERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "reversed": lambda model: reordered(model, lambda nodes: nodes[::-1]),
    **{f"shuffled {k}": lambda model, k=k: reordered(model, shuffle(k)) for k in range(6)},  # type: ignore[misc]
    "constants behind": with_constants_behind,
    "constants behind, reversed": lambda m: reordered(with_constants_behind(m), lambda nodes: nodes[::-1]),
    "constants behind, shuffled": lambda m: reordered(with_constants_behind(m), shuffle(9)),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_any_order_folds_as_the_sorted_one_does(order: Any, tmp_path: Path) -> None:
    made = residual(Net(4))
    first, second, third = (tmp_path / name for name in ("sorted", "other", "twice"))
    for folder in (first, second, third):
        folder.mkdir()
    wanted, _ = _folded(made, first)
    assert set(wanted.values()) == {None} and len(wanted) > 3
    found, data = _folded(order(made), second)
    assert found == wanted
    assert _folded(order(made), third)[1] == data
    again = call("optimize", second / "after.onnx", "-o", second / "again.onnx", "--no-verify", "--no-bench")
    assert again.exit_code == 0 and (second / "again.onnx").read_bytes() == data


@pytest.mark.parametrize("how", ["reversed", "shuffled"])
@pytest.mark.parametrize("case", [*SCOPES, *FUNCTIONS[::5]], ids=lambda row: row.name)
def test_around_and_inside_bodies_and_functions(case: Any, how: str, tmp_path: Path) -> None:
    made = case.build(Net(sum(case.name.encode())))
    order = shuffle(3) if how == "shuffled" else lambda nodes: nodes[::-1]
    wanted = {name.rsplit("/", 1)[-1]: reason and reason.name for name, reason in case.decisions.items()}
    for inside in (False, True):
        folder = tmp_path / f"inside {inside}"
        folder.mkdir()
        done = optimized(reordered(made, order, inside=inside), folder, proof="skipped")
        found = {name.rsplit("/", 1)[-1]: reason for name, reason in done.decisions.items()}
        assert found == wanted
        if inside:
            done.before.write_bytes(made.SerializeToString())
            result = reordered(onnx.load(done.after), sort, inside=True)
            done.after.write_bytes(result.SerializeToString())
        assert_equal(done.before, done.after)


@pytest.mark.parametrize("seed", range(24))
def test_random_graphs_in_random_order(seed: int, tmp_path: Path) -> None:
    """As many nodes go as in the order that the graph was made in."""
    made = build(recipe(seed, NAMES), STEPS)
    goes = []
    for number, model in enumerate((made, reordered(made, shuffle(seed)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = optimized(model, folder, proof="skipped")
        goes.append(sum(reason is None for reason in done.decisions.values()))
        old, new = session(done.before), session(done.after)
        rng = np.random.default_rng(seed)
        fed = {v.name: _fed(rng, v) for v in old.get_inputs()}
        for want, got in zip(old.run(None, fed), new.run(None, fed), strict=True):
            scale = max(float(np.abs(want).max()), 1e-6)
            assert float(np.abs(want - got).max()) <= (1e-10 if want.dtype == np.float64 else 2e-4) * scale
    assert goes[0] == goes[1]


def _fed(rng: np.random.Generator, info: Any) -> np.ndarray:
    shape = [d if isinstance(d, int) else 2 for d in info.shape]
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64}
    if info.type in kinds:
        return np.asarray(rng.standard_normal(shape) * 1.5 + 0.4, kinds[info.type])
    return np.ones(shape, np.bool_ if info.type == "tensor(bool)" else np.int64)


# --- what no order makes right ------------------------------------------------------------------------------


def _cycle(net: Net) -> onnx.ModelProto:
    net.op("Add", net.conv("x", 3, 3, 1, 1), "late", out="early")
    net.op("Relu", net.bn("early", 3), out="late")
    return net.build(IMAGE, "late", ranks={"late": 4})


def _own_output(net: Net) -> onnx.ModelProto:
    net.op("Add", "x", "y", out="y")
    return net.build(IMAGE, "y", ranks={"y": 4})


def _reading(name: str) -> onnx.GraphProto:
    """A body that reads something around it."""
    negated = helper.make_node("Neg", [name], ["inner"])
    return helper.make_graph([negated], "b", [], [helper.make_tensor_value_info("inner", 1, None)])


def _within_itself(net: Net) -> onnx.ModelProto:
    """Beside what folds: nobody else reads it."""
    inner = _reading("mine")
    net.op("If", net.const(np.array(True)), out="mine", then_branch=inner, else_branch=inner)
    net.op("Relu", net.bn(net.conv("x", 3, 3, 1, 1), 3), out="late")
    return net.build(IMAGE, "late", ranks={"late": 4})


def _calling(calls: dict[str, str]) -> Callable[[Net], onnx.ModelProto]:
    """Functions, each of which calls another; nobody calls them."""

    def make(net: Net) -> onnx.ModelProto:
        net.op("Relu", net.bn(net.conv("x", 3, 3, 1, 1), 3), out="late")
        made = net.build(IMAGE, "late", ranks={"late": 4})
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        made.opset_import.append(opsets[1])
        for name, other in calls.items():
            node = helper.make_node(other, ["a"], ["b"], domain="own" if other in "FGH" else "")
            made.functions.append(helper.make_function("own", name.strip("2"), ["a"], ["b"], [node], opsets))
        return made

    return make


def _through_a_body(net: Net) -> onnx.ModelProto:
    inner = _reading("late")
    net.op("If", net.const(np.array(True)), out="early", then_branch=inner, else_branch=inner)
    net.op("Relu", "early", out="late")
    return net.build(IMAGE, "late", ranks={"late": 4})


def _never_written(net: Net) -> onnx.ModelProto:
    net.op("Relu", net.bn(net.op("Add", "x", "nowhere"), 3), out="late")
    return net.build(IMAGE, "late", ranks={"late": 4})


_NO_ORDER = r"INVALID_GRAPH|ShapeInferenceError|FAIL|cycle|[Ii]nvalid|Dup"
WRONG: dict[str, tuple[Callable[[Net], onnx.ModelProto], str]] = {
    "a cycle": (_cycle, "its nodes form a cycle through '"),
    "its own output": (_own_output, "its nodes form a cycle through 'y'"),
    "a cycle through a body": (_through_a_body, "its nodes form a cycle through '"),
    "a body that reads what its own node writes": (_within_itself, "its nodes form a cycle through 'mine'"),
    "a function that calls itself": (_calling({"F": "F"}), "the function 'F' calls itself"),
    "functions in a circle": (_calling({"F": "G", "G": "H", "H": "F"}), "the function '"),
    "a function twice": (
        _calling({"F": "Relu", "F2": "Neg"}),
        "the function 'F' is there twice",
    ),
    "never written": (_never_written, "'nowhere' is read, but nothing writes it"),
}


@pytest.mark.parametrize(("make", "says"), WRONG.values(), ids=WRONG)
def test_what_no_order_makes_right_is_one_sentence(
    make: Callable[[Net], onnx.ModelProto], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    for how in (lambda nodes: nodes, lambda nodes: nodes[::-1]):
        path.write_bytes(reordered(make(Net(1)), how).SerializeToString())
        if TELLS_FUNCTIONS_APART or "function" not in says:
            with pytest.raises(
                Exception, match=r"INVALID_GRAPH|ShapeInferenceError|FAIL|cycle|[Ii]nvalid|Dup"
            ):
                session(path)
        done = call("optimize", path, "--no-bench")
        assert done.exit_code == 3
        assert says in done.stderr and done.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_long_chain_backwards_takes_no_recursion(tmp_path: Path) -> None:
    net = Net(1)
    y = net.bn(net.conv("x", 3, 3, 1, 1), 3, name="bn")
    for _ in range(5000):
        y = net.op("Relu", y)
    graph = helper.make_graph(
        net.nodes[::-1],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 3, 4, 4])],
        net.initializers,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert optimized(made, tmp_path, proof="skipped").decisions == {"bn": None}
