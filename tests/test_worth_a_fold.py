"""What makes a fold that goes through on paper not worth it: nodes to make, digits to lose, overflow."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bnfuse.core.apply import NewLinear, overflows
from bnfuse.core.decisions import Fold, Keep, Split
from bnfuse.core.planning.offers import Offer, whole
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.planning.worth import made_nodes, objection
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.rules.affine import Typical, candidate
from bnfuse.core.rules.base import Absorbed
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import Rewrite, linear_form
from tests.core_nets import CoreNet, stored

ONE, NONE = np.ones(3), np.zeros(3)
SHIFT = Absorbed(~0, (ONE, np.array([0.0, 0.5, 0.0])))
SCALE = Absorbed(~0, (2 * ONE, NONE))


def _spread(net: CoreNet, *edits: tuple[str, Absorbed], node: str = "bn") -> Propagation:
    made = tuple((net.node(name), edit) for name, edit in edits)
    return Propagation(net.node(node), Split.UP, made, tuple(n for n, _ in made), ())


def _four_linears() -> CoreNet:
    """One with a bias, one whose bias costs nothing, and two whose bias costs a node, and two."""
    net = CoreNet()
    for name, more in {
        "biased": {"bias_nodes": 1},
        "free": {"bias": False},
        "one": {"bias": False, "bias_nodes": 1},
        "two": {"bias": False, "bias_nodes": 2},
    }.items():
        net.conv("x", name=name, **more)  # type: ignore[arg-type]
    net.bn("x", name="bn")
    net.relu("x", name="relu")
    return net


# edits of the attempt → the nodes to be made, where nothing, or what is named, was shifted before
NODES: list[tuple[list[tuple[str, Absorbed]], list[str], str]] = [
    ([("one", SHIFT)], ["one"], ""),
    ([("two", SHIFT)], ["two", "two"], ""),
    ([("one", SCALE)], [], ""),
    ([("biased", SHIFT), ("free", SHIFT), ("bn", SHIFT), ("one", SHIFT)], ["one"], ""),
    ([("one", SCALE), ("one", SHIFT), ("one", SHIFT), ("two", SHIFT)], ["one", "two", "two"], ""),
    ([("one", SHIFT), ("two", SHIFT)], ["two", "two"], "one"),
]


@pytest.mark.parametrize(("edits", "made", "before"), NODES)
def test_a_bias_that_is_made_is_counted_once(
    edits: list[tuple[str, Absorbed]], made: list[str], before: str
) -> None:
    net = _four_linears()
    state = State(net.graph())
    if before:
        state.edits[net.node(before)] = [SCALE, SHIFT]
    state.edits[net.node("two")] = [SCALE]
    assert [n.name for n in made_nodes(state, _spread(net, *edits))] == made


def _behind_a_product(op: str, nodes: int) -> CoreNet:
    """W·x without a bias, then an affine that nobody behind it takes on."""
    net = CoreNet(3)
    y = net.conv("x", bias=False, bias_nodes=nodes, name="product")
    net.tanh(net.bn(y, op=op, name="bn"))
    return net


@pytest.mark.parametrize(
    ("op", "nodes", "goes"),
    [
        ("BatchNormalization", 0, True),
        ("BatchNormalization", 1, True),
        ("BatchNormalization", 2, False),
        ("Mul", 0, True),
        ("Mul", 1, False),
    ],
)
def test_a_graph_does_not_grow_by_a_fold(op: str, nodes: int, goes: bool) -> None:
    """One node for one BatchNormalization; a Mul or an Add goes only where the graph gets smaller."""
    net = _behind_a_product(op, nodes)
    (decision,) = plan(net.graph("tanh2_out")).plan.decisions
    assert isinstance(decision, Fold) is goes
    if isinstance(decision, Keep):
        assert decision.primary == Refusal(Reason.NO_GAIN, f"{op} 'bn'", split="up")


def _shifted(a: Any, c: Any, magnitude: Any, readers: int) -> CoreNet:
    net = CoreNet(4)
    y = net.conv("x", name="writer")
    typical = None if magnitude is None else Typical(NONE, magnitude)
    net.conv(net.bn(y, a, c, typical=typical, name="bn"), name="behind")
    for _ in range(readers - 1):
        net.conv(y)
    return net


# a, c, typical size of x, readers of x → how many times more than it varies x would be shifted, if too many
DIGITS: list[tuple[Any, Any, Any, int, str]] = [
    ([1, 2, 1], [1, 1.8e3, 1], ONE, 2, ""),
    ([1, 2, 1], [1, 2e3, 1], ONE, 2, ""),
    ([1, 2, 1], [1, 2.2e3, 1], ONE, 2, "1000 times"),
    ([1, -2, 1], [1, -5e3, 1], ONE, 2, "2000 times"),
    ([1, 2, 1], [1, 5e3, 1], ONE, 1, ""),
    ([1, 2, 1], [1, 5e3, 1], None, 2, ""),
    ([1, 2, 1], [1, 5e3, 1], 0.001 * ONE, 3, "2e+06 times"),
    ([1, 0, 1], [1, 5e3, 1], ONE, 2, ""),  # nothing of x is left there
    ([1, 1, 1], [1, 0, 1], np.array([1.0, 0.0, 1.0]), 2, ""),  # nor is it shifted
    ([1, 1, 1], [5e3, 0, 1], np.array([1.0, 0.0, 1.0]), 2, "5000 times"),
    ([1, 1, 1], [0, 1, 0], np.array([1.0, 0.0, 1.0]), 2, "inf times"),
]


def offered(state: State) -> Offer:
    (node,) = [node for node in state.graph.nodes if node.name == "bn"]
    return whole(state, candidate(state.graph, node))


@pytest.mark.parametrize(("a", "c", "magnitude", "readers", "times"), DIGITS)
@pytest.mark.parametrize("split", Split)
def test_what_others_read_is_not_shifted_by_far_more_than_it_varies(
    split: Split, a: Any, c: Any, magnitude: Any, readers: int, times: str
) -> None:
    net = _shifted(a, c, magnitude, readers)
    state = State(net.graph())
    found = Propagation(net.node("bn"), split, (), (), ())
    refused = Refusal(Reason.PRECISION, "BatchNormalization 'bn'", "writer_out", times, split.value)
    shifts_x = split not in (Split.DOWN, Split.SCALE_UP)
    assert objection(state, offered(state), found, 0) == (refused if times and shifts_x else None)


def test_an_attempt_whose_weights_overflow_names_the_op_and_its_type() -> None:
    """All that a linear op took on counts: earlier folds, and each edit of this one."""
    net = CoreNet(5)
    net.conv("x", dtype=np.float32, name="other")
    net.conv("x", dtype=np.float16, name="half")
    net.bn("x", name="bn")
    net.relu("x", name="relu")
    state = State(net.graph())
    large, small = (Absorbed(~0, (k * ONE, NONE)) for k in (1e3, 1e-3))
    refused = Refusal(Reason.OVERFLOW, "Conv 'half'", detail="float16", split="up")
    for edits, earlier, wanted in [
        ([large, large], [], refused),
        ([large], [], None),
        ([large], [large], refused),
        ([large, large], [small], None),
        ([large, small, large], [small], None),
    ]:
        state.edits[net.node("half")] = list(earlier)
        found = _spread(net, ("bn", SHIFT), ("other", SHIFT), ("relu", SHIFT), *(("half", e) for e in edits))
        assert objection(state, offered(state), found, 0) == wanted
    assert objection(state, offered(state), found, 2) == Refusal(
        Reason.NO_GAIN, "BatchNormalization 'bn'", split="up"
    )


class _Unread:
    """A weight that must not be read."""

    shape: tuple[int, ...] = (3, 3)

    def __init__(self, dtype: Any) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    def read(self, start: int, stop: int) -> Any:
        raise EOFError


def _product(weight: Any, **more: Any) -> Linear:
    return Linear(weight, linear_form((3, 3), "o i"), more.pop("bias", None), 1, 1, **more)


def _rewrites(scale: float, shift: float = 0.0) -> list[Rewrite]:
    pair = (np.array([1.0, scale, 0.5]), np.array([0.0, shift, 0.0]))
    return [Rewrite(pair, None), Rewrite(None, pair), Rewrite((ONE, NONE), pair), Rewrite(pair, (ONE, NONE))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_are_read_only_where_they_could_overflow(dtype: Any) -> None:
    """Factors up to 2⁴⁰ either way are harmless but in two bytes; small ones always are."""
    for scale, shift in [(-(2.0**39.9), 2.0**39.9), (1e-30, -(2.0**39.9)), (-1.0, 0.0)]:
        for rewrite in _rewrites(scale, shift):
            assert not overflows(_product(_Unread(dtype)), rewrite)
    for scale, shift in [(2.0**40, 0.0), (-(2.0**41), 0.0), (1.0, -(2.0**40)), (2.0, np.inf), (np.nan, 0.0)]:
        for rewrite in _rewrites(scale, shift):
            with pytest.raises(EOFError):
                overflows(_product(_Unread(dtype), bias=_Unread(dtype)), rewrite)
    for narrow in (np.float16, ml_dtypes.bfloat16):
        with pytest.raises(EOFError):
            overflows(_product(_Unread(narrow)), _rewrites(2.0)[0])
        with pytest.raises(EOFError):
            overflows(_product(_Unread(np.float32), computes=np.dtype(narrow)), _rewrites(2.0)[0])


# type of the weight, of what is computed, weight, bias, scale, shift → whether it fits
FITS: list[tuple[Any, Any, float, float | None, float, float, bool]] = [
    (np.float16, None, 60.0, None, 1000.0, 0.0, True),
    (np.float16, None, 70.0, None, 1000.0, 0.0, False),
    (np.float16, None, 1.0, None, 1.0, 7e4, False),
    (np.float16, None, 1.0, None, 1.0, 6e4, True),
    (np.float16, None, 1.0, 600.0, 100.0, 0.0, True),
    (np.float16, None, 1.0, 600.0, 200.0, 0.0, False),
    (np.float32, np.float16, 70.0, None, 1000.0, 0.0, False),
    (np.float32, np.float16, 60.0, None, 1000.0, 0.0, True),
    (np.float32, None, 1e30, None, 1e20, 0.0, False),
    (np.float32, None, 1e15, None, 1e20, 0.0, True),
    (np.float64, None, 1e30, None, 1e20, 0.0, True),
    (np.float32, None, 1.0, None, 1.0, 1e39, False),
    (np.float16, None, 1.0, None, 1.0, np.nan, False),
]


@pytest.mark.parametrize(("dtype", "computes", "weight", "bias", "scale", "shift", "fits"), FITS)
def test_what_does_not_fit_its_type(
    dtype: Any, computes: Any, weight: float, bias: float | None, scale: float, shift: float, fits: bool
) -> None:
    """One weight on the diagonal is the largest; it stands in the channel that is scaled and shifted."""
    w = np.diag([1.0, weight, 1.0]).astype(dtype)
    b = None if bias is None else stored(np.array([1.0, bias, 1.0], dtype))
    rule = _product(stored(w), bias=b, computes=None if computes is None else np.dtype(computes))
    pair = (np.array([1.0, scale, 1.0]), np.array([0.0, shift, 0.0]))
    assert overflows(rule, Rewrite(None, pair)) is not fits


def test_a_new_bias_follows_the_formula() -> None:
    """b' = s·(β·b + α·W·q) + t for α·W·x + β·b, the new op computing W'·x + b' alone."""
    rng = np.random.default_rng(6)
    w, b = rng.standard_normal((4, 3)), rng.standard_normal(4)
    read, write = ((rng.standard_normal(n), rng.standard_normal(n)) for n in (3, 4))
    for stored_bias, b_full in ((b, b), (b[None], b), (b[:1], np.full(4, b[0])), (None, np.zeros(4))):
        for alpha, beta in ((1.0, 1.0), (-0.5, 2.0), (2.0, 0.0)):
            old = None if stored_bias is None else stored(stored_bias)
            form = linear_form((4, 3), "o i")
            rule = Linear(stored(w), form, old, 1, 1, gain=alpha, bias_gain=beta)
            rewrite = rule.composed([Absorbed(~0, write), Absorbed(0, read)])
            made = NewLinear(None, rule, rewrite, ())
            assert made.makes_bias
            wanted = write[0] * (beta * b_full + alpha * w @ read[1]) + write[1]
            np.testing.assert_allclose(made.bias(), wanted, rtol=1e-12)
            for port in (0, ~0):  # twice at one side
                n = 3 if port == 0 else 4
                first, then = ((rng.standard_normal(n), rng.standard_normal(n)) for _ in range(2))
                made = NewLinear(None, rule, rule.composed([Absorbed(port, first), Absorbed(port, then)]), ())
                if port == 0:
                    wanted = beta * b_full + alpha * w @ (first[0] * then[1] + first[1])
                else:
                    wanted = then[0] * (first[0] * beta * b_full + first[1]) + then[1]
                np.testing.assert_allclose(made.bias(), wanted, rtol=1e-12)


