"""Explanations of decisions on graphs of core's own: every attempt and every node met, as told beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from bnfuse.core.decisions import Fold, Keep, Plan, Split
from bnfuse.core.explanation import AffineFigures, Answer, Asked, Choice, Explanation, Trial
from bnfuse.core.graph import Graph
from bnfuse.core.planning.explain import explain
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, ShapeOnly
from bnfuse.core.rules.joint import ConcatSplit, Product
from tests.core_nets import LEVEL, CoreNet, row


def explained(graph: Graph, name: str = "bn") -> Explanation:
    (found,) = explain(graph, plan(graph).plan, [name])
    return found


def trial(graph: Graph, split: Split, name: str = "bn") -> Trial:
    return next(t for t in explained(graph, name).trials if t.split is split)


def met(found: Trial) -> list[tuple[str, str]]:
    return [(step.node, step.answer.name) for step in found.steps]


def choices(found: Trial) -> list[list[tuple[str, str, int, int]]]:
    return [[(c.node, c.taker, c.taken, c.of) for c in a.choices] for a in found.attempts]


def test_figures_of_the_file_and_those_when_it_was_decided() -> None:
    """Behind two that went down into it, the last stays with other numbers than the file's."""
    net = CoreNet(1)
    y = net.relu("x")
    y = net.bn(net.bn(y, [-2, 0, 4], [1, 0, -3], name="one"), 0.5, 0.0, name="two")
    net.tanh(net.bn(y, [3, 1, -1], [0, 7, 0], name="bn"))
    graph = net.graph()
    found = explained(graph)
    assert found.numbers == AffineFigures(3, 2, 1, 0, 1.0, 3.0, 1, 7.0)
    a, c = np.array([-2, 0, 4]) * 0.5, np.array([1, 0, -3]) * 0.5
    a, c = a * [3, 1, -1], c * [3, 1, -1] + [0, 7, 0]
    assert found.numbers_then == AffineFigures(3, 0, 2, 1, 0.0, 3.0, 3, 7.0)
    assert found.numbers_then.most == np.abs(a).max() and found.numbers_then.largest_shift == np.abs(c).max()
    assert found.absorbed == ("two",)  # which had absorbed the first
    alone = explained(graph, "one")
    assert alone.numbers == AffineFigures(3, 1, 1, 1, 0.0, 4.0, 2, 3.0)
    assert alone.numbers_then is None and alone.absorbed == ()


def test_one_number_for_all_channels_is_one_channel() -> None:
    net = CoreNet(1)
    y = net.add("Mul", Affine((np.array(-2.0), np.array(0.0)), ()), net.tanh("x"), name="bn")
    net.tanh(y)
    assert explained(net.graph()).numbers == AffineFigures(1, 0, 1, 0, 2.0, 2.0, 0, 0.0)


def test_a_node_that_is_itself_at_fault_is_not_explained_further() -> None:
    net = CoreNet(2)
    y = net.tanh(net.add("BatchNormalization", Opaque(Reason.TRAINING_MODE), "x", name="training"))
    none = np.ones(0)
    net.add("Mul", Affine((none, none), (1,), broken=Refusal(Reason.BAD_PARAMETERS)), y, name="broken")
    net.bn(y, 2.0, 1.0, name="bn", broken=Refusal(Reason.INVALID_STATISTICS))
    graph = net.graph()
    decided = plan(graph).plan
    training, broken, bn = explain(graph, decided, ["bn", "nobody", "training", "broken"])
    for found, decision in zip((training, broken, bn), decided.decisions, strict=True):
        assert found.decision == decision and found.trials == () and found.numbers_then is None
    assert training.numbers is None and broken.numbers is None
    assert bn.numbers == AffineFigures(3, 3, 0, 0, 2.0, 2.0, 3, 1.0)


def test_a_plan_of_another_graph_is_refused() -> None:
    net = CoreNet(3)
    net.tanh(net.bn(net.conv("x"), name="bn"))
    graph = net.graph()
    decided = plan(graph).plan
    assert explain(graph, decided, []) == ()
    assert [e.decision.node for e in explain(graph, decided, ["bn"])] == ["bn"]
    (fold,) = decided.order
    with pytest.raises(AssertionError, match="does not fit the graph"):
        explain(graph, Plan((replace(fold, split=Split.DOWN),)), ["bn"])


