"""The gates of a pipeline: what trips them, what does not, and what `optimize` writes then."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bnfuse.errors import UnreadableModel, UsageError
from bnfuse.measure.cold import COLD
from bnfuse.measure.gates import gain_missing, slower
from bnfuse.measure.verdicts import FASTER, SAME, SLOWER, TOO_FEW
from bnfuse.results import BenchRun, Latency, Machine, Percentiles
from bnfuse.results.latency import OFF, ON
from bnfuse.use_cases.requests import requested
from tests.command import call
from tests.report_schema import assert_fits

bench_module = import_module("bnfuse.use_cases.bench")
use_case = import_module("bnfuse.use_cases.optimize")

MS = Percentiles(1.0, 1.0, 1.0)
MACHINE = Machine("AMD EPYC", 2, None, "Linux x86_64")


def run(verdict: str, setting: str = ON, **changes: Any) -> BenchRun:
    intervals = {FASTER: (1.1, 1.2), SLOWER: (0.8, 0.9), SAME: (0.9, 1.1), TOO_FEW: (0.1, 0.2)}
    values: dict[str, Any] = {
        "setting": setting,
        "batch": 1,
        "before_ms": MS,
        "after_ms": MS,
        "speedup": 1.0,
        "ci95": intervals[verdict],
        "pairs": 50,
        "verdict": verdict,
    }
    return BenchRun(**(values | changes))


def latency(*runs: BenchRun) -> Latency:
    return Latency("cpu", 1, (), runs, machine=MACHINE)


# --- --fail-if-slower --------------------------------------------------------------------------

ALONE = BenchRun(ON, 1, MS)
SLOWER_RUNS = [  # runs, percent → a part of the sentence, or "" where the gate is passed
    ((run(SLOWER),), 3, "by at least 11.1 %"),  # 1/0.9
    ((run(SLOWER),), 12, ""),
    ((run(SLOWER, control=(1.03, 1.05)),), 8, ""),  # 1/(0.9 · 1.03) = 7.9 %
    ((run(SLOWER, control=(0.9, 1.1)),), 8, "11.1 %"),
    ((run(SLOWER, OFF), run(FASTER, ON)), 3, OFF),
    ((run(FASTER), run(SLOWER, COLD)), 3, COLD),
    ((run(FASTER), run(TOO_FEW, COLD)), 3, ""),  # one start of each says nothing
    ((run(SAME, ci95=(0.8, 0.9)),), 3, ""),  # shown by the interval, but not beyond chance
    ((run(TOO_FEW), run(TOO_FEW, COLD)), 3, "cannot say yes"),
    ((ALONE,), 3, "cannot say yes"),
    ((), 3, "cannot say yes"),
]


@pytest.mark.parametrize(("runs", "percent", "says"), SLOWER_RUNS)
def test_slower(runs: tuple[BenchRun, ...], percent: float, says: str) -> None:
    refusal = slower(latency(*runs), percent)
    assert says in refusal
    assert bool(refusal) == bool(says)


def test_slower_without_a_bench() -> None:
    assert "cannot say yes" in slower(None, 3)


# --- --only-if-faster --------------------------------------------------------------------------

GAINS = [  # runs → a part of the reason to keep the original, or "" where the gain is shown
    ((run(FASTER),), ""),
    ((run(SAME, OFF), run(FASTER, ON), run(SAME, COLD)), ""),
    ((run(FASTER, OFF), run(SAME, ON)), f"{ON}, batch 1: {SAME}"),  # users run it optimised
    ((run(SAME, ON), run(FASTER, COLD)), SAME),
    ((run(FASTER, OFF),), ""),  # nothing else was measured
    ((run(FASTER, COLD),), "nothing was compared"),
    ((run(SAME, batch=1), run(FASTER, batch=8)), ""),
    ((run(FASTER, batch=1), run(SLOWER, batch=8)), f"{ON}, batch 8: {SLOWER}"),
    ((run(TOO_FEW),), TOO_FEW),
    ((ALONE,), "nothing was compared"),
    ((), "nothing was compared"),
]


@pytest.mark.parametrize(("runs", "says"), GAINS)
def test_a_gain_is_shown_or_the_reason_told(runs: tuple[BenchRun, ...], says: str) -> None:
    why = gain_missing(latency(*runs))
    assert says in why
    assert bool(why) == bool(says)


def test_no_gain_without_a_bench() -> None:
    assert gain_missing(None) == "nothing was measured"


# --- optimize ----------------------------------------------------------------------------------

FAST = ("--verify-time", "0.2", "--json")


def bench_gives(monkeypatch: pytest.MonkeyPatch, *runs: BenchRun) -> None:
    monkeypatch.setattr(bench_module, "bench", lambda *_, **__: latency(*runs))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("verdict", "kept"), [(FASTER, False), (SAME, True), (SLOWER, True)])
def test_only_if_faster(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, kept: bool, force: bool
) -> None:
    bench_gives(monkeypatch, run(verdict))
    output = tmp_path / "model.fused.onnx"
    if force:
        output.write_bytes(b"old")
    options = ("--only-if-faster", *FAST, *(("--force",) if force else ()))
    result = call("optimize", model, *options)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert_fits(report)
    assert (report["output"] is None) == kept
    assert any("--only-if-faster" in note and verdict in note for note in report["notes"]) == kept
    assert report["verification"]["status"] == "equal"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == ({"model.onnx"} if kept and not force else {"model.onnx", "model.fused.onnx"})
    if force:
        assert (output.read_bytes() == b"old") == kept


def test_only_if_faster_says_so_in_words(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench_gives(monkeypatch, run(SAME))
    result = call("optimize", model, "--only-if-faster", "--verify-time", "0.2")
    assert "nothing was written" in result.stdout and SAME in result.stdout
    assert "equal" in result.stdout


def test_only_if_faster_with_nothing_to_fold(plain_model: Path, tmp_path: Path) -> None:
    result = call("optimize", plain_model, "--only-if-faster", *FAST)
    assert result.exit_code == 0
    assert any("nothing in the model could be folded" in note for note in json.loads(result.stdout)["notes"])
    assert [path.name for path in tmp_path.iterdir()] == [plain_model.name]


def test_only_if_faster_where_the_bench_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> Latency:
        raise UnreadableModel("the clock broke")

    monkeypatch.setattr(bench_module, "bench", fails)
    result = call("optimize", model, "--only-if-faster", *FAST)
    assert result.exit_code == 0
    notes = " ".join(json.loads(result.stdout)["notes"])
    assert "the clock broke" in notes and "nothing was measured" in notes
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_only_if_faster_needs_a_bench(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--only-if-faster"):
        requested(bench=False, only_if_faster=True)
    for option in ("--only-if-faster", "--fail-if-slower=3", "--profile", "--baseline=x.json"):
        for without in ("--no-bench", "--dry-run", "--check"):
            result = call("optimize", model, option, without)
            assert (result.exit_code, result.stdout) == (2, "")
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


@pytest.mark.parametrize(("verdict", "code"), [(FASTER, 0), (SAME, 0), (SLOWER, 1), (TOO_FEW, 1)])
def test_optimize_fail_if_slower(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, code: int
) -> None:
    """The result is proved and was asked for: it is written, and the exit code says what it is worth."""
    bench_gives(monkeypatch, run(verdict))
    result = call("optimize", model, "--fail-if-slower", "3%", *FAST)
    assert result.exit_code == code
    assert ("--fail-if-slower" in result.stderr) == (code == 1)
    assert json.loads(result.stdout)["output"]["path"] == str(tmp_path / "model.fused.onnx")
    assert (tmp_path / "model.fused.onnx").exists()


def test_both_gates_together_keep_the_original_and_fail(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_gives(monkeypatch, run(SLOWER))
    result = call("optimize", model, "--fail-if-slower", "3%", "--only-if-faster", *FAST)
    assert result.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_what_has_nothing_to_fold_is_not_slower(plain_model: Path) -> None:
    assert call("optimize", plain_model, "--fail-if-slower", "0", *FAST).exit_code == 0


def test_optimize_beside_an_earlier_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as fast as the original then, 1.1 times now: at least 1.9/1.2 − 1 = 58 % of it were lost."""
    then, now = tmp_path / "then.json", tmp_path / "now.md"
    bench_gives(monkeypatch, run(FASTER, ci95=(1.9, 2.1)))
    assert call("optimize", model, "--report", then, *FAST).exit_code == 0
    bench_gives(monkeypatch, run(FASTER))
    options = ("--baseline", then, "--fail-if-slower", "3%", "--force", "--report", now, *FAST)
    result = call("optimize", model, *options)
    assert result.exit_code == 1
    assert "then.json" in result.stderr and "by at least 58.3 %" in result.stderr
    report = json.loads(result.stdout)
    assert_fits(report)
    assert report["benchmark"]["baseline"]["runs"][0]["basis"] == "speed-up"
    assert "58.3 %" in now.read_text(encoding="utf-8")
    bench_gives(monkeypatch, run(FASTER, ci95=(1.9, 2.1)))
    assert call("optimize", model, *options).exit_code == 0


def test_optimize_reads_the_baseline_before_it_works(model: Path, tmp_path: Path) -> None:
    (tmp_path / "then.json").write_text("{}")
    result = call("optimize", model, "--baseline", tmp_path / "then.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert not (tmp_path / "model.fused.onnx").exists()
