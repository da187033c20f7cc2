"""``inspect --explain``: the figures, the nodes met and who refused are those of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfuse.core.decisions import Fold, Keep, Split
from bnfuse.core.explanation import Answer
from bnfuse.core.reasons import Reason
from tests.explained_nets import affine_of, explained, outcome, saved
from tests.onnx_graphs import Net


def test_figures_are_those_of_the_formula(tmp_path: Path) -> None:
    path = saved("plain", tmp_path)
    a, c = affine_of(path, "bn")
    numbers = explained(path).numbers
    assert numbers is not None
    assert (numbers.channels, numbers.positive, numbers.negative, numbers.zero) == (6, 4, 2, 0)
    assert (a > 0).sum() == 4
    assert numbers.least == pytest.approx(np.abs(a).min(), rel=1e-6)
    assert numbers.most == pytest.approx(np.abs(a).max(), rel=1e-6)
    assert numbers.largest_shift == pytest.approx(np.abs(c).max(), rel=1e-6)
    assert numbers.shifted == 6


def test_zeros_of_the_scale_are_counted(tmp_path: Path) -> None:
    net = Net()
    value = net.conv("x", 3, 5, 3, 3)
    parameters = net.statistics(5)
    gamma = next(t for t in net.initializers if t.name == parameters[0])
    gamma.CopyFrom(numpy_helper.from_array(np.array([0, -1, 2, 0, 3], np.float32), gamma.name))
    value = net.op("BatchNormalization", value, *parameters, name="bn")
    path = tmp_path / "zeros.onnx"
    onnx.save(net.build({"x": (2, 3, 6, 7)}, value), path)
    numbers = explained(path).numbers
    assert numbers is not None
    assert (numbers.positive, numbers.negative, numbers.zero) == (2, 1, 2)
    assert numbers.least == 0.0


# split → (outcome, who refused, the nodes met in order with their answers)
_MET: dict[str, dict[str, tuple[str, str, list[tuple[str, Answer]]]]] = {
    "padded": {
        "up": ("refused", "Relu 'relu'", [("relu", Answer.REFUSES)]),
        "down": ("refused", "Conv 'second'", [("second", Answer.REFUSES)]),
        "shift-up": ("refused", "Relu 'relu'", [("relu", Answer.REFUSES)]),
        "scale-up": ("refused", "Conv 'second'", [("relu", Answer.PASSES), ("second", Answer.REFUSES)]),
    },
    "plain": {
        "up": ("taken", "", [("first", Answer.ABSORBS)]),
        "down": ("refused", "Relu 'relu'", [("relu", Answer.REFUSES)]),
        "shift-up": (
            "possible",
            "",
            [("first", Answer.ABSORBS), ("relu", Answer.PASSES), ("second", Answer.ABSORBS)],
        ),
        "shift-up-signed": ("refused", "Relu 'relu'", [("first", Answer.ABSORBS), ("relu", Answer.REFUSES)]),
        "scale-up": ("refused", "Relu 'relu'", [("first", Answer.ABSORBS), ("relu", Answer.REFUSES)]),
    },
    "between": {
        "up": ("taken", "", [("first", Answer.ABSORBS)]),
        "down": ("possible", "", [("pool", Answer.PASSES), ("second", Answer.ABSORBS)]),
        "shift-up": (
            "possible",
            "",
            [("first", Answer.ABSORBS), ("pool", Answer.PASSES), ("second", Answer.ABSORBS)],
        ),
        "scale-up": (
            "possible",
            "",
            [("first", Answer.ABSORBS), ("pool", Answer.PASSES), ("second", Answer.ABSORBS)],
        ),
    },
}


@pytest.mark.parametrize("name", _MET)
def test_who_was_met_and_who_refused(name: str, tmp_path: Path) -> None:
    found = explained(saved(name, tmp_path))
    told = {
        trial.split.value: (
            outcome(found, trial.split.value),
            trial.refusal.node if trial.refusal else "",
            [(step.node, step.answer) for step in trial.steps],
        )
        for trial in found.trials
    }
    assert told == _MET[name]


def test_a_negative_scale_is_counted_where_it_is_refused(tmp_path: Path) -> None:
    """With no shift, the Relu refuses for the signs alone: 2 of 6, as Net.factors deals them."""
    net = Net()
    value = net.bn(net.op("Sigmoid", "x", name="sigmoid"), 6, shift=False, name="bn")
    value = net.conv(net.op("Relu", value, name="relu"), 6, 4, 3, 3, name="second")
    path = tmp_path / "signs.onnx"
    onnx.save(net.build({"x": (2, 6, 8, 7)}, value), path)
    down = next(t for t in explained(path).trials if t.split is Split.DOWN)
    assert down.refusal is not None
    assert (down.refusal.reason, down.refusal.node) == (Reason.NEGATIVE_SCALE, "Relu 'relu'")
    (step,) = down.steps
    assert (step.asked.negative, step.asked.size, step.asked.scale, step.asked.shift) == (2, 6, True, False)
    assert (affine_of(path, "bn")[0] < 0).sum() == 2


def test_choices_at_a_sum_are_told_in_the_order_tried(tmp_path: Path) -> None:
    """The stem ends in a Sigmoid, so only the branch beside it can take the shift, and no scale goes up."""
    found = explained(saved("preactivation", tmp_path))
    trial = next(t for t in found.trials if t.split is Split.SHIFT_UP)
    assert trial.taken
    assert isinstance(found.decision, Fold)
    assert [(c.node, c.taker, c.taken, c.of) for c in trial.attempts[-1].choices] == [
        ("sum", "branch_out", 1, 2)
    ]
    assert (trial.into, trial.through) == (found.decision.into, found.decision.through)
    assert set(trial.into) == {"branch", "last"}
    up = next(t for t in found.trials if t.split is Split.UP)
    assert [c.taker for c in up.attempts[0].choices] == ["stem_out"]
    assert up.refusal is not None
    assert up.refusal.node == "Sigmoid 'stem'"


def test_all_ways_past_a_sum_are_told(tmp_path: Path) -> None:
    """Neither of two branches takes a shift: both ways are tried, and each is refused by its own end."""
    net = Net()
    ends = [net.op("Relu", net.conv("x", 3, 5, 1, 1), name=f"end{n}", out=f"out{n}") for n in range(2)]
    value = net.bn(net.op("Add", *ends, name="sum"), 5, positive=True, name="bn")
    path = tmp_path / "ways.onnx"
    onnx.save(net.build({"x": (2, 3, 6, 7)}, net.op("Softsign", value, name="last")), path)
    up = next(t for t in explained(path).trials if t.split is Split.UP)
    assert [(a.choices[0].taker, a.refusal.node) for a in up.attempts if a.refusal] == [
        ("out0", "Relu 'end0'"),
        ("out1", "Relu 'end1'"),
    ]


def test_numbers_that_earlier_folds_changed(tmp_path: Path) -> None:
    path = saved("chained", tmp_path)
    found = explained(path, "two")
    assert isinstance(found.decision, Keep)
    assert found.absorbed == ("one",)
    (a1, c1), (a2, c2) = affine_of(path, "one"), affine_of(path, "two")
    assert found.numbers is not None
    assert found.numbers_then is not None
    assert found.numbers.most == pytest.approx(np.abs(a2).max(), rel=1e-6)
    assert found.numbers_then.most == pytest.approx(np.abs(a1 * a2).max(), rel=1e-6)
    assert found.numbers_then.largest_shift == pytest.approx(np.abs(a2 * c1 + c2).max(), rel=1e-6)


def test_a_node_that_is_itself_at_fault(tmp_path: Path) -> None:
    found = explained(saved("runtime", tmp_path))
    assert isinstance(found.decision, Keep)
    assert found.decision.primary.reason is Reason.PARAMETER_NOT_CONSTANT
    assert found.trials == ()
