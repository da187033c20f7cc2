"""The use case ``optimize``: whatever goes wrong, nothing is lost or left behind.

Driven with a format of its own (``fake_format``), so that a full disk, a failed proof or an interrupt
can be placed at every step.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from bnfuse import formats
from bnfuse.core.apply import OverflowingFold
from bnfuse.errors import (
    OutputError,
    RuntimeMissing,
    UnreadableModel,
    UsageError,
)
from bnfuse.formats.child import limits
from bnfuse.report import render
from bnfuse.results import Agreement, Latency, Status
from bnfuse.use_cases import folding
from bnfuse.use_cases.optimize import inspect
from bnfuse.use_cases.unwritten import Unproved
from tests.calls import optimize
from tests.fake_format import Fake, FakeModel, FakePatch, fake_plan, names_in, nothing_changed

verify_module = import_module("bnfuse.use_cases.verify")
bench_module = import_module("bnfuse.use_cases.bench")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    path = tmp_path / "model.fake"
    path.write_bytes(b"FAKE original")
    made = Fake(FakeModel(path), Agreement(Status.EQUAL), Latency("cpu", 1, (), ()))

    def verify(
        reference: Path, candidate: Path, *, request: Any, load: Callable[..., Any], **_: Any
    ) -> Agreement:
        assert candidate.name == "model.fused.fake" and candidate.read_bytes().startswith(b"FAKE folded")
        made.proved.append((reference, candidate, request))
        if isinstance(made.agreement, BaseException):
            raise made.agreement
        return made.agreement

    def bench(before: Path, after: Path, *, request: Any, load: Callable[..., Any], **_: Any) -> Latency:
        if isinstance(made.latency, BaseException):
            raise made.latency
        return made.latency

    fake_module = cast("ModuleType", SimpleNamespace(FORMAT=made))
    monkeypatch.setattr(formats, "_MODULES", {"FAKE": "bnfuse_fake_format"})
    monkeypatch.setitem(sys.modules, "bnfuse_fake_format", fake_module)
    monkeypatch.setattr(folding, "plan_folds", fake_plan)
    monkeypatch.setattr(folding, "apply", lambda _, planned: FakePatch(f.node for f in planned.plan.order))
    monkeypatch.setattr(verify_module, "verify", verify)
    monkeypatch.setattr(bench_module, "bench", bench)
    return made


def test_a_proved_result_is_put_into_place(fake: Fake, tmp_path: Path) -> None:
    report = optimize(fake.model.path)
    assert names_in(tmp_path) == ["model.fake", "model.fused.fake", "model.fused.fake.data"]
    written = tmp_path / "model.fused.fake"
    assert report.output is not None and report.output.path == written
    assert report.output.total_bytes == written.stat().st_size + len(b"weights")
    assert fake.model.path.read_bytes() == b"FAKE original"
    assert report.plan.counts(batchnorm=True) == (2, 2, 0)
    assert (report.operators_before, report.operators_after) == (
        {"BatchNormalization": 2, "Conv": 1},
        {"BatchNormalization": 0, "Conv": 1},
    )
    assert report.subnormals_flushed == 3
    assert report.notes[0] == "a note"
    assert {"read", "plan", "write", "verify", "bench"} <= set(report.seconds)
    assert fake.proved[0][0] == fake.model.path


@pytest.mark.parametrize(("size_bytes", "said"), [(100, False), (10, True)])
def test_a_result_that_grew_is_explained(fake: Fake, size_bytes: int, said: bool) -> None:
    fake.model.path.write_bytes(b"FAKE".ljust(size_bytes, b"."))
    notes = optimize(fake.model.path).notes
    assert any("the result is larger" in note for note in notes) == said


def test_hashes_are_those_of_the_model_files(fake: Fake, tmp_path: Path) -> None:
    import hashlib

    report = optimize(fake.model.path)
    assert report.output is not None
    for info in (report.input, report.output):
        assert info.sha256 == hashlib.sha256(info.path.read_bytes()).hexdigest()
    fast = optimize(fake.model.path, force=True, hashes=False)
    assert fast.input.sha256 == "" and fast.output is not None and fast.output.sha256 == ""


UNPROVED = [
    (Agreement(Status.DIFFERENT, detail="output 'y' is off by 0.5"), "differs.*off by 0.5"),
    (
        Agreement(Status.INCONCLUSIVE, detail="the reference gives NaN"),
        "not be proved.*gives NaN.*--no-verify",
    ),
]


@pytest.mark.parametrize(("agreement", "sentence"), UNPROVED)
def test_an_unproved_result_is_not_written_but_reported(
    fake: Fake, tmp_path: Path, agreement: Agreement, sentence: str
) -> None:
    fake.agreement = agreement
    with nothing_changed(tmp_path), pytest.raises(Unproved, match=sentence) as caught:
        optimize(fake.model.path)
    assert caught.value.exit_code == 4
    report = caught.value.report
    assert report.output is None and report.verification is agreement
    assert report.plan.counts(batchnorm=True) == (2, 2, 0)


@pytest.mark.parametrize("agreement", [a for a, _ in UNPROVED])
def test_an_unproved_result_never_replaces_an_old_one(
    fake: Fake, tmp_path: Path, agreement: Agreement
) -> None:
    fake.agreement = agreement
    (tmp_path / "model.fused.fake").write_text("old")
    with nothing_changed(tmp_path), pytest.raises(Unproved):
        optimize(fake.model.path, force=True)


def test_without_verify_nothing_is_run_and_the_report_says_so(fake: Fake, tmp_path: Path) -> None:
    fake.agreement = AssertionError("the proof was not to be run")
    fake.latency = AssertionError("the bench was not to be run")
    report = optimize(fake.model.path, verify=False, bench=False)
    assert report.verification.status is Status.SKIPPED
    assert report.benchmark is None
    assert (tmp_path / "model.fused.fake").exists()


def test_nothing_to_fold_is_written_and_equal_by_its_bytes(fake: Fake, tmp_path: Path) -> None:
    fake.model.candidates = ()
    fake.agreement = AssertionError("identical bytes need no run")
    fake.latency = AssertionError("identical bytes need no bench")
    report = optimize(fake.model.path)
    assert (tmp_path / "model.fused.fake").read_bytes() == fake.model.path.read_bytes()
    assert report.verification == Agreement(Status.EQUAL, evidence="identical bytes")
    assert report.benchmark is None


def test_a_fold_that_overflows_is_planned_to_stay(fake: Fake, tmp_path: Path) -> None:
    fake.model.candidates = ("bn1", "bn2", "bn3")
    fake.model.overflowing = frozenset({"bn1", "bn3"})
    report = optimize(fake.model.path)
    every = frozenset({"bn1", "bn2", "bn3"})
    assert fake.model.writes == [every, every - {"bn1"}, frozenset({"bn2"})]
    assert report.plan.counts(batchnorm=True) == (3, 1, 2)
    assert (tmp_path / "model.fused.fake").read_bytes() == b"FAKE folded bn2"


def test_a_fold_that_overflows_although_banned_does_not_loop(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.model.overflowing = frozenset({"bn1"})
    monkeypatch.setattr(folding, "plan_folds", lambda model, **_: fake_plan(model))
    with nothing_changed(tmp_path), pytest.raises(OverflowingFold):
        optimize(fake.model.path)
    assert len(fake.model.writes) == 2


def test_inspect_keeps_what_overflows(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small new weights are worked out to count nodes; what does not fit is told as kept, as by optimize."""
    counted = FakeModel.operators_after

    def operators_after(model: FakeModel, patch: FakePatch) -> dict[str, int]:
        if "bn1" in patch:
            raise OverflowingFold(["bn1"])
        return counted(model, patch)

    monkeypatch.setattr(FakeModel, "operators_after", operators_after)
    assert inspect(fake.model.path).plan.counts(batchnorm=True) == (2, 1, 1)


