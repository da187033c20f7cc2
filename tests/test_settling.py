"""Rules of several values, against their own equations: every choice of what is known and who takes the rest.

What the rule answers is put in: held inputs through the operation must be the held output. What it refuses
is refused for the reason that holds.
"""

from __future__ import annotations

from itertools import chain, combinations, permutations, product

import numpy as np
import pytest

from bnfuse.core.graph import Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import IDENTITY, Reparam, from_backward, from_forward, same
from bnfuse.core.rules.base import Demands, Joint, Sign
from bnfuse.core.rules.joint import ConcatSplit, Product, Select
from bnfuse.core.rules.operands import Operand, operands
from bnfuse.core.rules.weighted_sum import WeightedSum
from tests.held_values import hold, mixed

Shape = tuple[int, ...]


def node(*inputs: str) -> Node:
    return Node("n", "Op", inputs, ("y",))


def total(signs: tuple[float, ...], *shapes: Shape) -> WeightedSum:
    lie = operands(list(shapes), np.broadcast_shapes(*shapes))
    assert lie is not None
    return WeightedSum(signs, lie)


def every(known: dict[Port, Reparam], answer: Demands | Refusal) -> dict[Port, Reparam]:
    assert not isinstance(answer, Refusal), answer
    assert not {port for port, _ in answer} & set(known)
    return known | dict(answer)


def refused(answer: Demands | Refusal) -> tuple[Reason, str]:
    assert isinstance(answer, Refusal), answer
    return answer.reason, answer.value


def assert_sum(signs: tuple[float, ...], shapes: tuple[Shape, ...], held: dict[Port, Reparam]) -> None:
    rng = np.random.default_rng(9)
    assert set(held) == {*range(len(signs)), ~0}
    x = [rng.standard_normal(shape) for shape in shapes]
    y = np.asarray(sum(sign * v for sign, v in zip(signs, x, strict=True)))
    summed = sum(sign * hold(held[j], x[j]) for j, sign in enumerate(signs))
    np.testing.assert_allclose(hold(held[~0], y), summed, rtol=1e-9, atol=1e-9)


SUMS = [
    ((1.0, -1.0, 1.0), ((2, 4, 3),) * 3),
    ((1.0 / 3,) * 3, ((2, 4, 3),) * 3),
    ((1.0, -1.0), ((2, 4, 3), (4, 3))),
    ((-1.0, 1.0), ((2, 4, 3), (4, 1))),
    ((1.0, -1.0), ((4, 3), (2, 4, 3))),
]


@pytest.mark.parametrize(("signs", "shapes"), SUMS)
@pytest.mark.parametrize("axes", [(), (1,), (1, 2)], ids=["one number", "channels", "a map"])
def test_a_sum_of_whatever_is_known(
    signs: tuple[float, ...], shapes: tuple[Shape, ...], axes: tuple[int, ...]
) -> None:
    """One scale for all, to each known port a shift of its own; each open port takes the rest in turn."""
    rng = np.random.default_rng(3)
    rule, n = total(signs, *shapes), len(signs)
    values = node(*"abc"[:n])
    ports = (*range(n), ~0)
    full = np.broadcast_shapes(*shapes)
    sizes = tuple(full[a] for a in axes)
    scale = mixed(rng, *sizes)
    if shapes[-1] == (4, 1) and 2 in axes:
        scale = np.repeat(scale[:, :1], 3, axis=1)  # the narrow operand is one number along the last axis
    for known_ports in chain.from_iterable(combinations(ports, k) for k in range(1, n + 1)):
        known = {}
        for port in known_ports:
            rank_lost = 0 if port < 0 else 3 - len(shapes[port])
            shift = rng.standard_normal(sizes)
            if port >= 0 and shapes[port] == (4, 1) and 2 in axes:
                shift = np.repeat(shift[:, :1], 3, axis=1)
            lies = from_backward(axes, scale, shift)
            if port >= 0 and shapes[port] != full:
                lies = from_backward(tuple(a - rank_lost for a in axes), scale, shift)
                if shapes[port] == (4, 1) and 2 in axes:
                    lies = from_backward((0,), scale[:, 0], shift[:, 0])
            known[port] = lies
        takers = rule.takers(values, known)
        assert takers == tuple(p for p in ports if p not in known)
        for taker in takers:
            answer = rule.settle(values, known, taker)
            narrow = [p for p in takers if p >= 0 and shapes[p] == (4, 1)]
            if isinstance(answer, Refusal):
                assert answer.reason is Reason.BROADCAST and taker in narrow and 2 in axes
                continue
            assert_sum(signs, shapes, every(known, answer))