# bias, α, β, what is read, what is written (scale, shift) → whether a bias is made or changed
BIASES: list[tuple[bool, float, float, tuple[float, float] | None, tuple[float, float] | None, bool]] = [
    (True, 1.0, 1.0, (2.0, 0.0), None, False),
    (True, 1.0, 1.0, (2.0, 1.0), None, True),
    (False, 1.0, 1.0, (2.0, 1.0), None, True),
    (True, 1.0, 1.0, None, (2.0, 0.0), True),
    (True, 1.0, 1.0, (3.0, 0.0), (1.0, 0.0), False),
    (False, 1.0, 1.0, (3.0, 0.0), (2.0, 0.0), False),
    (False, 1.0, 1.0, None, (1.0, 1.0), True),
    (True, 1.0, 2.0, (2.0, 0.0), None, True),
    (False, 1.0, 2.0, (2.0, 0.0), None, False),
]


@pytest.mark.parametrize(("bias", "alpha", "beta", "read", "write", "made"), BIASES)
def test_a_bias_is_made_only_where_it_changes(
    bias: bool,
    alpha: float,
    beta: float,
    read: tuple[float, float] | None,
    write: tuple[float, float] | None,
    made: bool,
) -> None:
    """Told by one channel of three; the others stay as they are."""

    def pair(given: tuple[float, float] | None) -> Any:
        return given and tuple(np.array([k, v, k]) for v, k in zip(given, (1.0, 0.0), strict=True))

    rule = _product(stored(np.eye(3)), bias=stored(ONE) if bias else None, gain=alpha, bias_gain=beta)
    assert NewLinear(None, rule, Rewrite(pair(read), pair(write)), ()).makes_bias is made
