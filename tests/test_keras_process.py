"""Child processes: messages to and from them, and what becomes of one that crashes, hangs or is left."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
import weakref
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest

from bnfuse.errors import BnfuseError, RuntimeLost, RuntimeMissing, UnreadableModel, UnsafeModel, UsageError
from bnfuse.formats.base import RunSettings
from bnfuse.formats.child import limits, pool
from bnfuse.formats.child.messages import Arrays, Head, read_message, write_message
from bnfuse.formats.child.runner import ChildRunner
from bnfuse.formats.child.server import Engine, Server
from bnfuse.formats.child.spare_models import FileIdentity
from bnfuse.formats.keras.runtime import run
from bnfuse.measure.cold import start_once
from tests.command import PATIENCE_S, gone
from tests.keras_models import FIXTURE, import_keras, with_lambda

# --- messages ----------------------------------------------------------------------------------

ARRAYS: list[np.ndarray] = [
    np.array([[1.5, -2.0, np.inf]], np.float32),
    np.array(7, np.int64),
    np.zeros((0, 3), np.float16),
    np.arange(24, dtype=np.float64).reshape(2, 3, 4).transpose(2, 0, 1)[::2],
    np.array([1, -2, 300], ">i4"),
    np.array([1.5, -2.0, 1e30], ml_dtypes.bfloat16),
    np.array([0.5, -2.0], ml_dtypes.float8_e4m3fn),
    np.array([True, False]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.name}{list(a.shape)}")
def test_arrays_survive_the_pipe(array: np.ndarray) -> None:
    pipe = io.BytesIO()
    write_message(pipe, {"op": "run", "n": 1}, {"x": array, "y": np.ones(1)})
    pipe.seek(0)
    head, arrays = read_message(io.BufferedReader(pipe))
    assert head == {"op": "run", "n": 1}
    assert arrays["x"].dtype == array.dtype.newbyteorder("=")
    assert arrays["x"].shape == array.shape
    assert arrays["x"].astype(np.float64).tolist() == array.astype(np.float64).tolist()
    assert arrays["y"].tolist() == [1.0]


def test_strings_survive_the_pipe() -> None:
    words = np.array([["a", "ä€"], [b"\xff\x00raw", ""]], object)
    pipe = io.BytesIO()
    write_message(pipe, {}, {"x": words})
    pipe.seek(0)
    got = read_message(io.BufferedReader(pipe))[1]["x"]
    assert got.tolist() == [["a", "ä€"], ["\udcff\x00raw", ""]]


OBJECTS: list[Any] = [
    None,
    [None, True, 7, -(2**62), 1.5, float("inf"), "ä", ""],
    {7: 0.25, 9: float("-inf")},
    [{"a": 1.0, "map": 2.0}, {}, [{1: [2]}]],
    {"array": "a key that a message uses, too"},
    [],
]


@pytest.mark.parametrize("value", OBJECTS, ids=repr)
def test_what_sequences_and_maps_hold_survives_the_pipe(value: Any) -> None:
    held = np.empty(2, dtype=object)
    held[0], held[1] = value, "beside it"
    got = through_a_pipe(held)
    assert got.shape == (2,) and got.dtype == object
    assert got[0] == value and got[1] == "beside it"
    assert repr(got[0]) == repr(value)  # 1, 1.0 and True are equal


def test_arrays_in_sequences_survive_the_pipe() -> None:
    held = np.empty(1, dtype=object)
    held[0] = [ARRAYS[3], [ARRAYS[5]], np.float32(0.1), np.array(["a", b"b"], object)]
    (got,) = through_a_pipe(held)
    assert got[0].dtype == np.float64 and np.array_equal(got[0], ARRAYS[3])
    assert got[1][0].dtype == ml_dtypes.bfloat16 and np.array_equal(got[1][0], ARRAYS[5])
    assert type(got[2]) is np.float32 and got[2] == np.float32(0.1)
    assert got[3].tolist() == ["a", "b"]


def test_what_no_message_can_hold_is_told_before_anything_is_sent() -> None:
    held = np.empty(1, dtype=object)
    held[0] = object()
    pipe = io.BytesIO()
    with pytest.raises(TypeError, match="a object cannot be brought out"):
        write_message(pipe, {}, {"x": np.ones(3), "y": held})
    assert pipe.getvalue() == b""


def test_large_arrays_are_copied_nowhere() -> None:
    """Peak memory of sending 64 MiB: nothing of that size; of receiving: the array itself, once."""
    large = np.ones(1 << 26, np.uint8)
    with tempfile.TemporaryFile(buffering=1 << 16) as pipe:
        tracemalloc.start()
        write_message(pipe, {}, {"x": large})
        sent = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        pipe.seek(0)
        reader = io.BufferedReader(cast(Any, pipe).raw)
        got = read_message(reader)[1]["x"]
        reader.detach()
        received = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert np.array_equal(got, large)
    assert sent < 1 << 20
    assert large.nbytes <= received < large.nbytes + (1 << 20)


def through_a_pipe(array: np.ndarray) -> np.ndarray:
    pipe = io.BytesIO()
    write_message(pipe, {}, {"x": array})
    pipe.seek(0)
    return read_message(io.BufferedReader(pipe))[1]["x"]


def test_a_broken_message_is_noticed() -> None:
    pipe = io.BytesIO()
    write_message(pipe, {"a": 1}, {"x": np.ones(4)})
    whole = pipe.getvalue()
    for cut in range(len(whole)):
        with pytest.raises(EOFError):
            read_message(io.BufferedReader(io.BytesIO(whole[:cut])))
    with pytest.raises(ValueError, match="no header"):
        read_message(io.BufferedReader(io.BytesIO(b"\xff" * 64)))


class _Ring:
    """As a model of Keras: it holds itself."""

    def __init__(self) -> None:
        self.own = self


class _Rings(Engine[_Ring]):
    """Loads rings, and notes which of them are there when memory is to be freed."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[_Ring]] = []
        self.there: list[list[bool]] = []

    def start(self, setup: Head) -> Head:
        return {}

    def load(self, request: Head) -> tuple[_Ring, Head]:
        ring = _Ring()
        self.made.append(weakref.ref(ring))
        return ring, {}

    def run(self, model: _Ring, arrays: Arrays) -> Arrays:
        return arrays

    def time(self, model: _Ring, arrays: Arrays, calls: int) -> list[int]:
        return []

    def spare(self, model: _Ring) -> tuple[FileIdentity, str]:
        return FileIdentity.of(str(FIXTURE)), ""

    def closed(self, left: int) -> None:
        gc.collect()
        self.there.append([ring() is not None for ring in self.made])


