"""``bench`` as a whole: what it measures in which order, in onnxruntime and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from bnfuse.errors import UnreadableModel
from bnfuse.formats.onnx.runtime.run import load
from bnfuse.measure.cold import COLD
from bnfuse.measure.verdicts import FASTER, SAME, SLOWER
from bnfuse.results import BenchRun
from bnfuse.results.latency import OFF, ON, TOO_FEW
from bnfuse.use_cases.bench import BenchRequest, bench
from tests.busy_machine import BusyMachine, multiply_adds
from tests.clockwork import Clock, clockworks
from tests.command import call
from tests.tiny_models import layer, net, save

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))


def test_cold_start_comes_last_once_with_the_first_batch_and_threads(clock: Clock, tmp_path: Path) -> None:
    a, b, loaded, _, seen = clockworks(clock, tmp_path, 0.2, 0.2)
    request = BenchRequest(batch=(3, 8), threads=(2, 1), max_time=0.6, optimise=(True,), cold=True)
    found = bench(a, b, request=request, load=loaded)
    assert [(run.setting, run.batch, run.threads) for run in found.runs] == [
        (ON, 3, 2),
        (ON, 3, 1),
        (ON, 8, 2),
        (ON, 8, 1),
        (COLD, 3, 2),
    ]
    assert (seen[-1].threads, seen[-1].optimise) == (2, True)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModel, match="none"):
        bench(tmp_path / "none", load=load)


# --- on machines that others use, too ---------------------------------------------------------


def convnets(tmp_path: Path) -> tuple[Path, Path]:
    """A small one, and one of more than four times its work, by multiply-adds."""
    rng = np.random.default_rng(0)
    layers = [layer(rng, 24, 3 if i == 0 else 24, 3, 3) for i in range(6)]
    small = save(net(layers[:2], folded=True, image=(32, 30)), tmp_path / "small.onnx")
    large = save(net(layers, folded=True, image=(32, 30)), tmp_path / "large.onnx")
    assert multiply_adds(large) > 4 * multiply_adds(small)
    return small, large


def benched(clock: Clock, load: float, seed: int, before: Path, after: Path) -> list[BenchRun]:
    """Both settings, where ``load`` others use the processor, too."""
    machine = BusyMachine(clock, load, seed)
    request = BenchRequest(max_time=15.0, threads=(1,))
    return list(bench(before, after, request=request, load=machine.load_model).runs)


# Beside twenty others six rounds may take longer than there is time for: that is said then, and nothing else.
@pytest.mark.parametrize(("load", "said"), [(0, {SLOWER}), (20, {SLOWER, TOO_FEW})])
def test_a_model_of_four_times_the_work_is_slower(
    clock: Clock, tmp_path: Path, load: float, said: set[str]
) -> None:
    paths = convnets(tmp_path)
    runs = [run for seed in range(3) for run in benched(clock, load, seed, *paths)]
    assert {run.verdict for run in runs} == said
    for run in runs:
        assert run.before_ms.least is not None and run.after_ms is not None and run.after_ms.least is not None
        assert run.after_ms.least > 3.5 * run.before_ms.least


@pytest.mark.parametrize("load", [0, 20])
def test_a_model_against_itself_is_no_significant_change(clock: Clock, tmp_path: Path, load: float) -> None:
    """An interval of 95 % may miss: one run in six may be wrong."""
    model, _ = convnets(tmp_path)
    verdicts = [run.verdict for seed in range(3) for run in benched(clock, load, seed, model, model)]
    assert len(verdicts) == 6
    assert verdicts.count(SAME) >= 5


# --- with onnxruntime --------------------------------------------------------------------------


def test_more_work_takes_longer(tmp_path: Path) -> None:
    """What holds however busy the machine is: the fastest call of the larger one takes longer.

    Whether there is time for a verdict is the machine's affair.
    """
    found = bench(*convnets(tmp_path), request=BenchRequest(max_time=0.6, threads=(1,)), load=load)
    assert [run.setting for run in found.runs] == [OFF, ON]
    assert found.providers == ("CPUExecutionProvider",)
    for run in found.runs:
        assert run.before_ms.least is not None and run.after_ms is not None and run.after_ms.least is not None
        assert run.before_ms.least < run.after_ms.least


def test_the_hint_about_onnxruntimes_own_folding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [layer(rng, 4, 3, 3, 3)]
    paths = [save(net(layers, folded=f), tmp_path / f"{f}.onnx") for f in (False, True)]
    found = bench(*paths, request=BenchRequest(max_time=0.5), load=load)
    steady = next(run for run in found.runs if run.setting == ON)
    assert any("folds Conv+BatchNormalization itself" in note for note in found.notes) == (
        steady.verdict != FASTER
    )


# --- on the command line -----------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    layers = [layer(rng, 4, 3, 3, 3), layer(rng, 5, 4, 3, 3)]
    before = save(net(layers, folded=False), tmp_path / "before.onnx")
    return before, save(net(layers, folded=True), tmp_path / "after.onnx")


def test_lists_of_batches_and_threads(pair: tuple[Path, Path], as_many_threads_as_asked: None) -> None:
    done = call(
        "bench", *pair, "--batch", "1,3", "--threads", "1", "--threads", "2", "--max-time", 0.8, "--json"
    )
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["benchmark"]
    jsonschema.validate(found, {**SCHEMA["$defs"]["benchmark"], "$defs": SCHEMA["$defs"]})
    steady = [run for run in found["runs"] if run["setting"] != COLD]
    assert [(run["batch"], run["threads"], run["setting"]) for run in steady] == [
        (batch, threads, setting) for batch in (1, 3) for threads in (1, 2) for setting in (OFF, ON)
    ]
    assert found["threads"] == 1
    for run in steady:
        for which in ("before", "after"):
            quantiles, times = run[f"{which}_quantiles_ms"], run[f"{which}_ms"]
            assert len(quantiles) == 41 and quantiles == sorted(quantiles)
            assert quantiles[0] == pytest.approx(times["min"], rel=1e-5)
            assert quantiles[20] == pytest.approx(times["p50"], rel=1e-5)
            assert run[f"{which}_items_per_s"] == pytest.approx(1000 * run["batch"] / times["p50"])


def test_what_differs_in_threads_says_so(pair: tuple[Path, Path], as_many_threads_as_asked: None) -> None:
    done = call("bench", *pair, "--threads", "1,2", "--max-time", 0.4)
    assert done.exit_code == 0, done.stderr
    for threads in (1, 2):
        assert f"optimisation on, {threads}" in done.stdout


def test_one_model_is_told_with_its_throughput_and_doubt(pair: tuple[Path, Path]) -> None:
    done = call("bench", pair[0], "--threads", "1", "--max-time", 0.6)
    assert done.exit_code == 0, done.stderr
    assert "on cpu, 1 thread, CPUExecutionProvider" in done.stdout
    for column in ("min", "time (95 %)"):
        assert column in done.stdout


TIMES = [
    (("--max-time", "3"), (3.0, 0.01)),
    (("--bench-time", "4"), (4.0, 0.01)),
    (("--precision", "2.5%"), (20.0, 0.025)),
    (("--precision", "3", "--max-time", "0.1"), (0.1, 0.03)),
    ((), (20.0, 0.01)),
]


@pytest.mark.parametrize(("options", "expected"), TIMES)
@pytest.mark.parametrize("command", ["bench", "optimize"])
def test_time_and_precision_reach_the_request(
    monkeypatch: pytest.MonkeyPatch,
    pair: tuple[Path, Path],
    command: str,
    options: tuple[str, ...],
    expected: tuple[float, float],
) -> None:
    import sys

    seen: list[BenchRequest] = []

    def stop(*_: object, request: BenchRequest, **__: object) -> None:
        seen.append(request)
        raise UnreadableModel("enough")

    monkeypatch.setattr(sys.modules["bnfuse.use_cases.bench"], "bench", stop)
    skip = ("--no-verify", "-o", pair[0].with_name("out.onnx")) if command == "optimize" else ()
    call(command, pair[0], *skip, *options)
    assert [(request.max_time, request.precision) for request in seen] == [expected]
    assert BenchRequest().max_time == 20.0 and BenchRequest().precision == 0.01


WRONG = [
    ("--precision", "0"),
    ("--precision", "fine"),
    ("--precision", "-1%"),
    ("--max-time", "0"),
    ("--threads", "0"),
    ("--threads", "1,x"),
    ("--threads", ""),
]


@pytest.mark.parametrize("options", WRONG)
def test_wrong_usage_exits_2(pair: tuple[Path, Path], options: tuple[str, ...]) -> None:
    done = call("bench", *pair, *options)
    assert done.exit_code == 2
    assert options[0] in done.stderr and "Traceback" not in done.stderr
