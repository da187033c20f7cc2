"""Reasons are grouped in every report: each kept node once, under the refusal that says most."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from bnfuse.core.decisions import Fold, Keep, Plan, Split
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.report import render
from bnfuse.report.groups import groups, main_refusal
from bnfuse.report.terminal import show
from bnfuse.results import FileInfo, Report
from bnfuse.use_cases.optimize import inspect
from tests.onnx_graphs import Net

RELU = ("up", Reason.SHIFT_THROUGH_ACTIVATION, "Relu")
PAD = ("down", Reason.ZERO_PADDING, "Conv")
INPUT = ("up", Reason.GRAPH_INPUT, "")
Told = tuple[str, Reason, str]


def kept(name: str, *told: Told, op: str = "BatchNormalization", detail: str = "") -> Keep:
    refusals = tuple(
        Refusal(reason, f"{kind} '{kind}-{name}'" if kind else "", f"value-{name}", detail, split)
        for split, reason, kind in told
    )
    return Keep(name, op, op == "BatchNormalization", 4, refusals)


def folded(name: str) -> Fold:
    return Fold(name, "BatchNormalization", True, 4, Split.UP, ("conv",), ())


def report(*decisions: Keep | Fold) -> Report:
    before = {"BatchNormalization": len(decisions)}
    return Report(FileInfo(Path("m.onnx"), "ONNX", "", 1), Plan(decisions), before, before)


def printed(value: Report, *, verbose: bool = False) -> str:
    stream = StringIO()
    show(value, Console(file=stream, width=200, markup=False, highlight=False), verbose=verbose)
    return stream.getvalue()


INPUT_FED = "up: a value on the way is an input of the model, whose values cannot be changed"
TRAINED = "runs in training mode, so it uses the statistics of each batch"
ZERO_PADDED = "down: a Conv pads with zeros, which a shift would turn into wrong values at the borders"
RELU_BEFORE = "up: a shift cannot pass through a Relu"
MESSAGES: list[tuple[list[Keep | Fold], list[str]]] = [
    ([folded("a")], []),
    (
        [kept("a", RELU, PAD), folded("b"), kept("c", RELU, PAD), kept("d", RELU, PAD)],
        [f"3 BatchNormalizations stay: {ZERO_PADDED}; {RELU_BEFORE}"],
    ),
    # what not all of them were told is left out
    ([kept("a", RELU, PAD), kept("b", INPUT, PAD)], [f"2 BatchNormalizations stay: {ZERO_PADDED}"]),
    # one alone keeps its names, the sentence that says most first
    (
        [kept("a", RELU, PAD)],
        [
            f"1 BatchNormalization stays: {ZERO_PADDED}; {RELU_BEFORE}".replace(
                "a Conv", "Conv 'Conv-a'"
            ).replace("a Relu", "Relu 'Relu-a'")
        ],
    ),
    # the same reason from another kind of node is another group; the larger comes first
    (
        [kept("a", RELU), kept("b", ("up", Reason.SHIFT_THROUGH_ACTIVATION, "LSTM")), kept("c", RELU)],
        [
            "2 BatchNormalizations stay: up: a shift cannot pass through a Relu",
            "1 BatchNormalization stays: up: a shift cannot pass through LSTM 'LSTM-b'",
        ],
    ),
    # BatchNormalizations come before larger groups of others, and are counted apart from them
    (
        [
            kept("a", INPUT, op="Mul"),
            kept("b", INPUT, op="Mul"),
            kept("c", INPUT, op="Add"),
            kept("d", RELU),
            kept("e", RELU, op="Mul"),
        ],
        [
            "1 BatchNormalization and 1 Mul node stay: up: a shift cannot pass through a Relu",
            f"2 Mul nodes and 1 Add node stay: {INPUT_FED}",
        ],
    ),
    # one that is itself at fault
    (
        [kept("a", ("", Reason.TRAINING_MODE, "")), kept("b", ("", Reason.TRAINING_MODE, ""))],
        [f"2 BatchNormalizations stay: a node {TRAINED}"],
    ),
]


@pytest.mark.parametrize(("decisions", "expected"), MESSAGES)
def test_messages(decisions: list[Keep | Fold], expected: list[str]) -> None:
    assert [group.message for group in groups(decisions)] == expected


def test_a_node_at_fault_is_called_itself() -> None:
    every = [
        Keep(n, "BatchNormalization", True, 4, (Refusal(Reason.TRAINING_MODE, f"BatchNormalization '{n}'"),))
        for n in ("a", "b")
    ]
    assert groups(every)[0].why == f"the node itself {TRAINED}"


def test_figures_stand_only_where_all_agree() -> None:
    told = ("shift-up", Reason.NEGATIVE_SCALE, "Relu")
    same = [kept(n, told, detail="2 of 64 channels are negative") for n in "ab"]
    other = kept("c", told, detail="9 of 64 channels are negative")
    (group,) = groups(same)
    assert group.why == "shift-up: a Relu passes only non-negative scales (2 of 64 channels are negative)"
    (group,) = groups([*same, other])
    assert group.why == "shift-up: a Relu passes only non-negative scales"
    fp16 = [kept(n, ("up", Reason.OVERFLOW, "Conv"), detail="float16") for n in "ab"]
    assert groups(fp16)[0].why == "up: the weights of a Conv would overflow float16 or hold NaN"


RANKED = [
    (Reason.NO_GAIN, Reason.NEGATIVE_SCALE),
    (Reason.NEGATIVE_SCALE, Reason.ZERO_PADDING),
    (Reason.WEIGHT_NOT_CONSTANT, Reason.SHIFT_THROUGH_ACTIVATION),
    (Reason.ZERO_PADDING, Reason.SHIFT_THROUGH_ACTIVATION),
    (Reason.SHIFT_THROUGH_ACTIVATION, Reason.CONFLICT),
    (Reason.CONFLICT, Reason.NONLINEAR),
    (Reason.NONLINEAR, Reason.GRAPH_INPUT),
    (Reason.NONLINEAR, Reason.TOO_FAR),
]


@pytest.mark.parametrize(("stronger", "weaker"), RANKED)
def test_the_refusal_that_says_most_speaks(stronger: Reason, weaker: Reason) -> None:
    for order in ((stronger, weaker), (weaker, stronger)):
        keep = kept("a", *(("up", reason, "Op") for reason in order))
        assert main_refusal(keep).reason is stronger
        assert keep.primary.reason is order[0]  # what JSON calls a decision's reason is as it was


def test_among_equals_the_first_split_speaks() -> None:
    keep = kept("a", ("up", Reason.NONLINEAR, "Tanh"), ("down", Reason.UNSUPPORTED_OP, "If"))
    assert main_refusal(keep).split == "up"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_makes_a_sentence(reason: Reason) -> None:
    """No placeholder is left, and no name of a node or value of one member stands for all."""
    told = ("up", reason, "Op")
    (group,) = groups([kept("first", told, detail="x"), kept("second", told, detail="y")])
    assert not re.search(r"[{}]|first|second", group.message)
    assert group.message.startswith("2 BatchNormalizations stay: up: ")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Four blocks Conv → Relu → BN → Conv with zero padding, and one BN that goes."""
    net = Net()
    value = net.bn(net.conv("x", 3, 5, 3, 3), 5, name="goes")
    for number in range(4):
        value = net.op("Relu", net.conv(value, 5, 5, 3, 3, pads=[1, 1, 1, 1]), name=f"relu{number}")
        value = net.bn(value, 5, positive=True, name=f"stays{number}")
    value = net.conv(value, 5, 4, 3, 3, pads=[1, 1, 1, 1], name="last")
    made = tmp_path / "model.onnx"
    onnx.save(net.build({"x": (2, 3, 8, 7)}, value), made)
    return made


