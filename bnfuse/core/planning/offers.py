"""What could go: a node as a whole, or a part of one that stays.

    whole   y = a·x + c                x and y are one tensor (``splits``)
    SCALE   of y = a·x + c             y = h + c' is left
    SHIFT   of y = a·x + c             y = a·h is left
    BIAS    of y = W·x + b             y = W·x is left, where b would have to be a node of its own

A part is what would be a node of its own in the result: of a BatchNormalization that stays as a product
and a sum (``Graph.arithmetic``), or of a linear op that can store no bias. To the search it is an affine
node like any other; what it leaves is told by ``left``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from bnfuse.core.decisions import Part, Split
from bnfuse.core.graph import Node
from bnfuse.core.planning.splits import holdings, splits
from bnfuse.core.reasons import Refusal
from bnfuse.core.reparam import IDENTITY, Pair, Reparam, Vector, from_backward, from_forward
from bnfuse.core.rules.affine import Candidate

if TYPE_CHECKING:
    from bnfuse.core.planning.propagate import Worklist
    from bnfuse.core.planning.state import State


class Offer(Struct, frozen=True, eq=False):
    """Something that could go.

    Attributes:
        node: whose it is.
        wanted: the same as a candidate; None for the bias of a linear op, whose input is no matter.
        a, c: the numbers of the node by now, float64, shape (channels,) or () for one number.
        axes: the axes of x and y that they vary along.
        part: what of it goes.
        may_make: how many nodes may be made for it: the graph does not grow, and shrinks where no BN goes.
    """

    node: Node
    wanted: Candidate | None
    a: Vector
    c: Vector
    axes: tuple[int, ...]
    part: Part = Part.WHOLE
    may_make: int = 0

    @property
    def fixed(self) -> dict[str, int]:
        """Choices that every attempt begins with: a bias does not come back to its own op."""
        return {self.node.name: 1} if self.part is Part.BIAS else {}

    @property
    def shift(self) -> Vector:
        """The shift that goes."""
        return np.zeros_like(self.a) if self.part is Part.SCALE else self.c

    def splits(self) -> Iterable[Split]:
        """The ways to try, in order."""
        match self.part:
            case Part.WHOLE:
                return splits(self.a, self.c)
            case Part.SCALE:
                # What is left of the shift is divided by what y is scaled down by.
                every = splits(self.a, np.zeros_like(self.a))
                return (s for s in every if s is not Split.DOWN or bool(self.a.all()))
            case Part.SHIFT:
                back = bool(self.a[self.c != 0.0].all())
                return (Split.UP, Split.DOWN) if back else (Split.DOWN,)
            case Part.BIAS:
                return (Split.DOWN,)

    def held(self, split: Split) -> tuple[Reparam, Reparam]:
        """How x and y are held when it has gone."""
        match self.part:
            case Part.WHOLE:
                return holdings(split, self.axes, self.a, self.c)
            case Part.SCALE:
                return holdings(split, self.axes, self.a, np.zeros_like(self.a))
        axes, a, c = self.axes, self.a, self.c
        if a.size == 1:  # as in ``holdings``
            axes, a, c = (), a.reshape(()), c.reshape(())
        if split is Split.DOWN:
            return IDENTITY, from_forward(axes, np.ones_like(a), c)
        return from_backward(axes, np.ones_like(a), c / np.where(a == 0.0, 1.0, a)), IDENTITY

    def begin(self, run: Worklist, x_held: Reparam, y_held: Reparam) -> Refusal | None:
        """Begin an attempt with both demands; None when everything was absorbed."""
        if self.wanted is not None:
            return run.run(x_held, y_held)
        run.asked.add((self.node, ~0))  # it lets its bias go
        return run.propagate([(self.node.outputs[0], y_held)])

    def left(self, split: Split) -> Pair:
        """(a, c) of what stays of the node, where only a part goes."""
        if self.part is not Part.SCALE:
            return self.a, np.zeros_like(self.a)
        _, y_held = self.held(split)
        assert y_held.forward is not None, "a scale goes down where it has an inverse alone (``splits``)"
        return np.ones_like(self.a), self.c / y_held.forward[0]


def whole(state: State, wanted: Candidate) -> Offer:
    """A candidate with its numbers by now; one that is arithmetic by now is no BatchNormalization."""
    node = wanted.node
    spare = len(state.graph.calls(node)) if node.is_batchnorm and node not in state.rules else 0
    return Offer(node, wanted, *state.current(node), may_make=spare)
