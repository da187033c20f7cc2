"""Affine nodes of equal numbers on one value, or one the inverse of another: all of them go, exactly.

What the first leaves of the others is the identity up to roundings of float64; what is left of a true
difference, however small, stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Keep, Split
from bnfuse.core.graph import Node
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.splits import holdings
from bnfuse.core.reparam import from_backward
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Absorbed, Current, Reaction
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.held_values import Vector, mixed, seeds
from tests.onnx_graphs import Net, assert_equal, fold_model

pytestmark = pytest.mark.usefixtures("shapes_inferred_here")

# What follows each sibling: nothing that could take a scale or a shift.
ENDS = ("Relu", "Sigmoid", "Tanh")
AFFINE = {"BatchNormalization", "Mul", "Add", "Sub", "Div"}


def _normalised(net: Net, x: str, statistics: Sequence[str]) -> str:
    return net.op("BatchNormalization", x, *statistics, epsilon=1e-3)


def _with_zeros(net: Net) -> list[str]:
    """A trained γ may hold zeros: nothing of x is left in such a channel."""
    gamma = net.factors(4) * np.array([1.0, 0.0, 1.0, 0.0])
    return [net.const(gamma), *net.statistics(4)[1:]]


def _all_go(
    net: Net, outputs: Sequence[str], folder: Path, shape: tuple[int, ...] = (2, 3, 6, 7), biases: int = 0
) -> None:
    """No affine node is left (but Adds that hold a product's new bias), and the file computes the same."""
    folded = fold_model(net.build({"x": shape}, list(outputs)), folder)
    assert all(isinstance(d, Fold) for d in folded.plan.decisions), folded.plan.decisions
    left = [op for op in folded.operators(folded.after) if op in AFFINE]
    assert left == ["Add"] * biases
    assert_equal(folded.before, folded.after)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("zeros", [False, True])
def test_siblings_on_one_value(count: int, dtype: str, zeros: bool, tmp_path: Path) -> None:
    net = Net(count, dtype)
    shared = net.conv("x", 3, 4, 3, 3)
    statistics = _with_zeros(net) if zeros else net.statistics(4, positive=dtype == "float16")
    ends = [net.op(end, _normalised(net, shared, statistics)) for end in ENDS[:count]]
    _all_go(net, ends, tmp_path)


BETWEEN: dict[str, Callable[[Net, str], str]] = {
    "Identity": lambda net, x: net.op("Identity", x),
    "Transpose": lambda net, x: net.op("Transpose", x, perm=[0, 1, 3, 2]),
    "Reshape": lambda net, x: net.op("Reshape", x, net.const(np.array([0, 4, -1]))),
    "Slice": lambda net, x: net.op("Slice", x, *(net.const(np.array([n])) for n in (1, 3, 2))),
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("zeros", [False, True])
def test_siblings_behind_other_ops(between: str, zeros: bool, tmp_path: Path) -> None:
    """One reads the value itself, one what an op makes of it; each with arrays of its own."""
    net = Net(5)
    shared = net.conv("x", 3, 4, 3, 3)
    statistics = _with_zeros(net) if zeros else net.statistics(4)
    copies = [net.const(_array(net, name)) for name in statistics]
    ends = [net.op("Relu", _normalised(net, shared, statistics))]
    ends.append(net.op("Sigmoid", _normalised(net, BETWEEN[between](net, shared), copies)))
    _all_go(net, ends, tmp_path)


def _array(net: Net, name: str) -> np.ndarray:
    from onnx import numpy_helper

    return numpy_helper.to_array(next(t for t in net.initializers if t.name == name))


@pytest.mark.parametrize("cut", ["Slice", "Split"])
@pytest.mark.parametrize("zeros", [False, True])
def test_siblings_on_steps_of_one_projection(cut: str, zeros: bool, tmp_path: Path) -> None:
    """x(2,3,5)·W, a step at a time: the same BatchNormalization in each."""
    net = Net(6)
    projected = net.op("MatMul", "x", net.weight(5, 4, fan_in=5))
    statistics = _with_zeros(net) if zeros else net.statistics(4)
    axes = net.const(np.array([1]))
    if cut == "Split":
        names = [f"part{t}" for t in range(3)]
        net.op("Split", projected, net.const(np.array([1, 1, 1])), out=names, axis=1)
    else:
        bounds = [net.const(np.array([t])) for t in range(4)]
        names = [net.op("Slice", projected, bounds[t], bounds[t + 1], axes) for t in range(3)]
    steps = [net.op("Squeeze", name, axes) for name in names]
    made = [net.op("Relu", _normalised(net, step, statistics)) for step in steps]
    joined = net.op("Concat", *(net.op("Unsqueeze", value, axes) for value in made), axis=1)
    _all_go(net, [joined], tmp_path, (2, 3, 5), biases=1)


@pytest.mark.parametrize("ops", [("Mul", "Add"), ("Sub", "Div", "Mul", "Add"), ("Div", "Sub"), ("Mul",)])
def test_decomposed_siblings(ops: Sequence[str], tmp_path: Path) -> None:
    net = Net(7)
    shared = net.conv("x", 3, 4, 3, 3)
    constants = [net.const(net.factors(4).reshape(4, 1, 1)) for _ in ops]
    ends = []
    for end in ENDS:
        value = shared
        for op, constant in zip(ops, constants, strict=True):
            value = net.op(op, value, constant)
        ends.append(net.op(end, value))
    _all_go(net, ends, tmp_path)


def test_a_batchnorm_and_its_decomposed_sibling(tmp_path: Path) -> None:
    """γ·x + β, once as a BatchNormalization with μ = 0 and σ² = 1, once as Mul and Add."""
    net = Net(8)
    shared = net.conv("x", 3, 4, 3, 3)
    gamma, beta = net.factors(4), net.rng.standard_normal(4)
    statistics = [net.const(v) for v in (gamma, beta, np.zeros(4), np.ones(4))]
    ends = [net.op("Relu", net.op("BatchNormalization", shared, *statistics, epsilon=0.0))]
    value = net.op("Mul", shared, net.const(gamma.reshape(4, 1, 1)))
    ends.append(net.op("Tanh", net.op("Add", value, net.const(beta.reshape(4, 1, 1)))))
    _all_go(net, ends, tmp_path)


def test_siblings_behind_a_batchnorm_that_went(tmp_path: Path) -> None:
    """Their value is held in another way by the time that their turn comes."""
    net = Net(9)
    shared = net.bn(net.conv("x", 3, 4, 3, 3), 4)
    statistics = net.statistics(4)
    _all_go(net, [net.op(end, _normalised(net, shared, statistics)) for end in ENDS], tmp_path)


@pytest.mark.parametrize("between", ["", "Transpose", "Identity"])
def test_an_affine_and_its_inverse(between: str, tmp_path: Path) -> None:
    """The input of the model takes nothing, nor does what follows: they can only meet each other."""
    net = Net(10)
    scale, shift = (net.const(net.factors(3).reshape(3, 1, 1)) for _ in range(2))
    value = net.op("Add", net.op("Mul", "x", scale), shift)
    value = BETWEEN[between](net, value) if between else value
    value = net.op("Div", net.op("Sub", value, shift), scale)
    _all_go(net, [net.op("Tanh", value)], tmp_path, (2, 3, 5, 4))


def test_a_batchnorm_and_its_inverse(tmp_path: Path) -> None:
    """y = γ·(x − μ)/σ + β, then (y − β)/γ·σ + μ, with powers of two, whose inverses float32 can store."""
    net = Net(11)
    gamma, sigma = (2.0 ** net.rng.integers(-3, 4, 3) for _ in range(2))
    beta, mean = (net.rng.integers(-9, 9, 3) / 8 for _ in range(2))
    there = [net.const(v) for v in (gamma, beta, mean, sigma**2)]
    back = [net.const(v) for v in (sigma, mean, beta, gamma**2)]
    value = net.op("BatchNormalization", "x", *there, epsilon=0.0)
    value = net.op("BatchNormalization", net.op("Identity", value), *back, epsilon=0.0)
    _all_go(net, [net.op("Sigmoid", value)], tmp_path, (2, 3, 5))


def test_siblings_that_differ_in_their_shift_keep_the_shift_alone(tmp_path: Path) -> None:
    """Decomposed, so that it shows: of the second Mul and Add only the Add stays."""
    net = Net(12)
    shared = net.conv("x", 3, 4, 3, 3)
    scale = net.const(net.factors(4).reshape(4, 1, 1))
    ends = []
    for end in ("Relu", "Sigmoid"):
        value = net.op("Add", net.op("Mul", shared, scale), net.const(net.factors(4).reshape(4, 1, 1)))
        ends.append(net.op(end, value))
    folded = fold_model(net.build({"x": (2, 3, 6, 7)}, ends), tmp_path)
    assert sorted(folded.operators(folded.after)) == ["Add", "Conv", "Relu", "Sigmoid"]
    assert_equal(folded.before, folded.after)


@pytest.mark.parametrize("differs", ["scale", "shift"])
def test_a_small_difference_that_is_there_stays(differs: str, tmp_path: Path) -> None:
    """1e-6 between two shifts (or, in relation, scales) is 10⁹ times what float64 rounds off."""
    net = Net(13, "float64")
    gamma, beta = net.factors(3), np.array([0.25, -1.5, 3.0])
    other = (gamma * (1 + 1e-6), beta) if differs == "scale" else (gamma, beta + 1e-6)
    shared = net.op("MatMul", "x", net.weight(5, 3, fan_in=5))
    ends = []
    for end, (g, b) in zip(("Relu", "Sigmoid"), ((gamma, beta), other), strict=True):
        statistics = [net.const(v) for v in (g, b, np.zeros(3), np.ones(3))]
        ends.append(net.op(end, net.op("BatchNormalization", shared, *statistics, epsilon=0.0)))
    path = tmp_path / "a.onnx"
    path.write_bytes(net.build({"x": (4, 5)}, ends).SerializeToString())
    opened = FORMAT.read(path, ReadOptions())
    planned = plan(opened.graph)
    decided = planned.plan
    assert [type(d) for d in decided.decisions] == [Fold, Keep]
    (left,) = apply(opened.graph, planned).affines.values()
    # y₂ = γ₂·x + β₂ and h = γ₁·x + β₁, so y₂ = (γ₂/γ₁)·h + (β₂ − β₁·γ₂/γ₁).
    wanted_a = np.full(3, 1 + 1e-6 if differs == "scale" else 1.0)
    wanted_c = -1e-6 * beta if differs == "scale" else np.full(3, 1e-6)
    np.testing.assert_allclose(left.a, wanted_a, rtol=1e-15)
    np.testing.assert_allclose(left.c, wanted_c, rtol=1e-8)


class _Numbers:
    def __init__(self, current: Current) -> None:
        self.now = current

    def current(self, node: Node) -> Current:
        return self.now

    def earlier(self, node: Node) -> Sequence[Absorbed]:
        return ()


def _left_of(a: Vector, c: Vector, s: Vector, t: Vector) -> tuple[Vector, Vector]:
    """What a node y = a·x + c becomes where x is held as s·x + t."""
    reaction = Affine((a, c), (1,)).react(
        Node("n", "BatchNormalization", ("x",), ("y",)),
        0,
        from_backward((1,), s, t),
        _Numbers((a, c, (1,))),
    )
    assert isinstance(reaction, Reaction) and reaction.edit is not None
    return reaction.edit.pair


@settings(max_examples=300)
@given(seed=seeds, decades=st.integers(0, 12))
def test_an_equal_sibling_becomes_the_identity(seed: int, decades: int) -> None:
    """Whatever the sizes of a and c: exactly one and exactly zero."""
    rng = np.random.default_rng(seed)
    a, c = (mixed(rng, 50) * 10.0 ** rng.uniform(-decades, decades, 50) for _ in range(2))
    a[rng.random(50) < 0.2] = 0.0
    left_a, left_c = _left_of(a, c, a, c)
    assert (left_a == 1.0).all()
    assert (left_c == 0.0).all()


@settings(max_examples=100)
@given(seed=seeds)
def test_an_equal_sibling_needs_no_shift_where_only_the_shift_went_up(seed: int) -> None:
    """x is held as sign(a)·x + c/|a|: what is left is |a|, as of the one that went."""
    rng = np.random.default_rng(seed)
    a, c = mixed(rng, 50), mixed(rng, 50)
    held, _ = holdings(Split.SHIFT_UP, (1,), a, c)
    assert held.backward is not None
    left_a, left_c = _left_of(a, c, *held.backward)
    np.testing.assert_array_equal(left_a, np.abs(a))
    assert (left_c == 0.0).all()


@settings(max_examples=100)
@given(seed=seeds)
def test_one_step_of_float32_is_no_dust(seed: int) -> None:
    """The least difference that a float32 file can hold between two siblings is left of the second."""
    rng = np.random.default_rng(seed)
    stored_a, stored_c = mixed(rng, 50).astype(np.float32), mixed(rng, 50).astype(np.float32)
    a, c = stored_a.astype(np.float64), stored_c.astype(np.float64)
    next_a, next_c = (np.nextafter(v, np.float32(np.inf)).astype(np.float64) for v in (stored_a, stored_c))
    assert (_left_of(next_a, c, a, c)[0] != 1.0).all()
    left = _left_of(a, next_c, a, c)[1]
    np.testing.assert_allclose(left, next_c - c, rtol=1e-6)
    assert (left != 0.0).all()