SENTENCE = (
    "4 BatchNormalizations stay: down: a Conv pads with zeros, which a shift would turn into wrong values "
    "at the borders; up: a shift cannot pass through a Relu"
)


def test_json_counts_each_kept_node_once(path: Path) -> None:
    document = json.loads(render(inspect(path), ".json"))
    (group,) = document["groups"]
    assert (group["reason"], group["op"], group["count"]) == ("ZERO_PADDING", "Conv", 4)
    assert group["message"] == SENTENCE
    assert group["nodes"] == [f"stays{n}" for n in range(4)]
    assert [d["name"] for d in document["decisions"] if d["action"] == "keep"] == group["nodes"]


def test_every_form_but_junit_has_the_line(path: Path) -> None:
    made = inspect(path)
    markdown = re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), render(made, ".md"))
    for text in (printed(made), markdown, render(made, ".html")):
        assert SENTENCE in text
        assert re.search(r"stays0\W.*stays1\W.*stays2.* and 1 more", text)
        assert text.index(SENTENCE) < text.index("goes")  # the table follows
    assert SENTENCE not in render(made, ".xml")


def test_one_kept_node_needs_no_groups_on_a_terminal() -> None:
    assert "stays:" not in printed(report(kept("a", RELU), folded("b")))
    assert "stays:" in render(report(kept("a", RELU), folded("b")), ".html")


def test_many_groups_are_cut_on_a_terminal_unless_verbose() -> None:
    many = report(*(kept(f"k{n}", ("up", Reason.NONLINEAR, f"Op{n}")) for n in range(25)))
    assert printed(many).count("\nkept ") == 10
    assert "15 more reasons: -v shows them all" in printed(many)
    assert printed(many, verbose=True).count("\nkept ") == 25


def test_what_was_asked_to_stay_is_not_lumped_with_what_stays_beside_it() -> None:
    asked = "BatchNormalization 'a'"
    own = Keep("a", "BatchNormalization", True, 4, (Refusal(Reason.BY_REQUEST, asked),))
    beside = Keep("b", "BatchNormalization", True, 4, (Refusal(Reason.BY_REQUEST, asked, split="up"),))
    named = {group.nodes: group.message for group in groups((own, beside))}
    assert named == {
        ("a",): "1 BatchNormalization stays: BatchNormalization 'a' is to stay, as you asked",
        ("b",): "1 BatchNormalization stays: up: BatchNormalization 'a' is to stay, as you asked",
    }
