"""`--baseline`: what is compared with what, how much doubt is taken off, and what is not comparable."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bnfuse.errors import UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.measure.baseline import compare, read_baseline
from bnfuse.report import render
from bnfuse.results import BenchRun, Comparison, FileInfo, Latency, Machine, Percentiles
from bnfuse.use_cases.bench import BenchRequest
from tests.clockwork import Clock, Clockwork
from tests.command import call
from tests.report_schema import assert_fits

MACHINE = Machine("AMD EPYC", 2, 8 << 30, "Linux x86_64")
ORIGINAL = "a" * 64
ON, OFF = "optimisation on", "optimisation off"

bench_module = import_module("bnfuse.use_cases.bench")


def run(p50: float, *, p90: float | None = None, **changes: Any) -> BenchRun:
    times = Percentiles(p50, p50 if p90 is None else p90, 2 * p50)
    values: dict[str, Any] = {"setting": ON, "batch": 1, "before_ms": times, "pairs": 50, "threads": 2}
    return BenchRun(**(values | changes))


def paired(before: float, after: float, ci95: tuple[float, float], **changes: Any) -> BenchRun:
    after_ms = Percentiles(after, 1.1 * after, 2 * after)
    return run(before, after_ms=after_ms, speedup=before / after, ci95=ci95, **changes)


def latency(*runs: BenchRun, **changes: Any) -> Latency:
    values: dict[str, Any] = {
        "device": "cpu",
        "threads": 2,
        "providers": ("CPUExecutionProvider",),
        "runs": runs,
        "runtime": "onnxruntime 1.32.0",
        "machine": MACHINE,
    }
    return Latency(**(values | changes))


def saved(tmp_path: Path, then: Latency, sha256: str = ORIGINAL) -> Path:
    path = tmp_path / "then.json"
    file = FileInfo(Path("m.onnx"), "onnx", sha256, 1)
    path.write_text(render(Comparison("bench", file, latency=then), ".json"))
    return path


# (run then, run now, same original) → (slow-down, what it was judged by); each computed by hand
COMPARED = [
    (run(10, p90=11), run(12), True, 12 / 11, "time"),
    (run(10, p90=11), run(10), True, 10 / 11, "time"),
    (paired(20, 10, (1.9, 2.1)), paired(20, 16, (1.2, 1.3)), True, 1.9 / 1.3, "speed-up"),
    (paired(20, 10, (1.9, 2.1)), paired(20, 16, (1.2, 1.3)), False, 16 / 11, "time"),
    (paired(20, 10, (1.9, 2.1)), paired(40, 20, (1.9, 2.1)), True, 1.9 / 2.1, "speed-up"),  # a slower hour
    (paired(20, 10, (1.9, 2.1)), run(16), True, 16 / 11, "time"),  # then the result, now the only one
    (paired(20, 10, (1.9, 2.1), control=(1.02, 1.04)), run(16), True, 16 / 11 / 1.02, "time"),
    (run(10, p90=11), paired(30, 16, (1.9, 2.1), control=(0.9, 0.95)), True, 16 / 11 * 0.95, "time"),
    (run(10, p90=11), paired(30, 16, (1.9, 2.1), control=(0.9, 1.1)), True, 16 / 11, "time"),
]


@pytest.mark.parametrize(("then", "now", "same", "slowdown", "basis"), COMPARED)
def test_the_least_slowdown(
    tmp_path: Path, then: BenchRun, now: BenchRun, same: bool, slowdown: float, basis: str
) -> None:
    earlier = read_baseline(saved(tmp_path, latency(then)))
    found = compare(latency(now), ORIGINAL if same else "b" * 64, earlier)
    (one,) = found.runs
    assert one.slowdown == pytest.approx(slowdown)
    assert (one.basis, one.setting, one.batch, one.threads) == (basis, ON, 1, 2)
    assert one.then_ms == (then.after_ms or then.before_ms).p50
    assert one.now_ms == (now.after_ms or now.before_ms).p50
    assert found.refusal == ""


def test_runs_are_matched_by_setting_batch_and_threads(tmp_path: Path) -> None:
    then = latency(
        run(1.0),
        run(2.0, batch=8),
        run(3.0, setting="cold start"),
        run(4.0, threads=1),
        run(5.0, batch=9, pairs=5),
    )
    now = latency(run(40.0, threads=1), run(20.0, batch=8), run(50.0, batch=9), run(9.0, batch=16))
    found = compare(now, "", read_baseline(saved(tmp_path, then)))
    assert {(r.batch, r.threads): (r.then_ms, r.now_ms) for r in found.runs} == {
        (8, 2): (2.0, 20.0),
        (1, 1): (4.0, 40.0),
    }


REFUSED = [
    ({"machine": replace(MACHINE, cpu="Intel")}, "processor AMD EPYC then, Intel now"),
    ({"machine": replace(MACHINE, processors=4)}, "usable processors 2 then, 4 now"),
    ({"machine": replace(MACHINE, system="Darwin arm64")}, "system Linux x86_64 then, Darwin arm64 now"),
    ({"machine": replace(MACHINE, gpu="H100"), "device": "gpu"}, "cpu then, gpu now; GPU unknown then, H100"),
    ({"machine": None}, "on what machine"),
    ({"runs": (run(1.0, batch=7),)}, "setting, batch and threads"),
    ({"runs": (run(1.0, pairs=5),)}, "had 6 rounds or more, then and now"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), REFUSED)
def test_not_comparable(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    earlier = read_baseline(saved(tmp_path, latency(run(1.0))))
    found = compare(replace(latency(run(1.0)), **changes), ORIGINAL, earlier)
    assert found.runs == ()
    assert says in found.refusal


def test_more_memory_and_another_runtime_do_not_hinder(tmp_path: Path) -> None:
    earlier = read_baseline(saved(tmp_path, latency(run(1.0))))
    now = latency(run(1.0), runtime="onnxruntime 2.0", machine=replace(MACHINE, memory_bytes=1))
    found = compare(now, ORIGINAL, earlier)
    assert len(found.runs) == 1
    assert found.notes == ("another runtime: onnxruntime 1.32.0 then, onnxruntime 2.0 now",)


def test_reports_from_before_the_machine_was_told(tmp_path: Path) -> None:
    path = saved(tmp_path, latency(run(1.0)))
    document = json.loads(path.read_text())
    for key in ("machine", "runtime", "profile", "baseline"):
        del document["benchmark"][key]
    for one in document["benchmark"]["runs"]:
        one.pop("threads", None)
    path.write_text(json.dumps(document))
    assert "on what machine" in compare(latency(run(1.0)), ORIGINAL, read_baseline(path)).refusal


BAD = {
    "missing": None,
    "text": "hello",
    "binary": b"\xff\xfe\x00",
    "a list": "[]",
    "another schema": '{"schema": "bnfuse.verify/1"}',
    "no benchmark": '{"schema": "bnfuse.bench/1", "before": {"sha256": null}}',
    "odd runs": '{"schema": "bnfuse.report/1", "input": {"sha256": ""}, "benchmark": {"runs": 7}}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_report_is_wrong_usage(model: Path, tmp_path: Path, name: str) -> None:
    path, content = tmp_path / "then.json", BAD[name]
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=r"then\.json"):
        read_baseline(path)
    result = call("bench", model, "--baseline", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("bnfuse: the baseline") and result.stderr.count("\n") == 1


# --- the command line --------------------------------------------------------------------------


def bench_gives(monkeypatch: pytest.MonkeyPatch, found: Latency) -> None:
    monkeypatch.setattr(bench_module, "bench", lambda *_, **__: found)


GATES = [  # p50 now, of 10 (p90 11) then → exit code
    (10.0, ("--fail-if-slower", "3"), 0),
    (11.2, ("--fail-if-slower", "3"), 0),  # 1.8 % above the p90 of then
    (11.4, ("--fail-if-slower", "3"), 1),
    (11.4, ("--fail-if-slower", "5%"), 0),
    (99.0, (), 0),  # no gate was asked for
]


@pytest.mark.parametrize(("now_ms", "options", "code"), GATES)
def test_the_gate(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    now_ms: float,
    options: tuple[str, ...],
    code: int,
) -> None:
    path = saved(tmp_path, latency(run(10, p90=11)))
    bench_gives(monkeypatch, latency(run(now_ms)))
    result = call("bench", model, "--baseline", path, "--json", *options)
    assert result.exit_code == code, result.stderr
    found = json.loads(result.stdout)["benchmark"]
    assert_fits(found, "benchmark")
    assert found["baseline"]["runs"][0]["slowdown"] == pytest.approx(now_ms / 11)
    assert ("slower than" in result.stderr and "3.6 %" in result.stderr) == (code == 1)
    in_words = call("bench", model, "--baseline", path)
    assert in_words.exit_code == 0
    assert "then p50" in in_words.stdout and "then.json" in in_words.stdout


def test_settings_stand_in_one_order_everywhere(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimisation on comes first, in the table beside an earlier report as in that of the latencies."""
    both = latency(run(20, setting=OFF), run(10))
    path = saved(tmp_path, both)
    bench_gives(monkeypatch, both)
    lines = call("bench", model, "--baseline", path).stdout.splitlines()
    settings = [line.split("│")[1].partition(",")[0].strip() for line in lines if "│ optimisation" in line]
    assert settings == [ON, OFF, ON, OFF]


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--fail-if-slower", "50"), 1)])
def test_a_gate_with_nothing_to_compare_does_not_say_yes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int
) -> None:
    path = saved(tmp_path, latency(run(10), machine=replace(MACHINE, cpu="[red]other[/]")))
    bench_gives(monkeypatch, latency(run(10)))
    result = call("bench", model, "--baseline", path, *options)
    assert result.exit_code == code
    assert "not comparable with" in result.stdout
    assert "processor [red]other[/] then, AMD EPYC now" in result.stdout
    assert ("cannot say yes" in result.stderr) == (code == 1)


