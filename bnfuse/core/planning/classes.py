"""Values that can only be scaled together, and what that class as a whole allows.

A residual stream is one class: whoever scales one of its values scales all of them. If any of them
is fixed (an input or output of the model, the input of an op that takes no scale), no scale at all
can come in anywhere; if a ReLU reads one, only positive scales can. Knowing that spares an attempt
the way along the whole stream, for each of its thousands of BatchNormalizations.

Classes are found when first asked for and only ever grow: a removed affine makes its input and
output one value. What links two values must do so for every scale; ops of which that is not certain
separate classes, which costs time but never a fold.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.core.axes import Permute, SameAxes
from bnfuse.core.graph import Graph, Node, Port
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.reparam import Reparam
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Pass, Sign
from bnfuse.core.rules.clamp import Clamp
from bnfuse.core.rules.weighted_sum import WeightedSum


class ScaleClass(Struct, eq=False):
    """What is known of a class.

    Attributes:
        fixed: why no scale can come in; None where one may.
        positive: why no negative scale can come in.
    """

    fixed: Refusal | None = None
    positive: Refusal | None = None


class Classes(Struct, eq=False):
    """The classes of one graph, as far as they were asked for."""

    graph: Graph
    removed: Collection[Node]  # nodes that are aliases by now
    moves_bounds: bool = False  # whether activations may become clamps with other bounds
    _of: dict[str, ScaleClass] = field(default_factory=dict)
    _merged: dict[ScaleClass, ScaleClass] = field(default_factory=dict)

    def refusal(self, value: str, held: Reparam) -> Refusal | None:
        """Why a value's class cannot be held so; None if nothing is known against it."""
        known = self._of.get(value)
        found = self._find(known) if known is not None else self._explore(value)
        if found.fixed is not None and held.scales:
            return found.fixed
        if found.positive is not None and (negative := held.negative):
            return replace(found.positive, detail=f"{negative} of {held.size} channels are negative")
        return None

    def merge(self, x: str, y: str) -> None:
        """Two values became one (where either class was asked for before)."""
        if x in self._of or y in self._of:
            one, other = (self._find(self._of[v]) if v in self._of else self._explore(v) for v in (x, y))
            self._unite(self._find(one), self._find(other))

    def _unite(self, one: ScaleClass, other: ScaleClass) -> None:
        if one is not other:
            one.fixed, one.positive = one.fixed or other.fixed, one.positive or other.positive
            self._merged[other] = one

    def _find(self, found: ScaleClass) -> ScaleClass:
        root = found
        while root in self._merged:
            root = self._merged[root]
        while found is not root:
            self._merged[found], found = root, self._merged[found]
        return root

    def _explore(self, start: str) -> ScaleClass:
        """Collect a class from one of its values."""
        made = ScaleClass()
        self._of[start] = made
        pending, joined = [start], set[Node]()  # sums are the same from each of their values
        while pending:
            value = pending.pop()
            pinned = self.graph.pinned.get(value)
            if pinned is not None:
                made.fixed = made.fixed or Refusal(pinned, value=value)
            for node, port in self.graph.adjacent(value):
                if node in joined:
                    continue
                across = self._across(made, node, port)
                if len(across) > 2:
                    joined.add(node)
                for other in across:
                    if other not in self._of:
                        self._of[other] = made
                        pending.append(other)
                    else:
                        self._unite(made, self._find(self._of[other]))
        return made

    def _across(self, made: ScaleClass, node: Node, port: Port) -> tuple[str, ...]:
        """The values that a node links to the one at ``port``; what it refuses is noted."""
        rule = self.graph.rule(node)
        if node in self.removed:
            assert isinstance(rule, Affine)
            return node.value(rule.in_port), node.outputs[0]
        if not self.moves_bounds:
            rule = rule.plain
        elif isinstance(rule, Clamp):
            return node.value(0), node.outputs[0]
        if isinstance(rule, Opaque):
            made.fixed = made.fixed or Refusal(rule.reason, node.label, node.value(port), rule.detail)
            return ()
        if isinstance(rule, Pass) and port in (rule.in_port, ~0):
            if rule.sign is not Sign.ANY and made.positive is None:
                made.positive = Refusal(Reason.NEGATIVE_SCALE, node.label, node.value(port))
            return (node.value(~0 if port >= 0 else rule.in_port),) if _whole(rule) else ()
        if isinstance(rule, WeightedSum) and all(not o.offset and not o.stretched for o in rule.operands):
            return (*node.inputs, *node.outputs)
        return ()


def _whole(rule: Pass) -> bool:
    """Whether a scale on one side is always a scale on the other: nothing is dropped or repeated."""
    return isinstance(rule.axes, SameAxes | Permute) and not rule.mixed_out
