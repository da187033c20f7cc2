"""The graph around each decision: who is in the picture, in which role, and how it hangs together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from bnfuse.annotations.neighbourhood import MOST_DRAWN, MOST_NODES
from bnfuse.results import DrawnNode, Neighbourhood
from bnfuse.use_cases.optimize import inspect
from tests.onnx_graphs import Net

CNN = Path(__file__).parents[1] / "fixtures" / "digits_cnn.onnx"


def _norm(net: Net, x: str, name: str, *, positive: bool = True) -> str:
    sign = 1.0 if positive else np.array([1.0, -1.0, 1.0, -1.0])
    stats = (net.rng.uniform(0.2, 3, 4) * sign, net.rng.standard_normal(4), net.rng.standard_normal(4))
    consts = [net.const(v) for v in (*stats, net.rng.uniform(0.1, 4, 4))]
    return net.op("BatchNormalization", x, *consts, name=name)


def _conv(net: Net, x: str, name: str) -> str:
    return net.op("Conv", x, net.const(net.rng.standard_normal((4, 4, 1, 1))), name=name)


def _drawn(net: Net, y: str, folder: Path) -> dict[str, Neighbourhood]:
    """By the node that the decision is about."""
    path = folder / "model.onnx"
    onnx.save(net.build({"x": ("N", 4, 9, 7)}, y), path)
    return _by_name(path)


def _by_name(path: Path) -> dict[str, Neighbourhood]:
    report = inspect(path, details=True)
    assert report.details is not None
    drawn = zip(report.plan.decisions, report.details.neighbourhoods, strict=True)
    return {decision.node: picture for decision, picture in drawn if picture is not None}


def _roles(picture: Neighbourhood) -> dict[str, str]:
    return {node.name: node.role + (" gone" if node.removed else "") for node in picture.nodes}


def _edges(picture: Neighbourhood) -> set[tuple[str, str]]:
    return {(picture.nodes[a].name, picture.nodes[b].name) for a, b in picture.edges}


def test_a_plain_fold(tmp_path: Path) -> None:
    net = Net(1)
    y = net.op("Tanh", _norm(net, _conv(net, "x", "conv"), "bn"), name="tanh")
    picture = _drawn(net, y, tmp_path)["bn"]
    assert _roles(picture) == {"x": "", "conv": "into", "bn": "self gone", "tanh": "", y: ""}
    assert _edges(picture) == {("x", "conv"), ("conv", "bn"), ("bn", "tanh"), ("tanh", y)}
    assert picture.nodes[0] == DrawnNode("x", "input", "input")
    assert picture.left_out == 0


def test_what_was_passed_is_marked(tmp_path: Path) -> None:
    """Conv → MaxPool → BN: up through the pool, or down into the next convolution."""
    net = Net(2)
    x = net.op("MaxPool", _conv(net, "x", "conv"), name="pool", kernel_shape=[2, 2])
    picture = _drawn(net, net.op("Tanh", _norm(net, x, "bn"), name="tanh"), tmp_path)["bn"]
    roles = _roles(picture)
    assert (roles["conv"], roles["pool"], roles["bn"], roles["tanh"]) == ("into", "through", "self gone", "")


def test_who_refused_is_marked_and_the_way_there_is_drawn(tmp_path: Path) -> None:
    net = Net(3)
    x = net.op("Tanh", "x", name="tanh")
    x = _norm(net, net.op("Transpose", x, name="turn", perm=[0, 1, 3, 2]), "bn")
    picture = _drawn(net, net.op("Sigmoid", x, name="sigmoid"), tmp_path)["bn"]
    roles = _roles(picture)
    assert (roles["tanh"], roles["sigmoid"], roles["bn"]) == ("refuses", "refuses", "self")
    assert {("tanh", "turn"), ("turn", "bn"), ("bn", "sigmoid")} <= _edges(picture)
    assert not any(node.removed for node in picture.nodes)


def test_a_node_that_goes_in_part_shows_both_sides(tmp_path: Path) -> None:
    """Concat of a convolution and a Tanh: the convolution takes its channels' share, the rest stays."""
    net = Net(7)
    conv = net.op("Conv", "x", net.const(net.rng.standard_normal((8, 4, 1, 1))), name="conv")
    x = net.op("Concat", conv, net.op("Tanh", "x", name="tanh"), axis=1, name="concat")
    stats = [net.const(v) for v in (*net.rng.standard_normal((3, 12)), net.rng.uniform(0.1, 4, 12))]
    x = net.op("BatchNormalization", x, *stats, name="bn")
    roles = _roles(_drawn(net, net.op("Sigmoid", x, name="sigmoid"), tmp_path)["bn"])
    assert (roles["conv"], roles["concat"], roles["tanh"]) == ("into", "through", "refuses")


def test_inputs_and_outputs_of_the_model_refuse_too(tmp_path: Path) -> None:
    net = Net(4)
    y = _norm(net, "x", "bn")
    picture = _drawn(net, y, tmp_path)["bn"]
    kinds = {(node.kind, node.role) for node in picture.nodes}
    assert ("input", "refuses") in kinds and ("node", "self") in kinds
    assert [node.kind for node in picture.nodes] == ["input", "node", "output"]
    assert picture.edges == ((0, 1), (1, 2))


def test_nodes_that_other_folds_remove_are_marked() -> None:
    drawn = _by_name(CNN)
    assert len(drawn) == 8
    for name, picture in drawn.items():
        gone = {node.name for node in picture.nodes if node.removed}
        assert name in gone and gone <= set(drawn)
        (own,) = [node for node in picture.nodes if node.role == "self"]
        assert own.name == name


def test_edges_go_downwards_and_every_node_hangs_together() -> None:
    for picture in _by_name(CNN).values():
        assert all(a < b for a, b in picture.edges)
        reached = {0}
        for _ in picture.nodes:
            reached |= {x for edge in picture.edges if reached & set(edge) for x in edge}
        assert reached == set(range(len(picture.nodes)))


def test_a_long_stream_is_cut_and_counted(tmp_path: Path) -> None:
    """A scale that goes all the way along a residual stream of 40 blocks."""
    net = Net(5)
    x = _conv(net, "x", "first")
    for i in range(40):
        x = net.op("Add", x, _conv(net, x, f"conv{i}"), name=f"add{i}")
    x = _norm(net, x, "bn")
    picture = _drawn(net, net.op("Tanh", x, name="tanh"), tmp_path)["bn"]
    assert len(picture.nodes) <= MOST_NODES + 2
    assert picture.left_out > 40
    assert {"bn", "tanh", "add39"} <= {node.name for node in picture.nodes}


def test_more_decisions_than_anybody_looks_at_are_not_all_drawn(tmp_path: Path) -> None:
    net = Net(6)
    x = "x"
    for i in range(MOST_DRAWN + 5):
        x = net.op("Tanh", _norm(net, x, f"bn{i}"), name=f"tanh{i}")
    path = tmp_path / "model.onnx"
    onnx.save(net.build({"x": ("N", 4, 9, 7)}, x), path)
    report = inspect(path, details=True)
    assert report.details is not None
    drawn = report.details.neighbourhoods
    assert len(drawn) == MOST_DRAWN + 5
    assert [picture is None for picture in drawn[-6:]] == [False] + [True] * 5
