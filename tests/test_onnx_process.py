"""onnxruntime in a process of its own: what becomes of one that dies, hangs, grows, or is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from msgspec import Struct

from bnfuse.errors import BnfuseError, RuntimeLost, RuntimeMissing, UsageError
from bnfuse.formats.base import Probe, RunSettings
from bnfuse.formats.child import limits, pool
from bnfuse.formats.child.runner import ChildRunner
from bnfuse.formats.child.settings import settings_from_json, settings_to_json
from bnfuse.formats.onnx.runtime.run import OrtSetup, load
from tests.command import ROOT, call, gone
from tests.dying_runtimes import DIES, GROWS, HANGS, LEAVES, stand_in
from tests.tiny_models import identity, layer, net, save

X = {"x": np.random.default_rng(0).standard_normal((1, 3, 9, 7)).astype(np.float32)}


def pid_of(runner: ChildRunner) -> int:
    assert isinstance(runner._host, pool.Process)
    return runner._host.pid


ENDS = [
    ("dies", DIES, "crashed (signal SIGSEGV)"),
    ("leaves", LEAVES, "crashed (exit code 3: last words)"),
    ("hangs", HANGS, "did not answer within 1.5 s and was stopped (BNFUSE_RUNTIME_TIMEOUT"),
    ("grows", GROWS, "grew beyond 0.2 GB of memory and was stopped (BNFUSE_RUNTIME_MEMORY"),
]
WHENS = [
    ("import", "while it was starting"),
    ("load", "while it was loading 'model.onnx'"),
    ("run", "while it was running 'model.onnx'"),
]


@pytest.mark.parametrize(
    ("name", "code", "says", "when", "where"),
    [*((*end, *WHENS[2]) for end in ENDS), *((*ENDS[0], *when) for when in WHENS[:2])],
)
def test_a_runtime_that_ends_badly_is_one_sentence(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_process: None,
    name: str,
    code: str,
    says: str,
    when: str,
    where: str,
) -> None:
    monkeypatch.syspath_prepend(stand_in(tmp_path, when, code))
    monkeypatch.setenv(limits.TIME_VARIABLE, "30")
    monkeypatch.setenv(limits.MEMORY_VARIABLE, "0.2")
    begin_s = time.monotonic()
    with pytest.raises(RuntimeLost) as caught, load(model, RunSettings()) as runner:
        if name == "hangs":
            monkeypatch.setenv(limits.TIME_VARIABLE, "1.5")
        runner.run(X)
    assert time.monotonic() - begin_s < 25
    for part in (says, where):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


_LIMITED = ["--runtime-timeout", "6", "--runtime-memory", "200 MB"]
COMMANDS = [
    ("optimize", "load", DIES, 4),
    ("optimize", "run", GROWS, 4),
    ("optimize", "import", LEAVES, 4),
    ("verify", "run", DIES, 4),
    ("verify", "load", HANGS, 4),
    ("bench", "import", LEAVES, 4),
    ("bench", "load", DIES, 4),
    ("bench", "load", HANGS, 4),
    ("bench", "run", GROWS, 4),
]


@pytest.mark.parametrize(("command", "when", "code", "exit_code"), COMMANDS)
def test_the_command_line_survives_its_runtime(
    model: Path,
    plain_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_process: None,
    command: str,
    when: str,
    code: str,
    exit_code: int,
) -> None:
    """A sentence and an exit code; nothing is written, nothing left in any folder, temporary ones too."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.syspath_prepend(stand_in(tmp_path, when, code))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    files = {"optimize": [model], "verify": [model, plain_model], "bench": [model]}[command]
    before = sorted(tmp_path.rglob("*"))
    done = call(command, *files, *_LIMITED)
    assert done.exit_code == exit_code, done.stderr
    assert "install" not in done.stderr
    assert "onnxruntime" in done.stderr and "Traceback" not in done.stderr
    if command == "optimize":
        assert "--no-verify" in done.stderr and "--shape" not in done.stderr
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert [path for path in left if "__pycache__" not in path.parts] == []


def test_a_runtime_that_is_not_there_is_missing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_process: None
) -> None:
    monkeypatch.syspath_prepend(stand_in(tmp_path, "import", "raise ImportError('no such luck')"))
    with pytest.raises(RuntimeMissing, match=r"no such luck.*pip install onnxruntime"):
        load(model, RunSettings())
    assert not pool._processes