def test_a_sum_whose_ports_are_all_known() -> None:
    """It holds or it does not; dust that rounding left is no shift."""
    rng = np.random.default_rng(1)
    rule, values = total((1.0, -1.0), (2, 4), (2, 4)), node("a", "b")
    s, t, u = mixed(rng, 4), rng.standard_normal(4), rng.standard_normal(4)
    a, b = from_backward((1,), s, t), from_backward((1,), s, u)
    assert rule.settle(values, {0: a, 1: b, ~0: from_backward((1,), s, t - u)}, ~0) == ()
    dusty = from_backward((1,), s, (t - u) * (1 + 1e-16) + 1e-15 * np.abs(t))
    assert rule.settle(values, {0: a, 1: b, ~0: dusty}, ~0) == ()
    for wrong in (t, t - u + 1e-9, np.where(np.arange(4) == 2, 0.5, 0.0) + t - u):
        held = {0: a, 1: b, ~0: from_backward((1,), s, wrong)}
        assert refused(rule.settle(values, held, ~0)) == (Reason.CONFLICT, "y")


def test_a_sum_refuses_two_scales_at_the_port_that_differs() -> None:
    rule, values = total((1.0, 1.0), (2, 4), (2, 4)), node("a", "b")
    two, three = (from_backward((1,), np.full(4, s), np.zeros(4)) for s in (2.0, 3.0))
    assert refused(rule.settle(values, {0: two, 1: three}, ~0)) == (Reason.CONFLICT, "b")
    # one number and a vector of that number are the same scale
    number = from_backward((), np.array(2.0), np.array(1.5))
    held = every({0: number, 1: two}, rule.settle(values, {0: number, 1: two}, ~0))
    assert_sum((1.0, 1.0), ((2, 4), (2, 4)), held)
    held = every({1: three, ~0: three}, rule.settle(values, {1: three, ~0: three}, 0))
    assert_sum((1.0, 1.0), ((2, 4), (2, 4)), held)


def test_shifts_along_different_axes_add_up() -> None:
    """A number, a vector and a map of shifts, under one scale that is a number."""
    rng = np.random.default_rng(2)
    rule, values = total((1.0, -1.0, 1.0), (2, 4, 3), (2, 4, 3), (2, 4, 3)), node("a", "b", "c")
    scale = np.array(-1.5)

    def shifted(axes: tuple[int, ...], *sizes: int) -> Reparam:
        return from_backward(axes, np.broadcast_to(scale, sizes), rng.standard_normal(sizes))

    wide, narrow, number = shifted((1, 2), 4, 3), shifted((2,), 3), shifted(())
    for known in ({0: wide, 1: narrow}, {0: narrow, 2: number}, {1: number, 0: wide}, {~0: wide, 1: narrow}):
        for taker in rule.takers(values, known):
            held = every(known, rule.settle(values, known, taker))
            assert_sum((1.0, -1.0, 1.0), ((2, 4, 3),) * 3, held)
    crossed = {0: shifted((1,), 4), 1: narrow}
    assert refused(rule.settle(values, crossed, ~0)) == (Reason.ZERO_SCALE, "y")
    assert refused(rule.settle(values, crossed, 2)) == (Reason.ZERO_SCALE, "c")


