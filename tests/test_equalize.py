"""The scales that 8 bits like best: their arithmetic against brute force, and what the plan says of them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from msgspec.structs import replace

from bnfuse.core.apply import Planned, apply, check_fit
from bnfuse.core.decisions import Plan
from bnfuse.core.graph import Graph
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.planning.state import State
from bnfuse.core.quantising.equalize import equalize
from bnfuse.core.quantising.freedoms import freedoms, rescaled, scale_places
from bnfuse.core.quantising.moments import Moments, known, of_output
from bnfuse.core.quantising.noise import quietest, total_noise
from bnfuse.core.quantising.pairs import pairs
from bnfuse.core.quantising.sensitivities import noise_layers
from bnfuse.core.rules.affine import Typical
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import linear_form
from bnfuse.core.weights.tensor import whole
from tests.core_nets import CoreNet, Values, computed, stored

LAYOUTS = [
    ((6, 2, 3, 2), "go i k*", 3),
    ((6, 2, 3), "gi o k*", 2),
    ((5, 4), "o i", 1),
    ((4, 5), "i o", 1),
    ((3, 2, 4, 6), "k* i go", 2),
    ((3, 4, 2), "k* g o", 4),
]


@pytest.mark.parametrize(("shape", "layout", "groups"), LAYOUTS)
def test_pairs_are_those_of_the_dense_weight(shape: tuple[int, ...], layout: str, groups: int) -> None:
    """Spelled out channel by channel: y[go] = Σ W·x[gi]."""
    weight = np.random.default_rng(0).standard_normal(shape)
    form = linear_form(shape, layout, groups)
    found = pairs(stored(weight), form)
    view = weight.reshape(form.dims)
    order = [form.letters.index(x) if x in form.letters else None for x in "goi"]
    for g, o, i in np.ndindex(*found.largest.shape):
        index: list[Any] = [slice(None)] * len(form.dims)
        for at, place in zip((g, o, i), order, strict=True):
            if place is not None:
                index[place] = at
        taps = view[tuple(index)]
        assert found.taps == taps.size
        assert np.isclose(found.largest[g, o, i], np.abs(taps).max())
        assert np.isclose(found.sums[g, o, i], taps.sum())
        assert np.isclose(found.squares[g, o, i], np.square(taps).sum())


@pytest.mark.parametrize("top", [np.inf, 1.5])
def test_a_clamped_gaussian_has_the_moments_of_its_samples(top: float) -> None:
    mean, deviation = np.array([-2.0, -0.5, 0.0, 0.7, 3.0]), np.array([1.0, 0.3, 2.0, 1.0, 0.5])
    samples = mean + deviation * np.random.default_rng(1).standard_normal((1_000_000, 5))
    samples = np.clip(samples, 0.0, top)
    found, reach = Moments(mean, np.square(deviation)).clamped(np.full(5, top))
    assert np.allclose(found.mean, samples.mean(axis=0), atol=3e-3)
    assert np.allclose(reach, np.clip(mean + 3 * deviation, 0, top))
    if np.isinf(top):
        assert np.allclose(found.variance, samples.var(axis=0), rtol=1e-2, atol=3e-3)
    else:  # of the square it is only told where it ends
        assert (found.square >= np.square(samples).mean(axis=0) * 0.95).all()
        assert (found.square <= top * found.mean + 1e-12).all()
    constant, _ = Moments(np.array([2.0, -2.0, 0.0]), np.zeros(3)).clamped(np.full(3, top))
    assert constant.mean.tolist() == [min(2.0, top), 0.0, 0.0] and not constant.variance.any()


def test_moments_of_an_output_are_believed_as_far_as_taps_pass_no_mean_on() -> None:
    """0 and 1 pass no mean on; 2 does, and its bias is what a fold leaves of it; 3 and 4 are constant."""
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((5, 2, 5))
    weight[:2] -= weight[:2].mean(axis=2, keepdims=True)
    weight[2] = 1.0 + 0.1 * weight[2]
    weight[3:] *= 1e-3
    bias = np.array([0.0, 3.0, -11.0, 2.0, -2.0])
    form = linear_form(weight.shape, "go i k*")

    def found(read: Moments, s: Any = 1.0, t: Any = 1.0) -> Moments:
        """Of t·y, told from s·x."""
        held = weight * np.reshape(t, (-1, 1, 1)) / np.reshape(s, (1, -1, 1))
        return of_output(pairs(stored(held), form), bias * t, Moments(read.mean * s, read.variance * s * s))

    for read in (
        Moments(np.array([2.0, -1.0]), np.array([1.0, 0.25])),
        Moments(np.zeros(2), np.ones(2)),  # what a model reads
    ):
        plain = found(read)
        assert np.allclose(plain.variance, np.square(weight).sum(axis=2) @ read.square)
        assert np.allclose(plain.mean[:2], bias[:2])
        assert abs(plain.mean[2]) < np.sqrt(plain.variance[2])  # (b + D) alone says −6, or −11
        share = plain.mean[3:] / bias[3:]
        assert (share > 0.05).all() and (share < 1.01).all()
        assert (np.abs(plain.mean[3:]) > 10 * np.sqrt(plain.variance[3:])).all()
        s, t = np.array([8.0, 0.5]), np.array([2.0, 1.0, 0.25, 4.0, 1.0])
        held = found(read, s, t)
        assert np.allclose(held.mean, plain.mean * t)
        assert np.allclose(held.variance, plain.variance * t * t)


def _mobile(seed: int) -> tuple[CoreNet, Graph]:
    """conv → BN → relu → conv → BN → relu → conv, channel by channel of very different sizes."""
    net = CoreNet(seed)
    x = net.conv("x", 6, name="a")
    x = net.relu(_known(net, x))
    x = net.conv(x, 8, taps=2, name="b")
    x = net.relu(_known(net, x))
    return net, net.graph(net.conv(x, 3, name="c"))


def _known(net: CoreNet, x: str) -> str:
    n = net.channels[x]
    deviation, mean = np.exp(net.rng.normal(0, 1.5, n)), net.rng.standard_normal(n)
    gamma, beta = np.exp(net.rng.normal(0, 1.0, n)), net.rng.standard_normal(n)
    a = gamma / deviation
    return net.bn(x, a, beta - mean * a, typical=Typical(mean, deviation))


def _eight_bits(graph: Graph, feeds: Values, planned: Planned) -> float:
    """Power of what weights in 8 bits with one step per tensor add to the output, relative to it."""
    patch = apply(graph, planned)
    wanted = computed(graph, feeds, patch)
    output = graph.nodes[-1].outputs[0]
    for node, new in patch.linears.items():
        assert new.weight is not None
        found = np.concatenate([block for _, block, _ in new.weight.blocks()]).reshape(new.weight.shape)
        step = np.abs(found).max() / 127.0
        patch.linears[node] = replace(new, weight=_Held(np.rint(found / step) * step))
    got = computed(graph, feeds, patch)[output]
    return float(np.square(got - wanted[output]).sum() / np.square(wanted[output]).sum())


class _Held:
    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = array.shape

    def blocks(self) -> Any:
        yield 0, self.array.ravel(), self.array.size


def _wild(state: State) -> State:
    """All that is free held with scales over four decades."""
    rng = np.random.default_rng(0)
    for one in freedoms(state):
        scale = 10 ** rng.uniform(-2, 2, one.free.size)
        found = rescaled(state, one.writer, one.axis, scale, one.choices)
        assert found is not None
        state.accept_rescaling(found)
    return state


@pytest.mark.parametrize("seed", range(4))
def test_equalised_weights_lose_less_in_8_bits(seed: int) -> None:
    losses = []
    for equalizes in (False, True):
        net, graph = _mobile(seed)
        state = _wild(plan(graph).state)
        assert not equalizes or equalize(state) is not None
        losses.append(_eight_bits(graph, net.feeds(64), Planned(Plan(()), state)))
    assert losses[1] < 1e-3 and losses[1] < 1e-2 * losses[0]


def test_the_outputs_stay_and_the_plan_alone_leads_there() -> None:
    net, graph = _mobile(5)
    feeds, output = net.feeds(), graph.nodes[-1].outputs[0]
    planned = plan(graph, equalizes=True)
    equalized = planned.plan.equalized
    assert equalized is not None and equalized.gain_db > 1.0
    assert [value.node for value in equalized.values] == ["a", "b"]
    assert equalized.values[1].into == ("b", "c")
    assert all(0 < value.least < value.most for value in equalized.values)
    assert [spread.node for spread in equalized.spreads] == ["a", "b", "c"]
    before = computed(graph, feeds)[output]
    again = replay(graph, planned.plan)
    for state in (planned, again):
        after = computed(graph, feeds, apply(graph, state))[output]
        assert np.abs(after - before).max() <= 1e-12 * np.abs(before).max()
    first, second = (apply(graph, state).linears for state in (planned, again))
    for node, new in first.items():
        assert new.weight is not None and (other := second[node].weight) is not None
        assert all(np.array_equal(x, y) for x, y in zip(new.weight.factors, other.factors, strict=True))
    assert plan(_mobile(5)[1]).plan.equalized is None, "nobody asked"


def _problem(state: State) -> Any:
    free = freedoms(state)
    places = scale_places(free)
    rules = {n: r for n in state.graph.nodes if isinstance(r := state.graph.rule(n), Linear)}
    return noise_layers(state, rules, places)[0], places.count


@pytest.mark.parametrize("seed", range(3))
def test_no_scales_are_much_quieter(seed: int) -> None:
    """Against thousands of steps at random that keep whatever is better."""
    _, graph = _mobile(seed)
    layers, count = _problem(plan(graph).state)
    found = total_noise(layers, quietest(layers, np.ones(count)))
    rng = np.random.default_rng(seed)
    best, least = np.zeros(count), total_noise(layers, np.ones(count))
    start = least
    for _ in range(6000):
        tried = best + rng.standard_normal(count) * (rng.random(count) < 0.3) * rng.choice((0.5, 0.1, 0.02))
        if (now := total_noise(layers, np.exp(tried))) < least:
            best, least = tried, now
    assert least < 0.8 * start, "there was nothing to gain"
    assert found <= 1.03 * least


def test_the_answer_does_not_depend_on_the_scales_that_a_model_came_with() -> None:
    """Over four decades: the same weights, but for one factor per tensor."""
    found = []
    for wild in (False, True):
        state = plan(_mobile(7)[1]).state
        if wild:
            _wild(state)
        done = equalize(state)
        assert done is not None and (not wild or done.gain_db > 20.0)
        found.append(apply(state.graph, Planned(Plan(()), state)).linears)
    for name in "abc":
        one, other = (next(_weight(new) for node, new in each.items() if node.name == name) for each in found)
        ratio = one / other
        assert ratio.max() <= ratio.min() * (1 + 1e-5), name


def _weight(new: Any) -> np.ndarray:
    return np.concatenate([block for _, block, _ in new.weight.blocks()])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float8_e4m3fn"])
def test_weights_of_16_bits_keep_their_exponents(dtype: str) -> None:
    """Channels that lie five decades apart; float16 has no room for such scales, 8 bits for none."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    net = CoreNet()
    x = net.relu(net.conv("x", 5, dtype=kind, bias=False, name="a"))
    graph = net.graph(net.conv(x, dtype=kind, name="b"))
    wide = 10.0 ** np.arange(-2.5, 2.5)
    for name, factors in (("a", wide[:, None, None]), ("b", 1 / wide[None, :, None])):
        rule = graph.rule(net.node(name))
        assert isinstance(rule, Linear)
        made = stored((whole(rule.weight).astype(np.float64) * factors).astype(kind))
        net.rules[net.node(name)] = replace(rule, weight=made)
    found = equalize(State(net.graph(graph.nodes[-1].outputs[0])))
    if dtype.startswith("float8"):
        assert found is None
    else:
        assert found is not None
        (value,) = found.values
        apart = (16.0, 256.0) if dtype == "float16" else (1e3, 1e7)
        assert apart[0] < value.most / value.least <= apart[1]