def test_fail_if_slower_needs_something_to_compare_with(model: Path) -> None:
    result = call("bench", model, "--fail-if-slower", "3")
    assert result.exit_code == 2 and "--baseline" in result.stderr


def test_a_slowdown_trips_and_none_does_not(
    model: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured anew by the whole of bench, on models whose calls take what their names say: 1, 1 and 6 ms."""
    costs = {"small": 1.0, "again": 1.0, "large": 6.0}
    small, again, large = (tmp_path / f"{name}.onnx" for name in costs)
    for path in (small, again, large):
        shutil.copy(model, path)
    real = bench_module.bench

    def on_clockwork(
        a: Path, b: Path | None = None, *, request: BenchRequest, load: object, progress: object = None
    ) -> Latency:
        def loaded(path: Path, _: RunSettings) -> Clockwork:
            return Clockwork(clock, [], path.stem, lambda: costs[path.stem])

        return real(a, b, request=request, load=loaded)

    monkeypatch.setattr(bench_module, "bench", on_clockwork)
    then = call("bench", small, "--json")
    (tmp_path / "then.json").write_text(then.stdout)
    gate = ("--baseline", tmp_path / "then.json", "--fail-if-slower", "30%")
    assert call("bench", again, *gate).exit_code == 0
    slower = call("bench", large, *gate)
    assert slower.exit_code == 1
    assert "slower than" in slower.stderr and "by at least 500.0 %" in slower.stderr
