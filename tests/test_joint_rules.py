"""Joint rules: settled demands obey the rule's own equation."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam, from_backward
from bnfuse.core.rules.base import Joint, Sign
from bnfuse.core.rules.joint import ConcatSplit, Product, Select
from bnfuse.core.rules.operands import Operand, operands
from bnfuse.core.rules.weighted_sum import WeightedSum
from tests.held_values import hold, mixed, seeds


def _node(inputs: int, outputs: int = 1) -> Node:
    return Node("n", "Op", tuple("abcdef"[:inputs]), tuple("uvwxyz"[:outputs]))


def _settled(
    rule: Joint, inputs: int, port: Port, held: Reparam, data: st.DataObject | None
) -> dict[Port, Reparam]:
    """What all ports hold once one of them is held so; which one takes a shift is drawn."""
    node, known = _node(inputs), {port: held}
    taker = data.draw(st.sampled_from(rule.takers(node, known))) if data else ~0
    demands = rule.settle(node, known, taker)
    assert not isinstance(demands, Refusal)
    return known | dict(demands)


@given(seed=seeds, known_port=st.sampled_from([~0, 0, 1, 2]), data=st.data())
def test_a_sum_stays_a_sum(seed: int, known_port: int, data: st.DataObject) -> None:
    """h_y = Σ σⱼhⱼ for the settled holdings wherever y = Σ σⱼxⱼ."""
    rng = np.random.default_rng(seed)
    signs = tuple(int(n) for n in rng.choice((-1, 1), 3))
    rule = WeightedSum(signs, tuple(Operand(0, frozenset()) for _ in signs))
    held = from_backward((1,), mixed(rng, 4), rng.standard_normal(4))
    every = _settled(rule, 3, known_port, held, data)
    assert set(every) == {~0, 0, 1, 2}
    x = rng.standard_normal((3, 2, 4))
    y = sum(sign * v for sign, v in zip(signs, x, strict=True))
    total = sum(sign * hold(every[j], x[j]) for j, sign in enumerate(signs))
    np.testing.assert_allclose(hold(every[~0], np.asarray(y)), total, rtol=1e-9, atol=1e-9)


def test_a_sum_refuses_two_scales() -> None:
    rule = WeightedSum((1, 1), (Operand(0, frozenset()),) * 2)
    one, two = (from_backward((1,), np.full(3, s), np.zeros(3)) for s in (2.0, 3.0))
    assert isinstance(rule.settle(_node(2), {0: one, 1: two}, ~0), Refusal)


@given(seed=seeds, known_port=st.sampled_from([~0, 0, 1]), data=st.data())
def test_a_product_stays_a_product(seed: int, known_port: int, data: st.DataObject) -> None:
    """(N, C) times or over a gate of shape (1, C), along channels."""
    rng = np.random.default_rng(seed)
    exponents = (1, int(rng.choice((-1, 1))))
    broadcast = operands([(2, 4), (1, 4)], (2, 4))
    assert broadcast is not None
    rule = Product(exponents, broadcast)
    every = _settled(rule, 2, known_port, from_backward((1,), mixed(rng, 4), np.zeros(4)), data)
    x = [rng.standard_normal((2, 4)), mixed(rng, 1, 4)]
    wanted = x[0] * x[1] ** exponents[1]
    product = hold(every[0], x[0]) * hold(every[1], x[1]) ** exponents[1]
    np.testing.assert_allclose(hold(every[~0], wanted), product, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ports", list(permutations((~0, 0, 1, 2), 2)))
def test_a_product_of_which_two_are_held_stays_one(ports: tuple[Port, Port]) -> None:
    """Scales along two axes, at any two ports, settled by either of the others; factors and divisors."""
    rng = np.random.default_rng(ports[0] + 5 * ports[1] + 9)
    alike = operands([(2, 4, 3)] * 3, (2, 4, 3))
    assert alike is not None
    for exponents in ((1, *rest) for rest in product((1, -1), repeat=2)):
        rule, node = Product(exponents, alike), _node(3)
        known = {
            port: from_backward((axis,), mixed(rng, n), np.zeros(n))
            for port, axis, n in zip(ports, (1, 2), (4, 3), strict=True)
        }
        x = [mixed(rng, 2, 4, 3) for _ in exponents]
        wanted = np.prod([v**e for v, e in zip(x, exponents, strict=True)], axis=0)
        for taker in rule.takers(node, known):
            demands = rule.settle(node, known, taker)
            assert not isinstance(demands, Refusal)
            every = known | dict(demands)
            assert {port for port, held in every.items() if not held.is_identity} == {*ports, taker}
            got = np.prod(
                [hold(every[j], v) ** e for j, (v, e) in enumerate(zip(x, exponents, strict=True))], axis=0
            )
            np.testing.assert_allclose(hold(every[~0], wanted), got, rtol=1e-9)


def test_a_product_needs_a_direction_in_which_all_scales_are_known() -> None:
    """A scale of zero cannot be taken back: beside one that can only be taken back there is none."""
    rule = Product((1, 1), (Operand(0, frozenset()),) * 2)
    zero = from_backward((0,), np.array([0.0, 2.0]), np.zeros(2))
    there, back = zero, Reparam(zero.axes, zero.forward, zero.backward)
    assert (there.forward, back.backward) == (None, None)
    answer = rule.settle(_node(2), {0: there, 1: back}, ~0)
    assert isinstance(answer, Refusal) and answer.reason is Reason.ZERO_SCALE
    for held in (there, back):
        settled = rule.settle(_node(2), {0: held, 1: held}, ~0)
        assert not isinstance(settled, Refusal)
        ((port, made),) = settled
        assert port == ~0 and [made.backward is None, made.forward is None] == [held is back, held is there]


def test_a_product_refuses_a_shift() -> None:
    rule = Product((1, 1), (Operand(0, frozenset()),) * 2)
    assert isinstance(rule.settle(_node(2), {0: from_backward((1,), np.ones(2), np.ones(2))}, ~0), Refusal)


@given(seed=seeds, known_port=st.sampled_from([~0, 0, 1]), axis=st.sampled_from([1, 2]))
def test_a_concatenation_stays_one(seed: int, known_port: int, axis: int) -> None:
    """Held along the joining axis (1) or along another (2)."""
    rng = np.random.default_rng(seed)
    sizes = (2, 3)
    rule = ConcatSplit(~0, (0, 1), 1, sizes)
    n = 4 if axis == 2 else (5 if known_port == ~0 else sizes[known_port])
    held = from_backward((axis,), mixed(rng, n), rng.standard_normal(n))
    every = _settled(rule, 2, known_port, held, None)
    parts = [rng.standard_normal((2, k, 4)) for k in sizes]
    joined = np.concatenate([hold(every[j], p) for j, p in enumerate(parts)], axis=1)
    np.testing.assert_allclose(hold(every[~0], np.concatenate(parts, axis=1)), joined, rtol=1e-12)


@given(seed=seeds, known_port=st.sampled_from([~0, 0, 1, 2]))
def test_the_greatest_stays_the_greatest(seed: int, known_port: int) -> None:
    """max(s·xⱼ + t) = s·max(xⱼ) + t for s > 0, and likewise for the least."""
    rng = np.random.default_rng(seed)
    rule = Select((0, 1, 2), Sign.NONNEGATIVE)
    held = from_backward((1,), np.abs(mixed(rng, 4)), rng.standard_normal(4))
    every = _settled(rule, 3, known_port, held, None)
    assert set(every) == {~0, 0, 1, 2}
    x = rng.standard_normal((3, 2, 4))
    for choose in (np.max, np.min):
        chosen = choose([hold(every[j], x[j]) for j in range(3)], axis=0)
        np.testing.assert_allclose(hold(every[~0], choose(x, axis=0)), chosen, rtol=1e-12, atol=1e-12)


def test_the_greatest_refuses_a_negative_scale_and_two_scales() -> None:
    rule = Select((0, 1), Sign.NONNEGATIVE)
    up, more, down = (from_backward((1,), np.array([1.0, s]), np.zeros(2)) for s in (2.0, 3.0, -2.0))
    refused = rule.settle(_node(2), {~0: down}, ~0)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.NEGATIVE_SCALE
    assert isinstance(rule.settle(_node(2), {0: up, 1: more}, ~0), Refusal)


@pytest.mark.parametrize("port", [~0, 0, 1])
@pytest.mark.parametrize("size", [1, 4])
def test_a_concat_refuses_what_has_not_as_many_channels_as_its_shape_says(port: Port, size: int) -> None:
    """Shapes of a file may contradict each other."""
    rule = ConcatSplit(~0, (0, 1), 1, (2, 3))
    held = from_backward((1,), np.full(size, 2.0), np.zeros(size))
    refused = Refusal(Reason.AXIS, "Op 'n'", "u")
    assert rule.settle(_node(2), {port: held}, ~0) == refused
