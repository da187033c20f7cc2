"""In which order candidates are tried, and again when others have gone; what is decided without trying."""

from __future__ import annotations

from bnfuse.core.decisions import Fold, Keep, Split
from bnfuse.core.planning.plan import plan
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.rules.base import Opaque, Pass
from tests.core_nets import CoreNet


def test_a_candidate_takes_nothing_on_while_it_may_go_itself() -> None:
    """Relu → one → two → Conv: one does not fold into two, which goes down; then one goes down, too."""
    net = CoreNet(13)
    y = net.bn(net.relu("x", name="start"), [2, -3, 1], [1, 0, 1], name="one")
    net.conv(net.bn(y, [3, 2, -1], [0, 1, 1], name="two"), name="reader")
    one, two = plan(net.graph()).plan.decisions
    assert isinstance(one, Fold) and isinstance(two, Fold)
    assert (one.into, two.into) == (("reader",), ("reader",))
    assert [f.node for f in plan(net.graph()).plan.order] == ["two", "one"]


def test_when_nothing_more_goes_one_may_take_on_another() -> None:
    """Relu → one → two → Relu: neither can go but into the other; the first goes, once nobody waits."""
    net = CoreNet(14)
    y = net.bn(net.relu("x", name="start"), [2, -3, 1], [1, 0, 1], name="one")
    net.relu(net.bn(y, [3, 2, -1], [0, 1, 1], name="two"), name="end")
    one, two = plan(net.graph()).plan.decisions
    assert isinstance(one, Fold) and one.into == ("two",) and one.split is Split.DOWN
    assert isinstance(two, Keep)
    assert {r.reason for r in two.refusals} == {Reason.SHIFT_THROUGH_ACTIVATION, Reason.NEGATIVE_SCALE}


def test_a_fold_opens_the_way_for_one_that_was_refused() -> None:
    """Conv → one → Relu, and two beside one: two is refused for one's sake, until one is gone."""
    net = CoreNet(15)
    v = net.conv("x", name="writer")
    one = net.bn(v, 2.0, 0.0, name="first")
    net.conv(net.relu(one), name="behind")
    net.tanh(net.bn(net.tanh("x"), name="stays"))
    made = plan(net.graph()).plan
    assert [isinstance(d, Fold) for d in made.decisions] == [True, False]


def test_who_is_kept_by_order_is_not_tried() -> None:
    net = CoreNet(16)
    net.tanh(net.bn(net.conv("x", name="a"), name="one"))
    net.tanh(net.bn(net.conv("x", name="b"), name="two"))
    one, two = plan(net.graph(), {"two"}).plan.decisions
    assert isinstance(one, Fold)
    assert two == Keep(
        "two", "BatchNormalization", True, 3,
        (Refusal(Reason.OVERFLOW, "BatchNormalization 'two'", detail="their dtype"),),
    )  # fmt: skip


def test_rounds_go_on_as_long_as_one_of_them_went() -> None:
    """Relu → C → A → B → Relu: A divides, so C's zero does not go into it; once A is in C, C goes into B."""
    net = CoreNet(17)
    y = net.relu("x", name="start")
    y = net.bn(y, [2, 0, -1], 0.0, op="Mul", name="C", has_shift=False)
    y = net.bn(y, [1, -2, 3], 0.0, op="Mul", name="A", has_shift=False, divides=True)
    net.relu(net.bn(y, [3, 2, -1], [1, 1, 2], name="B"), name="end")
    made = plan(net.graph()).plan
    assert [isinstance(d, Fold) for d in made.decisions] == [True, True, False]
    assert [(f.node, f.into) for f in made.order] == [("A", ("C",)), ("C", ("B",))]


def test_candidates_that_cannot_go_at_all_are_told_why() -> None:
    """The rule refuses, there is no rule of the kind, or the numbers make no sense: how many are known."""
    net = CoreNet(18)
    net.add("BatchNormalization", Opaque(Reason.TRAINING_MODE, "so it is"), "x", name="training")
    net.add("BatchNormalization", Pass(), "x", name="strange")
    fault = Refusal(Reason.INVALID_STATISTICS, "BatchNormalization 'broken'")
    net.bn("x", [1, 2, 3], 0.0, name="broken", broken=fault)
    net.channels["none"] = 0
    net.bn("none", 1.0, 0.0, name="unknown", broken=fault)
    told = [(d.node, d.channels, d.refusals) for d in plan(net.graph()).plan.decisions if isinstance(d, Keep)]
    assert told == [
        (
            "training",
            None,
            (Refusal(Reason.TRAINING_MODE, "BatchNormalization 'training'", detail="so it is"),),
        ),
        ("strange", None, (Refusal(Reason.UNSUPPORTED_OP, "BatchNormalization 'strange'"),)),
        ("broken", 3, (fault,)),
        ("unknown", None, (fault,)),
    ]
