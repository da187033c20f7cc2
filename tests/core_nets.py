"""Small graphs as core sees them, made by hand and without any format, and what they compute in float64.

``CoreNet`` writes a graph node by node, ``computed`` runs it from the definitions of its operators: as it is,
or as a patch leaves it. Values have the shape (batch, channels, length).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfuse.core.apply import NewLinear, NewSource, Patch, apply
from bnfuse.core.graph import Graph, Node
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.reasons import Reason
from bnfuse.core.reparam import Pair
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Pass, Rule, Sign, Source
from bnfuse.core.rules.joint import ConcatSplit
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.rules.operands import Operand
from bnfuse.core.rules.weighted_sum import WeightedSum
from bnfuse.core.weights.linear import linear_form
from bnfuse.core.weights.tensor import ArrayTensor, whole
from tests.held_values import mixed

Floats = NDArray[np.float64]
Values = dict[str, Floats]
LENGTH = 4
LEVEL = Operand(0, frozenset())


def stored(array: Any) -> ArrayTensor:
    return ArrayTensor(np.asarray(array))


class CoreNet:
    """A graph under construction; every method that adds a node returns its output's name."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.rules: dict[Node, Rule] = {}
        self.candidates: list[Node] = []
        self.pinned = {"x": Reason.GRAPH_INPUT}
        self.channels = {"x": 3, "constant": 3}

    def add(
        self,
        op: str,
        rule: Rule,
        *inputs: str,
        name: str = "",
        outputs: tuple[str, ...] = (),
        channels: int = 0,
        does: Callable[..., Any] | None = None,
    ) -> str:
        """One node; ``does`` is what it computes where its rule does not tell."""
        name = name or f"{op.lower()}{len(self.nodes)}"
        made = Node(name, op, inputs, outputs or (f"{name}_out",), op == "BatchNormalization", does)
        self.nodes.append(made)
        self.rules[made] = rule
        if op == "BatchNormalization" or (isinstance(rule, Affine) and op in ("Mul", "Add")):
            self.candidates.append(made)
        self.channels |= dict.fromkeys(
            made.outputs, channels or self.channels.get(inputs[0], 3) if inputs else 3
        )
        return made.outputs[0]

    def conv(
        self, x: str, out: int = 3, *, taps: int = 1, padded: bool = False, bias: bool = True,
        dtype: Any = np.float64, name: str = "", **more: Any,
    ) -> str:  # fmt: skip
        """y[o] = Σ W[o, i, k]·x[i] shifted by k + b; ``padded`` with zeros, otherwise all around."""
        n = self.channels[x]
        weight = (self.rng.standard_normal((out, n, taps)) / np.sqrt(n * taps)).astype(dtype)
        b = stored(self.rng.standard_normal(out).astype(dtype)) if bias else None
        why = Reason.ZERO_PADDING if padded else None
        form = linear_form(weight.shape, "go i k*")
        rule = Linear(stored(weight), form, b, 1, 1, shift_in=why, **more)
        return self.add("Conv", rule, x, name=name, channels=out)

    def bn(
        self, x: str, a: Any = None, c: Any = None, *, name: str = "",
        op: str = "BatchNormalization", **more: Any,
    ) -> str:  # fmt: skip
        """y = a·x + c; numbers stand for all channels alike, without them they are of mixed signs."""
        n = self.channels[x]
        a = mixed(self.rng, n) if a is None else np.broadcast_to(np.asarray(a, np.float64), (n,))
        c = self.rng.standard_normal(n) if c is None else np.broadcast_to(np.asarray(c, np.float64), (n,))
        return self.add(op, Affine((a, c), (1,), **more), x, name=name)

    def relu(self, x: str, name: str = "") -> str:
        rule = Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)
        return self.add("Relu", rule, x, name=name, does=lambda v: np.maximum(v, 0.0))

    def identity(self, x: str, name: str = "") -> str:
        return self.add("Identity", Pass(), x, name=name, does=lambda v: v)

    def tanh(self, *x: str, name: str = "") -> str:
        """Nothing passes."""
        return self.add("Tanh", Opaque(Reason.NONLINEAR), *x, name=name, does=lambda *v: np.tanh(sum(v)))

    def sum(self, *x: str, signs: tuple[float, ...] = (), name: str = "") -> str:
        rule = WeightedSum(signs or (1.0,) * len(x), (LEVEL,) * len(x))
        return self.add("Sum", rule, *x, name=name)

    def concat(self, *x: str, name: str = "") -> str:
        sizes = tuple(self.channels[v] for v in x)
        rule = ConcatSplit(~0, tuple(range(len(x))), 1, sizes)
        return self.add("Concat", rule, *x, name=name, channels=sum(sizes))

    def constant(self, channels: int = 3, name: str = "") -> str:
        """A constant operand, of shape (channels, length)."""
        values = self.rng.standard_normal((channels, LENGTH))
        return self.add("Constant", Source(stored(values), offset=1), name=name, channels=channels)

    def graph(self, *outputs: str, **more: Any) -> Graph:
        """The graph with these outputs."""
        pinned = self.pinned | dict.fromkeys(outputs, Reason.GRAPH_OUTPUT)
        return Graph(self.nodes, pinned, self.candidates, self.rules.__getitem__, **more)

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def feeds(self, batch: int = 2) -> Values:
        """Random values of everything that no node writes."""
        written = {value for node in self.nodes for value in node.outputs}
        read = dict.fromkeys(value for node in self.nodes for value in node.inputs)
        rng = np.random.default_rng(99)
        return {
            v: rng.standard_normal((batch, self.channels.get(v, 3), LENGTH)) for v in read if v not in written
        }


