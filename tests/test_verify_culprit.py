"""A wrong result: the first fold that breaks equality is named, in time, and nothing is written.

Defects are planted by a writer that spoils one layer's bias whenever a certain BatchNormalization goes.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import numpy_helper

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Fold, Keep, Narrowed, Plan, Split
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.formats import load
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from bnfuse.results import Agreement, Status
from bnfuse.use_cases.bisection import Failed, name_culprit, prefix
from bnfuse.use_cases.unwritten import Unproved
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.calls import optimize
from tests.command import call
from tests.report_schema import assert_fits
from tests.tiny_models import net, save
from tests.verify_nets import convnet, mlp, named, spoil_writes

pytestmark = pytest.mark.usefixtures("proofs_run_here")

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "fixtures" / "digits_cnn.onnx"
culprit_module = import_module("bnfuse.use_cases.bisection")
use_case = import_module("bnfuse.use_cases.optimize")


@pytest.fixture
def outputs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof sees nothing between the folds, as where they lie in bodies: the search has to find it."""
    monkeypatch.setattr(use_case, "_looking_inside", lambda request, made: request)


def saved(tmp_path: Path, depth: int, *, kind: str = "mlp") -> Path:
    layers = (mlp if kind == "mlp" else convnet)(3, depth)
    return save(named(net(layers, folded=False)), tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize(("depth", "guilty"), [(1, 0), (2, 0), (2, 1), (7, 0), (7, 3), (7, 6), (12, 7)])
def test_the_fold_that_breaks_equality_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, depth: int, guilty: int
) -> None:
    path = saved(tmp_path, depth, kind=kind)
    spoil_writes(monkeypatch, {f"bn{guilty}": f"linear{guilty}"})
    with pytest.raises(Unproved, match=rf"'bn{guilty}'") as caught:
        optimize(path, verify=VerifyRequest(samples=3), bench=False)
    found = caught.value.report.verification
    assert found.culprit is not None
    assert (found.culprit.node, found.culprit.op) == (f"bn{guilty}", "BatchNormalization")
    assert (found.culprit.split, found.culprit.into) == ("up", (f"linear{guilty}",))
    assert found.suspects == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]


@pytest.mark.usefixtures("outputs_alone")
@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize(("depth", "guilty"), [(1, 0), (2, 1), (7, 3), (12, 7)])
def test_without_seams_the_search_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, depth: int, guilty: int
) -> None:
    path = saved(tmp_path, depth, kind=kind)
    spoil_writes(monkeypatch, {f"bn{guilty}": f"linear{guilty}"})
    with pytest.raises(Unproved, match=rf"'bn{guilty}'") as caught:
        optimize(path, verify=VerifyRequest(samples=3), bench=False)
    found = caught.value.report.verification
    assert found.culprit is not None
    assert (found.culprit.node, found.culprit.op) == (f"bn{guilty}", "BatchNormalization")
    assert (found.culprit.split, found.culprit.into) == ("up", (f"linear{guilty}",))
    assert found.suspects == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]


def test_the_first_of_two_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_writes(monkeypatch, {"bn2": "linear2", "bn6": "linear6"})
    with pytest.raises(Unproved) as caught:
        optimize(saved(tmp_path, 8), verify=VerifyRequest(samples=2), bench=False)
    culprit = caught.value.report.verification.culprit
    assert culprit is not None and culprit.node == "bn2"


def test_every_report_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, 5)
    spoil_writes(monkeypatch, {"bn3": "linear3"})
    reports = [tmp_path / f"r{suffix}" for suffix in (".json", ".md", ".html", ".xml")]
    options = [part for report in reports for part in ("--report", report)]
    done = call("optimize", path, "--json", "--no-bench", "--verify-time", "1", *options)
    assert done.exit_code == 4
    assert "that of 'bn3' (up, into linear3) is the fold that breaks equality" in done.stderr
    document = json.loads(done.stdout)
    assert_fits(document)
    assert document["output"] is None
    assert document["verification"]["culprit"] == {
        "node": "bn3",
        "op": "BatchNormalization",
        "split": "up",
        "into": ["linear3"],
    }
    for report in reports:
        written = report.read_text(encoding="utf-8").replace("&#39;", "'").replace("&#x27;", "'")
        assert "bn3" in written and "breaks" in written, report
    assert not (tmp_path / "model.fused.onnx").exists()


@pytest.mark.usefixtures("outputs_alone")
def test_few_trials_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, 12)
    spoil_writes(monkeypatch, {"bn9": "linear9"})
    trials: list[int] = []
    cut = prefix

    def counted(p: Plan, count: int) -> Plan:
        trials.append(count)
        return cut(p, count)

    monkeypatch.setattr(culprit_module, "prefix", counted)
    with pytest.raises(Unproved):
        optimize(path, verify=VerifyRequest(samples=2), bench=False)
    assert 3 <= len(trials) <= 4  # log2(12) = 3.6
    assert {9, 10} <= set(trials)


