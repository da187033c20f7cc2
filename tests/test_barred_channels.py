"""What is known of channels, asked for directly: who refuses which of them, and what of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from bnfuse.core.axes import Take
from bnfuse.core.decisions import Split
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam, from_backward, from_forward
from bnfuse.core.rules.base import Pass, Sign
from bnfuse.core.rules.clamp import Clamp
from bnfuse.core.rules.joint import ConcatSplit, Product
from tests.core_nets import LEVEL, CoreNet


def _shifted(channels: int) -> Reparam:
    return from_backward((1,), np.ones(channels), np.ones(channels))


def _side_by_side(net: CoreNet, *, axis: int = 1, sizes: tuple[int | None, ...] = (3, 3)) -> None:
    x, z = net.conv("x", name="a"), net.conv("x", name="b")
    whole = net.add("Concat", ConcatSplit(~0, (0, 1), axis, sizes), x, z, channels=6 if axis == 1 else 3)
    net.tanh(whole)


def _cut(net: CoreNet) -> None:
    x = net.conv("x", 5, name="a")
    net.add("Split", ConcatSplit(0, (~0, ~1), 1, (2, 3)), x, outputs=("left", "right"))
    net.channels |= {"left": 2, "right": 3}
    net.tanh("left")
    net.conv("right")


def _three(net: CoreNet) -> None:
    """Three parts side by side, and the whole of other three."""
    net.tanh(net.concat(net.conv("x", 1, name="a"), net.conv("x", 2, name="b"), net.conv("x", 3, name="c")))
    whole, outputs = net.conv("x", 6, name="whole"), ("first", "second", "third")
    net.add("Split", ConcatSplit(0, (~0, ~1, ~2), 1, (1, 2, 3)), whole, outputs=outputs)
    net.channels |= dict(zip(outputs, (1, 2, 3), strict=True))
    net.tanh("third")


def _clamped(net: CoreNet) -> None:
    """An activation that may become another hands on whatever it is."""
    clamp = Clamp(0.0, np.inf, Pass(Sign.NONNEGATIVE), np.dtype(np.float32))
    net.tanh(net.add("Relu", clamp, net.conv("x", name="a")))


def _second_input(net: CoreNet) -> None:
    """A node of two inputs that hands on its second."""
    a, b = net.conv("x", name="a"), net.conv("x", name="b")
    net.tanh(net.add("Second", Pass(in_port=1), a, b, name="second"))


def _unwritten(net: CoreNet) -> None:
    net.conv(net.identity(net.identity("free"), name="a"))


def _several(net: CoreNet) -> None:
    """Channels side by side that others refuse before tanh does, or nobody else."""
    a, b = net.conv("x", name="a"), net.conv("x", name="b")
    net.pinned[a] = Reason.GRAPH_OUTPUT
    net.tanh(net.concat(a, b, name="joined"))


def _behind(net: CoreNet, rule: Pass) -> None:
    net.tanh(net.add("Moves", rule, net.conv("x", name="a")))


def _half_read(net: CoreNet) -> None:
    """Of two parts the second has no name: nobody reads it."""
    x = net.conv("x", 5, name="a")
    net.add("Split", ConcatSplit(0, (~0, ~1), 1, (2, 3)), x, outputs=("left", ""))


def _beside_itself(net: CoreNet) -> None:
    """The same channels twice, cut apart again."""
    x = net.conv("x", name="a")
    whole = net.concat(x, net.identity(x))
    net.add("Split", ConcatSplit(0, (~0, ~1), 1, (3, 3)), whole, outputs=("left", "right"))
    net.tanh("right")


ALL, FIRST, LAST = slice(None), slice(1), slice(-1, None)
NONE, AT_TANH = None, Reason.NONLINEAR
ASKED: list[tuple[Callable[[CoreNet], None], str, slice, Reason | None]] = [
    (_side_by_side, "a_out", ALL, AT_TANH),
    (_side_by_side, "b_out", LAST, AT_TANH),
    (partial(_side_by_side, axis=2), "b_out", LAST, AT_TANH),
    (partial(_side_by_side, sizes=(3, None)), "a_out", ALL, NONE),  # where it lies in the whole is not known
    (_cut, "a_out", FIRST, AT_TANH),
    (_cut, "a_out", LAST, NONE),
    (_cut, "left", ALL, AT_TANH),
    (_cut, "right", ALL, NONE),  # the others of the whole are not asked for
    (_three, "b_out", ALL, AT_TANH),
    (_three, "c_out", LAST, AT_TANH),
    (_three, "whole_out", LAST, AT_TANH),
    (_three, "whole_out", FIRST, NONE),
    (_three, "second", ALL, NONE),
    (_clamped, "a_out", ALL, AT_TANH),
    (_second_input, "a_out", ALL, NONE),
    (_second_input, "b_out", ALL, AT_TANH),
    (_unwritten, "a_out", ALL, Reason.UNREACHABLE),
    (_unwritten, "nowhere", ALL, Reason.UNREACHABLE),
    (_several, "a_out", FIRST, Reason.GRAPH_OUTPUT),
    (_several, "b_out", FIRST, AT_TANH),
    (partial(_behind, rule=Pass(axes=Take(1, (2, 1, 0), 3))), "a_out", ALL, NONE),
    (partial(_behind, rule=Pass(mixed_out=(2,))), "a_out", ALL, NONE),
    (_beside_itself, "a_out", LAST, AT_TANH),
    (_half_read, "a_out", ALL, NONE),
]


@pytest.mark.parametrize(("build", "value", "asked", "reason"), ASKED)
def test_who_refuses_channels(
    build: Callable[[CoreNet], None], value: str, asked: slice, reason: Reason | None
) -> None:
    """A scale of the channels asked for, and of no others, along the one axis."""
    net = CoreNet()
    build(net)
    graph = net.graph()
    graph.moves_bounds = True
    bars = State(graph, moves_bounds=True).bars
    scale = np.ones(net.channels.get(value, 3))
    scale[asked] = 2.0
    found = bars.refusal(value, from_backward((1,), scale, np.zeros_like(scale)), ())
    assert (found and found.reason) == reason
    assert bars.refusal(value, from_backward((1,), np.ones_like(scale), np.zeros_like(scale)), ()) is None
    for axes, n in (((2,), scale.size), ((1,), scale.size + 1), ((1, 2), 0)):
        shape = (n,) if n else (scale.size, 4)
        assert bars.refusal(value, from_backward(axes, np.full(shape, 2.0), np.zeros(shape)), ()) is None


@pytest.mark.parametrize("before", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("barred", [0, 1])
def test_two_sides_are_one_once_it_went(before: tuple[int, ...], after: int, barred: int) -> None:
    """Whichever of them was asked for before, and whoever refuses behind their readers."""
    net = CoreNet()
    x = net.conv("x")
    sides = x, net.bn(x, np.ones(3))
    net.tanh(net.identity(sides[barred]))
    net.conv(sides[1 - barred])
    state = State(net.graph())
    for side in before:
        found = state.bars.refusal(sides[side], _shifted(3), ())
        assert (found is not None) == (side == barred)
    state.accept(Propagation(net.candidates[0], Split.UP, (), (), ()))
    refused = state.bars.refusal(sides[after], _shifted(3), ())
    assert refused is not None and refused.reason is Reason.NONLINEAR


def test_two_sides_may_be_known_along_different_axes() -> None:
    """Channels on one, places on the other: what is known of either is left as it is."""
    net = CoreNet()
    x = net.conv("x")
    y = net.bn(x, np.ones(3))
    net.tanh(y)
    state = State(net.graph())
    along = from_backward((2,), np.full(4, 2.0), np.zeros(4))
    assert state.bars.refusal(x, _shifted(3), ()) is None
    assert state.bars.refusal(y, along, ()) is not None
    state.accept(Propagation(net.candidates[0], Split.UP, (), (), ()))
    assert state.bars.refusal(x, _shifted(3), ()) is None
    assert state.bars.refusal(y, along, ()) is not None


@pytest.mark.parametrize("first", ["a_out", "b_out", "c_out"])
def test_parts_that_nobody_asked_for_have_channels_of_their_own(first: str) -> None:
    """One, two and three side by side, of which tanh reads the last; whichever is asked for first."""
    net = CoreNet()
    parts = [net.conv("x", 1, name="a"), net.conv("x", 2, name="b"), net.conv("x", 3, name="c")]
    net.conv(net.concat(*parts, name="joined"))
    net.tanh(parts[-1])
    bars = State(net.graph()).bars
    bars.refusal(first, _shifted(net.channels[first]), ())
    for channel in range(6):
        scale = np.where(np.arange(6) == channel, 2.0, 1.0)
        refused = bars.refusal("joined_out", from_backward((1,), scale, np.zeros(6)), ())
        assert (refused is not None) == (channel >= 3), channel


def test_a_number_a_map_and_what_cannot_be_written_so_leave_no_trace() -> None:
    """Nothing is known of them, and of channels as much as if they had not been asked for."""
    net = CoreNet()
    x = net.conv("x")
    net.tanh(x)
    bars = State(net.graph()).bars
    nothing = from_forward((1,), np.array([1.0, 0.0, 1.0]), np.ones(3))
    assert nothing.backward is None
    number = from_backward((), np.array(2.0), np.array(0.0))
    for held in (nothing, number, from_backward((1, 2), np.full((3, 4), 2.0), np.zeros((3, 4)))):
        assert bars.refusal(x, held, ()) is None
    assert bars.refusal(x, _shifted(3), ()) is not None


@pytest.mark.parametrize("asked", [FIRST, LAST, ALL])
def test_who_waits_for_any_of_its_channels(asked: slice) -> None:
    net = CoreNet()
    x = net.conv("x")
    net.bn(x, name="norm")
    state = State(net.graph(), waiting=set(net.candidates))
    scale = np.ones(3)
    scale[asked] = 2.0
    refused = state.bars.refusal(x, from_backward((1,), scale, np.zeros(3)), ())
    assert refused is not None and refused.reason is Reason.WAITING


def test_who_waits_behind_what_went_is_known_too() -> None:
    net = CoreNet()
    x = net.conv("x")
    net.tanh(net.bn(net.bn(x, np.ones(3), name="first"), name="second"))
    first, second = net.candidates
    state = State(net.graph(), waiting={first, second})
    refused = state.bars.refusal(x, _shifted(3), ())
    assert refused is not None and refused.node == first.label
    state.waiting = {second}
    assert state.bars.refusal(x, _shifted(3), ()) is None
    state.accept(Propagation(first, Split.UP, (), (), ()))
    refused = state.bars.refusal(x, _shifted(3), ())
    assert refused is not None and refused.node == second.label


@pytest.mark.parametrize("moves", [False, True])
def test_an_activation_refuses_shifts_unless_it_may_become_another(moves: bool) -> None:
    net = CoreNet()
    plain = Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)
    net.conv(net.add("Relu", Clamp(0.0, np.inf, plain, np.dtype(np.float32)), net.conv("x", name="a")))
    graph = net.graph()
    graph.moves_bounds = True
    refused = State(graph, moves_bounds=moves).bars.refusal("a_out", _shifted(3), ())
    assert (refused and refused.reason) == (None if moves else Reason.SHIFT_THROUGH_ACTIVATION)


@pytest.mark.parametrize(("asked", "named"), [("a_out", "free"), ("nowhere", "nowhere")])
def test_what_no_node_writes_is_named(asked: str, named: str) -> None:
    net = CoreNet()
    _unwritten(net)
    assert State(net.graph()).bars.refusal(asked, _shifted(3), ()) == Refusal(Reason.UNREACHABLE, value=named)


@pytest.mark.parametrize(("asked", "waits"), [(FIRST, "left"), (LAST, None), (ALL, "left")])
def test_who_waits_for_other_channels_is_no_matter(asked: slice, waits: str | None) -> None:
    """Nor who reads them and does not wait."""
    net = CoreNet()
    x = net.conv("x", 5)
    net.add("Split", ConcatSplit(0, (~0, ~1), 1, (2, 3)), x, outputs=("a", "b"))
    net.channels |= {"a": 2, "b": 3}
    net.bn("a", name="left")
    net.bn("b", name="right")
    state = State(net.graph(), waiting={net.node("left")})
    scale = np.ones(5)
    scale[asked] = 2.0
    refused = state.bars.refusal(x, from_backward((1,), scale, np.zeros(5)), ())
    assert (refused and refused.node) == (waits and net.node(waits).label)


def test_zeros_behind_a_kernel_are_no_matter() -> None:
    """They stand between the taps: what comes out takes any shift."""
    net = CoreNet()
    y = net.conv("x", taps=2, padded=True)
    net.conv(y)
    assert State(net.graph()).bars.refusal(y, _shifted(3), ()) is None


READERS: list[tuple[Callable[[CoreNet, str], object], Reason | None, Reason | None]] = [
    (lambda net, x: net.conv(x), None, None),
    (lambda net, x: net.conv(x, taps=2, padded=True), None, Reason.ZERO_PADDING),
    (lambda net, x: net.relu(x), None, Reason.SHIFT_THROUGH_ACTIVATION),
    (lambda net, x: net.add("Gate", Product((1, 1), (LEVEL, LEVEL)), x, "g"), None, Reason.SHIFT_REFUSED),
    (lambda net, x: net.tanh(x), Reason.NONLINEAR, Reason.NONLINEAR),
    (lambda net, x: net.bn(x), None, None),
    (lambda net, x: net.bn(x, broken=Refusal(Reason.AXIS, "n", x)), Reason.AXIS, Reason.AXIS),
    (lambda net, x: net.pinned.setdefault(x, Reason.GRAPH_OUTPUT), Reason.GRAPH_OUTPUT, Reason.GRAPH_OUTPUT),
]


@pytest.mark.parametrize(("read", "scaled", "shifted"), READERS)
def test_who_refuses_a_scale_and_who_a_shift(
    read: Callable[[CoreNet, str], object], scaled: Reason | None, shifted: Reason | None
) -> None:
    net = CoreNet()
    x = net.conv("x")
    read(net, x)
    bars = State(net.graph()).bars
    two, none = np.full(3, 2.0), np.zeros(3)
    for held, wanted in ((from_backward((1,), two, none), scaled), (_shifted(3), shifted)):
        found = bars.refusal(x, held, ())
        assert (found and (found.reason, found.value)) == (wanted and (wanted, x))