def test_weights_that_would_overflow_stay() -> None:
    """A scale of 2^130 is no number of float32: that value is left as it is."""
    net = CoreNet()
    x = net.relu(net.conv("x", 2, dtype=np.float32, bias=False, name="a"))
    graph = net.graph(net.conv(x, dtype=np.float32, name="b"))
    rule = graph.rule(net.node("b"))
    assert isinstance(rule, Linear)
    huge = whole(rule.weight) * np.array([1e38, 1e-37], np.float32)[None, :, None]
    net.rules[net.node("b")] = Linear(stored(huge.astype(np.float32)), rule.form, rule.bias, 1, 1)
    planned = plan(net.graph(graph.nodes[-1].outputs[0]), equalizes=True)
    patch = apply(net.graph(graph.nodes[-1].outputs[0]), planned)
    check_fit(patch.new_weights)


def test_statistics_along_another_axis_tell_nothing_of_channels() -> None:
    """MatMul → BatchNormalization along axis 1, where the MatMul has no channels."""
    net = CoreNet()
    x = net.conv("x", name="a")
    typical = Typical(np.array([1.0, 2.0, 3.0]), np.ones(3))
    state = State(net.graph(net.bn(x, np.ones(3), np.zeros(3), typical=typical)))
    found = known(state, net.node("a"), 1, (np.full(3, 2.0), np.ones(3)))
    assert (
        found is not None and found.mean.tolist() == [3.0, 5.0, 7.0] and found.variance.tolist() == [4.0] * 3
    )
    assert known(state, net.node("a"), 2, None) is None


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e300])
def test_weights_that_are_no_numbers_are_left_alone(odd: float) -> None:
    net, graph = _mobile(0)
    rule = net.rules[net.node("b")]
    assert isinstance(rule, Linear)
    weight = whole(rule.weight)
    weight[0, 0, 0] = odd
    net.rules[net.node("b")] = Linear(stored(weight), rule.form, rule.bias, 1, 1)
    assert plan(net.graph(graph.nodes[-1].outputs[0]), equalizes=True).plan.equalized is None


def test_nothing_is_done_where_nothing_is_gained() -> None:
    net, graph = _mobile(3)
    state = plan(graph).state
    assert equalize(state) is not None
    assert equalize(state) is None, "it is as quiet as it gets"
    net = CoreNet()
    assert equalize(State(net.graph(net.conv(net.tanh(net.conv("x")))))) is None