@pytest.mark.usefixtures("outputs_alone")
def test_out_of_time_it_says_among_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(culprit_module, "PATIENCE", 0.0)
    spoil_writes(monkeypatch, {"bn3": "linear3"})
    with pytest.raises(Unproved, match=r"one of these 6: 'bn0', 'bn1', 'bn2' and 3 more") as caught:
        optimize(saved(tmp_path, 6), verify=VerifyRequest(samples=2), bench=False)
    found = caught.value.report.verification
    assert found.culprit is None
    assert found.suspects == tuple(f"bn{i}" for i in range(6))


@pytest.mark.usefixtures("outputs_alone")
def test_a_trial_that_cannot_be_made_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first trial (3 of 6) tells that it is one of the first three; then the disk is full."""
    spoil_writes(monkeypatch, {"bn1": "linear1"})
    cut, trials = prefix, []

    def failing(p: Plan, count: int) -> Plan:
        trials.append(count)
        if len(trials) == 2:
            raise OSError(28, "No space left on device")
        return cut(p, count)

    monkeypatch.setattr(culprit_module, "prefix", failing)
    with pytest.raises(Unproved, match="differs from the original") as caught:
        optimize(saved(tmp_path, 6), verify=VerifyRequest(samples=2), bench=False)
    assert caught.value.report.verification.suspects == ("bn0", "bn1", "bn2")


def test_merging_is_blamed_where_the_folds_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole result is spoiled, none of its prefixes is."""
    path = saved(tmp_path, 4)
    opened = FORMAT.read(path, ReadOptions())
    made = tmp_path / "result.onnx"
    planned = plan(opened.graph)
    decided = planned.plan
    opened.write(apply(opened.graph, planned), made)
    proto = onnx.load(made)
    bias = next(t for t in proto.graph.initializer if list(t.dims) == [16])
    values = numpy_helper.to_array(bias) + np.float32(0.5)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(proto, made)
    request = VerifyRequest(samples=2)
    failed = verify(path, made, request=request)
    assert failed.status is Status.DIFFERENT
    folded = Failed(path, ReadOptions(), decided, True, made, tmp_path)
    found = name_culprit(failed, folded, request, load)
    assert found.culprit is None and found.suspects == ()
    assert "the folds alone are equal: merging" in found.detail
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def test_a_difference_that_does_not_show_again_blames_nobody(tmp_path: Path) -> None:
    path = saved(tmp_path, 4)
    opened = FORMAT.read(path, ReadOptions())
    made = tmp_path / "result.onnx"
    planned = plan(opened.graph)
    decided = planned.plan
    opened.write(apply(opened.graph, planned), made)
    failed = Agreement(Status.DIFFERENT, detail="a hiccup", failing_sets=(0,))
    folded = Failed(path, ReadOptions(), decided, False, made, tmp_path)
    found = name_culprit(failed, folded, VerifyRequest(), load)
    assert found.culprit is None and found.suspects == ()
    assert found.detail == "a hiccup; the difference did not show a second time, so no fold is named"


@pytest.mark.parametrize(
    "failed",
    [
        Agreement(Status.EQUAL),
        Agreement(Status.INCONCLUSIVE, failing_sets=(0,)),
        Agreement(Status.DIFFERENT),
    ],
)
def test_without_a_difference_that_was_seen_nothing_is_run(tmp_path: Path, failed: Agreement) -> None:
    folded = Failed(tmp_path / "none", ReadOptions(), Plan((), ()), False, tmp_path / "none", tmp_path)
    assert name_culprit(failed, folded, VerifyRequest(), load) is failed


# ---- prefixes of a plan ---------------------------------------------------------------------------


def test_a_prefix_holds_the_first_steps_only() -> None:
    folds = tuple(Fold(f"bn{i}", "BatchNormalization", True, 4, Split.UP, ("c",), ()) for i in range(2))
    refusal = Refusal(Reason.NONLINEAR, "Softmax 's'", "v", split="up")
    moves = tuple(Narrowed("add", port, 2, ("d",), ()) for port in range(2))
    kept = tuple(
        Keep(f"k{i}", "BatchNormalization", True, 4, (refusal,), move) for i, move in enumerate(moves)
    )
    whole = Plan((*folds, *kept), folds)
    assert prefix(whole, 4) == whole
    assert prefix(whole, 1).order == folds[:1] and prefix(whole, 1).narrowed == ()
    three = prefix(whole, 3)
    assert three.order == folds and three.narrowed == (("k0", moves[0]),)
    assert three.decisions[3] == replace(kept[1], narrowed=None)


@pytest.mark.slow
def test_every_prefix_of_an_honest_plan_is_equal(tmp_path: Path) -> None:
    """Pre-activation blocks: folds that build on one another."""
    opened = FORMAT.read(FIXTURE, ReadOptions())
    planned = plan(opened.graph)
    whole = planned.plan
    assert whole.rewrites == 8
    for count in range(whole.rewrites + 1):
        model = FORMAT.read(FIXTURE, ReadOptions())
        written = model.write(
            apply(model.graph, replay(model.graph, prefix(whole, count))), tmp_path / f"{count}.onnx"
        )
        left = sum(node.op_type == "BatchNormalization" for node in onnx.load(written.path).graph.node)
        assert left == 8 - count
        request = VerifyRequest(samples=2, depth=max(1, count))
        assert verify(FIXTURE, written.path, request=request).status is Status.EQUAL, count
