"""``inspect --explain``: what it says is what the plan did, and the alternatives it names do work."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Keep, Plan, Split
from bnfuse.core.explain import Answer, Explanation, explain
from bnfuse.core.plan import plan
from bnfuse.core.reasons import Reason
from bnfuse.explain import explain as explain_file
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from bnfuse.report.explanation import print_explanations
from tests.command import call
from tests.onnx_graphs import Net, assert_equal

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
FIXTURES = [
    ROOT / "fixtures" / name
    for name in ("digits_cnn.onnx", "digits_mlp.onnx", "digits_a.keras", "digits_b.h5")
]
REAL = sorted((ROOT.parent / "shared" / "models").glob("*/*.*"))

# ---- nets -----------------------------------------------------------------------------------------


def _padded(net: Net) -> onnx.ModelProto:
    """x(2,3,8,7) → Conv → Relu → BN → Conv with zero padding: the shift has nowhere to go."""
    value = net.op("Relu", net.conv("x", 3, 5, 3, 3, name="first"), name="relu")
    value = net.bn(value, 5, positive=True, name="bn")
    value = net.conv(value, 5, 4, 3, 3, pads=[1, 1, 1, 1], name="second")
    return net.build({"x": (2, 3, 8, 7)}, value)


def _plain(net: Net) -> onnx.ModelProto:
    """x(2,3,8,7) → Conv → BN → Relu → Conv: goes up; γ has both signs, so it cannot go down."""
    value = net.bn(net.conv("x", 3, 6, 3, 3, name="first"), 6, name="bn")
    value = net.conv(net.op("Relu", value, name="relu"), 6, 4, 3, 3, name="second")
    return net.build({"x": (2, 3, 8, 7)}, value)


def _between(net: Net) -> onnx.ModelProto:
    """x(2,3,8,7) → Conv → BN → MaxPool → Conv without padding: all ways are open."""
    value = net.bn(net.conv("x", 3, 6, 3, 3, name="first"), 6, positive=True, name="bn")
    value = net.op("MaxPool", value, kernel_shape=[2, 2], name="pool")
    value = net.conv(value, 6, 4, 2, 2, name="second")
    return net.build({"x": (2, 3, 8, 7)}, value)


def _preactivation(net: Net) -> onnx.ModelProto:
    """A stream whose stem takes nothing and whose branch takes a shift, read by a BN with γ > 0."""
    stem = net.op("Sigmoid", net.conv("x", 3, 5, 1, 1), name="stem", out="stem_out")
    branch = net.conv(stem, 5, 5, 1, 1, name="branch", out="branch_out")
    stream = net.op("Add", stem, branch, name="sum")
    value = net.op("Relu", net.bn(stream, 5, positive=True, name="bn"), name="relu")
    return net.build({"x": (2, 3, 6, 7)}, net.conv(value, 5, 4, 3, 3, name="last"))


def _chained(net: Net) -> onnx.ModelProto:
    """Relu → BN → BN → Relu: the first goes down into the second, which stays with new numbers."""
    value = net.op("Relu", net.conv("x", 3, 5, 3, 3), name="relu")
    value = net.bn(net.bn(value, 5, name="one"), 5, name="two")
    return net.build({"x": (2, 3, 6, 7)}, net.op("Relu", value, name="end"))


def _runtime(net: Net) -> onnx.ModelProto:
    """The scale is computed from the input."""
    scale = net.op("Relu", net.op("ReduceMean", "x", axes=[0, 2, 3], keepdims=0))
    others = net.statistics(3)[1:]
    return net.build({"x": (2, 3, 6, 7)}, net.op("BatchNormalization", "x", scale, *others, name="bn"))


NETS = {
    "padded": _padded,
    "plain": _plain,
    "between": _between,
    "preactivation": _preactivation,
    "chained": _chained,
    "runtime": _runtime,
}


def _saved(name: str, folder: Path, seed: int = 0) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(NETS[name](Net(seed)), path)
    return path


def _one(path: Path, node: str = "bn") -> Explanation:
    (found,) = explain_file(path, node)
    return found


def _affine(path: Path, node: str) -> tuple[np.ndarray, np.ndarray]:
    """a and c of a BN, straight from the formula and the file's own numbers."""
    graph = onnx.load(path).graph
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    norm = next(n for n in graph.node if n.name == node)
    gamma, beta, mean, variance = (arrays[name] for name in norm.input[1:])
    a = gamma / np.sqrt(variance + norm.attribute[0].f)
    return a, beta - mean * a