def test_a_scale_along_one_axis_and_shifts_along_others() -> None:
    """The scale varies along channels, spelled out in full where the shift is a map."""
    rng = np.random.default_rng(12)
    signs, shapes = (1.0, -3.0, 1.0), ((2, 4, 3),) * 3
    rule, values = total(signs, *shapes), node("a", "b", "c")
    s = mixed(rng, 4)
    plain = from_backward((1,), s, np.zeros(4))
    shifted = from_backward((1,), s, rng.standard_normal(4))
    wide = from_backward((1, 2), np.repeat(s[:, None], 3, axis=1), rng.standard_normal((4, 3)))
    along_last = from_backward(
        (1, 2), np.repeat(s[:, None], 3, axis=1), np.tile(rng.standard_normal(3), (4, 1))
    )
    unshifted = wide.scale_only
    for first, second in product((plain, shifted, wide, along_last, unshifted), repeat=2):
        known = {0: first, 1: second}
        for taker in (2, ~0):
            assert_sum(signs, shapes, every(known, rule.settle(values, known, taker)))


def test_a_tiny_shift_is_a_shift() -> None:
    """Dust is what cancelled: by the size of the shifts, not of one."""
    rule, values = total((1.0, 1.0), (2, 4), (2, 4)), node("a", "b")
    held = every(
        known := {0: from_backward((1,), np.full(4, 2.0), np.full(4, 1e-15))}, rule.settle(values, known, 1)
    )
    assert held[1].backward is not None and held[~0].backward is not None
    np.testing.assert_array_equal(held[1].backward[1], -1e-15)
    assert not held[~0].shifts


def test_where_dust_ends() -> None:
    """Up to 10⁻¹³ of the shifts is what their roundings leave; more is a shift to be taken."""
    rule, values = total((1.0, 1.0), (2, 1), (2, 1)), node("a", "b")
    ulp = 2.0**-52
    # What is left is a whole number of last places: here exactly as many as the limit.
    steps = next(k for k in range(500, 900) if 1e-13 * (k * ulp * 1e13) == k * ulp)
    large = steps * ulp * 1e13
    for left, is_dust in ((steps * ulp, True), ((steps + 1) * ulp, False), (100 * steps * ulp, False)):
        x, y = (from_backward((1,), np.ones(1), np.array([t])) for t in (large - left, large))
        held = dict(every(known := {0: x, ~0: y}, rule.settle(values, known, 1)))
        assert held[1].shifts is not is_dust
        assert is_dust or (held[1].backward is not None and held[1].backward[1] == left)


def test_who_takes_no_shift_is_held_as_the_scale_is() -> None:
    """Spelled out along no axes that the shifts of others lie along, nor those of shifts that cancel."""
    rng = np.random.default_rng(6)
    rule, values = total((1.0, -1.0, 1.0, 1.0), *((2, 4, 3),) * 4), node(*"abcd")
    number = from_backward((), np.array(2.0), np.zeros(()))
    wide = from_backward((1, 2), np.full((4, 3), 2.0), rng.standard_normal((4, 3)))
    for known in ({0: number, 2: wide}, {0: number, 2: wide, ~0: wide}):
        for taker in rule.takers(values, known):
            held = every(known, rule.settle(values, known, taker))
            assert_sum((1.0, -1.0, 1.0, 1.0), ((2, 4, 3),) * 4, held)
            plain = [p for p in held if p not in known and (p != taker or ~0 in known)]
            assert plain and all(held[p].axes == () for p in plain)


def test_a_value_added_to_itself_and_repeated() -> None:
    """Where a symbol could be 1, what varies along it does not reach the value."""
    rule = WeightedSum((1.0, 1.0), (Operand(0, frozenset({0})),) * 2)
    rows = from_backward((0,), np.array([2.0, 3.0]), np.zeros(2))
    assert refused(rule.share(node("a", "a"), {~0: rows})) == (Reason.BROADCAST, "y")


