"""One start in a process of its own: what is measured, how it may fail, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bnfuse.errors import BnfuseError, RuntimeMissing, UnreadableModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.child import limits
from bnfuse.formats.child import process as child_process
from bnfuse.measure.cold import start_once
from tests.command import PATIENCE_S, ROOT, gone, interruptible
from tests.tiny_models import layer, net, save

X = {"x": np.random.default_rng(0).standard_normal((1, 3, 9, 7)).astype(np.float32)}


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
    pids: list[int] = []

    class Noted(child_process.ChildProcess):
        def kill(self) -> None:
            pids.append(self.pid)
            super().kill()

    stand_in(monkeypatch, tmp_path, "import time; time.sleep(999)")
    monkeypatch.setattr("bnfuse.measure.cold.ChildProcess", Noted)
    monkeypatch.setenv(limits.TIME_VARIABLE, "0.5")
    begin_s = time.monotonic()
    with pytest.raises(BnfuseError, match=r"did not answer within 0\.5 s"):
        start_once(model, RunSettings(), X)
    assert time.monotonic() - begin_s < PATIENCE_S
    assert pids and all(gone(pid) for pid in pids)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_process_outlives_bnfuse(model: Path, tmp_path: Path, number: int, code: int) -> None:
    """Ended while a start is under way: by Ctrl-C, politely, and without a chance to clean up."""
    pids, runtime = tmp_path / "pid", tmp_path / "runtime"
    runtime.mkdir()
    (runtime / "onnxruntime.py").write_text(
        f"import os, pathlib, time; pathlib.Path({str(pids)!r}).write_text(str(os.getpid())); time.sleep(999)"
    )
    script = (
        "import sys\nfrom importlib import import_module\nfrom pathlib import Path\nimport numpy as np\n"
        "from bnfuse.cli import main\nfrom bnfuse.measure.cold import start_once\n"
        "from bnfuse.formats.base import RunSettings\n"
        "X = {'x': np.zeros((1, 3, 9, 7), np.float32)}\n"
        "def bench(a, *_, **__):\n    start_once(a, RunSettings(), X)\n"
        "import_module('bnfuse.use_cases.bench').bench = bench\n"
        "main(['bench', sys.argv[1]], prog_name='bnfuse')"
    )
    paths = os.pathsep.join([str(runtime), str(ROOT)])
    with interruptible():
        parent = subprocess.Popen(
            [sys.executable, "-c", script, str(model)],
            env={**os.environ, "PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            text=True,
        )
    with parent:
        end = time.monotonic() + PATIENCE_S
        while not (pids.exists() and pids.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        parent.send_signal(number)
        _, said = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == code
    assert "Traceback" not in said
    assert gone(int(pids.read_text()))
