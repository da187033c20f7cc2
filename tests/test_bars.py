"""Dense blocks: planning stays near-linear in them, and decides as if every attempt went all the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bnfuse.core.axes import Take
from bnfuse.core.decisions import Decision, Keep, Split
from bnfuse.core.graph import Graph
from bnfuse.core.planning import narrow, propagate
from bnfuse.core.planning.bars import Bars
from bnfuse.core.planning.plan import plan
from bnfuse.core.planning.state import Propagation, State
from bnfuse.core.reasons import Reason
from bnfuse.core.reparam import Reparam, from_backward
from bnfuse.core.rules.base import Absorbed, Opaque, Pass, Sign
from bnfuse.core.rules.clamp import Clamp
from bnfuse.core.rules.joint import ConcatSplit, Product
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from tests.core_nets import LEVEL, CoreNet
from tests.random_moves import NAMES, STEPS
from tests.random_nets import build, recipe
from tests.test_completeness import random_twin

pytestmark = pytest.mark.usefixtures("shapes_inferred_here")


def _dense(layers: int, published: bool, activated: bool = True) -> CoreNet:
    """Layers BN → Relu → Conv → BN → Relu → padded Conv that read all before: joined at once, or in pairs."""
    net = CoreNet(layers)
    parts = [net.relu(net.bn(net.conv("x"))) if activated else net.conv("x")]
    whole = parts[0]
    for _ in range(layers):
        y = net.conv(net.relu(net.bn(whole, _positive(net, whole))), bias=True)
        parts.append(net.conv(net.relu(net.bn(y, _positive(net, y))), taps=2, padded=True))
        whole = net.concat(*parts) if published else net.concat(whole, parts[-1])
    net.pinned[net.tanh(net.relu(net.bn(whole)))] = next(iter(net.pinned.values()))
    return net


def _positive(net: CoreNet, value: str) -> np.ndarray:
    return np.exp(net.rng.standard_normal(net.channels[value]))


@pytest.mark.parametrize("activated", [True, False])
@pytest.mark.parametrize("published", [False, True])
def test_planning_a_dense_block_is_near_linear(published: bool, activated: bool, met: list[int]) -> None:
    """Twice the layers: about twice the nodes met (they were four times as many).

    Where no activation is in front of it, one BatchNormalization of those on the block goes far.
    """
    costs = []
    for layers in (30, 60):
        met[0] = 0
        decided = plan(_dense(layers, published, activated).graph()).plan
        costs.append(met[0])
        assert decided.counts(batchnorm=True)[1] == layers + 1
    assert costs[1] <= 2.2 * costs[0]


def _flip(channels: int) -> Pass:
    return Pass(axes=Take(1, tuple(reversed(range(channels))), channels))


def _joined(seed: int) -> Graph:
    """About twenty nodes: channels side by side, cut apart elsewhere, read by all sorts of nodes."""
    net = CoreNet(seed)
    rng, values = net.rng, ["x", net.conv("x"), net.conv("x")]

    def halves(x: str) -> str:
        if net.channels[x] < 3:
            return x
        left = int(rng.integers(1, net.channels[x]))
        outputs = (f"{x}_a{len(net.nodes)}", f"{x}_b{len(net.nodes)}")
        net.add("Split", ConcatSplit(0, (~0, ~1), 1, (left, net.channels[x] - left)), x, outputs=outputs)
        net.channels |= {outputs[0]: left, outputs[1]: net.channels[x] - left}
        values.append(outputs[1])
        return outputs[0]

    kinds: list[tuple[int, Callable[[str], str]]] = [
        (6, lambda x: net.concat(x, values[int(rng.integers(len(values)))])),
        (3, halves),
        (6, lambda x: net.bn(x, _positive(net, x) if rng.integers(2) else None)),
        (2, net.relu),
        (2, net.identity),
        (3, lambda x: net.conv(x, taps=2, padded=bool(rng.integers(2)))),
        (1, net.tanh),
        (1, lambda x: net.add("Flip", _flip(net.channels[x]), x, channels=net.channels[x])),
        (1, lambda x: net.add("Gate", Product((1, 1), (LEVEL, LEVEL)), x, x, channels=net.channels[x])),
        (1, lambda x: net.add("Sort", Opaque(), x, channels=net.channels[x])),
    ]
    steps = [step for often, step in kinds for _ in range(often)]
    for _ in range(int(rng.integers(8, 24))):
        x = values[-1] if rng.integers(2) else values[int(rng.integers(len(values)))]
        if net.channels[x] < 30:
            values.append(steps[int(rng.integers(len(steps)))](x))
    graph = net.graph()
    graph.movable = lambda *_: True
    return graph


@pytest.fixture
def far() -> Iterator[None]:
    """As if every attempt was one that goes far, and every concatenation one of many parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(propagate, "NEAR", -1)
        patch.setattr(narrow, "WIDE", 0)
        yield