def test_a_scale_of_zero_is_no_common_scale() -> None:
    rule, values = total((1.0, 1.0), (2, 4), (2, 4)), node("a", "b")
    gone = from_forward((1,), np.array([0.0, 1.0, 2.0, 3.0]), np.zeros(4))
    assert gone.backward is None
    assert refused(rule.settle(values, {0: gone}, ~0)) == (Reason.ZERO_SCALE, "y")
    assert refused(rule.settle(values, {0: gone}, 1)) == (Reason.ZERO_SCALE, "b")
    assert refused(rule.share(values, {0: gone})) == (Reason.ZERO_SCALE, "y")
    moved = from_forward((1,), np.array([0.0, 1.0, 2.0, 3.0]), np.ones(4))
    assert refused(rule.settle(values, {0: moved, 1: moved}, ~0))[0] is Reason.ZERO_SCALE


def test_what_varies_along_a_repeated_axis_does_not_reach_the_narrow_operand() -> None:
    rule, values = total((1.0, 1.0), (2, 4), (1, 4)), node("a", "b")
    rows = from_backward((0,), np.array([2.0, 3.0]), np.zeros(2))
    assert refused(rule.settle(values, {0: rows}, ~0)) == (Reason.BROADCAST, "b")


@pytest.mark.parametrize("signs", [(1.0, 1.0), (1.0, -1.0), (1.0, -3.0)])
def test_all_open_inputs_at_once(signs: tuple[float, float]) -> None:
    """Taker None: what is open gets the same shift; where the signs cancel out nothing is left over."""
    rng = np.random.default_rng(4)
    rule, values = total((*signs, 1.0), (2, 4), (2, 4), (2, 4)), node("a", "b", "c")
    s = mixed(rng, 4)
    known = {
        2: from_backward((1,), s, np.zeros(4)),
        ~0: from_backward((1,), s, np.array([0.0, 1.5, 0.0, -2.0])),
    }
    answer = rule.share(values, known)
    if sum(signs) == 0.0:
        assert refused(answer) == (Reason.CONFLICT, "y")
        shift = rng.standard_normal(4)
        known = {2: from_backward((1,), s, shift), ~0: from_backward((1,), s, shift)}
        answer = rule.share(values, known)
    held = every(known, answer)
    assert same(held[0], held[1])
    assert_sum((*signs, 1.0), ((2, 4),) * 3, held)


@pytest.mark.parametrize("signs", [(1.0, 1.0), (1.0, -1.0), (1.0, 1.0, -3.0)])
def test_one_value_several_times(signs: tuple[float, ...]) -> None:
    """x + x holds also where a scale is zero, both ways; x − x takes no shift."""
    rng = np.random.default_rng(5)
    rule, values = total(signs, *((2, 4),) * len(signs)), node(*"a" * len(signs))
    weight = sum(signs)
    x = rng.standard_normal((2, 4))
    for port in (0, ~0):
        for t in (np.zeros(4), rng.standard_normal(4)):
            known = {port: from_backward((1,), np.array([0.0, -1.5, 2.0, 3.0]), t)}
            answer = rule.share(values, known)
            if weight == 0.0 and t.any():
                assert refused(answer) == (Reason.CONFLICT, "y" if port < 0 else "a")
                continue
            held = every(known, answer) | (dict.fromkeys(range(len(signs)), known[0]) if port == 0 else {})
            np.testing.assert_allclose(
                hold(held[~0], weight * x), sum(k * hold(held[0], x) for k in signs), atol=1e-12
            )
            assert all(same(held[p], held[0]) for p in held if p >= 0)
    # asked from both sides it is a sum like any other
    two = from_backward((1,), np.full(4, 2.0), np.zeros(4))
    assert refused(rule.share(values, {0: two, ~0: from_backward((1,), np.full(4, 3.0), np.zeros(4))}))