def test_one_process_serves_sessions_of_any_setting(
    model: Path, no_process: None, as_many_threads_as_asked: None
) -> None:
    settings = [RunSettings(on, threads=threads) for on in (False, True) for threads in (0, 1, 2)]
    pids, answers = set(), []
    for wanted in settings:
        with load(model, wanted) as runner, load(model, settings[0]) as other:
            pids |= {pid_of(runner), pid_of(other)}
            answers.append(runner.run(X)["y"])
    assert len(pids) == 1
    assert pid_of(load(model, settings[0])) in pids
    for answer in answers:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-5, atol=1e-5)


def test_numpy_starts_no_threads_beside_the_runtimes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody wants them."""
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert OrtSetup().environment()["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert OrtSetup().environment()["OPENBLAS_NUM_THREADS"] == "3"


def test_the_next_load_works_after_a_crash(model: Path, no_process: None) -> None:
    with load(model, RunSettings()) as runner, load(model, RunSettings()) as other:
        expected = runner.run(X)["y"]
        os.kill(pid_of(runner), signal.SIGKILL)
        for lost in (runner, other):
            with pytest.raises(RuntimeLost, match=r"crashed \(signal SIGKILL.*'model\.onnx'"):
                lost.run(X)
    with load(model, RunSettings()) as fresh:
        assert np.array_equal(fresh.run(X)["y"], expected)


def test_inputs_that_are_timed_are_sent_once(
    model: Path, no_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again when they are others, or a model was closed; ``run`` always sends what it is given."""
    sent: list[int] = []
    real = pool.Process.ask

    def counting(self: pool.Process, head: object, arrays: object = None, **extra: float) -> object:
        sent.append(len(arrays or ()))  # type: ignore[arg-type]
        return real(self, head, arrays, **extra)  # type: ignore[arg-type]

    with load(model, RunSettings()) as runner, load(model, RunSettings()) as other:
        monkeypatch.setattr(pool.Process, "ask", counting)
        changed = {"x": X["x"] + 1}
        for asked, feeds in ((runner, X), (runner, X), (other, X), (other, changed), (runner, X)):
            assert len(asked.time(feeds, 2)) == 2
        assert sent == [1, 0, 0, 1, 1]
        del sent[:]
        assert not np.array_equal(runner.run(changed)["y"], runner.run(X)["y"])
        with load(model, RunSettings()):
            pass
        runner.time(X, 1)
        assert sent[-1] == 1