def test_a_closed_model_is_held_by_nobody_when_memory_is_freed() -> None:
    """Else it stays until the next one is closed, and there are two where there was room for one."""
    engine = _Rings()
    server = Server(engine)
    for number in (1, 2, 3):
        server.respond({"op": "load"}, {})
        server.respond({"op": "close", "model": number, "keep": number > 1}, {})
    assert server.respond({"op": "forget"}, {}) == ({}, {})
    assert engine.there == [[False], [False, False, False]]


TENSORFLOWS = [
    ("import none_such", PATIENCE_S, RuntimeMissing, "cannot be used (No module named 'none_such'"),
    (
        "raise ImportError('no AVX here')",
        PATIENCE_S,
        RuntimeLost,
        "is installed but cannot be started (no AVX here)",
    ),
    ("raise AttributeError('of numpy')", PATIENCE_S, RuntimeLost, "cannot be started (of numpy)"),
    ("raise MemoryError", PATIENCE_S, RuntimeLost, "ran out of memory while it was starting"),
    (
        "raise ImportError('x.so: failed to map segment from shared object: Cannot allocate memory')",
        PATIENCE_S,
        RuntimeLost,
        "ran out of memory while it was starting",
    ),
    (
        "import os; os.write(1, b'junk\\n' * 99); os.write(2, b'last'); os._exit(3)",
        PATIENCE_S,
        RuntimeLost,
        "3: last",
    ),
    ("import os; os.abort()", PATIENCE_S, RuntimeLost, "SIGABRT"),
    (
        "import os; os.kill(os.getpid(), 9)",
        PATIENCE_S,
        RuntimeLost,
        "SIGKILL), as systems end what takes too much memory",
    ),
    ("import time; time.sleep(999)", 0.5, RuntimeLost, "did not answer within 0.5 s"),
]