def test_a_value_that_cancels_itself_takes_nothing() -> None:
    """a − a + b: asked to take what is over, a cannot."""
    rule, values = total((1.0, -1.0, 1.0), *((2, 4),) * 3), node("a", "a", "b")
    plain, shifted = (
        from_backward((1,), np.full(4, 2.0), np.zeros(4)),
        from_backward((1,), np.full(4, 2.0), np.ones(4)),
    )
    assert refused(rule.settle(values, {2: plain, ~0: shifted}, 0)) == (Reason.CONFLICT, "a")
    held = every({2: plain, ~0: plain}, rule.settle(values, {2: plain, ~0: plain}, 0))
    assert_sum((1.0, -1.0, 1.0), ((2, 4),) * 3, held)


GATES: list[tuple[Shape, Shape]] = [
    ((2, 4, 3), (2, 4, 3)),
    ((2, 4, 3), (4, 1)),
    ((1, 4, 1), (2, 4, 3)),
    ((4, 1), (2, 4, 3)),
]


@pytest.mark.parametrize("exponents", [(1, 1), (1, -1), (-1, 1)])
@pytest.mark.parametrize("shapes", GATES)
def test_a_product_of_whatever_is_known(exponents: tuple[int, int], shapes: tuple[Shape, Shape]) -> None:
    rng = np.random.default_rng(6)
    lie = operands(list(shapes), (2, 4, 3))
    assert lie is not None
    rule, values = Product(exponents, lie), node("a", "b")
    wide = shapes.index((2, 4, 3))
    assert rule.takers(values, {}) == (wide, 1 - wide, ~0)
    x = [mixed(rng, *shape) for shape in shapes]
    y = x[0] ** exponents[0] * x[1] ** exponents[1]

    def channels(port: Port) -> Reparam:
        axis = 1 if port < 0 else shapes[port].index(4)
        return from_backward((axis,), mixed(rng, 4), np.zeros(4))

    for ports in ((0,), (1,), (~0,), (0, 1), (0, ~0), (1, ~0)):
        known = {port: channels(port) for port in ports}
        for taker in rule.takers(values, known):
            held = every(known, rule.settle(values, known, taker))
            found = hold(held[0], x[0]) ** exponents[0] * hold(held[1], x[1]) ** exponents[1]
            np.testing.assert_allclose(hold(held[~0], y), found, rtol=1e-9)
            assert all(held[p] is IDENTITY for p in held if p not in known and p != taker)


def test_a_product_whose_ports_are_all_known() -> None:
    lie = operands([(2, 4), (2, 4)], (2, 4))
    assert lie is not None
    rule, values = Product((1, 1), lie), node("a", "b")
    two, three, six = (from_backward((1,), np.full(4, s), np.zeros(4)) for s in (2.0, 3.0, 6.0))
    assert rule.settle(values, {0: two, 1: three, ~0: six}, ~0) == ()
    assert refused(rule.settle(values, {0: two, 1: two, ~0: six}, ~0)) == (Reason.CONFLICT, "y")
    shifted = from_backward((1,), np.full(4, 2.0), np.ones(4))
    assert refused(rule.settle(values, {1: two, 0: shifted}, ~0)) == (Reason.SHIFT_REFUSED, "a")


def test_a_product_with_zeros() -> None:
    """A zero that one direction lacks; where each direction is lacking somewhere nothing is left."""
    lie = operands([(2, 4), (2, 4), (2, 4)], (2, 4))
    assert lie is not None
    rule, values = Product((1, 1, 1), lie), node("a", "b", "c")
    zeros = np.array([0.0, 1.0, 2.0, 3.0])
    writes, reads = from_backward((1,), zeros, np.zeros(4)), from_forward((1,), zeros, np.zeros(4))
    held = every(
        {0: writes, 1: IDENTITY, 2: IDENTITY}, rule.settle(values, {0: writes, 1: IDENTITY, 2: IDENTITY}, ~0)
    )
    assert held[~0].forward is None and held[~0].backward is not None
    np.testing.assert_array_equal(held[~0].backward[0], zeros)
    known = {0: reads, 1: IDENTITY, 2: IDENTITY}
    held = every(known, rule.settle(values, known, ~0))
    assert held[~0].backward is None and held[~0].forward is not None
    np.testing.assert_array_equal(held[~0].forward[0], zeros)
    assert refused(rule.settle(values, {0: writes, 1: reads}, ~0)) == (Reason.ZERO_SCALE, "y")
    taken = dict(every({0: writes}, rule.settle(values, {0: writes}, 1)))[1]
    assert taken.backward is None and taken.forward is not None
    np.testing.assert_array_equal(taken.forward[0], zeros)