def test_what_the_runtime_prints_stays_away(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_process: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    noise = "os.write(1, b'junk'); os.write(2, b'junk'); print('junk', flush=True)"
    monkeypatch.syspath_prepend(stand_in(tmp_path, "run", noise))
    with load(model, RunSettings()) as runner:
        assert np.array_equal(runner.run(X)["y"], 2 * X["x"])
    pool.stop_all()
    assert capfd.readouterr() == ("", "")


_USES_A_PROCESS = """
import sys, time
from pathlib import Path
from bnfuse.formats.base import RunSettings
from bnfuse.formats.onnx.runtime.run import OrtSetup, load
runner = load(Path(sys.argv[1]), RunSettings(profile=True))
print(runner._host.pid, flush=True)
if sys.argv[2] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["exit", "wait", "terminate"])
def test_no_process_is_left_behind(model: Path, how: str) -> None:
    """Whether the program ends without closing its runner, or is ended politely or not."""
    wait = "exit" if how == "exit" else "wait"
    program = subprocess.Popen(
        [sys.executable, "-c", _USES_A_PROCESS, str(model), wait],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert program.stdout is not None
    with program.stdout:
        pid = int(program.stdout.readline())
    if how == "wait":
        program.kill()
    elif how == "terminate":
        program.terminate()
    program.wait(30)
    assert gone(pid)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_a_proof_leaves_nothing(model: Path, tmp_path: Path, number: int, code: int) -> None:
    """The runtime hangs when it loads; bnfuse is told to end."""
    pids, folder = tmp_path / "pid", tmp_path / "models"
    folder.mkdir()
    here = model.rename(folder / model.name)
    runtime = stand_in(tmp_path, "load", f"open({str(pids)!r}, 'w').write(str(os.getpid())); {HANGS}")
    with subprocess.Popen(
        [sys.executable, "-c", _HEEDS_SIGINT, "optimize", str(here)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(runtime), str(ROOT)])},
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        end = time.monotonic() + 30
        while not (pids.exists() and pids.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        program.send_signal(number)
        _, said = program.communicate(timeout=20)
    assert program.returncode == code
    assert "Traceback" not in said
    assert gone(int(pids.read_text()))
    assert sorted(folder.iterdir()) == [here]


# Background jobs ignore SIGINT, and so do their children.
_HEEDS_SIGINT = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from bnfuse.cli import main; main(prog_name='bnfuse')"
)


def test_an_idle_process_ends(model: Path, no_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LINGER_S", 0.2)
    with load(model, RunSettings()) as runner:
        pid = pid_of(runner)
    assert gone(pid)


class OtherSetup(Struct, frozen=True):
    """As ``OrtSetup``, but for a setting."""

    module: ClassVar[str] = OrtSetup.module
    setting: int = 0

    def environment(self) -> dict[str, str]:
        return OrtSetup().environment()


_in_the_way = pool._in_the_way  # as bnfuse has it; tests keep such processes


@pytest.mark.usefixtures("no_process")
def test_an_idle_process_makes_room_for_one_of_another_setup(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that holds a model stays, and so does one of the same setup, which serves the next model."""
    monkeypatch.setattr(pool, "_in_the_way", _in_the_way)
    with load(model, RunSettings()) as runner:
        pid, other = pid_of(runner), pool.prepare(OtherSetup())
        assert runner.run(X)
    assert pool.prepare(OtherSetup()) is other and other.alive()
    assert pool._processes.keys() == {OrtSetup(), OtherSetup()}
    third = pool.prepare(OtherSetup(1))
    assert pool._processes == {OtherSetup(1): third}
    assert gone(pid) and gone(other.pid)


@pytest.mark.usefixtures("no_process")
def test_a_thousand_models_do_not_leave_a_thousand_timers(model: Path) -> None:
    """Each that waits for the end of an idle process is a thread."""
    with load(model, RunSettings()):
        pass
    before = threading.active_count()
    for _ in range(30):
        with load(model, RunSettings()):
            pass
    assert threading.active_count() <= before + 1


@pytest.mark.parametrize("name", [limits.TIME_VARIABLE, limits.MEMORY_VARIABLE])
def test_limits_that_are_no_numbers_are_wrong_usage(
    model: Path, monkeypatch: pytest.MonkeyPatch, no_process: None, name: str
) -> None:
    for text in ("soon", "-1", "0", "nan", "inf"):
        monkeypatch.setenv(name, text)
        with pytest.raises(UsageError, match=name):
            load(model, RunSettings())


def test_the_former_name_of_the_limit_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(limits.TIME_VARIABLE, raising=False)
    monkeypatch.setenv("BNFUSE_KERAS_TIMEOUT", "7")
    assert limits.answer_limit_s() == 7.0
    monkeypatch.setenv(limits.TIME_VARIABLE, "8")
    assert limits.answer_limit_s() == 8.0


def test_memory_is_bounded_by_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(limits.MEMORY_VARIABLE, raising=False)
    monkeypatch.setattr(limits, "available_memory_bytes", lambda: 10_000_000_000)
    assert limits.memory_limit_bytes() == 9_500_000_000
    assert limits.memory_limit_bytes(held=1_000_000_000) == 10_450_000_000
    monkeypatch.setattr(limits, "available_memory_bytes", lambda: None)
    assert limits.memory_limit_bytes() is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_memory_that_only_this_process_holds() -> None:
    before = limits.held_bytes(os.getpid())
    held = np.ones(1 << 27, np.uint8)  # 128 MiB
    assert 0.9 * held.nbytes < limits.held_bytes(os.getpid()) - before < 1.5 * held.nbytes
    assert limits.held_bytes(1 << 22) == 0  # beyond the largest process id


def test_settings_reach_the_process_as_they_are() -> None:
    probe = Probe(seams=("a", "b/ä"), forced=True, shaken=("w",), seed=7)
    for settings in (RunSettings(), RunSettings(True, "gpu", 3, True, True, probe)):
        assert settings_from_json(settings_to_json(settings)) == settings


def test_a_model_is_found_whatever_the_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_process: None
) -> None:
    """The process was started elsewhere."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = save(net([layer(rng, 5, 3)], folded=True), folder / "m.onnx")
    load(path, RunSettings()).__exit__(None, None, None)
    monkeypatch.chdir(folder)
    with load(Path("m.onnx"), RunSettings()) as runner:
        assert runner.run({"x": np.ones((1, 3), np.float32)})["y"].shape == (1, 5)


def test_an_error_of_our_own_is_never_blamed_on_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_process: None
) -> None:
    with load(identity(1, tmp_path / "m.onnx"), RunSettings()) as runner:
        assert isinstance(runner._host, pool.Process)
        runner._model = 99
        with pytest.raises(RuntimeError, match="KeyError: 99") as caught:
            runner.run({"x": np.ones((1, 3), np.float32)})
    assert not isinstance(caught.value, BnfuseError)