FAILURES: list[tuple[BaseException, type[BaseException], str]] = [
    (OSError(errno.ENOSPC, "No space left on device"), OutputError, "disk is full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), OutputError, "disk is full"),
    (PermissionError(errno.EACCES, "Permission denied"), OutputError, "Permission denied"),
    (UnreadableModel("truncated"), UnreadableModel, "truncated"),
    (KeyboardInterrupt(), KeyboardInterrupt, ""),
    (SystemExit(143), SystemExit, "143"),
    (MemoryError(), MemoryError, ""),
]


@pytest.mark.parametrize(("failure", "kind", "sentence"), FAILURES)
def test_a_failed_write_leaves_nothing_behind(
    fake: Fake, tmp_path: Path, failure: BaseException, kind: type[BaseException], sentence: str
) -> None:
    fake.model.failure = failure
    (tmp_path / "model.fused.fake").write_text("old")
    with nothing_changed(tmp_path), pytest.raises(kind, match=sentence or None):
        optimize(fake.model.path, force=True)


@pytest.mark.parametrize("failure", [RuntimeMissing("no GPU"), KeyboardInterrupt(), UsageError("bad shape")])
@pytest.mark.parametrize("step", ["agreement", "latency"])
def test_a_step_that_cannot_be_done_leaves_nothing_behind(
    fake: Fake, tmp_path: Path, failure: BaseException, step: str
) -> None:
    setattr(fake, step, failure)
    with nothing_changed(tmp_path), pytest.raises(type(failure)):
        optimize(fake.model.path)


def test_a_proved_model_is_not_lost_because_it_could_not_be_measured(fake: Fake, tmp_path: Path) -> None:
    fake.latency = UnreadableModel("the optimiser of the runtime fails on it")
    report = optimize(fake.model.path)
    assert (tmp_path / "model.fused.fake").exists()
    assert report.benchmark is None
    assert any("could not be measured: the optimiser of the runtime fails" in note for note in report.notes)


@pytest.mark.parametrize("taken", ["model.fused.fake", "model.fused.fake.data"])
def test_an_output_that_exists_is_replaced_only_by_force(fake: Fake, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("old")
    with nothing_changed(tmp_path), pytest.raises(OutputError, match=f"{taken}' exists.*--force"):
        optimize(fake.model.path)
    optimize(fake.model.path, force=True)
    assert (tmp_path / taken).read_text() != "old"


def test_an_occupied_output_is_refused_before_any_work(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "model.fused.fake").write_text("old")
    with pytest.raises(OutputError):
        optimize(fake.model.path)
    assert fake.model.writes == []


@pytest.mark.parametrize("force", [False, True])
def test_the_input_is_never_overwritten(fake: Fake, tmp_path: Path, force: bool) -> None:
    (tmp_path / "link.fake").symlink_to(fake.model.path)
    for target in (fake.model.path, tmp_path / "link.fake"):
        with nothing_changed(tmp_path), pytest.raises(UsageError):
            optimize(fake.model.path, target, force=force)


def test_inspect_writes_nothing(fake: Fake, tmp_path: Path) -> None:
    with nothing_changed(tmp_path):
        report = inspect(fake.model.path)
    assert report.output is None and report.verification.status is Status.SKIPPED
    assert report.operators_after == {"BatchNormalization": 0, "Conv": 1}
    assert fake.model.writes == []


def test_progress_names_the_phases(fake: Fake) -> None:
    phases: list[str] = []
    optimize(fake.model.path, progress=phases.append)
    assert [p for p in phases if p != "hashing"] == [
        "reading",
        "planning",
        "writing",
        "verifying",
        "measuring",
    ]


@pytest.mark.parametrize("allowed", [False, True])
def test_that_code_was_allowed_is_told_in_every_form(fake: Fake, allowed: bool) -> None:
    report = optimize(fake.model.path, verify=verify_module.VerifyRequest(allow_unsafe=allowed), bench=False)
    assert report.unsafe is allowed
    assert json.loads(render(report, ".json"))["unsafe"] is allowed
    for form in (".json", ".md", ".html", ".xml"):
        assert ("the model was allowed to run code" in render(report, form)) is allowed
    fake.model.path.with_name("model.fused.fake").unlink()
    fake.model.path.with_name("model.fused.fake.data").unlink()
    fake.agreement = Agreement(Status.DIFFERENT)
    with pytest.raises(Unproved) as caught:
        optimize(fake.model.path, verify=verify_module.VerifyRequest(allow_unsafe=allowed), bench=False)
    assert caught.value.report.unsafe is allowed


def test_the_limits_of_the_runtime_are_told(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(limits.TIME_VARIABLE, raising=False)
    report = optimize(fake.model.path, force=True)
    assert report.limits is not None and report.limits["answer_s"] == 300.0
    assert not any("runtime may take" in note for note in report.notes)
    assert optimize(fake.model.path, force=True, verify=False, bench=False).limits is None
    monkeypatch.setenv(limits.TIME_VARIABLE, "7")
    monkeypatch.setenv(limits.MEMORY_VARIABLE, "2.5")
    report = optimize(fake.model.path, force=True)
    assert report.limits == {"answer_s": 7.0, "memory_bytes": 2_500_000_000}
    assert json.loads(render(report, ".json"))["limits"] == report.limits
    assert "as asked for, the runtime may take 7 s for an answer and 2.5 GB of memory" in report.notes
