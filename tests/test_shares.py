"""What of a speed-up is folding's own, where a result differs from its original in more than folds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import ReadOptions, RunSettings
from bnfuse.measure.verdicts import FASTER, SAME
from bnfuse.report import render
from bnfuse.results import Latency, Report, Share
from bnfuse.use_cases.bench import BenchRequest, bench
from bnfuse.use_cases.optimize import inspect
from bnfuse.use_cases.shares import FOLDING, Unfolded, compared, measured_with_shares, unfolded
from tests.cli_models import convnet
from tests.clockwork import Clock, Clockwork
from tests.command import call
from tests.report_samples import bench_run, in_terminal, report
from tests.report_schema import assert_fits

CAUSE = "9 initializers that left the inputs"
THIRD = Unfolded(Path("c"), CAUSE)
FAST = BenchRequest(max_time=4.0, threads=(1,))


def listing(path: Path, *, every: bool = True, ir_version: int = 8) -> Path:
    """A convnet whose initializers (all, or the first) are inputs, too."""
    model = convnet()
    model.ir_version = ir_version
    stored = model.graph.initializer if every else model.graph.initializer[:1]
    for tensor in stored:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    onnx.save(model, path)
    return path


def test_the_third_model_is_the_original_but_for_its_inputs(tmp_path: Path) -> None:
    path = listing(tmp_path / "model.onnx")
    before = onnx.load(path)
    found = unfolded(path, ReadOptions(), tmp_path / "third.onnx")
    assert found is not None
    count = len(before.graph.initializer)
    assert found.cause == f"{count} initializers that left the inputs"
    third = onnx.load(found.path)
    assert len(third.graph.input) == len(before.graph.input) - count
    del before.graph.input[:], third.graph.input[:]
    for one in (before, third):
        ordered = sorted(one.graph.initializer, key=lambda tensor: tensor.name)
        del one.graph.initializer[:]
        one.graph.initializer.extend(ordered)
    assert before == third  # the BatchNormalization is there still


PLAIN = [
    ({"every": False}, ReadOptions(), False),  # they stay inputs: a caller may override them
    ({"every": False}, ReadOptions(freeze_inputs=True), True),
    ({"ir_version": 3}, ReadOptions(), False),  # before IR 4 all initializers must be listed
    ({}, ReadOptions(), True),
]


@pytest.mark.parametrize(("listed", "read", "changes"), PLAIN)
def test_where_nothing_but_folds_changes_there_is_no_third_model(
    tmp_path: Path, listed: dict[str, int], read: ReadOptions, changes: bool
) -> None:
    path = listing(tmp_path / "model.onnx", **listed)  # type: ignore[arg-type]
    assert (unfolded(path, read, tmp_path / "third.onnx") is not None) is changes
    assert (tmp_path / "third.onnx").exists() is changes


def test_each_cause_gets_its_share(clock: Clock, tmp_path: Path) -> None:
    """8 ms → 2 ms, of which the inputs make 4 ms and folding 2."""
    costs = {name: (tmp_path / name, cost) for name, cost in (("a", 8.0), ("third", 4.0), ("b", 2.0))}
    for path, _ in costs.values():
        path.write_bytes(b"")

    def load(path: Path, _: RunSettings) -> Clockwork:
        return Clockwork(clock, [], path.name, lambda: costs[path.name][1])

    third = Unfolded(tmp_path / "third", CAUSE)
    found = measured_with_shares(
        tmp_path / "a", tmp_path / "b", third, FAST, lambda a, b, how: bench(a, b, request=how, load=load)
    )
    for run in found.runs[:2]:
        assert run.speedup == pytest.approx(4.0)
        other, folding = run.shares
        assert (other.cause, folding.cause) == (CAUSE, FOLDING)
        assert (other.speedup, folding.speedup) == pytest.approx((2.0, 2.0))
        assert other.ci95[0] <= other.speedup <= other.ci95[1]
    assert not any(CAUSE in note for note in found.notes)  # the shares say it
    assert clock.seconds < FAST.max_time * 1.2


def test_the_interval_of_a_share_takes_the_doubt_of_both() -> None:
    """Of two ratios whose logarithms scatter independently: drawn, and taken the percentiles of."""
    rng = np.random.default_rng(0)
    whole, part = (
        3.0 * np.exp(0.05 * rng.standard_normal(200_000)),
        1.5 * np.exp(0.1 * rng.standard_normal(200_000)),
    )
    ends = {name: tuple(np.percentile(each, (2.5, 97.5))) for name, each in (("w", whole), ("p", part))}
    runs = iter(
        [
            latency(bench_run("optimisation on", speedup=3.0, ci95=ends["w"])),
            latency(bench_run("optimisation on", speedup=1.5, ci95=ends["p"], verdict=SAME)),
        ]
    )
    found = measured_with_shares(Path("a"), Path("b"), THIRD, FAST, lambda *_: next(runs))
    expected = np.percentile(whole / part, (2.5, 97.5))
    other = found.runs[0].shares[0]
    assert other.ci95 == pytest.approx(tuple(expected), rel=0.01)
    assert (other.verdict, found.runs[0].shares[1].verdict) == (FASTER, SAME)


def latency(*runs: object) -> Latency:
    return Latency("cpu", 1, (), tuple(runs))  # type: ignore[arg-type]


@pytest.mark.parametrize("which", [0, 1])
def test_a_ratio_that_means_nothing_is_not_split(which: int) -> None:
    runs = [bench_run("optimisation on"), bench_run("optimisation on")]
    runs[which] = replace(runs[which], ci95=(0.8, 37.0))
    each = iter([latency(runs[0]), latency(runs[1])])
    found = measured_with_shares(Path("a"), Path("b"), THIRD, FAST, lambda *_: next(each))
    assert found.runs[0].shares == ()
    (note,) = found.notes
    assert CAUSE in note and note.endswith("could not be measured with optimisation on, batch 1")


def test_what_cannot_be_measured_is_a_note() -> None:
    def fails(a: Path, b: Path, how: BenchRequest) -> Latency:
        if a.name == "c":
            raise BnfuseError("the disk is gone")
        return latency(bench_run("optimisation on"))

    found = measured_with_shares(Path("a"), Path("b"), THIRD, FAST, fails)
    assert [CAUSE in note for note in found.notes] == [True, False] and len(found.runs) == 1
    assert "the disk is gone" in found.notes[1]


@pytest.mark.parametrize(
    ("before", "after", "three"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_bench_of_two_files_tells_it_too(tmp_path: Path, before: bool, after: bool, three: bool) -> None:
    paths = []
    for name, lists in (("a", before), ("b", after)):
        path = tmp_path / f"{name}.onnx"
        onnx.save(convnet(), path)
        paths.append(listing(path) if lists else path)
    measured: list[tuple[str, str]] = []

    def bench(a: Path, b: Path, how: BenchRequest) -> Latency:
        assert a.exists()
        measured.append((a.name if a.parent == tmp_path else "third", b.name))
        return latency(bench_run("optimisation on"))

    found = compared(paths[0], paths[1], FAST, bench)
    assert measured == [("a.onnx", "b.onnx"), ("third", "b.onnx")][: 1 + three]
    assert bool(found.runs[0].shares) is three


def shared_report() -> Report:
    shares = (Share(CAUSE, 1.1875, (1.15, 1.22), FASTER), Share(FOLDING, 1.01, (0.99, 1.03), SAME))
    return report(benchmark=latency(bench_run("optimisation on", shares=shares)))


@pytest.mark.parametrize("suffix", ["", ".md", ".html"])
def test_every_form_tells_the_shares(suffix: str) -> None:
    shown = render(shared_report(), suffix) if suffix else in_terminal(shared_report())
    shown = shown.replace("&#46;", ".")
    assert CAUSE in shown and "1.188×" in shown and "1.010×" in shown


def test_the_json_holds_the_shares(tmp_path: Path) -> None:
    """By the command line, on a model that lists what it stores."""
    path = listing(tmp_path / "model.onnx")
    done = call(
        "optimize", path, "--json", "--no-verify", "--threads", 1, "--max-time", 1.5, "--precision", 40
    )
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert_fits(document)
    told = any("left the inputs let a runtime do more" in note for note in document["benchmark"]["notes"])
    assert told is not all(run["shares"] for run in document["benchmark"]["runs"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.fused.onnx", "model.onnx"]
    for run in document["benchmark"]["runs"]:
        for share in run["shares"]:
            assert math.isfinite(share["speedup"])
    assert inspect(tmp_path / "model.fused.onnx").plan.rewrites == 0