def test_scales_along_different_axes_multiply() -> None:
    lie = operands([(2, 4, 3), (2, 4, 3), (2, 4, 3)], (2, 4, 3))
    assert lie is not None
    rng = np.random.default_rng(8)
    sizes = {(1,): (4,), (2,): (3,), (1, 2): (4, 3), (): ()}
    for first, second in permutations(sizes, 2):
        known = {
            port: from_backward(axes, mixed(rng, *sizes[axes]), np.zeros(sizes[axes]))
            for port, axes in ((0, first), (1, second))
        }
        held = every(known, Product((1, -1, 1), lie).settle(node("a", "b", "c"), known, ~0))
        x = mixed(rng, 2, 4, 3), mixed(rng, 2, 4, 3)
        wanted = hold(held[0], x[0]) / hold(held[1], x[1])
        np.testing.assert_allclose(hold(held[~0], x[0] / x[1]), wanted, rtol=1e-12)


def test_a_product_does_not_reach_a_narrow_operand() -> None:
    lie = operands([(2, 4), (1, 4)], (2, 4))
    assert lie is not None
    rows = from_backward((0,), np.array([2.0, 3.0]), np.zeros(2))
    assert refused(Product((1, 1), lie).settle(node("a", "b"), {~0: rows}, 1)) == (Reason.BROADCAST, "b")


def test_parts_side_by_side() -> None:
    """Three parts, a whole and two of them known: the slices must agree, and the third gets its own."""
    rng = np.random.default_rng(7)
    rule, values = ConcatSplit(~0, (0, 1, 2), 1, (2, 3, 1)), node("a", "b", "c")
    s, t = mixed(rng, 6), rng.standard_normal(6)
    whole = from_backward((1,), s, t)
    cut = [from_backward((1,), s[a:b], t[a:b]) for a, b in ((0, 2), (2, 5), (5, 6))]
    held = every({~0: whole, 1: cut[1]}, rule.settle(values, {~0: whole, 1: cut[1]}, ~0))
    assert set(held) == {0, 1, 2, ~0} and all(same(held[p], cut[p]) for p in range(3))
    assert refused(rule.settle(values, {~0: whole, 1: from_backward((1,), s[1:4], t[1:4])}, ~0)) == (
        Reason.CONFLICT,
        "b",
    )
    assert rule.settle(values, {~0: whole, 0: cut[0], 1: cut[1], 2: cut[2]}, ~0) == ()
    partly = from_backward((1,), np.where(np.arange(6) < 2, s, 1.0), np.where(np.arange(6) < 2, t, 0.0))
    held = every({~0: partly}, rule.settle(values, {~0: partly}, ~0))
    assert held[1] is IDENTITY and held[2] is IDENTITY and same(held[0], cut[0])
    held = every({0: cut[0], 2: cut[2]}, rule.settle(values, {0: cut[0], 2: cut[2]}, ~0))
    assert held[1] is IDENTITY and held[~0].backward is not None
    np.testing.assert_array_equal(held[~0].backward[0], [*s[:2], 1.0, 1.0, 1.0, s[5]])
    np.testing.assert_array_equal(held[~0].backward[1], [*t[:2], 0.0, 0.0, 0.0, t[5]])


