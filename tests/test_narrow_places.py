"""Where a BatchNormalization over a concatenation or a sum could move, on graphs made by hand.

Every branch ends in an affine node that can absorb anything; ``places`` says which inputs are worth it, and
``narrow`` what the others take on: with that, and the BatchNormalization on its part, the numbers must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from bnfuse.core.decisions import Keep
from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.planning.narrow import narrow, places
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.state import Narrowing, State
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Pair
from bnfuse.core.rules.affine import Affine, Candidate, candidate
from bnfuse.core.rules.base import Opaque, Pass, Rule
from bnfuse.core.rules.joint import ConcatSplit
from bnfuse.core.rules.operands import operands
from bnfuse.core.rules.weighted_sum import WeightedSum
from tests.held_values import Vector, mixed

Shape = tuple[int, ...]


@dataclass
class Scene:
    """Branches (each written by an affine node) → joint → … → BatchNormalization → something opaque."""

    joint: Rule
    inputs: tuple[str, ...]
    channels: int
    axes: tuple[int, ...] = (1,)
    batchnorm: bool = True
    broken: Refusal | None = None
    between: int = 0  # affine nodes that went before
    long: int = 0  # nodes that pass everything on, before each branch's end
    pinned: dict[str, Reason] = field(default_factory=dict)
    readers: int = 1
    tied: tuple[str, ...] = ()
    movable: Callable[[Graph, Node, Node, Port], bool] = lambda *_: True
    outputs: tuple[str, ...] = ("joined",)
    rule: Rule | None = None  # in place of the BatchNormalization's
    state: State = field(init=False)
    bn: Node = field(init=False)
    pair: Pair = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.channels)
        sizes = [self.channels] * len(self.axes)
        self.pair = mixed(rng, *sizes), rng.standard_normal(sizes)
        rules: dict[str, Rule] = {"joint": self.joint, "end": Opaque()}
        nodes: list[Node] = []
        for name in dict.fromkeys(self.inputs):
            steps = [f"{name}{step}" for step in range(self.long)]
            for step, (x, y) in zip([f"write {name}", *steps], pairwise(["in", *steps, name]), strict=True):
                nodes.append(Node(step, "Op", (x,), (y,)))
                rules[step] = Pass()
            rules[f"write {name}"] = Affine((np.ones(()), np.zeros(())), ())
        joint = Node("joint", "Op", self.inputs, self.outputs)
        nodes.append(joint)
        value, gone = self.outputs[0], []
        for past in (f"past{at}" for at in range(self.between)):
            gone.append(Node(past, "Mul", ("0", value), (past,)))
            rules[past] = Affine((np.ones(()), np.zeros(())), (), in_port=1)
            value = past
        self.bn = Node("bn", "BatchNormalization", (value,), ("y",), is_batchnorm=self.batchnorm)
        rules["bn"] = self.rule or Affine(self.pair, self.axes, broken=self.broken)
        ends = [Node("end", "Tanh", (v,), ()) for v in ["y", *[value] * (self.readers - 1)]]
        nodes += [*gone, self.bn, *ends]
        by_name = {n.name: n for n in nodes}
        again: tuple[Node, ...] = (Node("again", "Op", (), ()),)
        tied = {by_name[name]: again for name in self.tied}
        graph = Graph(nodes, self.pinned, [self.bn], lambda n: rules[n.name], tied, self.movable)
        self.state = State(graph, removed=set(gone))

    @property
    def moving(self) -> Candidate:
        """The BatchNormalization as what may move."""
        return candidate(self.state.graph, self.bn)

    @property
    def ports(self) -> list[Port]:
        """The inputs that the BatchNormalization could move to, the best first."""
        return [place.port for place in places(self.state, self.moving)]


def _concat(*sizes: int | None, axis: int = 1) -> ConcatSplit:
    return ConcatSplit(~0, tuple(range(len(sizes))), axis, sizes)


def _sum(signs: tuple[float, ...], *shapes: Shape) -> WeightedSum:
    lie = operands(list(shapes), np.broadcast_shapes(*shapes))
    assert lie is not None
    return WeightedSum(signs, lie)


def _joined(**other: object) -> Scene:
    return Scene(_concat(3, 5), ("a", "b"), 8, **other)  # type: ignore[arg-type]


WIDE, FLAT, NARROW, LOWER = (2, 6, 4, 5), (2, 6, 1, 1), (2, 6, 4, 1), (6, 1, 1)
FOUR = Scene(_concat(3, 4, 1, 4), tuple("abcd"), 12)
WHY = Refusal(Reason.INVALID_STATISTICS, "bn")
OFFERED: dict[str, tuple[Scene, list[Port]]] = {
    "at most half of the channels, the fewest first": (FOUR, [2, 0, 1, 3]),
    "exactly half": (Scene(_concat(4, 4), ("a", "b"), 8), [0, 1]),
    "more than half": (_joined(), [0]),
    "nothing at all": (Scene(_concat(0, 3, 5), tuple("abc"), 8), [1]),
    "one value twice": (Scene(_concat(2, 2, 8, 1), tuple("aabc"), 13), [3]),
    "an unknown size": (Scene(_concat(1, None, 5), tuple("abc"), 8), []),
    "another axis": (Scene(_concat(3, 5, axis=2), ("a", "b"), 8), []),
    "a split": (Scene(ConcatSplit(0, (~0, ~1), 1, (4, 4)), ("a",), 8, outputs=("joined", "rest")), []),
    "past what went": (_joined(between=3), [0]),
    "read by others": (_joined(readers=2), []),
    "read by others past what went": (_joined(readers=2, between=1), []),
    "an output of the model": (_joined(pinned={"joined": Reason.GRAPH_OUTPUT}), []),
    "an output past what went": (_joined(pinned={"joined": Reason.GRAPH_OUTPUT}, between=1), []),
    "no BatchNormalization": (_joined(batchnorm=False), []),
    "a broken one": (_joined(broken=WHY), []),
    "called several times": (_joined(tied=("bn",)), []),
    "behind what is called several times": (_joined(tied=("joint",)), []),
    "the format cannot move it": (
        Scene(_concat(1, 1, 6), tuple("abc"), 8, movable=lambda graph, node, joint, port: port == 1),
        [1],
    ),
    "one number": (_joined(axes=()), []),
    "two axes": (_joined(axes=(1, 2)), []),
    "behind something else": (Scene(Opaque(), ("a",), 6), []),
    "a smaller operand": (Scene(_sum((1.0, -1.0), WIDE, FLAT), ("a", "b"), 6), [1]),
    "two smaller operands": (Scene(_sum((1.0, -1.0, 1.0), FLAT, WIDE, NARROW), tuple("abc"), 6), [0, 2]),
    "operands as large as the sum": (Scene(_sum((1.0, 1.0), WIDE, WIDE), ("a", "b"), 6), []),
    "an operand of another rank": (Scene(_sum((1.0, 1.0), WIDE, LOWER), ("a", "b"), 6), []),
    "an operand that is one for all channels": (
        Scene(_sum((1.0, 1.0, 1.0), WIDE, FLAT, (2, 1, 4, 5)), tuple("abc"), 6),
        [],
    ),
    "an operand that counts twice": (Scene(_sum((1.0, 2.0, -0.5), WIDE, FLAT, FLAT), tuple("abc"), 6), []),
    "one operand twice": (Scene(_sum((1.0, 1.0, 1.0, -1.0), WIDE, FLAT, FLAT, FLAT), tuple("abbc"), 6), [3]),
}


@pytest.mark.parametrize(("scene", "ports"), OFFERED.values(), ids=OFFERED)
def test_where_it_could_move(scene: Scene, ports: list[Port]) -> None:
    assert scene.ports == ports


@pytest.mark.parametrize("rule", [Opaque(Reason.TRAINING_MODE), Pass()], ids=["opaque", "pass"])
def test_what_is_not_affine_stays_whole(rule: Rule) -> None:
    scene = _joined(rule=rule)
    (decision,) = plan(scene.state.graph).plan.decisions
    assert isinstance(decision, Keep) and decision.narrowed is None
    with pytest.raises(AssertionError, match="BatchNormalization 'bn' is no"):
        _ = scene.moving


def test_a_place_tells_its_channels_and_what_is_left() -> None:
    found = places(FOUR.state, FOUR.moving)
    assert [(p.joint.name, p.start, p.stop, p.flips) for p in found] == [
        ("joint", 7, 8, False),
        ("joint", 0, 3, False),
        ("joint", 3, 7, False),
        ("joint", 8, 12, False),
    ]
    assert [p.share for p in found] == pytest.approx([1 / 12, 3 / 12, 4 / 12, 4 / 12])
    scene = Scene(_sum((1.0, -1.0, 1.0), FLAT, FLAT, WIDE), tuple("abc"), 6)
    found = places(scene.state, scene.moving)
    assert [(p.start, p.stop, p.flips, p.share) for p in found] == [(0, 6, False, 0.0), (0, 6, True, 0.0)]


def _taken(scene: Scene, move: Narrowing) -> dict[str, Pair]:
    """What the writer of each branch computes from now on, of x = 1·x + 0."""
    return {node.name[-1]: edit.pair for node, edit in move.propagation.edits}


@pytest.mark.parametrize("stays", [0, 1, 3])
@pytest.mark.parametrize("between", [0, 2])
def test_the_other_branches_of_a_concatenation_take_their_share(stays: int, between: int) -> None:
    sizes = (3, 4, 1, 4)
    scene = Scene(_concat(*sizes), tuple("abcd"), 12, between=between)
    (place,) = [p for p in places(scene.state, scene.moving) if p.port == stays]
    move = narrow(scene.state, scene.moving, place)
    assert isinstance(move, Narrowing) and move.place is place
    taken = _taken(scene, move)
    assert set(taken) == set("abcd") - {"abcd"[stays]}
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((2, n)) for n in sizes]
    a, c = scene.pair
    parts = []
    for port, (name, v) in enumerate(zip("abcd", x, strict=True)):
        cut = slice(place.start, place.stop)
        scale, shift = (a[cut], c[cut]) if port == stays else taken[name]
        parts.append(scale * v + shift)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), a * np.concatenate(x, axis=1) + c, rtol=1e-12)


@pytest.mark.parametrize("signs", [(1.0, 1.0, -1.0), (-1.0, 1.0, 3.0)])
@pytest.mark.parametrize("stays", [0, 1])
def test_the_other_operands_of_a_sum_take_the_scale(signs: tuple[float, ...], stays: int) -> None:
    shapes = (FLAT, NARROW, WIDE)
    scene = Scene(_sum(signs, *shapes), tuple("abc"), 6)
    (place,) = [p for p in places(scene.state, scene.moving) if p.port == stays]
    move = narrow(scene.state, scene.moving, place)
    assert isinstance(move, Narrowing)
    taken = _taken(scene, move)
    assert set(taken) == set("abc") - {"abc"[stays]}
    rng = np.random.default_rng(0)
    x = [rng.standard_normal(shape) for shape in shapes]
    a, c = (v[:, None, None] for v in scene.pair)
    total: Vector = np.zeros(WIDE)
    for port, (name, v) in enumerate(zip("abc", x, strict=True)):
        if port == stays:
            held = a * v + (-c if place.flips else c)
        else:
            scale, shift = (k[:, None, None] for k in taken[name])
            held = scale * v + shift
        total = total + signs[port] * held
    plain = sum(sign * v for sign, v in zip(signs, x, strict=True))
    np.testing.assert_allclose(total, a * plain + c, rtol=1e-12)


def test_a_branch_that_takes_nothing_stops_the_move() -> None:
    scene = _joined(pinned={"b": Reason.GRAPH_OUTPUT})
    (place,) = places(scene.state, scene.moving)
    refused = narrow(scene.state, scene.moving, place)
    assert isinstance(refused, Refusal) and (refused.reason, refused.value) == (Reason.GRAPH_OUTPUT, "b")


def test_a_move_that_goes_far_is_not_searched_but_replayed() -> None:
    near, far = _joined(long=20), _joined(long=30)
    for scene in (near, far):
        (place,) = places(scene.state, scene.moving)
        found = narrow(scene.state, scene.moving, place)
        assert isinstance(found, Narrowing if scene is near else Refusal)
        assert isinstance(found, Narrowing) or found.reason is Reason.TOO_FAR
        again = narrow(scene.state, scene.moving, place, {})
        assert isinstance(again, Narrowing) and "b" in _taken(scene, again)


def test_a_move_is_replayed_with_its_choices() -> None:
    """A sum before the second branch: which of its operands takes the shift."""
    rules: dict[str, Rule] = {
        "u": Affine((np.ones(()), np.zeros(())), ()),
        "v": Affine((np.ones(()), np.zeros(())), ()),
        "a": Opaque(),
        "sum": _sum((1.0, 1.0), (2, 5), (2, 5)),
        "joint": _concat(3, 5),
        "bn": Affine((np.arange(1.0, 9.0), np.ones(8)), (1,)),
        "end": Opaque(),
    }
    reads = {
        "u": ("x",),
        "v": ("x",),
        "a": ("x",),
        "sum": ("u", "v"),
        "joint": ("a", "sum"),
        "bn": ("joint",),
    }
    nodes = [Node(name, "Op", inputs, (name,), is_batchnorm=name == "bn") for name, inputs in reads.items()]
    nodes.append(Node("end", "Op", ("bn",), ()))
    state = State(Graph(nodes, {}, [nodes[5]], lambda n: rules[n.name], movable=lambda *_: True))
    moving = candidate(state.graph, nodes[5])
    (place,) = places(state, moving)
    for choices, shifted in ((None, "u"), ({"sum": 0}, "u"), ({"sum": 1}, "v")):
        move = narrow(state, moving, place, choices)
        assert isinstance(move, Narrowing)
        assert move.propagation.choices == (("sum", int(shifted == "v")),)
        assert [n.name for n, edit in move.propagation.edits if edit.pair[1].any()] == [shifted]
