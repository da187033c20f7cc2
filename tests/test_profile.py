"""Time by operator and what ran where: the sums, the comparison, and `--profile` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import CallTimes, NodeTime, Runner, RunSettings
from bnfuse.measure.profile import compared, profile, profile_hints, summed
from bnfuse.report import measured
from bnfuse.results import OperatorTime, Profile
from tests.clockwork import Clock
from tests.command import call
from tests.fake_runner import Fake
from tests.report_schema import assert_fits
from tests.tiny_models import layer, net, save

CPU, GPU = "CPUExecutionProvider", "CUDAExecutionProvider"


def calls_of(*calls: tuple[int, dict[str, tuple[str, str, int]]]) -> list[CallTimes]:
    """Calls as (whole ms, {node: (operator, provider, ms)})."""
    return [
        CallTimes(
            whole * 10**6,
            tuple(NodeTime(name, op, where, ms * 10**6) for name, (op, where, ms) in nodes.items()),
        )
        for whole, nodes in calls
    ]


BEFORE = calls_of(
    (20, {"a": ("Conv", GPU, 5), "b": ("Conv", GPU, 4), "c": ("BatchNormalization", CPU, 3)}),
    (90, {"a": ("Conv", GPU, 50), "b": ("Conv", GPU, 4), "c": ("BatchNormalization", CPU, 30)}),
    (22, {"a": ("Conv", GPU, 6), "b": ("Conv", GPU, 5), "c": ("BatchNormalization", CPU, 2)}),
)
AFTER = calls_of(*[(15, {"a": ("Conv", GPU, 5), "b": ("FusedConv", GPU, 7)})] * 3)


def test_figures_are_medians_over_calls_of_sums_over_nodes() -> None:
    """By hand: Conv 9, 54, 11 → 11; BatchNormalization 3, 30, 2 → 3; the call 20, 90, 22 → 22."""
    found = compared(summed(BEFORE), summed(AFTER), setting="optimisation on", batch=2)
    assert found.operators == (
        OperatorTime("Conv", 11.0, 2, 5.0, 1),
        OperatorTime("FusedConv", 0.0, 0, 7.0, 1),
        OperatorTime("BatchNormalization", 3.0, 1, 0.0, 0),
    )
    assert (found.before_ms, found.after_ms, found.calls, found.batch) == (22.0, 15.0, 3, 2)
    assert found.before_placed == {GPU: 2, CPU: 1}
    assert found.after_placed == {GPU: 2}


def test_one_model_alone() -> None:
    found = compared(summed(BEFORE), None, setting="s", batch=1)
    assert [(o.op, o.before_ms, o.after_ms) for o in found.operators] == [
        ("Conv", 11.0, None),
        ("BatchNormalization", 3.0, None),
    ]
    rows = measured.profile_rows(found)
    assert rows[0] == ("Conv", "11 ms", "2", "50 %")
    assert rows[-2:] == [("between operators", "8 ms", "", "36.4 %"), ("whole call", "22 ms", "", "100 %")]
    assert all(len(row) == len(measured.OPERATORS_ALONE) for row in rows)


@pytest.mark.parametrize(
    ("ms", "told"),
    [(-13.0, "−13 ms"), (0.008, "+0.008 ms"), (29.5, "+29.5 ms"), (0.0, "0 ms"), (1e-9, "0 ms")],
)
def test_a_change_in_words(ms: float, told: str) -> None:
    assert measured.change(ms) == told


def test_the_share_of_each_provider_in_words() -> None:
    found = compared(summed(BEFORE), summed(AFTER), setting="s", batch=1)
    assert measured.placed(found) == (
        f"before: {GPU} 66.7 %, {CPU} 33.3 % of 3 nodes; after: {GPU} 100 % of 2 nodes"
    )
    same = Profile("s", 1, 1, (), 1.0, {CPU: 4}, 1.0, {CPU: 4})
    assert measured.placed(same) == f"{CPU} 100 % of 4 nodes"


def test_many_operators_are_summed_up_in_one_row() -> None:
    operators = tuple(OperatorTime(f"Op{i}", 40.0 - i, 2, 20.0 - i / 2, 1) for i in range(20))
    rows = measured.profile_rows(Profile("s", 1, 9, operators, 620.0, {CPU: 40}, 320.0, {CPU: 20}))
    assert len(rows) == 15 + 3
    assert rows[15] == ("5 more", "115 ms", "10", "57.5 ms", "5", "−57.5 ms")  # Σ 40 − i, i = 15 … 19
    assert rows[-2][:2] == ("between operators", "10 ms")  # 620 − Σ_{i<20} (40 − i)
    assert all(len(row) == len(measured.OPERATORS) for row in rows)


def test_a_runtime_without_a_profiler_is_told(tmp_path: Path) -> None:
    settings: list[RunSettings] = []

    def load(path: Path, wanted: RunSettings) -> Runner:
        settings.append(wanted)
        return Fake(lambda x: x)

    with pytest.raises(BnfuseError, match="fake 1 has no profiler"):
        profile(
            [tmp_path / "a"],
            RunSettings(optimise=True),
            [{"x": np.zeros((1, 4), np.float32)}],
            setting="s",
            batch=1,
            budget_s=1.0,
            load=load,
        )
    assert settings == [RunSettings(optimise=True, profile=True)]


def test_the_first_calls_do_not_count_and_time_bounds_the_rest(clock: Clock, tmp_path: Path) -> None:
    """Calls of 20 ms, and 0.2 s for them: 10; the three that warm up are in the runtime's profile, too."""

    class Profiled(Fake):
        done = 0

        def run(self, feeds: Any) -> dict[str, np.ndarray]:
            clock.work(20.0)
            self.done += 1
            return super().run(feeds)

        def profile(self, feeds: Any, calls: int) -> list[CallTimes]:
            slow_first = [CallTimes(10**9, (NodeTime("n", "Conv", CPU, 10**9),))] * self.done
            return slow_first + [CallTimes(2 * 10**6, (NodeTime("n", "Conv", CPU, 10**6),))] * calls

    found = profile(
        [tmp_path / "a"],
        RunSettings(),
        [{"x": np.zeros((1, 4), np.float32)}],
        setting="s",
        batch=1,
        budget_s=0.2,
        load=lambda path, settings: Profiled(lambda x: x),
    )
    assert found.before_ms == 2.0
    assert found.operators == (OperatorTime("Conv", 1.0, 1),)
    assert found.calls == 10


