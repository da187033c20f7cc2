"""Cold start in fresh processes: what is measured, in what order, when it stops, and what is left behind."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.child import process as child_process
from bnfuse.measure import cold
from bnfuse.measure.cold import ColdStarts, Limits, Start, chance, cold_starts, judged, start_once
from bnfuse.measure.judging import FASTER, SAME, SLOWER, TOO_FEW, Rounds
from bnfuse.results import ColdStart
from tests.cli_models import convnet
from tests.command import call
from tests.report_schema import assert_fits
from tests.tiny_models import layer, net, save

ROOT = Path(__file__).parents[1]
X = {"x": np.random.default_rng(0).standard_normal((1, 3, 9, 7)).astype(np.float32)}


# --- what the figures say ----------------------------------------------------------------------


def by_hand(before: Sequence[float], after: Sequence[float]) -> float:
    """The sign-flip test written out."""
    differences = [math.log(b / a) for b, a in zip(before, after, strict=True)]
    seen = abs(sum(differences))
    ways = list(itertools.product((-1, 1), repeat=len(differences)))
    extreme = sum(
        abs(sum(s * d for s, d in zip(way, differences, strict=True))) >= seen - 1e-9 for way in ways
    )
    return extreme / len(ways)


def test_chance_is_the_share_of_sign_flips_that_go_as_far() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 6, 9):
        before, after = np.exp(rng.standard_normal((2, count)))
        assert chance(before, after, seed=0) == pytest.approx(by_hand(before, after))
    assert chance(np.full(6, 3.0), np.ones(6), seed=0) == 2 / 64  # all one way: it and its mirror image
    assert chance(np.ones(6), np.ones(6), seed=0) == 1.0
    assert chance(np.full(15, 3.0), np.ones(15), seed=0) < 0.002  # 2/2^15, from 4096 random flips


def starts_of(before: Sequence[float], after: Sequence[float]) -> ColdStarts:
    times = np.array([before, after]) * 1e6
    model = ColdStart(1.0, 2.0, 3.0, 4.0, 10)
    return ColdStarts(Rounds(tuple(times), times), (model, model), 1.0)


JUDGED = [
    ([10, 11, 10, 12, 10, 11], [5, 5, 6, 5, 5, 6], FASTER),
    ([5, 5, 6, 5, 5, 6], [10, 11, 10, 12, 10, 11], SLOWER),
    ([10, 11, 10, 12, 10, 11], [10, 11, 10, 12, 10, 11], SAME),
    ([10, 11, 10, 12, 10], [5, 5, 6, 5, 5], TOO_FEW),
]


@pytest.mark.parametrize(("before", "after", "expected"), JUDGED)
def test_a_verdict_needs_six_rounds_and_no_chance(
    before: list[float], after: list[float], expected: str
) -> None:
    run = judged("cold start", 3, starts_of(before, after), 0)
    assert run.verdict == expected
    assert (run.batch, run.pairs) == (3, len(before))
    assert run.before_cold == run.after_cold == ColdStart(1.0, 2.0, 3.0, 4.0, 10)


def test_one_round_has_no_ratio() -> None:
    run = judged("cold start", 1, starts_of([20.0], [10.0]), 0)
    assert (run.verdict, run.speedup, run.ci95) == (TOO_FEW, None, None)
    assert run.after_ms is not None and run.after_cold is not None


@pytest.mark.slow
def test_equal_models_are_called_equal_on_a_noisy_machine() -> None:
    """Starts take 1 or, three times in ten, 1.5: what another program on the same processors does to them."""
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(200):
        times = np.exp(0.05 * rng.standard_normal((2, 8))) * np.where(rng.random((2, 8)) < 0.3, 1.5, 1.0)
        wrong += judged("s", 1, starts_of(times[0].tolist(), times[1].tolist()), 0).verdict != SAME
    assert wrong <= 10  # 5 %


# --- when it stops -----------------------------------------------------------------------------


@pytest.fixture
def fake_starts(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[float]]:
    """Starts that take as long as the list says, by a clock of their own."""
    log: list[str] = []
    clock = [0.0]
    times: list[float] = []

    def start(path: Path, settings: RunSettings, feeds: Any) -> Start:
        log.append(path.name)
        seconds = times[min(len(log), len(times)) - 1]
        clock[0] += seconds
        return Start(int(seconds * 1e9), 10**6, 2 * 10**6, 3 * 10**6, 10**6 * len(log))

    monkeypatch.setattr(cold, "start_once", start)
    monkeypatch.setattr("bnfuse.measure.cold.time.perf_counter", lambda: clock[0])
    return log, times


def begin(models: int, share_s: float, verdict_s: float = 0.0, start_s: float = 100.0) -> ColdStarts:
    paths = [Path("a"), Path("b")][:models]
    return cold_starts(paths, RunSettings(), [X] * models, Limits(share_s, verdict_s, start_s))


def test_models_take_turns(fake_starts: tuple[list[str], list[float]]) -> None:
    log, times = fake_starts
    times.append(0.5)
    found = begin(2, 6.0)
    assert "".join(log) == "abba" * 3
    assert found.rounds.medians.shape == (2, 6)
    assert found.round_s == 1.0
    first = found.models[0]
    assert (first.runtime_ms, first.load_ms, first.first_run_ms) == (1.0, 2.0, 3.0)
    assert first.start_ms == pytest.approx(500 - 6)
    assert first.peak_bytes == 6_500_000  # the median of starts 1, 4, 5, 8, 9, 12


STOPS = [  # seconds a start takes, share, up to how much for a verdict → starts
    (0.5, 20.0, 20.0, 40),
    (0.5, 4.0, 8.0, 12),
    (0.5, 4.0, 5.0, 8),
    (0.5, 2.0, 6.0, 12),
    (3.0, 4.0, 8.0, 2),
    (30.0, 4.0, 8.0, 2),
]


@pytest.mark.parametrize(("each_s", "share_s", "verdict_s", "count"), STOPS)
def test_time_is_the_bound(
    fake_starts: tuple[list[str], list[float]], each_s: float, share_s: float, verdict_s: float, count: int
) -> None:
    log, times = fake_starts
    times.append(each_s)
    begin(2, share_s, verdict_s)
    assert len(log) == count


def test_no_start_is_made_where_the_time_does_not_suffice(
    fake_starts: tuple[list[str], list[float]],
) -> None:
    log, times = fake_starts
    times.append(30.0)
    with pytest.raises(BnfuseError, match="too short"):
        begin(2, 0.1)
    assert log == []
    with pytest.raises(BnfuseError, match="one start takes 30 s"):
        begin(2, 4.0, start_s=20.0)
    assert log == ["a"]
    begin(1, 4.0, start_s=20.0)  # alone, its figure is worth having
    assert log == ["a", "a"]


# --- real processes ----------------------------------------------------------------------------


def test_the_stages_make_up_the_whole(model: Path) -> None:
    before = time.perf_counter_ns()
    found = start_once(model, RunSettings(optimise=True, threads=1), X)
    wall = time.perf_counter_ns() - before
    stages = (found.runtime_ns, found.load_ns, found.run_ns)
    assert all(ns > 0 for ns in stages)
    assert sum(stages) < found.total_ns < wall
    assert found.runtime_ns > 10e6  # onnxruntime alone takes longer to import than that


@pytest.mark.slow
def test_peak_memory_is_the_models_own(model: Path, tmp_path: Path) -> None:
    """36 MB more of weights show as that, or twice that (the file, and its copy), whatever we hold here."""
    ballast = np.ones(1 << 27, np.uint8)  # 128 MB here, which a child must not be charged for
    rng = np.random.default_rng(0)
    large = save(net([layer(rng, 3000, 3000)], folded=True), tmp_path / "large.onnx")
    small_peak = start_once(model, RunSettings(threads=1), X).peak_bytes
    large_peak = start_once(large, RunSettings(threads=1), {"x": np.zeros((1, 3000), np.float32)}).peak_bytes
    assert small_peak is not None and large_peak is not None
    assert 36e6 < large_peak - small_peak < 150e6
    assert small_peak < ballast.nbytes + 60e6


def test_strings_and_names_of_any_kind_reach_the_process(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["text ä"], ["y"])],
        "g",
        [helper.make_tensor_value_info("text ä", TensorProto.STRING, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["N"])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = save(proto, tmp_path / "модель 1.onnx")
    assert start_once(path, RunSettings(), {"text ä": np.array(["a", "ö", ""], object)}).run_ns > 0


ERRORS = [
    (RunSettings(device="gpu"), X, RuntimeMissing, "gpu|GPU"),
    (RunSettings(device="tpu"), X, UsageError, "tpu"),
    (RunSettings(), {}, UsageError, "'x'"),
]


@pytest.mark.parametrize(("settings", "feeds", "kind", "says"), ERRORS, ids=["gpu", "device", "inputs"])
def test_errors_arrive_as_what_they_are(
    model: Path, settings: RunSettings, feeds: dict[str, np.ndarray], kind: type[BnfuseError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        start_once(model, settings, feeds)
    assert type(caught.value) is kind


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08garbage")
    with pytest.raises(UnreadableModel, match=r"m\.onnx"):
        start_once(path, RunSettings(), X)


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """onnxruntime is a module that does this when it is imported."""
    (tmp_path / "onnxruntime.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)


CRASHES = [
    ("import os; os.write(2, b'last words\\n'); os._exit(3)", BnfuseError, "exit code 3: last words"),
    ("import os; os.abort()", BnfuseError, "SIGABRT"),
    ("raise MemoryError", MemoryError, "^$"),
    ("raise ImportError('no AVX here')", RuntimeMissing, "no AVX here"),
    ("print('noise', flush=True); raise ImportError('quiet')", RuntimeMissing, "quiet"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "kind", "says"), CRASHES)
def test_a_process_that_does_not_get_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception], says: str
) -> None:
    stand_in(monkeypatch, tmp_path, code)
    with pytest.raises(kind, match=says):
        start_once(model, RunSettings(), X)


def test_a_process_that_hangs_is_stopped(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pid"
    stand_in(
        monkeypatch,
        tmp_path,
        f"import os, pathlib, time; pathlib.Path({str(pids)!r}).write_text(str(os.getpid())); time.sleep(99)",
    )
    monkeypatch.setattr(child_process.ChildProcess.ask, "__kwdefaults__", {"limit_s": 1.5})
    begin_s = time.monotonic()
    with pytest.raises(BnfuseError, match=r"did not answer within 1\.5 s"):
        start_once(model, RunSettings(), X)
    assert time.monotonic() - begin_s < 10
    assert gone(int(pids.read_text()))


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether the process has ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_process_outlives_bnfuse(model: Path, tmp_path: Path, number: int, code: int) -> None:
    """Ended while a start is under way: by Ctrl-C, politely, and without a chance to clean up."""
    pids, runtime = tmp_path / "pid", tmp_path / "runtime"
    runtime.mkdir()
    (runtime / "onnxruntime.py").write_text(
        f"import os, pathlib, time; pathlib.Path({str(pids)!r}).write_text(str(os.getpid())); time.sleep(99)"
    )
    script = (
        "import sys\nfrom importlib import import_module\nfrom pathlib import Path\nimport numpy as np\n"
        "from bnfuse.cli import main\nfrom bnfuse.measure.cold import start_once\n"
        "from bnfuse.formats.base import RunSettings\n"
        "X = {'x': np.zeros((1, 3, 9, 7), np.float32)}\n"
        "def bench(a, *_, **__):\n    start_once(a, RunSettings(), X)\n"
        "import_module('bnfuse.bench').bench = bench\n"
        "main(['bench', sys.argv[1]], prog_name='bnfuse')"
    )
    paths = os.pathsep.join([str(runtime), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-c", script, str(model)],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        end = time.monotonic() + 20
        while not (pids.exists() and pids.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        parent.send_signal(number)
        _, said = parent.communicate(timeout=20)
    assert parent.returncode == code
    assert "Traceback" not in said
    assert gone(int(pids.read_text()))


# --- the command line --------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_finds_the_slower_start_and_the_larger_memory(tmp_path: Path) -> None:
    """B has 72 MB of weights to load, A hardly any; both take the same inputs."""
    rng = np.random.default_rng(0)
    small = net([layer(rng, 64, 64)], folded=True)
    large = net(
        [layer(rng, 3000, 64), *(layer(rng, 3000, 3000) for _ in range(2)), layer(rng, 64, 3000)], folded=True
    )
    a, b = save(small, tmp_path / "a.onnx"), save(large, tmp_path / "b.onnx")
    options = ("--json", "--bench-time", "16", "--precision", "20%", "--threads", "1")
    result = call("bench", a, b, *options, "--fail-if-slower", "3%")
    document = json.loads(result.stdout)
    assert_fits(document["benchmark"], "benchmark")
    run = next(run for run in document["benchmark"]["runs"] if run["setting"] == "cold start")
    assert run["verdict"] == SLOWER, run
    assert run["pairs"] >= 6 and run["control"] is None
    before, after = run["before_cold"], run["after_cold"]
    assert after["load_ms"] > 3 * before["load_ms"]
    assert 60e6 < after["peak_bytes"] - before["peak_bytes"] < 500e6
    assert result.exit_code == 1 and "slower by at least" in result.stderr


def test_bench_tells_the_time_that_is_missing(model: Path) -> None:
    result = call("bench", model, "--json", "--bench-time", "0.2")
    notes = json.loads(result.stdout)["benchmark"]["notes"]
    assert any("cold start was not timed" in note and "too short" in note for note in notes)


def test_bench_tells_how_much_time_a_verdict_needs(model: Path) -> None:
    """Two starts take about a second, and the 0.3 s of 1 s that they may take bring no verdict."""
    result = call("bench", model, model, "--json", "--bench-time", "1")
    found = json.loads(result.stdout)["benchmark"]
    run = next(run for run in found["runs"] if run["setting"] == "cold start")
    (note,) = [note for note in found["notes"] if note.startswith("cold start: a start of each")]
    assert run["verdict"] == TOO_FEW
    assert re.search(r"needs about \d+ s in all", note)


def test_optimize_tells_cold_start_and_memory(tmp_path: Path) -> None:
    path = save(convnet(), tmp_path / "m.onnx")
    report = tmp_path / "report.json"
    result = call("optimize", path, "--bench-time", "2", "--verify-time", "0.2", "--report", report)
    assert result.exit_code == 0, result.stderr
    document = json.loads(report.read_text())
    assert_fits(document)
    run = document["benchmark"]["runs"][-1]
    assert run["setting"] == "cold start"
    for side in ("before", "after"):
        stages = run[f"{side}_cold"]
        total = sum(stages[f"{stage}_ms"] for stage in ("start", "runtime", "load", "first_run"))
        assert total == pytest.approx(run[f"{side}_ms"]["p50"], rel=0.5)
        assert 30e6 < stages["peak_bytes"] < 500e6
    for word in ("cold start", "peak of a process", "runtime", "first answer", "machine"):
        assert word in result.stdout


@pytest.mark.slow
def test_keras_starts_in_one_process() -> None:
    from tests.keras_models import FIXTURE, import_keras

    import_keras()
    from bnfuse.formats import load

    with load(FIXTURE, RunSettings(True)) as runner:
        (spec,) = runner.inputs
    feeds = {spec.name: np.zeros((2, *(d for d in spec.shape or () if isinstance(d, int))), np.float32)}
    found = start_once(FIXTURE, RunSettings(optimise=True, threads=1), feeds)
    assert found.runtime_ns > found.load_ns > 0
    assert found.peak_bytes is not None and found.peak_bytes > 200e6  # TensorFlow is in it