def test_what_each_kind_of_node_answers() -> None:
    """Held with a scale and a shift from its reader on: absorbed, passed on, both, of no matter, refused."""
    net = CoreNet(4)
    writer = net.conv("x", name="writer")
    net.add("Shape", ShapeOnly(), writer, name="shape")
    net.conv(net.bn(writer, 1.0, 0.5, op="Shift", has_scale=False, name="part"), name="reader")
    gone = net.bn(writer, 1.0, 0.0, name="gone")
    net.conv(net.identity(gone, name="pass"), name="end")
    net.tanh(net.bn(writer, [2, -3, 0.5], [1, 0, 2], name="bn"), name="tanh")
    graph = net.graph()
    found = trial(graph, Split.UP)
    assert met(found) == [
        ("writer", "ABSORBS"),
        ("shape", "NO_MATTER"),
        ("part", "ABSORBS_AND_PASSES"),
        ("gone", "GONE"),
        ("reader", "ABSORBS"),
        ("pass", "PASSES"),
        ("end", "ABSORBS"),
    ]
    assert [(s.op, s.value) for s in found.steps[:3]] == [
        ("Conv", writer),
        ("Shape", writer),
        ("Shift", writer),
    ]
    assert found.steps[0].asked == Asked(scale=True, shift=True, negative=1, size=3)
    assert found.steps[4].asked == Asked(scale=True, shift=False, negative=1, size=3)
    assert found.taken and found.refusal is None
    assert found.into == ("writer", "part", "reader", "end") and found.through == ("shape", "gone", "pass")
    down = trial(graph, Split.DOWN)
    assert met(down) == [("tanh", "REFUSES")] and not down.taken
    (attempt,) = down.attempts
    assert attempt.refusal == down.refusal and attempt.reached == 1
    assert down.refusal is not None and down.refusal.split == "down"
    assert down.into == down.through == () and down.makes == 0


def test_a_value_that_refuses_is_no_node_that_does() -> None:
    """The last node met passed it on, to an output of the model."""
    net = CoreNet(5)
    out = net.identity(net.bn(net.conv("x", name="writer"), name="bn"), name="pass")
    found = trial(net.graph(out), Split.DOWN)
    assert met(found) == [("pass", "PASSES")]
    assert found.refusal == Refusal(Reason.GRAPH_OUTPUT, value=out, split="down")


def test_ways_past_sums_are_told() -> None:
    """The first takes no shift, the second does; a sum is told to have passed on what it was asked first."""
    net = CoreNet(6)
    closed, opened = net.relu(net.conv("x"), name="closed"), net.conv("x", name="opened")
    y = net.sum(closed, opened, name="sum")
    net.tanh(net.bn(y, [2, 3, 0.5], 1.0, name="bn"))
    found = trial(net.graph(), Split.UP)
    assert choices(found) == [[("sum", closed, 0, 2)], [("sum", opened, 1, 2)]]
    assert found.attempts[0].choices == (Choice("sum", "Sum", closed, 0, 2),)
    first, last = found.attempts
    assert last.refusal is None and first.refusal is not None and first.refusal.node == "Relu 'closed'"
    assert met(found)[0] == ("sum", "PASSES")
    assert (found.steps[0].value, found.steps[0].asked) == (y, Asked(True, True, 0, 3))


def test_what_leaves_no_choice_is_not_told_as_one() -> None:
    """A concatenation, and a sum of which all but one port are known."""
    net = CoreNet(6)
    v = net.conv("x", name="writer")
    y = net.sum(v, net.bn(v, 2.0, 0.0, name="scale"), name="sum")
    joined = net.concat(v, y, name="joint")
    net.conv(joined, name="reader")
    net.tanh(net.bn(v, [2, -3, 0.5], 1.0, name="bn"))
    found = trial(net.graph(), Split.UP)
    assert found.refusal is None
    assert all(c.node != "joint" for a in found.attempts for c in a.choices)
    assert ("joint", "PASSES") in met(found)