# --- the command line --------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Conv → BN twice, and the same folded by hand."""
    rng = np.random.default_rng(3)
    layers = [layer(rng, 8, 3, 3, 3), layer(rng, 8, 8, 3, 3)]
    return tuple(save(net(layers, folded=f), tmp_path / f"{f}.onnx") for f in (False, True))  # type: ignore[return-value]


def test_bench_profile_as_json(pair: tuple[Path, Path]) -> None:
    result = call("bench", *pair, "--profile", "--json", "--bench-time", "0.3")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert_fits(document["benchmark"], "benchmark")
    found = document["benchmark"]["profile"]
    assert found["setting"] == "optimisation on"
    assert found["before_placed"] == {CPU: sum(o["before_nodes"] for o in found["operators"])}
    assert found["after_placed"] == {CPU: sum(o["after_nodes"] for o in found["operators"])}
    assert 0 < sum(o["before_ms"] for o in found["operators"]) < 1.5 * found["before_ms"]


def test_no_profile_unless_asked_for(pair: tuple[Path, Path]) -> None:
    result = call("bench", pair[0], "--json", "--bench-time", "0.2")
    assert json.loads(result.stdout)["benchmark"]["profile"] is None


def test_optimize_profile_in_words(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    result = call(
        "optimize", pair[0], "--profile", "--bench-time", "0.3", "--verify-time", "0.2", "--report", report
    )
    assert result.exit_code == 0, result.stderr
    for text in (result.stdout, report.read_text(encoding="utf-8")):
        for word in ("between operators", "whole call", "100 % of", "ime by operator, optimisation on"):
            assert word in text


@pytest.mark.parametrize(
    ("before_ms", "device", "words"),
    [
        (5.0, "cpu", []),
        (0.5, "cpu", ["microseconds"]),
        (5.0, "gpu", ["starting"]),
        (0.5, "gpu", ["starting", "micro"]),
    ],
)
def test_what_a_profile_does_not_show_is_told(before_ms: float, device: str, words: list[str]) -> None:
    hints = profile_hints(Profile("s", 1, 1, (), before_ms, {CPU: 1}), device)
    assert len(hints) == len(words)
    assert all(word in hint for word, hint in zip(words, hints, strict=True))