# ---- one decision in full -------------------------------------------------------------------------


def test_figures_are_those_of_the_formula(tmp_path: Path) -> None:
    path = _saved("plain", tmp_path)
    a, c = _affine(path, "bn")
    numbers = _one(path).numbers
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
    numbers = _one(path).numbers
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


def _outcome(explanation: Explanation, split: str) -> str:
    trial = next(t for t in explanation.trials if t.split.value == split)
    return "taken" if trial.taken else "refused" if trial.refusal else "possible"


@pytest.mark.parametrize("name", _MET)
def test_who_was_met_and_who_refused(name: str, tmp_path: Path) -> None:
    found = _one(_saved(name, tmp_path))
    told = {
        trial.split.value: (
            _outcome(found, trial.split.value),
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
    down = next(t for t in _one(path).trials if t.split is Split.DOWN)
    assert down.refusal is not None
    assert (down.refusal.reason, down.refusal.node) == (Reason.NEGATIVE_SCALE, "Relu 'relu'")
    (step,) = down.steps
    assert (step.asked.negative, step.asked.size, step.asked.scale, step.asked.shift) == (2, 6, True, False)
    assert (_affine(path, "bn")[0] < 0).sum() == 2


def test_choices_at_a_sum_are_told_in_the_order_tried(tmp_path: Path) -> None:
    """The stem ends in a Sigmoid, so only the branch beside it can take the shift, and no scale goes up."""
    found = _one(_saved("preactivation", tmp_path))
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
    up = next(t for t in _one(path).trials if t.split is Split.UP)
    assert [(a.choices[0].taker, a.refusal.node) for a in up.attempts if a.refusal] == [
        ("out0", "Relu 'end0'"),
        ("out1", "Relu 'end1'"),
    ]


def test_numbers_that_earlier_folds_changed(tmp_path: Path) -> None:
    path = _saved("chained", tmp_path)
    found = _one(path, "two")
    assert isinstance(found.decision, Keep)
    assert found.absorbed == ("one",)
    (a1, c1), (a2, c2) = _affine(path, "one"), _affine(path, "two")
    assert found.numbers is not None
    assert found.numbers_then is not None
    assert found.numbers.most == pytest.approx(np.abs(a2).max(), rel=1e-6)
    assert found.numbers_then.most == pytest.approx(np.abs(a1 * a2).max(), rel=1e-6)
    assert found.numbers_then.largest_shift == pytest.approx(np.abs(a2 * c1 + c2).max(), rel=1e-6)


def test_a_node_that_is_itself_at_fault(tmp_path: Path) -> None:
    found = _one(_saved("runtime", tmp_path))
    assert isinstance(found.decision, Keep)
    assert found.decision.primary.reason is Reason.PARAMETER_NOT_CONSTANT
    assert found.trials == ()


# ---- what it says holds ---------------------------------------------------------------------------


@pytest.mark.parametrize("split", [Split.DOWN, Split.SHIFT_UP, Split.SCALE_UP])
def test_splits_called_possible_do_fold(split: Split, tmp_path: Path) -> None:
    """Each alternative is forced on the writer; onnxruntime finds the result equal."""
    path = _saved("between", tmp_path, seed=3)
    assert _outcome(_one(path), split.value) == "possible"
    trial = next(t for t in _one(path).trials if t.split is split)
    model = FORMAT.read(path, ReadOptions())
    (decided,) = plan(model.graph).order
    forced = replace(decided, split=split, into=trial.into, through=trial.through)
    after = tmp_path / "after.onnx"
    model.write(apply(model.graph, Plan((forced,), (forced,))), after)
    assert "BatchNormalization" not in {n.op_type for n in onnx.load(after).graph.node}
    assert_equal(path, after)


def _check_against_the_plan(path: Path) -> Counter[str]:
    """Every trial ends as the decision says; returns how many ended how."""
    model = detect(path).read(path, ReadOptions())
    decided = plan(model.graph)
    names = [d.node for d in decided.decisions]
    told = explain(model.graph, decided, names)
    assert [e.decision for e in told] == list(decided.decisions)
    seen: Counter[str] = Counter()
    for explanation in told:
        decision = explanation.decision
        taken = [t for t in explanation.trials if t.taken]
        if isinstance(decision, Fold):
            (one,) = taken
            assert (one.split, one.into, one.through) == (decision.split, decision.into, decision.through)
            assert one.refusal is None
            # None of the ways that would have worked is shorter than the one taken.
            assert all(
                t.attempts[-1].reached >= one.attempts[-1].reached
                for t in explanation.trials
                if not t.refusal
            )
        elif explanation.trials:
            assert not taken
            assert [t.refusal for t in explanation.trials] == list(decision.refusals)
        seen.update(
            "taken" if t.taken else "refused" if t.refusal else "possible" for t in explanation.trials
        )
    again = plan(detect(path).read(path, ReadOptions()).graph)
    assert again == decided
    model.close()
    return seen


@pytest.mark.parametrize("name", NETS)
def test_agrees_with_the_plan_on_small_nets(name: str, tmp_path: Path) -> None:
    for seed in range(3):
        _check_against_the_plan(_saved(name, tmp_path, seed))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.name)
def test_agrees_with_the_plan_on_fixtures(path: Path) -> None:
    seen = _check_against_the_plan(path)
    assert seen["taken"] >= 3
    assert seen["refused"] + seen["possible"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_agrees_with_the_plan_on_real_models(path: Path) -> None:
    _check_against_the_plan(path)


def test_explaining_changes_nothing(tmp_path: Path) -> None:
    """The patch that follows is byte for byte the one without it."""
    path = _saved("preactivation", tmp_path)
    results = []
    for explained in (False, True):
        model = FORMAT.read(path, ReadOptions())
        decided = plan(model.graph)
        if explained:
            assert explain(model.graph, decided, ["bn"])
        after = tmp_path / f"after{explained}.onnx"
        model.write(apply(model.graph, decided), after)
        results.append(after.read_bytes())
    assert results[0] == results[1]


# ---- the command ----------------------------------------------------------------------------------


def test_the_command_says_it_all(tmp_path: Path) -> None:
    done = call("inspect", _saved("padded", tmp_path), "--explain", "bn")
    assert done.exit_code == 0, done.stderr
    for part in (
        "node     bn (BatchNormalization)",
        "decision kept: up: a shift cannot pass through Relu 'relu'",
        "5 channels: 5 positive, 0 negative, 0 zero; |a| from ",
        "split    up (x is held as a·x + c): refused: a shift cannot pass through Relu 'relu'",
        "split    down (y is held as (y − c)/a): refused: Conv 'second' pads with zeros",
        "split    scale-up (x is held as a·x, y as y − c): refused: Conv 'second'",
        "a scale and a shift",
    ):
        assert part in done.stdout


def test_the_command_says_what_other_splits_would_need(tmp_path: Path) -> None:
    done = call("inspect", _saved("between", tmp_path), "--explain", "bn")
    assert "taken: into first (1 node)" in done.stdout
    assert "possible too: into second, through pool (2 nodes; up touches 1)" in done.stdout


def test_json_fits_the_schema_and_says_the_same(tmp_path: Path) -> None:
    path = _saved("preactivation", tmp_path)
    written = tmp_path / "report.json"
    done = call("inspect", path, "--explain", "b*", "--json", "--report", written)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    explanation = document["explanation"]
    assert explanation["pattern"] == "b*"
    (node,) = explanation["nodes"]
    assert node["decision"] == document["decisions"][0]
    trial = next(t for t in node["splits"] if t["split"] == "shift-up")
    assert (trial["outcome"], sorted(trial["into"])) == ("taken", ["branch", "last"])
    assert [s["node"] for s in trial["steps"]].index("sum") < [s["node"] for s in trial["steps"]].index(
        "branch"
    )
    assert trial["attempts"][-1]["choices"] == [
        {"node": "sum", "op": "Add", "taker": "branch_out", "taken": 1, "of": 2}
    ]
    assert json.loads(written.read_text())["explanation"] == explanation


def test_json_without_it_has_no_explanation(tmp_path: Path) -> None:
    document = json.loads(call("inspect", _saved("padded", tmp_path), "--json").stdout)
    assert "explanation" not in document
    assert document["groups"][0]["nodes"] == ["bn"]


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    done = call("inspect", _saved("padded", tmp_path), "--explain", "bn", "-q")
    assert (done.exit_code, done.stdout) == (0, "")


@pytest.mark.parametrize("path", FIXTURES[2:], ids=lambda p: p.name)
def test_keras_files_are_explained_too(path: Path) -> None:
    done = call("inspect", path, "--explain", "bn_?", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    nodes = document["explanation"]["nodes"]
    assert [node["decision"]["name"] for node in nodes] == ["bn_1", "bn_2", "bn_3"]
    assert all(any(t["outcome"] == "taken" for t in node["splits"]) for node in nodes)


UNKNOWN = [
    ("bm", "no BatchNormalization of", "did you mean 'bn'?"),
    ("relu", "'relu' is a Relu, no BatchNormalization", "there are 'bn'"),
    ("x*y", "is called 'x*y'", "there are 'bn'"),
    ("", "is called ''", "there are 'bn'"),
]


@pytest.mark.parametrize(("pattern", "what", "hint"), UNKNOWN)
def test_an_unknown_name_is_wrong_usage(pattern: str, what: str, hint: str, tmp_path: Path) -> None:
    done = call("inspect", _saved("padded", tmp_path), "--explain", pattern)
    assert (done.exit_code, done.stdout) == (2, "")
    assert what in done.stderr
    assert hint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_without_batchnorm_has_nothing_to_explain(plain_model: Path) -> None:
    done = call("inspect", plain_model, "--explain", "bn")
    assert done.exit_code == 2
    assert "has no BatchNormalization to explain" in done.stderr


@pytest.mark.parametrize(
    "name", ["a[b]*?", "[red]x[/]", "::error::owned", "##[error]x", "\x1b[31mred\x07", "a\nb"]
)
def test_names_are_data(name: str, tmp_path: Path) -> None:
    """A name is found as it stands, and printed as it is, without markup or control characters."""
    net = Net()
    value = net.op("Relu", net.conv("x", 3, 5, 3, 3), name=f"relu {name}", out=f"value {name}")
    value = net.conv(net.bn(value, 5, name=name), 5, 4, 3, 3, pads=[1, 1, 1, 1], name=name + "2")
    path = tmp_path / "hostile.onnx"
    onnx.save(net.build({"x": (2, 3, 8, 7)}, value), path)
    (found,) = explain_file(path, name)
    assert found.decision.node == name
    stream = StringIO()
    print_explanations((found,), Console(file=stream, width=200, markup=False, highlight=False))
    printed = stream.getvalue()
    assert all(c == "\n" or c.isprintable() for c in printed)
    assert "##[" not in printed
    assert not any(line.startswith("::") for line in printed.splitlines())
    if name.isprintable() and "##[" not in name:
        assert f"Conv '{name}2' pads with zeros" in printed


def test_long_traces_are_cut_unless_verbose(tmp_path: Path) -> None:
    """A chain of 60 activations before the end refuses."""
    net = Net()
    value = net.bn("x", 4, positive=True, shift=False, name="bn")
    for number in range(60):
        value = net.op("Relu", value, name=f"relu{number}")
    path = tmp_path / "long.onnx"
    onnx.save(net.build({"x": (2, 4, 3, 3)}, value), path)
    found = explain_file(path, "bn")
    down = next(t for t in found[0].trials if t.split is Split.DOWN)
    assert [s.node for s in down.steps] == [f"relu{n}" for n in range(60)]
    lengths = []
    for verbose in (False, True):
        stream = StringIO()
        print_explanations(found, Console(file=stream, width=160), verbose=verbose)
        lengths.append(stream.getvalue().count("relu"))
    assert lengths[1] - lengths[0] >= 20