def _fates(graph: Graph) -> list[object]:
    return [_fate(decision) for decision in plan(graph).plan.decisions]


def _fate(decision: Decision) -> object:
    if isinstance(decision, Keep):
        return decision.node, decision.narrowed
    return decision.node, decision.split, sorted(decision.into), sorted(decision.through), decision.becomes


def _on_foot(graph: Graph) -> list[object]:
    """Where nothing is known of channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bars, "refusal", lambda *_: None)
        return _fates(graph)


@pytest.mark.usefixtures("far")
def test_what_is_known_of_channels_changes_no_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [0]
    refusal = Bars.refusal

    def counted(self: Bars, *arguments: object) -> object:
        found = refusal(self, *arguments)  # type: ignore[arg-type]
        known[0] += found is not None
        return found

    monkeypatch.setattr(Bars, "refusal", counted)
    for seed in range(150):
        assert _fates(_joined(seed)) == _on_foot(_joined(seed)), seed
    assert known[0] > 1500


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("options", [ReadOptions(activations="move"), ReadOptions(target="no-bn")])
def test_nor_where_bounds_move(options: ReadOptions, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    for seed in range(40):
        for model in (build(recipe(seed, NAMES), STEPS), random_twin(seed, moves=True)[0]):
            path.write_bytes(model.SerializeToString())
            with closing(FORMAT.read(path, options)) as opened, closing(FORMAT.read(path, options)) as again:
                assert _fates(opened.graph) == _on_foot(again.graph), seed


def _shifted(channels: int) -> Reparam:
    return from_backward((1,), np.ones(channels), np.ones(channels))


def test_what_went_joins_what_is_known_on_its_two_sides() -> None:
    """conv → BN → relu, both sides asked for before the BatchNormalization goes."""
    net = CoreNet()
    x = net.conv("x")
    y = net.bn(x, np.ones(3))
    net.relu(y)
    state = State(net.graph())
    assert state.bars.refusal(x, _shifted(3), ()) is None
    refused = state.bars.refusal(y, _shifted(3), ())
    assert refused is not None and refused.reason is Reason.SHIFT_THROUGH_ACTIVATION
    state.accept(Propagation(net.candidates[0], Split.UP, (), (), ()))
    assert state.bars.refusal(x, _shifted(3), ()) == refused


def test_a_clamp_that_moved_lets_shifts_through() -> None:
    net = CoreNet()
    x = net.conv("x")
    plain = Pass(Sign.NONNEGATIVE, Reason.SHIFT_THROUGH_ACTIVATION)
    relu = net.node(net.add("Relu", Clamp(0.0, np.inf, plain, np.dtype(np.float32)), x).removesuffix("_out"))
    net.conv(relu.outputs[0])
    graph = net.graph()
    graph.moves_bounds = True
    state = State(graph)
    assert state.bars.refusal(x, _shifted(3), ()) is not None
    edit = Absorbed(0, (np.ones(3), np.full(3, np.inf)), (1,), passing=True)
    state.accept_rescaling(Propagation(relu, Split.UP, ((relu, edit),), (relu,), ()))
    assert state.bars.refusal(x, _shifted(3), ()) is None


def test_who_waits_refuses_unless_it_goes_itself() -> None:
    net = CoreNet()
    x = net.conv("x")
    net.bn(x)
    net.relu(net.concat(net.identity(x), "constant"))
    state = State(net.graph())
    (node,) = net.candidates
    scaled = from_backward((1,), np.full(3, 2.0), np.zeros(3))
    assert state.bars.refusal(x, scaled, ()) is None
    state.waiting = {node}
    refused = state.bars.refusal(x, scaled, ())
    assert refused is not None and (refused.reason, refused.node) == (Reason.WAITING, node.label)
    assert state.bars.refusal(x, scaled, (node,)) is None
