"""``--merge-affines``: chains of Mul, Add, Sub, Div that cannot go become one BatchNormalization each."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.command import FAST, call
from tests.onnx_graphs import Net, assert_equal

C = 5


def _between_sigmoids(net: Net, steps: str, tap: bool = False) -> tuple[str, list[str]]:
    """A chain that nobody can absorb: nonlinear on both sides. ``tap``: its middle is an output too."""
    y = net.op("Sigmoid", "x")
    outputs: list[str] = []
    for k, step in enumerate(steps):
        constant = net.const(net.factors(C).reshape(C, 1, 1) if k % 2 else net.factors(C).reshape(1, C, 1, 1))
        inputs = (constant, y) if step in "*+" and k % 2 else (y, constant)
        y = net.op({"*": "Mul", "+": "Add", "-": "Sub", "/": "Div"}[step], *inputs)
        if tap and k == 0:
            outputs.append(y)
    return net.op("Sigmoid", y), outputs


# steps → operators between the two Sigmoids with the flag, and without
CHAINS = {
    "*+": (["BatchNormalization"], ["Add", "Mul"]),
    "+*": (["BatchNormalization"], ["Add", "Mul"]),
    "-/": (["BatchNormalization"], ["Div", "Sub"]),
    "-*+": (["BatchNormalization"], ["Add", "Mul"]),
    "*": (["Mul"], ["Mul"]),
    "+": (["Add"], ["Add"]),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("steps", CHAINS)
def test_a_chain_becomes_one_node(steps: str, dtype: str, tmp_path: Path) -> None:
    net = Net(len(steps), dtype)
    y, _ = _between_sigmoids(net, steps)
    before = tmp_path / "a.onnx"
    before.write_bytes(net.build({"x": (2, C, 3, 4)}, y).SerializeToString())
    for flag, expected in zip((["--merge-affines"], []), CHAINS[steps], strict=True):
        after = tmp_path / "b.onnx"
        result = call("optimize", before, "-o", after, "--force", "--no-bench", *FAST[:2], *flag)
        assert result.exit_code == 0, result.output
        kinds = sorted(n.op_type for n in onnx.load(after).graph.node if n.op_type != "Sigmoid")
        assert kinds == expected
        assert_equal(before, after)


def test_a_chain_ends_at_a_value_that_others_know(tmp_path: Path) -> None:
    net = Net(7)
    y, outputs = _between_sigmoids(net, "*+", tap=True)
    before, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    before.write_bytes(net.build({"x": (2, C, 3, 4)}, [y, *outputs]).SerializeToString())
    assert call("optimize", before, "-o", after, "--no-bench", "--merge-affines", *FAST[:2]).exit_code == 0
    assert sorted(n.op_type for n in onnx.load(after).graph.node) == ["Add", "Mul", "Sigmoid", "Sigmoid"]


def test_the_same_bytes_twice_and_nothing_left_to_do(tmp_path: Path) -> None:
    net = Net(8)
    y, _ = _between_sigmoids(net, "*+")
    before = tmp_path / "a.onnx"
    before.write_bytes(net.build({"x": (2, C, 3, 4)}, y).SerializeToString())
    made = [tmp_path / f"{k}.onnx" for k in range(3)]
    for source, target in ((before, made[0]), (before, made[1]), (made[0], made[2])):
        done = call("optimize", source, "-o", target, "--no-bench", "--no-verify", "--merge-affines")
        assert done.exit_code == 0, done.output
    assert made[0].read_bytes() == made[1].read_bytes() == made[2].read_bytes()