def test_branches_that_share_are_told_so() -> None:
    net = CoreNet(7)
    v = net.conv("x", name="writer")
    y = net.sum(net.identity(v, name="left"), net.identity(v, name="right"), name="sum")
    net.tanh(net.bn(y, 2.0, 1.0, name="bn"))
    found = trial(net.graph(), Split.UP)
    assert choices(found)[-1] == [("sum", "all inputs alike", 2, 2)]
    assert [c[0][1] for c in choices(found)] == ["left_out", "right_out", "all inputs alike"]
    assert found.taken and found.steps[0].answer is Answer.PASSES


def test_a_product_is_told_with_the_factor_that_takes_the_scale() -> None:
    net = CoreNet(7)
    rule = Product((1, 1), (LEVEL, LEVEL))
    gate = net.add("Gate", rule, net.tanh("x"), net.conv("x"), name="gate")
    net.tanh(net.bn(gate, 2.0, 0.0, name="bn"))
    found = trial(net.graph(), Split.UP)
    assert [[c.taken for c in a.choices] for a in found.attempts] == [[0], [1]]


def test_the_attempt_that_got_furthest_is_shown() -> None:
    """Neither branch takes the shift; on the way to the second there is more to meet."""
    net = CoreNet(8)
    near = net.relu(net.conv("x"), name="near")
    far = row(net, net.relu(net.conv("x"), name="far"), 3)
    y = net.sum(near, far, name="sum")
    net.tanh(net.bn(y, 2.0, 1.0, name="bn"))
    found = trial(net.graph(), Split.UP)
    assert [a.reached for a in found.attempts] == [2, 7]
    assert [name for name, _ in met(found)][-1] == "far" and len(found.steps) == 7
    assert found.refusal is not None and found.refusal.node == "Relu 'near'"


def test_a_refusal_from_afar_is_walked_to() -> None:
    """Beyond the near reach the class of the value tells; what is shown is the way there."""
    net = CoreNet(9)
    y = row(net, net.tanh("x", name="start"), 30)
    net.tanh(net.bn(y, 2.0, 1.0, name="bn"))
    found = trial(net.graph(), Split.UP)
    (attempt,) = found.attempts
    assert attempt.reached == 0
    assert len(found.steps) == 31 and met(found)[-1] == ("start", "REFUSES")


def test_a_refusal_behind_a_hub_is_walked_to() -> None:
    """The second of two candidates is led to the Relu that refused the first; all who were met are shown."""
    net = CoreNet(10)
    value = net.tanh("x", name="start")
    for k in range(30):
        net.conv(value, name=f"reader{k}")
    net.relu(value, name="refuses")
    for name in ("first", "bn"):
        net.tanh(net.bn(value, 1.0, 1.0, name=name))
    graph = net.graph()
    found = trial(graph, Split.UP)
    assert found.refusal is not None
    assert met(found)[0] == ("start", "REFUSES")


@pytest.mark.parametrize("length", [0, 3])
def test_ways_that_were_cut_short_are_gone_on_with(length: int) -> None:
    """What the planner left, one way being enough, is tried as far as it went for that one."""
    net = CoreNet(11)
    writer = net.conv("x", name="writer")
    y = net.bn(row(net, writer, 1), 2.0, 1.0, name="bn")
    net.conv(row(net, y, length), name="reader")
    found = explained(net.graph())
    assert [t.split.value for t in found.trials] == ["up", "down", "shift-up", "scale-up"]
    assert all(t.refusal is None for t in found.trials)
    assert [t.taken for t in found.trials] == (
        [False, True, False, False] if not length else [True] + [False] * 3
    )
    assert [len(t.steps) for t in found.trials] == [2, length + 1, length + 3, length + 3]
    assert isinstance(found.decision, Fold)


def test_what_is_beyond_the_reach_is_told_as_too_far() -> None:
    net = CoreNet(12)
    y = net.bn(net.conv("x", name="writer"), 2.0, 1.0, name="bn")
    net.conv(row(net, y, 40), name="reader")
    found = explained(net.graph())
    told = [None if t.refusal is None else t.refusal.reason for t in found.trials]
    assert told == [None] + [Reason.TOO_FAR] * 3
    assert [len(t.attempts) for t in found.trials] == [1] * 4
    assert [t.attempts[-1].reached for t in found.trials] == [1, 25, 25, 25]


