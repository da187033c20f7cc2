"""Whatever goes wrong: one sentence, the exit code of the contract, and nothing lost or left behind.

The use case is driven with a format of its own (``FakeFormat``), so that a full disk, a failed
proof or an interrupt can be placed at every step.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from bnfuse import formats
from bnfuse.core.apply import OverflowingFold
from bnfuse.core.decisions import Decision, Fold, Keep, Plan, Split
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.errors import (
    BnfuseError,
    ExitCode,
    NotEqual,
    OutputError,
    RuntimeMissing,
    UnreadableModel,
    UnsafeModel,
    UsageError,
)
from bnfuse.formats.base import ReadOptions, Written
from bnfuse.optimize import Unproved, inspect, optimize
from bnfuse.results import Agreement, Latency, Status
from bnfuse.staging import check_target, default_output, place, staging_folder

use_case = import_module("bnfuse.optimize")  # `bnfuse.optimize` is the function
verify_module = import_module("bnfuse.verify")
bench_module = import_module("bnfuse.bench")


# ---- which file is what ----------------------------------------------------------------------------

NOT_MODELS = [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa", "git lfs pull"),
    (b"<!DOCTYPE html><html><body>404", "web page"),
    (b"\xef\xbb\xbf\n  <HTML>", "web page"),
    (b"<?xml version='1.0'?>", "XML"),
    (b"\x93NUMPY\x01\x00", "NumPy array"),
    (b"\x80\x02}q\x00", "pickle"),
    (b'{"class_name": "Sequential"}', "JSON"),
    (b"\x1c\x00\x00\x00TFL3" + bytes(30), "TensorFlow Lite"),
    (b"\x1f\x8b\x08\x00" + bytes(30), "unpack it"),
    (b"hello, this is no model at all", "is not a model bnfuse can read"),
]


@pytest.mark.parametrize(("content", "expected"), NOT_MODELS)
@pytest.mark.parametrize("suffix", [".onnx", ".keras", ""])
def test_what_is_no_model_is_named_by_its_content(
    tmp_path: Path, content: bytes, expected: str, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(UnreadableModel, match=expected) as caught:
        formats.detect(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="does not exist"):
        formats.detect(tmp_path / "missing.onnx")
    with pytest.raises(UnreadableModel, match="is a folder"):
        formats.detect(tmp_path)
    with pytest.raises(UnreadableModel, match="cannot be read"):
        formats.detect(Path("nul\0.onnx"))
    loop = tmp_path / "loop.onnx"
    loop.symlink_to(loop)
    with pytest.raises(UnreadableModel):
        formats.detect(loop)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(UnreadableModel, match="not a regular file"):
        formats.detect(tmp_path / "pipe.onnx")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_without_read_permission_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(UnreadableModel, match="Permission denied"):
        formats.detect(path)


# ---- the contract of exit codes ----------------------------------------------------------------------

CODES: list[tuple[type[BnfuseError], int]] = [
    (UsageError, 2),
    (OutputError, 2),
    (UnreadableModel, 3),
    (UnsafeModel, 3),
    (BnfuseError, 3),
    (NotEqual, 4),
    (Unproved, 4),
    (RuntimeMissing, 5),
]


@pytest.mark.parametrize(("kind", "code"), CODES)
def test_every_error_has_the_exit_code_of_the_contract(kind: type[BnfuseError], code: int) -> None:
    assert kind.exit_code == code


def test_the_contract_is_documented() -> None:
    documented = (Path(__file__).parents[1] / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"\n| {int(code)} |" in documented


# ---- staging -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "suffix", "expected"),
    [
        ("a.onnx", ".onnx", "a.fused.onnx"),
        ("a.b.ONNX", ".onnx", "a.b.fused.onnx"),
        ("model", ".onnx", "model.fused.onnx"),
        ("model.bin", ".onnx", "model.fused.onnx"),
        (".onnx", ".onnx", ".onnx.fused.onnx"),
    ],
)
def test_default_output(model: str, suffix: str, expected: str) -> None:
    assert default_output(Path("dir") / model, suffix) == Path("dir") / expected


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def two_files(tmp_path: Path) -> Iterator[tuple[list[Path], Path]]:
    """A side file and a model, staged; and where the model is to go."""
    target = tmp_path / "out.onnx"
    with staging_folder(target) as folder:
        staged = [folder / "out.onnx.data", folder / "out.onnx"]
        for path in staged:
            path.write_text(f"new {path.name}")
        yield staged, target


def test_placing_both(two_files: tuple[list[Path], Path]) -> None:
    staged, target = two_files
    place(staged, target, (), force=False)
    assert target.read_text() == "new out.onnx"
    assert target.with_name("out.onnx.data").read_text() == "new out.onnx.data"


@pytest.mark.parametrize("occupied", ["out.onnx", "out.onnx.data"])
def test_nothing_is_placed_where_one_name_is_taken(two_files: tuple[list[Path], Path], occupied: str) -> None:
    staged, target = two_files
    target.with_name(occupied).write_text("old")
    with pytest.raises(OutputError, match=f"{occupied}' exists"):
        place(staged, target, (), force=False)
    assert [n for n in names_in(target.parent) if not n.startswith(".")] == [occupied]
    assert target.with_name(occupied).read_text() == "old"


@pytest.mark.parametrize("old", [(), ("out.onnx",), ("out.onnx.data",), ("out.onnx", "out.onnx.data")])
@pytest.mark.parametrize("failing", ["out.onnx.data", "out.onnx"])
@pytest.mark.parametrize("links", [True, False])
def test_a_failed_rename_brings_the_old_state_back(
    two_files: tuple[list[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    old: Sequence[str],
    failing: str,
    links: bool,
) -> None:
    staged, target = two_files
    for name in old:
        target.with_name(name).write_text(f"old {name}")
    replace = Path.replace

    def failing_replace(self: Path, to: Path) -> Path:
        if self.name == failing and to.parent == target.parent:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, to)

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", failing_replace)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OutputError, match="disk is full"):
        place(staged, target, (), force=True)
    left = {n: target.with_name(n).read_text() for n in names_in(target.parent) if not n.startswith(".")}
    assert left == {name: f"old {name}" for name in old}


def test_force_replaces_a_link_and_not_what_it_points_to(
    two_files: tuple[list[Path], Path], tmp_path: Path
) -> None:
    staged, target = two_files
    precious = tmp_path / "precious"
    precious.write_text("precious")
    target.symlink_to(precious)
    place(staged, target, (), force=True)
    assert not target.is_symlink() and target.read_text() == "new out.onnx"
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("force", [False, True])
def test_the_inputs_side_file_is_never_replaced(two_files: tuple[list[Path], Path], force: bool) -> None:
    staged, target = two_files
    own = target.with_name("out.onnx.data")
    own.write_text("weights of the input")
    with pytest.raises(OutputError, match="belongs to the input"):
        place(staged, target, (own,), force=force)
    assert own.read_text() == "weights of the input"
    assert not target.exists()


def test_outputs_get_the_mode_of_any_new_file(two_files: tuple[list[Path], Path]) -> None:
    staged, target = two_files
    for path in staged:
        path.chmod(0o600)
    before = os.umask(0o027)
    try:
        place(staged, target, (), force=False)
    finally:
        os.umask(before)
    for path in (target, target.with_name("out.onnx.data")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_staging_folder_goes_whatever_happens(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt(), SystemExit(143), OSError(errno.ENOSPC, "full"), MemoryError()):
        with pytest.raises(type(error)), staging_folder(tmp_path / "out.onnx") as folder:
            assert folder.parent == tmp_path and folder.name.startswith(".")
            (folder / "deep").mkdir()
            (folder / "deep" / "part").write_bytes(b"half")
            raise error
        assert names_in(tmp_path) == []


@pytest.mark.parametrize("alias", ["same", "dotted", "symlink", "hard link", "through a linked folder"])
def test_the_input_is_never_the_output(tmp_path: Path, alias: str) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    (tmp_path / "sub").mkdir()
    target = {
        "same": model,
        "dotted": tmp_path / "sub" / ".." / "model.onnx",
        "symlink": tmp_path / "link.onnx",
        "hard link": tmp_path / "hard.onnx",
        "through a linked folder": tmp_path / "linked" / "model.onnx",
    }[alias]
    (tmp_path / "link.onnx").symlink_to(model)
    os.link(model, tmp_path / "hard.onnx")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UsageError, match="input itself"):
        check_target(target, model, force=True)


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "old.onnx").write_bytes(b"old")
    dangling = tmp_path / "dangling.onnx"
    dangling.symlink_to(tmp_path / "nowhere")
    cases = [
        ("missing/out.onnx", True, "does not exist"),
        ("folder.onnx", True, "is a folder"),
        ("old.onnx", False, "--force"),
        ("dangling.onnx", False, "--force"),
        ("old.onnx/out.onnx", True, "does not exist"),
    ]
    for name, force, expected in cases:
        with pytest.raises(OutputError, match=expected):
            check_target(tmp_path / name, model, force=force)
    check_target(tmp_path / "old.onnx", model, force=True)
    with pytest.raises(OutputError, match="not a regular file"):
        check_target(Path(os.devnull), model, force=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_write_permission_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(OutputError, match="cannot be written"):
        check_target(folder / "out.onnx", tmp_path / "model.onnx", force=False)


# ---- the use case with a format of its own ---------------------------------------------------------


def _fold(name: str) -> Fold:
    return Fold(name, "BatchNormalization", True, 4, Split.UP, ("conv",), ())


def _kept(name: str) -> Keep:
    return Keep(name, "BatchNormalization", True, 4, (Refusal(Reason.OVERFLOW, name, detail="float16"),))


@dataclass
class FakeModel:
    """Two BNs, ``bn1`` and ``bn2``; writing one of ``overflowing`` overflows."""

    path: Path
    candidates: tuple[str, ...] = ("bn1", "bn2")
    overflowing: frozenset[str] = frozenset()
    side_file: bool = True
    failure: BaseException | None = None
    notes: tuple[str, ...] = ("a note",)
    side_files: tuple[Path, ...] = ()
    writes: list[frozenset[str]] = field(default_factory=list)

    @property
    def graph(self) -> FakeModel:
        return self

    def operators(self) -> dict[str, int]:
        return {"BatchNormalization": len(self.candidates), "Conv": 1}

    def operators_after(self, patch: frozenset[str]) -> dict[str, int]:
        return {"BatchNormalization": len(self.candidates) - len(patch), "Conv": 1}

    def close(self) -> None:
        pass

    def total_bytes(self) -> int:
        return self.path.stat().st_size

    def write(self, patch: frozenset[str], path: Path) -> Written:
        self.writes.append(patch)
        assert names_in(path.parent) == []
        path.write_bytes(self.path.read_bytes() if not patch else b"FAKE folded " + " ".join(patch).encode())
        if patch & self.overflowing:
            raise OverflowingFold(sorted(patch & self.overflowing)[:1])
        if self.failure is not None:
            raise self.failure
        side = path.with_name(path.name + ".data")
        if self.side_file and patch:
            side.write_bytes(b"weights")
        return Written(path, (side,) if side.exists() else (), 3)


@dataclass
class Fake:
    """The format, and what the proof and the bench say."""

    model: FakeModel
    agreement: Agreement | BaseException
    latency: Latency | BaseException
    proved: list[tuple[Path, Path, Any]] = field(default_factory=list)
    name: str = "FAKE"

    def accepts(self, head: bytes, path: Path) -> bool:
        return head.startswith(b"FAKE")

    def suffix(self, path: Path) -> str:
        return ".fake"

    def read(self, path: Path, options: ReadOptions) -> FakeModel:
        return self.model


def fake_plan(model: FakeModel, banned: frozenset[str] = frozenset()) -> Plan:
    decisions: list[Decision] = [_kept(n) if n in banned else _fold(n) for n in model.candidates]
    return Plan(tuple(decisions), tuple(d for d in decisions if isinstance(d, Fold)))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    path = tmp_path / "model.fake"
    path.write_bytes(b"FAKE original")
    made = Fake(FakeModel(path), Agreement(Status.EQUAL), Latency("cpu", 1, (), ()))

    def verify(reference: Path, candidate: Path, *, request: Any, load: Callable[..., Any]) -> Agreement:
        assert candidate.name == "model.fused.fake" and candidate.read_bytes().startswith(b"FAKE folded")
        made.proved.append((reference, candidate, request))
        if isinstance(made.agreement, BaseException):
            raise made.agreement
        return made.agreement

    def bench(before: Path, after: Path, *, request: Any, load: Callable[..., Any]) -> Latency:
        if isinstance(made.latency, BaseException):
            raise made.latency
        return made.latency

    module = cast("ModuleType", SimpleNamespace(FORMAT=made))
    monkeypatch.setattr(formats, "_MODULES", {"FAKE": "bnfuse_fake_format"})
    monkeypatch.setitem(sys.modules, "bnfuse_fake_format", module)
    monkeypatch.setattr(use_case, "plan_folds", fake_plan)
    monkeypatch.setattr(use_case, "apply", lambda _, plan: frozenset(f.node for f in plan.order))
    monkeypatch.setattr(verify_module, "verify", verify)
    monkeypatch.setattr(bench_module, "bench", bench)
    return made


@contextmanager
def nothing_changed(folder: Path) -> Iterator[None]:
    """The folder holds the same files, with the same bytes and times, as before."""

    def state() -> dict[str, tuple[bytes, int]]:
        return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file()}

    before, names = state(), names_in(folder)
    yield
    assert state() == before
    assert names_in(folder) == names


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
    monkeypatch.setattr(use_case, "plan_folds", lambda model, banned: fake_plan(model))
    with nothing_changed(tmp_path), pytest.raises(OverflowingFold):
        optimize(fake.model.path)
    assert len(fake.model.writes) == 2


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