@pytest.mark.parametrize(("code", "limit_s", "kind", "says"), TENSORFLOWS)
def test_a_runtime_that_does_not_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_process: None,
    code: str,
    limit_s: float,
    kind: type[BnfuseError],
    says: str,
) -> None:
    """One sentence with what to do, within the limit, whatever a TensorFlow does when it is imported."""
    (tmp_path / "tensorflow.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(limits.TIME_VARIABLE, str(limit_s))
    monkeypatch.setenv(run.BACKEND_VARIABLE, "")
    monkeypatch.setattr("bnfuse.formats.keras.runtime.run.choose_backend", lambda: "tensorflow")
    begin = time.monotonic()
    with pytest.raises(kind) as caught:
        run.load(FIXTURE, RunSettings())
    assert time.monotonic() - begin < PATIENCE_S
    assert says in str(caught.value)
    assert ("pip install" in str(caught.value)) == (kind is RuntimeMissing)
    assert "--no-verify --no-bench folds without running" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not pool._processes


@pytest.mark.parametrize(
    ("code", "exit_code"), [("import os; os.kill(os.getpid(), 9)", 4), ("import none_such", 5)]
)
def test_exit_code_of_a_runtime_that_does_not_start(tmp_path: Path, code: str, exit_code: int) -> None:
    """A runtime that is there and dies leaves the result unproved; only one that is not there is missing."""
    stand_ins = tmp_path / "stand_ins"
    stand_ins.mkdir()
    (stand_ins / "tensorflow.py").write_text(code)
    (stand_ins / "keras.py").write_text("")
    paths = os.pathsep.join((str(stand_ins), str(Path(__file__).parents[1])))
    target = tmp_path / "out" / "fused.keras"
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "bnfuse", "optimize", FIXTURE, "-o", target],
        env={**os.environ, "PYTHONPATH": paths, run.BACKEND_VARIABLE: "tensorflow"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert list(target.parent.iterdir()) == []


# --- with what stands in for Keras ---
#
# What becomes of a process is the affair of our own code, and TensorFlow takes two seconds to start.

STAND_INS = {
    "tensorflow.py": """
from types import SimpleNamespace as Has
__version__, constant, RaggedTensor, SparseTensor = "0", lambda array: array, Has, Has
config = Has(
    threading=Has(set_intra_op_parallelism_threads=print, set_inter_op_parallelism_threads=print),
    optimizer=Has(set_experimental_options=print),
    experimental=Has(enable_tensor_float_32_execution=print),
    list_physical_devices=lambda kind: [],
)
""",
    "keras.py": """
from types import SimpleNamespace as Has
import numpy as np
__version__ = "3"
class Model:
    inputs = [Has(name="image", dtype="float32", shape=(None, 28, 28))]
    outputs = [Has(name="digit", dtype="float32", shape=(None, 10))]
    output_names = ["digit"]
    def __call__(self, image, training):
        return image.mean(axis=2)[:, :10]
models = Has(load_model=lambda path, compile, safe_mode: Model())
backend = Has(clear_session=lambda free_memory: None)
""",
}


def pid_of(runner: ChildRunner) -> int:
    assert isinstance(runner._host, pool.Process)
    return runner._host.pid


IMAGES = {"image": np.random.default_rng(0).uniform(0, 16, (2, 28, 28)).astype(np.float32)}


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_process: None) -> None:
    """A TensorFlow without a GPU and a Keras of one model, for processes that start now."""
    for name, code in STAND_INS.items():
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(run.BACKEND_VARIABLE, "tensorflow")


@pytest.mark.usefixtures("stand_ins")
def test_a_crash_while_running_is_a_sentence_and_the_next_load_works() -> None:
    with run.load(FIXTURE, RunSettings()) as runner, run.load(FIXTURE, RunSettings()) as other:
        os.kill(pid_of(runner), signal.SIGSEGV)
        for lost in (runner, other):
            with pytest.raises(BnfuseError, match=r"crashed \(signal SIGSEGV.*'digits_b.keras'"):
                lost.run(IMAGES)
        with run.load(FIXTURE, RunSettings()) as fresh:
            assert fresh.run(IMAGES)["digit"].shape == (2, 10)


