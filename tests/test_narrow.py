"""A BatchNormalization over a concatenation or a sum that can go only in part: whole, or onto one branch.

By counting: it moves where at most half of its work is left, and only if all other branches absorb.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Keep
from bnfuse.core.planning.plan import plan, replay
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.command import FAST, Optimized, call, optimized
from tests.onnx_graphs import Net, Shape, assert_equal

IMAGE: dict[str, Shape] = {"x": ("N", 4, 6, 5)}


def _behind(net: Net, joined: str, channels: int) -> str:
    """A BN between the joint and an activation that lets nothing through."""
    return net.op("Tanh", net.bn(joined, channels, name="bn"))


def _conv(net: Net, out: int, *, bias: bool = True) -> str:
    return net.conv("x", 4, out, 3, 3, pads=[1, 1, 1, 1], bias=bias)


def _fixed(net: Net) -> str:
    """Four channels that nobody may change."""
    return net.op("Sigmoid", "x")


def _concat(*order: str) -> Callable[[Net], str]:
    """``fixed`` has 4 channels; ``wide`` 9, ``small`` 3."""

    def build(net: Net) -> str:
        made = {
            "wide": lambda: _conv(net, 9),
            "small": lambda: _conv(net, 3, bias=False),
            "fixed": lambda: _fixed(net),
        }
        sizes = {"wide": 9, "small": 3, "fixed": 4}
        joined = net.op("Concat", *(made[name]() for name in order), axis=1, name="joint")
        return _behind(net, joined, sum(sizes[name] for name in order))

    return build


# order of the branches → channels that the BN still has, None where it stays whole
CONCATS: dict[tuple[str, ...], int | None] = {
    ("wide", "fixed"): 4,
    ("fixed", "wide"): 4,
    ("small", "fixed", "wide"): 4,
    ("small", "fixed"): None,  # 4 of 7: no clear gain
    ("fixed", "wide", "fixed"): None,  # two refuse
    ("fixed", "fixed"): None,
}


def _batchnorm(done: Optimized) -> onnx.NodeProto:
    (found,) = [n for n in onnx.load(done.after).graph.node if n.op_type == "BatchNormalization"]
    return found


@pytest.mark.parametrize(("order", "left"), CONCATS.items(), ids=map("+".join, CONCATS))
def test_a_concatenation(order: tuple[str, ...], left: int | None, tmp_path: Path) -> None:
    net = Net(len(order))
    done = optimized(net.build(IMAGE, _concat(*order)(net)), tmp_path)
    assert_equal(done.before, done.after)
    (decision,) = done.report["decisions"]
    assert decision["action"] == "keep"
    assert (decision["narrowed"] or {}).get("channels") == left
    before, after = onnx.load(done.before), onnx.load(done.after)
    assert sorted(n.op_type for n in before.graph.node) == sorted(n.op_type for n in after.graph.node)
    if left is None:
        assert done.before.read_bytes() == done.after.read_bytes()
        return
    onnx.checker.check_model(after, full_check=True)
    (gamma,) = [t for t in after.graph.initializer if t.name == _batchnorm(done).input[1]]
    assert list(gamma.dims) == [left]
    assert decision["narrowed"]["joint"] == "joint"
    assert f"stays on {left} of {decision['channels']} channels" in decision["message"]
    (tmp_path / "again").mkdir()
    again = optimized(after, tmp_path / "again")
    assert again.before.read_bytes() == again.after.read_bytes(), "nothing is left to do"


def _sum(kind: str, flip: bool, wide: Callable[[Net], str]) -> Callable[[Net], str]:
    def build(net: Net) -> str:
        gate = net.op("Sigmoid", "gate")
        pair = (gate, wide(net)) if flip else (wide(net), gate)
        return _behind(net, net.op(kind, *pair, name="joint"), 5)

    return build


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", ["Add", "Sub", "Sum"])
def test_a_sum_with_a_smaller_operand(kind: str, flip: bool, tmp_path: Path) -> None:
    net = Net(6)
    y = _sum(kind, flip, lambda net: _conv(net, 5))(net)
    done = optimized(net.build({**IMAGE, "gate": ("N", 5, 1, 1)}, y), tmp_path)
    assert_equal(done.before, done.after)
    (decision,) = done.report["decisions"]
    assert decision["narrowed"]["channels"] == 5
    assert "stays on the smaller operand of joint" in decision["message"]
    gate = next(n for n in onnx.load(done.after).graph.node if n.op_type == "Sigmoid")
    assert _batchnorm(done).input[0] == gate.output[0]


# Sums that stay as they are: the operand that refuses is as large as the sum, or the other one refuses too.
WHOLE_SUMS: dict[str, tuple[Shape, Callable[[Net], str]]] = {
    "as large": (("N", 5, 6, 5), lambda net: _conv(net, 5)),
    "both refuse": (("N", 5, 1, 1), lambda net: net.op("Sigmoid", _conv(net, 5))),
    "another rank": ((5, 1, 1), lambda net: _conv(net, 5)),
    "one for all channels": (("N", 1, 1, 1), lambda net: _conv(net, 5)),
}


@pytest.mark.parametrize(("gate", "wide"), WHOLE_SUMS.values(), ids=WHOLE_SUMS)
def test_a_sum_that_stays(gate: Shape, wide: Callable[[Net], str], tmp_path: Path) -> None:
    net = Net(7)
    done = optimized(net.build({**IMAGE, "gate": gate}, _sum("Add", False, wide)(net)), tmp_path)
    assert done.report["decisions"][0]["narrowed"] is None
    assert done.before.read_bytes() == done.after.read_bytes()


def _two_readers(net: Net) -> str:
    joined = net.op("Concat", _conv(net, 9), _fixed(net), axis=1)
    return net.op("Concat", net.op("Tanh", joined), _behind(net, joined, 13), axis=1)


def _other_axis(net: Net) -> str:
    joined = net.op("Concat", net.conv("x", 4, 4, 1, 1), net.op("Sigmoid", "x"), axis=2)
    return _behind(net, joined, 4)


@pytest.mark.parametrize("build", [_two_readers, _other_axis])
def test_what_others_read_or_joins_otherwise_stays(build: Callable[[Net], str], tmp_path: Path) -> None:
    net = Net(8)
    done = optimized(net.build(IMAGE, build(net)), tmp_path)
    assert [d["narrowed"] for d in done.report["decisions"]] == [None]
    assert_equal(done.before, done.after)


def test_its_numbers_are_those_that_earlier_folds_left(tmp_path: Path) -> None:
    """BN → BN behind a concatenation: the second folds into the first, which then moves."""
    net = Net(9)
    joined = net.op("Concat", _fixed(net), _conv(net, 9), axis=1)
    y = net.op("Tanh", net.bn(net.bn(joined, 13, name="first"), 13, name="second"))
    done = optimized(net.build(IMAGE, y), tmp_path)
    assert_equal(done.before, done.after)
    kept = [d for d in done.report["decisions"] if d["action"] == "keep"]
    assert [d["narrowed"]["channels"] for d in kept] == [4]


def test_one_joint_after_another(tmp_path: Path) -> None:
    """Each stays on its own fixed branch; what the first absorbed is not lost when the second moves."""
    net = Net(10)
    x = _behind(net, net.op("Concat", _conv(net, 9), _fixed(net), axis=1), 13)
    y = net.op("Concat", net.conv(x, 13, 9, 1, 1), net.op("Sigmoid", "x"), axis=1)
    y = net.op("Tanh", net.bn(y, 13, name="behind"))
    done = optimized(net.build(IMAGE, y), tmp_path)
    assert_equal(done.before, done.after)
    assert [d["narrowed"]["channels"] for d in done.report["decisions"]] == [4, 4]


def test_a_plan_is_enough_to_do_it(tmp_path: Path) -> None:
    """Moves are made anew from the plan alone, without what planning found out."""
    net = Net(11)
    path = tmp_path / "a.onnx"
    path.write_bytes(net.build(IMAGE, _concat("small", "fixed", "wide")(net)).SerializeToString())
    decided = plan(FORMAT.read(path, ReadOptions()).graph).plan
    opened = FORMAT.read(path, ReadOptions())
    opened.write(apply(opened.graph, replay(opened.graph, decided)), tmp_path / "b.onnx")
    assert_equal(path, tmp_path / "b.onnx")
    assert isinstance(decided.decisions[0], Keep) and decided.decisions[0].narrowed is not None


def test_weights_that_overflow_keep_it_whole(tmp_path: Path) -> None:
    """float16, W·a beyond 65504 on the branch that would absorb."""
    net = Net(12, "float16")
    wide = net.op("Conv", "x", net.const(np.full((9, 4, 1, 1), 900.0)))
    joined = net.op("Concat", wide, net.op("Sigmoid", "x"), axis=1)
    statistics = [np.full(13, 100.0), np.zeros(13), np.zeros(13), np.ones(13)]
    y = net.op("BatchNormalization", joined, *map(net.const, statistics), name="bn")
    made = net.build(IMAGE, net.op("Tanh", y))
    done = optimized(made, tmp_path, proof="skipped")
    assert [d["narrowed"] for d in done.report["decisions"]] == [None]
    assert done.before.read_bytes() == done.after.read_bytes()


def test_an_input_of_unknown_size(tmp_path: Path) -> None:
    """The second input's shape is nowhere to be found, and nobody asked for it before."""
    net = Net(13)
    first = net.bn("x", 8)
    y = net.bn(net.op("Concat", "x", first, axis=-1), 16)
    model = net.build({"x": ("N", 8)}, [y, first])
    del model.graph.output[1].type.tensor_type.shape.dim[:]
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    graph = FORMAT.read(path, ReadOptions()).graph
    assert None in graph.rule(graph.nodes[1]).sizes  # type: ignore[attr-defined]
    assert [d.narrowed for d in plan(graph).plan.decisions if isinstance(d, Keep)] == [None, None]


def test_reports_say_that_it_went_in_part(tmp_path: Path) -> None:
    net = Net(14)
    path, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    path.write_bytes(net.build(IMAGE, _concat("wide", "fixed")(net)).SerializeToString())
    assert call("optimize", path, "--check").exit_code == 1
    done = call("optimize", path, "-o", after, "--no-bench", "--report", tmp_path / "r.md", *FAST[:2])
    assert done.exit_code == 0, done.output
    assert "0 of 1 BatchNormalizations folded, 1 in part" in done.stdout
    assert "1 of them only on a part of their work" in (tmp_path / "r.md").read_text()
    assert call("optimize", after, "--check").exit_code == 0
