"""``--merge-affines``: chains of Mul, Add, Sub, Div that cannot go become one BatchNormalization each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
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


@pytest.mark.parametrize(("chains", "note"), [(0, "no chain"), (1, "1 chain of"), (3, "3 chains of")])
def test_the_report_says_how_many_were_merged(chains: int, note: str, tmp_path: Path) -> None:
    net = Net(9)
    y = net.op("Sigmoid", net.bn("x", C))  # one that stays, and is no merged chain
    for _ in range(chains):
        y = net.op("Sigmoid", net.op("Add", *(net.op("Mul", y, net.weight(1, C, 1, 1, fan_in=1)),
                                              net.weight(1, C, 1, 1, fan_in=1))))  # fmt: skip
    before, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    before.write_bytes(net.build({"x": (2, C, 3, 4)}, y).SerializeToString())
    done = call("optimize", before, "-o", after, "--no-bench", "--no-verify", "--merge-affines", "--json")
    kinds = [n.op_type for n in onnx.load(after).graph.node]
    assert kinds.count("BatchNormalization") == 1 + chains
    assert next(n for n in json.loads(done.stdout)["notes"] if "chain" in n).startswith(note)


def test_a_chain_whose_product_overflows_is_not_counted(tmp_path: Path) -> None:
    net = Net(10)
    y = net.op("Sigmoid", "x")
    for _ in range(2):
        y = net.op("Mul", y, net.const(np.full((1, C, 1, 1), 1e30)))
    before, after = tmp_path / "a.onnx", tmp_path / "b.onnx"
    before.write_bytes(net.build({"x": (2, C, 3, 4)}, net.op("Sigmoid", y)).SerializeToString())
    done = call("optimize", before, "-o", after, "--no-bench", "--no-verify", "--merge-affines", "--json")
    assert "BatchNormalization" not in {n.op_type for n in onnx.load(after).graph.node}
    assert next(n for n in json.loads(done.stdout)["notes"] if "chain" in n).startswith("no chain")


def test_keras_has_no_chains_to_merge(tmp_path: Path) -> None:
    model = Path(__file__).parents[1] / "fixtures" / "digits_b.keras"
    after = tmp_path / "b.keras"
    done = call("optimize", model, "-o", after, "--no-bench", "--no-verify", "--merge-affines", "--json")
    assert done.exit_code == 0, done.output
    assert [n for n in json.loads(done.stdout)["notes"] if "chain" in n] == [
        "no chain of Mul, Add, Sub and Div was left to merge"
    ]