@pytest.mark.usefixtures("stand_ins")
def test_a_process_ends_when_it_is_idle_and_not_while_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_LINGER_S", 1.0)
    with run.load(FIXTURE, RunSettings()) as first:
        pid = pid_of(first)
    with run.load(FIXTURE, RunSettings()) as second:
        assert pid_of(second) == pid  # it was kept for a while
        time.sleep(1.5)
        assert second.run(IMAGES)["digit"].shape == (2, 10)
    assert gone(pid)


@pytest.mark.usefixtures("stand_ins")
def test_a_gpu_that_is_not_there_is_missing() -> None:
    with pytest.raises(RuntimeMissing, match=r"no GPU was found by tensorflow .*--device cpu"):
        run.load(FIXTURE, RunSettings(device="gpu"))
    assert not pool._processes


@pytest.mark.usefixtures("stand_ins")
def test_a_cold_start_is_that_of_the_runtime_asked_for(tmp_path: Path) -> None:
    """Keras 3 does not load it, tf_keras does. (What a start of theirs tells: ``test_bench_across``.)"""
    loads = STAND_INS["keras.py"]
    (tmp_path / "tf_keras.py").write_text(loads)
    (tmp_path / "keras.py").write_text(loads.replace("safe_mode: Model()", "safe_mode: path.no_such"))
    for runtime in ("", "tf_keras"):
        assert start_once(FIXTURE, RunSettings(runtime=runtime), IMAGES).run_ns > 0
    with pytest.raises(UnreadableModel, match=r"cannot be loaded by keras 3: .*no_such"):
        start_once(FIXTURE, RunSettings(runtime="keras"), IMAGES)


_LEAVES_A_PROCESS = """
import os, sys, time
from pathlib import Path
from bnfuse.formats.base import RunSettings
from bnfuse.formats.keras.runtime.run import load
if __name__ == "__main__":
    runner = load(Path(sys.argv[1]), RunSettings())
    print(runner._host.pid, flush=True)
    time.sleep(999)
"""


@pytest.mark.usefixtures("stand_ins")
def test_no_process_is_left_behind(tmp_path: Path) -> None:
    """The program is killed without a chance to close its runner.

    Other ends are those of the same machinery, in tests/test_onnx_process.py.
    """
    script = tmp_path / "program.py"
    script.write_text(_LEAVES_A_PROCESS)
    program = subprocess.Popen(
        [sys.executable, str(script), str(FIXTURE)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(Path(__file__).parents[1])))},
    )
    assert program.stdout is not None
    with program.stdout:
        pid = int(program.stdout.readline())
    program.kill()
    program.wait(PATIENCE_S)
    assert gone(pid)


# --- with Keras ---
#
# In the order in which one process serves as many as can be, since TensorFlow takes seconds to start: first
# models that run code of their own, of which the last makes it hang; then those that do not.


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


@pytest.mark.slow
def test_what_a_model_prints_does_not_disturb(keras: Any, tmp_path: Path) -> None:
    """To stdout by Python and by the system; reading stdin finds nothing."""
    path = with_lambda(
        keras,
        tmp_path / "m.keras",
        lambda x: x * (2.0 + len(__import__("sys").stdin.read()) + 0.0 * (
            __import__("os").write(1, b"junk" * 5000) + len(str(print("more junk", flush=True)))
        )),
    )  # fmt: skip
    with run.load(path, RunSettings(allow_unsafe=True)) as runner:
        for _ in range(20):  # 20 × 20 kB would fill a pipe that nobody reads
            assert runner.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2.0, 2.0]]


@pytest.mark.slow
def test_what_the_libraries_brought_is_not_collected_again(keras: Any, tmp_path: Path) -> None:
    """Some 270,000 objects, which two collections per closed model would look at: 0.3 s."""
    path = with_lambda(keras, tmp_path / "m.keras", lambda x: x * 0.0 + __import__("gc").get_freeze_count())
    with run.load(path, RunSettings(allow_unsafe=True)) as runner:
        found = runner.run({"x": np.ones((1, 2), np.float32)})["y"]
    assert found.min() > 100_000


