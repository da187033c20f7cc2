"""What somebody who waits is told: the setting, what is done, how long at most is left; -q says nothing."""

from __future__ import annotations

import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfuse.cli import waiting
from bnfuse.formats.base import RunSettings
from bnfuse.results import Latency
from bnfuse.results.doing import Doing, left
from bnfuse.use_cases.bench import BenchRequest, bench
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.clockwork import Clock, Clockwork, files
from tests.command import PATIENCE_S, call
from tests.fake_runner import Fake
from tests.report_samples import bench_run


def test_what_is_left_is_counted_down(clock: Clock) -> None:
    doing = Doing("measuring", 12.0)
    assert (str(doing), left(doing)) == ("measuring", ", at most 12 s left")
    clock.work(5000)
    assert left(doing) == ", at most 7 s left"
    clock.work(60_000)
    assert left(doing) == ", its time is up"
    assert left("planning") == ""


def test_bench_tells_setting_and_place(clock: Clock, tmp_path: Path) -> None:
    rng, told = np.random.default_rng(0), []
    a, b = files(tmp_path)
    slower = {a: 1.0, b: 1.5}  # which is never known as well as is asked for

    def load(path: Path, _: RunSettings) -> Clockwork:
        return Clockwork(clock, [], path.name, lambda: slower[path] * float(rng.uniform(2, 8)))

    request = BenchRequest(batch=(4,), max_time=3.0, precision=1e-6)
    bench(a, b, request=request, load=load, progress=lambda doing: told.append((doing, left(doing))))
    assert told[0] == (
        "measuring optimisation off, batch 4 (setting 1/2, pass 1/3)",
        ", at most 3 s left",
    )
    assert told[1][0].startswith("measuring optimisation on, batch 4 (setting 2/2, pass 1")
    assert "pass 1" not in told[-1][0] and told[-1][1] != told[0][1]


def test_a_batch_that_the_model_or_the_samples_fix_is_not_told_as_another(
    clock: Clock, tmp_path: Path
) -> None:
    told: list[str] = []
    bench(
        *files(tmp_path),
        request=BenchRequest(max_time=1.0),
        load=lambda path, _: Clockwork(clock, [], path.name, lambda: 1.0),
        progress=lambda doing: told.append(str(doing)),
    )
    assert told[0] == "measuring optimisation off (setting 1/2, pass 1/3)"


def test_verify_tells_its_steps(tmp_path: Path) -> None:
    told: list[str] = []
    a, b = files(tmp_path)
    verify(a, b, request=VerifyRequest(), load=lambda *_: Fake(lambda x: x), progress=told.append)
    models = ("the original", "the second model")
    assert told == [f"verifying: {what} {model}" for model in models for what in ("loading", "running")]
    assert [bool(left(doing)) for doing in told] == [False, True, False, True]  # loading comes on top


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "EVERY_S", 0.01)
    enough, told = threading.Event(), list[str]()

    def tell(line: str) -> None:
        if line.startswith("measuring, "):  # on a busy machine many lines may come before it is told
            told.append(line)
        if len(told) > 2:
            enough.set()

    with waiting.lines(every=False, tell=tell) as show:
        show(Doing("measuring", 100.0))
        assert enough.wait(PATIENCE_S)
    assert told[-1].startswith("measuring, at most ") and told[-1].endswith("s so far)")
    assert not [thread for thread in threading.enumerate() if thread.name == "bnfuse-progress"]


def test_a_terminal_gets_one_line_that_follows_what_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich that is a terminal
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.0)

    def waits_for(words: str) -> bool:
        end, seen = time.monotonic() + PATIENCE_S, ""
        while words not in seen and time.monotonic() < end:
            time.sleep(0.01)
            seen += capsys.readouterr().err
        return words in seen

    with waiting.spinner() as show:
        show("planning")
        assert waits_for("planning")
        show(Doing("measuring", 100.0))
        assert waits_for("measuring") and waits_for("at most")
    assert not [thread for thread in threading.enumerate() if thread.name == "bnfuse-progress"]


def test_a_terminal_gets_no_line_where_all_is_done_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(waiting, "PATIENCE_S", PATIENCE_S)
    with waiting.spinner() as show:
        show("planning")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("option", "says"), [((), True), (("-q",), False)])
def test_the_command_line_is_not_mute_but_where_it_is_asked_to_be(
    model: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...], says: bool
) -> None:
    monkeypatch.setattr(waiting, "EVERY_S", 0.01)
    heard = threading.Event()

    def hears(_: str) -> str:
        heard.set()
        return ", at most 9 s left"

    monkeypatch.setattr(waiting, "left", hears)

    def waits(*_: Any, progress: Any, **__: Any) -> Latency:
        progress("measuring")
        heard.wait(PATIENCE_S if says else 0.2)
        return Latency("cpu", 1, (), (bench_run("optimisation on"),))

    monkeypatch.setattr(import_module("bnfuse.use_cases.bench"), "bench", waits)
    done = call("bench", model, "--json", *option)
    assert done.exit_code == 0
    assert ("at most 9 s left" in done.stderr) is says
    assert says or not done.stderr