def test_products_without_a_bias_show_the_attempts_that_led_there() -> None:
    """Two more rows of attempts were made: with p, and with p and q, passing the shift on."""
    net = CoreNet(13)
    y = net.bn(net.relu("x", name="before"), 2.0, 1.0, name="bn")
    ends = [net.conv(net.conv(y, bias=False, bias_nodes=1, name=name), name=f"end {name}") for name in "pq"]
    net.tanh(*ends)
    found = trial(net.graph(), Split.DOWN)
    assert found.taken and found.makes == 0
    assert len(found.attempts) == 1
    assert met(found) == [
        ("p", "ABSORBS_AND_PASSES"),
        ("q", "ABSORBS_AND_PASSES"),
        ("end p", "ABSORBS"),
        ("end q", "ABSORBS"),
    ]


def test_one_bias_that_has_to_be_made_is_told() -> None:
    """p cannot pass it on: the attempts are those in which q alone does."""
    net = CoreNet(14)
    y = net.bn(net.relu("x", name="before"), 2.0, 1.0, name="bn")
    p, q = (net.conv(y, bias=False, bias_nodes=1, name=name) for name in "pq")
    net.tanh(p, net.conv(q, name="takes"))
    found = trial(net.graph(), Split.DOWN)
    assert found.makes == 1 and found.taken
    assert met(found)[:2] == [("p", "ABSORBS"), ("q", "ABSORBS_AND_PASSES")]


def test_a_choice_is_told_beside_products_without_a_bias() -> None:
    """Of the attempts in the row that led to the result the first was refused, the second went through."""
    net = CoreNet(15)
    closed, opened = net.relu(net.conv("x"), name="closed"), net.conv("x", name="opened")
    y = net.sum(closed, opened, name="sum")
    product = net.conv(y, bias=False, bias_nodes=1, name="product")
    net.conv(product, name="takes")
    net.tanh(net.bn(y, [2, 3, 0.5], 1.0, name="bn"))
    found = trial(net.graph(), Split.UP)
    assert found.makes == 0 and found.taken
    assert [a.refusal is None for a in found.attempts] == [False, True]
    decided = explained(net.graph()).decision
    assert not isinstance(decided, Keep) and dict(decided.choices) == {"sum": 1, "product": 1}


def test_what_was_refused_near_by_is_not_tried_again_from_afar() -> None:
    """The way up is far, the way down is refused at the third node."""
    net = CoreNet(16)
    y = net.bn(row(net, net.conv("x", name="writer"), 30), 2.0, 1.0, name="bn")
    net.tanh(row(net, y, 2), name="tanh")
    up, down, *_ = explained(net.graph()).trials
    assert up.taken and up.attempts[-1].reached == 31
    assert [a.reached for a in down.attempts] == [3]
    assert down.refusal == Refusal(Reason.NONLINEAR, "Tanh 'tanh'", net.node("tanh").inputs[0], split="down")


def test_branches_that_share_are_walked_to_beside_a_hub() -> None:
    """The sum is cut into 25 parts as well; shown is the attempt in which both branches share."""
    net = CoreNet(17)
    v = net.relu(net.conv("x"), name="closed")
    s = net.sum(net.identity(v, name="left"), net.identity(v, name="right"), name="sum")
    outputs = ("part", *[""] * 24)
    net.add(
        "Split", ConcatSplit(0, tuple(~k for k in range(25)), 2, (1,) * 25), s, outputs=outputs, name="split"
    )
    net.conv("part")
    net.tanh(net.bn(s, 2.0, 1.0, name="bn"))
    found = trial(net.graph(), Split.UP)
    assert [c[0][1] for c in choices(found)] == ["left_out", "right_out", "all inputs alike"]
    assert met(found) == [("sum", "PASSES"), ("left", "PASSES"), ("right", "PASSES"), ("closed", "REFUSES")]