@pytest.mark.slow
def test_the_clock_runs_where_the_model_runs(keras: Any, tmp_path: Path) -> None:
    """A layer that sleeps 30 ms when called, and only then."""
    path = with_lambda(
        keras,
        tmp_path / "m.keras",
        lambda x: (__import__("time").sleep(0.03), x)[1] if hasattr(x, "numpy") else x,
    )
    with run.load(path, RunSettings(allow_unsafe=True)) as runner:
        begin = time.perf_counter_ns()
        times = runner.time({"x": np.ones((1, 2), np.float32)}, 4)
        wall = time.perf_counter_ns() - begin
    assert len(times) == 4
    assert all(ns >= 30e6 for ns in times) and sum(times) < wall, (times, wall)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_an_unknown_layer_is_named(keras: Any, tmp_path: Path, suffix: str) -> None:
    class Mystery(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    x = keras.layers.Input((2,))
    keras.Model(x, Mystery()(x)).save(tmp_path / f"m{suffix}")
    with pytest.raises(BnfuseError) as caught:
        run.load(tmp_path / f"m{suffix}", RunSettings(allow_unsafe=True))
    assert isinstance(caught.value, UnreadableModel)
    assert "Mystery" in str(caught.value)
    assert "--no-verify --no-bench folds without running" in str(caught.value)


@pytest.mark.slow
def test_code_in_a_model_runs_only_if_allowed(keras: Any, tmp_path: Path) -> None:
    """In a process that serves no model whose code is not to run; both containers, in one such process."""
    x, unsafe = np.array([[1.0, -2.0]], np.float32), []
    for suffix in (".keras", ".h5"):
        path = with_lambda(keras, tmp_path / f"m{suffix}", lambda x: x * 3.0)
        with pytest.raises(UnsafeModel) as caught:
            run.load(path, RunSettings())
        for part in ("code in it", "--allow-unsafe", "--no-verify --no-bench"):
            assert part in str(caught.value)
        with run.load(path, RunSettings(allow_unsafe=True)) as runner:
            assert runner.run({"x": x})["y"].tolist() == [[3.0, -6.0]]
            unsafe.append(runner._host)
    with run.load(FIXTURE, RunSettings()) as runner:
        assert all(runner._host is not host for host in unsafe)


@pytest.mark.slow
def test_a_hang_is_a_sentence(keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_lambda(
        keras,
        tmp_path / "m.keras",
        lambda x: (__import__("time").sleep(999), x)[1] if hasattr(x, "numpy") else x,
    )
    with run.load(path, RunSettings(allow_unsafe=True)) as runner:
        pid = pid_of(runner)
        monkeypatch.setenv(limits.TIME_VARIABLE, "1")
        with pytest.raises(BnfuseError, match="did not answer within 1 s and was stopped"):
            runner.run({"x": np.ones((1, 2), np.float32)})
    assert gone(pid)


@pytest.mark.slow
def test_closed_models_leave_memory(keras: Any, tmp_path: Path) -> None:
    """Loads of a model of 16 MiB, called as it is and compiled, do not pile up (the heap breathes by 64)."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc")
    layers = keras.layers
    model = keras.Sequential([layers.Input((2048,), name="x"), layers.Dense(2048, use_bias=False)])
    model.save(tmp_path / "m.keras")
    sizes_mib = []
    for turn in range(16):
        with run.load(tmp_path / "m.keras", RunSettings(optimise=turn % 2 == 0)) as runner:
            runner.run({"x": np.ones((1, 2048), np.float32)})
            pages = int(Path(f"/proc/{pid_of(runner)}/statm").read_text().split()[1])
            sizes_mib.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    assert min(sizes_mib[10:]) - min(sizes_mib[4:10]) < 40, sizes_mib  # six models are 96


@pytest.mark.slow
def test_one_process_serves_several_models(keras: Any) -> None:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    first = run.load(FIXTURE, RunSettings())
    second = run.load(FIXTURE, RunSettings(optimise=True, threads=count))
    pid = pid_of(first)
    assert pid_of(second) == pid
    with first:
        exact = first.run(IMAGES)["digit"]
    with pytest.raises(BnfuseError, match="closed"):
        first.run(IMAGES)
    with second:
        np.testing.assert_allclose(second.run(IMAGES)["digit"], exact, rtol=0, atol=1e-6)
        with pytest.raises(UsageError, match="'image'"):
            second.run({})
    with run.load(FIXTURE, RunSettings()) as third:
        assert pid_of(third) == pid  # it was kept for a while
        np.testing.assert_array_equal(third.run(IMAGES)["digit"], exact)