def row(net: CoreNet, x: str, length: int) -> str:
    """So many nodes that pass everything on."""
    for _ in range(length):
        x = net.identity(x)
    return x


def computed(graph: Graph, feeds: Mapping[str, Floats], patch: Patch | None = None) -> Values:
    """All values of a graph, as it is or as a patch leaves it."""
    patch = patch or Patch()
    values: Values = dict(feeds)
    for node in graph.nodes:
        inputs = [values[v] for v in node.inputs]
        for moved in patch.moved:
            if moved.joint is node:
                x = inputs[moved.port]
                size = x.shape[1] if moved.channels.stop - moved.channels.start != 1 else 1
                assert size == moved.a.size
                inputs[moved.port] = _spelled(moved.a) * x + _spelled(moved.c)
        made = _node(graph.rule(node), node, inputs, patch)
        values |= dict(zip(node.outputs, made, strict=True))
    return values


def _node(rule: Rule, node: Node, x: list[Floats], patch: Patch) -> list[Floats]:
    if node in patch.removed or any(moved.node is node for moved in patch.moved):
        return [x[0]]
    match rule:
        case Linear():
            return [_linear(rule, x[rule.in_port], patch.linears.get(node))]
        case Affine():
            new = patch.affines.get(node)
            a, c, axes = (new.a, new.c, new.axes) if new else rule.numbers
            return [_spelled(a, axes) * x[rule.in_port] + _spelled(c, axes)]
        case WeightedSum():
            return [np.asarray(sum(sign * v for sign, v in zip(rule.signs, x, strict=True)))]
        case ConcatSplit(whole=-1):
            return [np.concatenate(x, axis=rule.axis)]
        case ConcatSplit():
            ends = np.cumsum([n for n in rule.sizes if n is not None])[:-1]
            return list(np.split(x[0], ends, axis=rule.axis))
        case Source():
            return [_source(rule, patch.sources.get(node))]
    assert callable(node.handle), node.op
    made = node.handle(*x)
    return made if isinstance(made, list) else [made]


def _spelled(vector: Floats, axes: tuple[int, ...] = (1,)) -> Floats:
    """A vector along the channels, or along the length."""
    return vector.reshape(-1) if axes == (2,) else vector.reshape(-1, 1)


def _linear(rule: Linear, x: Floats, new: NewLinear | None) -> Floats:
    weight, bias = whole(rule.weight).astype(np.float64), np.zeros(rule.form.channels_out)
    if rule.bias is not None:
        bias = bias + rule.bias_gain * whole(rule.bias).astype(np.float64).reshape(-1)
    gain = rule.gain
    if new is not None:
        gain = 1.0
        if new.weight is not None:
            weight = np.concatenate([block for _, block, _ in new.weight.blocks()]).reshape(weight.shape)
        bias = new.bias() if new.makes_bias else bias
    taps = weight.shape[2]
    mode: Any = "wrap" if rule.shift_in is None else "constant"
    padded = np.pad(x, ((0, 0), (0, 0), (0, taps - 1)), mode=mode)
    y = sum(np.einsum("oi,nil->nol", weight[:, :, k], padded[:, :, k : k + x.shape[2]]) for k in range(taps))
    return np.asarray(gain * y + bias.reshape(-1, 1))


def _source(rule: Source, new: NewSource | None) -> Floats:
    values = whole(rule.tensor).astype(np.float64)
    if new is not None:
        values = np.concatenate([block for _, block, _ in new.values.blocks()]).reshape(values.shape)
    return values[(None,) * rule.offset]


def assert_spelled_same(net: CoreNet, graph: Graph) -> None:
    """What its plan, and the same replayed, leave computes the same; arithmetic as an affine node does."""
    feeds = net.feeds()
    wanted = computed(graph, feeds)
    planned = plan(graph)
    for made in (planned, replay(graph, planned.plan)):
        patch = apply(graph, made)
        spelled = Patch(patch.removed, patch.linears, {**patch.affines, **patch.arithmetic})
        values = computed(graph, feeds, spelled)
        for value in graph.pinned:
            if value in values:
                np.testing.assert_allclose(values[value], wanted[value], rtol=1e-9, atol=1e-9)


def pair_of(graph: Graph, node: Node) -> Pair:
    rule = graph.rule(node)
    assert isinstance(rule, Affine)
    return rule.pair