def test_parts_along_other_axes() -> None:
    rule, values = ConcatSplit(~0, (0, 1), 1, (2, 3)), node("a", "b")
    rows, others = (from_backward((2,), np.array([2.0, s]), np.zeros(2)) for s in (3.0, 4.0))
    number = from_backward((), np.array(2.0), np.array(1.0))
    assert dict(rule.settle(values, {0: rows}, ~0)) == {~0: rows, 1: rows}  # type: ignore[arg-type]
    assert refused(rule.settle(values, {0: rows, 1: others}, ~0)) == (Reason.CONFLICT, "b")
    assert dict(rule.settle(values, {~0: number}, ~0)) == {0: number, 1: number}  # type: ignore[arg-type]
    # one number for a part alone is a vector of the whole
    held = every({0: number}, rule.settle(values, {0: number}, ~0))
    assert held[1] is IDENTITY and held[~0].axes == (1,) and held[~0].backward is not None
    np.testing.assert_array_equal(held[~0].backward[0], [2.0, 2.0, 1.0, 1.0, 1.0])
    channels = from_backward((1,), np.array([2.0, 3.0]), np.zeros(2))
    assert refused(rule.settle(values, {0: channels, 1: rows}, ~0)) == (Reason.AXIS, "y")
    unknown = ConcatSplit(~0, (0, 1), 1, (2, None))
    assert refused(unknown.settle(values, {0: channels}, ~0)) == (Reason.SHAPE_UNKNOWN, "y")
    assert dict(unknown.settle(values, {0: rows}, ~0)) == {~0: rows, 1: rows}  # type: ignore[arg-type]
    assert rule.takers(values, {}) == (~0,)


def test_parts_with_zeros() -> None:
    """A direction that one part lacks is lacking in the whole."""
    rule, values = ConcatSplit(~0, (0, 1), 1, (2, 1)), node("a", "b")
    zero, one = (
        from_backward((1,), np.array([0.0, 2.0]), np.zeros(2)),
        from_backward((1,), np.ones(1), np.ones(1)),
    )
    held = every({0: zero, 1: one}, rule.settle(values, {0: zero, 1: one}, ~0))
    assert held[~0].forward is None and held[~0].backward is not None
    np.testing.assert_array_equal(held[~0].backward[1], [0.0, 0.0, 1.0])


def test_one_of_several() -> None:
    """A choice by a condition (port 0) takes any scale of the others, and nothing of the condition's."""
    rule, values = Select((1, 2), Sign.ANY), node("c", "a", "b")
    down = from_backward((1,), np.array([-2.0, 1.0]), np.ones(2))
    assert dict(rule.settle(values, {1: down}, ~0)) == {2: down, ~0: down}  # type: ignore[arg-type]
    assert refused(rule.settle(values, {0: down}, ~0)) == (Reason.UNSUPPORTED_OP, "c")
    greatest = Select((0, 1), Sign.NONNEGATIVE)
    answer = greatest.settle(node("a", "b"), {1: down}, ~0)
    assert refused(answer) == (Reason.NEGATIVE_SCALE, "b")
    assert isinstance(answer, Refusal) and answer.detail == "1 of 2 channels are negative"
    flat = from_backward((1,), np.array([0.0, 1.0]), np.ones(2))
    assert dict(greatest.settle(node("a", "b"), {~0: flat}, ~0)) == {0: flat, 1: flat}  # type: ignore[arg-type]
    other = from_backward((1,), np.array([0.5, 1.0]), np.ones(2))
    assert refused(greatest.settle(node("a", "b"), {0: flat, 1: other}, ~0)) == (Reason.CONFLICT, "b")
    assert greatest.takers(node("a", "b"), {}) == (~0,)


def test_rules_that_do_not_choose_say_so() -> None:
    assert Joint().takers(node("a"), {}) == (~0,)
    with pytest.raises(AssertionError, match="Joint"):
        Joint().share(node("a"), {})
    with pytest.raises(AssertionError, match="Joint"):
        Joint().settle(node("a"), {}, ~0)
    assert Joint.joint
