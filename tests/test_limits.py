"""The limits between roundings and differences, and between digits that may go and digits that may not.

Each is tried on both sides, with the reason for where it lies worked out in the test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from bnfuse.core.decisions import Fold
from bnfuse.core.graph import Node
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import from_backward, same
from bnfuse.core.rules.base import Demands
from bnfuse.core.rules.operands import Operand
from bnfuse.core.rules.weighted_sum import WeightedSum
from tests.held_values import Vector, mixed
from tests.onnx_graphs import Net, assert_equal, fold_model, why


def _shifted(net: Net, times: float, readers: int) -> tuple[str, ...]:
    """x(2,3,8) → Conv → BN → Sigmoid with c = ``times``·a, where the Conv's values have about the size 1.

    μ = 0, σ² = 1 and ε = 0: the typical size of what the BatchNormalization reads is 1, a = γ, c = β.
    """
    shared = net.conv("x", 3, 2, 1)
    gamma = np.array([2.0, -4.0])
    statistics = [net.const(v) for v in (gamma, times * gamma, np.zeros(2), np.ones(2))]
    ends = [net.op("Sigmoid", net.op("BatchNormalization", shared, *statistics, epsilon=0.0, name="bn"))]
    return (*ends, *(net.conv(shared, 2, 3, 2) for _ in range(readers - 1)))


@pytest.mark.parametrize(
    ("times", "readers", "goes"),
    [(999.0, 2, True), (1001.0, 2, False), (-1001.0, 3, False), (1001.0, 1, True), (1e6, 1, True)],
)
def test_a_shift_may_cost_others_three_digits(times: float, readers: int, goes: bool, tmp_path: Path) -> None:
    """Others get x back from x + 1000, of which float32 has 24 bits: 6·10⁻⁵ of x is lost, a fourth digit.

    Who reads it alone asks for nothing back.
    """
    net = Net(1)
    outputs = _shifted(net, times, readers)
    folded = fold_model(net.build({"x": (2, 3, 8)}, list(outputs)), tmp_path)
    (decision,) = folded.plan.decisions
    assert isinstance(decision, Fold) == goes
    assert goes or Reason.PRECISION in why(decision)


@pytest.mark.parametrize(("mean", "goes"), [(0.0, True), (6.0, True), (12.0, False), (-300.0, False)])
@pytest.mark.parametrize("op", ["Cast", "CastLike"])
def test_a_cast_to_half_precision_costs_what_is_normalised_behind_it(
    op: str, mean: float, goes: bool, tmp_path: Path
) -> None:
    """x − mean has 11 bits in float16; of x, cast before, as many fewer are left as x is larger."""
    net, half = Net(1), TensorProto.FLOAT16
    one = net.const(np.ones(3))
    norm = net.op("BatchNormalization", "x", one, net.const(np.zeros(3)), net.const(np.full(3, mean)), one)
    cast = net.op(op, norm, net.op("Cast", one, to=half)) if op == "CastLike" else net.op(op, norm, to=half)
    net.dtype = np.dtype(np.float16)
    y = net.op("Cast", net.op("Conv", cast, net.weight(2, 3, 2, 2, fan_in=12)), to=TensorProto.FLOAT)
    folded = fold_model(net.build({"x": (2, 3, 6, 5)}, y), tmp_path)
    (decision,) = folded.plan.decisions
    assert isinstance(decision, Fold) == goes, decision.message
    assert goes or Reason.PRECISION in why(decision)


def test_what_a_thousandfold_shift_costs() -> None:
    """The argument of the limit, in numbers: four digits of seven are left, beyond it fewer."""
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    lost = [float(np.abs((x + np.float32(r)) - np.float32(r) - x).max()) for r in (1e3, 1e4)]
    assert lost[0] < 1e-4 < lost[1]


@pytest.mark.parametrize(("bits", "equal"), [(41, True), (39, False), (20, False), (10, False)])
@pytest.mark.parametrize("what", ["scale", "shift"])
def test_demands_are_the_same_up_to_roundings(what: str, bits: int, equal: bool) -> None:
    """10⁻¹² is 9,000 roundings of float64; the least difference of float32, 2⁻²⁴, is 60,000 times that."""
    rng = np.random.default_rng(bits)
    s, t = mixed(rng, 4), mixed(rng, 4)
    nearly = 1.0 + np.array([0.0, 0.0, 2.0**-bits, 0.0])
    other = (s * nearly, t) if what == "scale" else (s, t * nearly)
    assert same(from_backward((1,), s, t), from_backward((1,), *other)) == equal
    assert same(from_backward((1,), *other), from_backward((1,), s, t)) == equal


@pytest.mark.parametrize(("step", "goes"), [(0.0, True), (2.0**-23, False), (2.0**-12, False)])
def test_two_scales_that_nearly_agree_do_not(step: float, goes: bool, tmp_path: Path) -> None:
    """u + swap(u) → BN: u would be held with γ and with γ swapped, a step of float32 apart."""
    net = Net(2)
    u = net.conv("x", 3, 2, 1)
    total = net.op("Add", u, net.op("Gather", u, net.const(np.array([1, 0])), axis=1))
    gamma = 1.5 * np.array([1.0, 1.0 + step])
    statistics = [net.const(v) for v in (gamma, np.zeros(2), np.zeros(2), np.ones(2))]
    value = net.op("BatchNormalization", total, *statistics, epsilon=0.0)
    folded = fold_model(net.build({"x": (2, 3, 8)}, net.op("Sigmoid", value)), tmp_path)
    (decision,) = folded.plan.decisions
    assert isinstance(decision, Fold) == goes
    assert goes or Reason.CONFLICT in why(decision)
    assert_equal(folded.before, folded.after)


def _settled(shifts: tuple[Vector, Vector], total: Vector) -> Demands | Refusal:
    """y = x₀ + x₁ with the shift of every value given."""
    node = Node("sum", "Add", ("x0", "x1"), ("y",))
    rule = WeightedSum((1.0, 1.0), (Operand(0, frozenset()), Operand(0, frozenset())))
    one = np.ones(2)
    known = {p: from_backward((1,), one, t) for p, t in zip((0, 1, ~0), (*shifts, total), strict=True)}
    return rule.settle(node, known, ~0)


@pytest.mark.parametrize(("dust", "agrees"), [(0.0, True), (5e-14, True), (2e-13, False), (1e-6, False)])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e-9])
def test_shifts_of_a_sum_agree_up_to_roundings(dust: float, agrees: bool, size: float) -> None:
    """t_y = t₀ + t₁, of the largest of the three 10⁻¹³ either way: 900 roundings of float64."""
    t0, t1 = size * np.array([0.1, 3.0]), size * np.array([0.2, -5.0])
    total = size * np.array([0.3, -2.0])  # 0.1 + 0.2 is not 0.3 in float64
    found = _settled((t0, t1), total + dust * 5.0 * size * np.array([0.0, 1.0]))
    if agrees:
        assert found == ()
    else:
        assert isinstance(found, Refusal)
        assert found.reason is Reason.CONFLICT


def test_a_sum_of_shifts_that_cancel_leaves_none() -> None:
    """0.1 + 0.2 − 0.3 leaves 5·10⁻¹⁷ behind, which is no shift that the output would have to take."""
    node = Node("sum", "Sum", ("x0", "x1", "x2"), ("y",))
    rule = WeightedSum((1.0, 1.0, 1.0), tuple(Operand(0, frozenset()) for _ in range(3)))
    known = {p: from_backward((1,), np.ones(1), np.array([t])) for p, t in enumerate((0.1, 0.2, -0.3))}
    for extra, left in ((0.0, False), (1e-12, True)):
        known[2] = from_backward((1,), np.ones(1), np.array([-0.3 - extra]))
        (demand,) = rule.settle(node, known, ~0)  # type: ignore[misc]
        port, held = demand
        assert port == ~0
        assert held.shifts == left
