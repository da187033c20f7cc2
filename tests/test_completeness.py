"""Nothing removable is left: bnfuse against an exact search on small random networks.

``tests/removable.py`` tells which sets of BatchNormalizations can go together at all, whatever the split,
the order or the routing of shifts. After bnfuse no kept one may be removable beside those that went, no
order of trying them may remove more, and none may be lost to a bad choice.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from msgspec import Struct, field
from msgspec.structs import replace
from onnx import numpy_helper

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Decision, Fold, Plan
from bnfuse.core.graph import Graph
from bnfuse.core.planning.plan import plan
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.random_nets import Net, Value, model_of
from tests.removable import Network, Op, most_removable, removable

_WIDTH = 3
_KEEP = ReadOptions()


class Twin(Struct):
    """One random network twice: as an ONNX graph, and as equations."""

    net: Net
    ops: list[Op] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)

    def add(
        self, kind: str, *inputs: Value, out: int = 0, padded: bool = False, positive: bool = False
    ) -> Value:
        """One node more."""
        net, x = self.net, inputs[0]
        width = out or (sum(v.channels for v in inputs) if kind == "Concat" else x.channels)
        names: list[str] = [v.name for v in inputs]
        attributes: dict[str, Any] = {}
        a: tuple[float, ...] = ()
        c: tuple[float, ...] = ()
        if kind == "Conv":
            k = 3 if padded else 1
            names += [net.const(net.normal(width, x.channels, k, k)), net.const(net.normal(width))]
            attributes = {"pads": [k // 2] * 4}
        elif kind == "BatchNormalization":
            gamma = np.abs(net.mixed(width)) if positive else net.mixed(width)
            beta, mean = net.normal(width), net.normal(width)
            names += [net.const(v) for v in (gamma, beta, mean, np.ones(width))]
            attributes = {"epsilon": 0.0}
            # As stored: in float32.
            g, b, m = (v.astype(np.float32).astype(np.float64) for v in (gamma, beta, mean))
            a, c = tuple(g), tuple(b - m * g)
        elif kind == "Concat":
            attributes = {"axis": 1}
        elif kind == "Clip":  # one bound, so that another one makes no node
            names += net.pick([net.const(net.normal())], ["", net.const(net.normal())])
        y = net.node(kind, names, (x.shape[0], width, *x.space), **attributes)
        self.channels[y.name] = width
        self.ops.append(Op(kind, tuple(v.name for v in inputs), y.name, a, c, padded))
        return y


# As often as they should come up.
_KINDS = ("Conv", "Conv", "padded", "BatchNormalization", "BatchNormalization", "BatchNormalization",
          "Add", "Add", "Sub", "Relu", "Relu", "Identity", "Concat", "Sigmoid")  # fmt: skip


def random_twin(seed: int, *, moves: bool = False) -> tuple[onnx.ModelProto, Network]:
    """About 12 nodes, up to 4 of them BatchNormalizations; γ of mixed signs in every other network.

    ``moves``: with clamps, all of which may have other bounds.
    """
    kinds = (*_KINDS, "Relu", "Clip", "Clip") if moves else _KINDS
    rng = np.random.default_rng(seed)
    twin = Twin(Net(False, 17, rng))
    x = Value("x", (2, _WIDTH, 4, 5))
    twin.channels["x"] = _WIDTH
    values = [x] if rng.integers(3) == 0 else [x, twin.add("Conv", x, out=_WIDTH)]
    left, positive = 4, bool(rng.integers(2))
    for _ in range(int(rng.integers(3, 11))):
        kind = str(rng.choice(kinds))
        x = values[-1] if rng.integers(3) else values[int(rng.integers(len(values)))]
        if kind == "BatchNormalization" and not left:
            kind = "Conv"
        left -= kind == "BatchNormalization"
        if kind in ("Add", "Sub", "Concat"):
            others = [v for v in values if v.channels == x.channels and v is not x]
            if not others:
                continue
            x = twin.add(kind, x, others[int(rng.integers(len(others)))])
        elif kind in ("Conv", "padded"):
            x = twin.add("Conv", x, out=_WIDTH, padded=kind == "padded")
        else:
            x = twin.add(kind, x, positive=positive)
        values.append(x)
    if len(values) == 1:
        values.append(twin.add("Conv", x, out=_WIDTH))
    ends = []
    for v in values[1:]:
        if not any(v.name in op.inputs for op in twin.ops):
            ends.append(twin.add("Conv", v, out=_WIDTH) if rng.integers(3) else v)
    fixed = frozenset(("x", *(v.name for v in ends)))
    network = Network(tuple(twin.ops), twin.channels, fixed, moves)
    return model_of(twin.net, (2, _WIDTH, 4, 5), ends), network


def decided(
    path: Path, order: tuple[int, ...] | None = None, options: ReadOptions = _KEEP
) -> dict[str, Decision]:
    """What bnfuse decides on BatchNormalizations, tried in this order, by their outputs."""
    model = FORMAT.read(path, options)
    graph = model.graph
    if order is not None:
        graph.candidates[:] = [graph.candidates[i] for i in order]
    outputs = {node.name: node.outputs[0] for node in graph.candidates}
    found = {outputs[d.node]: d for d in plan(graph).plan.decisions}
    model.close()
    return found


def _removed(path: Path, order: tuple[int, ...] | None = None) -> set[str]:
    """Outputs of those that it removes."""
    return {y for y, decision in decided(path, order).items() if isinstance(decision, Fold)}


# A test takes this many networks: pytest's own work for each would take longer than the network's.
_PER_TEST = 25


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, _PER_TEST))
def test_nothing_removable_is_left(first: int, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    for seed in range(first, first + _PER_TEST):
        model, network = random_twin(seed)
        path.write_bytes(model.SerializeToString())
        removed = _removed(path)
        assert removable(network, removed), f"{seed}: the equations say that these cannot go"
        left = [op.output for op in network.batchnorms if op.output not in removed]
        assert [v for v in left if removable(network, removed | {v})] == [], seed
        assert len(removed) == most_removable(network), seed


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 250, _PER_TEST))
def test_no_order_of_trying_removes_more(first: int, tmp_path: Path) -> None:
    """All permutations of up to four BatchNormalizations."""
    path = tmp_path / "a.onnx"
    for seed in range(first, first + _PER_TEST):
        model, network = random_twin(seed)
        path.write_bytes(model.SerializeToString())
        orders = permutations(range(len(network.batchnorms)))
        assert max(len(_removed(path, order)) for order in orders) == len(_removed(path)), seed


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, _PER_TEST))
def test_a_folded_file_holds_nothing_removable(first: int, tmp_path: Path) -> None:
    """The equations of what bnfuse wrote, its new γ and β read back from the file."""
    path = tmp_path / "a.onnx"
    for seed in range(first, first + _PER_TEST):
        model, network = random_twin(seed)
        path.write_bytes(model.SerializeToString())
        opened = FORMAT.read(path, ReadOptions())
        planned = plan(opened.graph)
        decided = planned.plan
        left = _with_moves(_without(network, _removed(path)), opened.graph, decided)
        opened.write(apply(opened.graph, planned), tmp_path / "b.onnx")
        opened.close()
        written = onnx.load(tmp_path / "b.onnx")
        now = _with_statistics_of(left, written)
        assert [op.output for op in now.batchnorms if removable(now, {op.output})] == [], seed


def _without(network: Network, removed: set[str]) -> Network:
    """The network with Identity in place of the BatchNormalizations that went."""
    ops = tuple(
        replace(op, kind="Identity", a=(), c=()) if op.output in removed else op for op in network.ops
    )
    return replace(network, ops=ops)


def _with_moves(network: Network, graph: Graph, decided: Plan) -> Network:
    """The network with the BatchNormalizations that went onto one branch, before the node that joins them."""
    outputs = {node.name: node.outputs[0] for node in graph.nodes}
    for name, moved in decided.narrowed:
        y, joined = outputs[name], outputs[moved.joint]
        made: list[Op] = []
        for op in network.ops:
            if op.output == joined:
                branch = op.inputs[moved.port]
                made.append(Op("BatchNormalization", (branch,), f"{y} moved"))
                inputs = tuple(f"{y} moved" if k == moved.port else v for k, v in enumerate(op.inputs))
                op = replace(op, inputs=inputs)
            elif op.output == y:
                op = Op("Identity", op.inputs, y)
            made.append(op)
        channels = {**network.channels, f"{y} moved": moved.channels}
        network = replace(network, ops=tuple(made), channels=channels)
    return network


def _with_statistics_of(network: Network, model: onnx.ModelProto) -> Network:
    """The network with a and c of the BatchNormalizations in a file, found in graph order."""
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    stored = iter([n for n in model.graph.node if n.op_type == "BatchNormalization"])
    ops = []
    for op in network.ops:
        if op.kind == "BatchNormalization":
            gamma, beta, mean, variance = (arrays[name] for name in next(stored).input[1:])
            a = gamma / np.sqrt(variance)
            op = replace(op, a=tuple(a), c=tuple(beta - mean * a))
        ops.append(op)
    assert next(stored, None) is None
    return replace(network, ops=tuple(ops))


def test_networks_are_worth_asking() -> None:
    """Some BatchNormalizations can go and some cannot, on many networks."""
    found = [(len(n.batchnorms), most_removable(n)) for _, n in map(random_twin, range(200))]
    assert sum(most > 0 for _, most in found) > 60
    assert sum(most < all_ for all_, most in found) > 60


# --- what random networks found, as small as it gets --------------------------------------------------


def _counts(twin: Twin, ends: list[Value], path: Path) -> tuple[int, int]:
    """(removed, removable at most) of a network built by hand."""
    fixed = frozenset(("x", *(v.name for v in ends)))
    network = Network(tuple(twin.ops), twin.channels, fixed)
    path.write_bytes(model_of(twin.net, (2, _WIDTH, 4, 5), ends).SerializeToString())
    return len(_removed(path)), most_removable(network)


def _twin() -> tuple[Twin, Value]:
    twin = Twin(Net(False, 17, np.random.default_rng(5)), channels={"x": _WIDTH})
    return twin, Value("x", (2, _WIDTH, 4, 5))


def test_a_value_added_to_itself(tmp_path: Path) -> None:
    """BN(v + v): both ports are one value, so each takes half the shift."""
    twin, x = _twin()
    v = twin.add("Conv", x, out=_WIDTH)
    y = twin.add("BatchNormalization", twin.add("Add", v, v))
    assert _counts(twin, [y], tmp_path / "a.onnx") == (1, 1)


def test_signs_go_down_where_nothing_stops_them(tmp_path: Path) -> None:
    """relu(x) + Conv(x) → BN of mixed signs → padded Conv: shift up into the Conv, scale and signs down."""
    twin, x = _twin()
    stream = twin.add("Add", twin.add("Relu", x), twin.add("Conv", x, out=_WIDTH))
    y = twin.add("Conv", twin.add("BatchNormalization", stream), out=_WIDTH, padded=True)
    assert _counts(twin, [y], tmp_path / "a.onnx") == (1, 1)


def test_the_equations_know_an_easy_and_a_hopeless_case(tmp_path: Path) -> None:
    """The oracle itself: Conv → BN goes; Relu → BN → Relu cannot."""
    twin, x = _twin()
    y = twin.add("BatchNormalization", twin.add("Conv", x, out=_WIDTH))
    assert _counts(twin, [y], tmp_path / "a.onnx") == (1, 1)
    twin, x = _twin()
    y = twin.add("Relu", twin.add("BatchNormalization", twin.add("Relu", x)))
    assert _counts(twin, [y], tmp_path / "a.onnx") == (0, 0)
