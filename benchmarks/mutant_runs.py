"""Runs tests on mutants, each in a fork.

A mutant is killed by the first test that fails, by a module that cannot be imported, or by the time it takes;
it survives what it passes. Time is the processor's, so that load does not kill.

    bodies, constants, tables   (``mutant_swaps``) a fork of a process that has collected the tests
    all else                    a fork of a process that has the other packages loaded: it imports bnfuse
                                anew, with the mutant in place of the module, and collects the tests
"""

from __future__ import annotations

import gc
import importlib.util
import os
import resource
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from benchmarks.mutant_swaps import Patch, apply, reachable

KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"

# What is loaded already cannot have its asserts rewritten; pytest warns of that, and warnings are errors.
_PRELOADED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")

_NEEDED: tuple[str, ...] = (
    "numpy",
    "onnx",
    "onnx.numpy_helper",
    "onnx.reference",
    "onnxruntime",
    "ml_dtypes",
    "h5py",
)
_NEEDED += ("hypothesis", "hypothesis.strategies", "click.testing", "jsonschema", "rich.console")
# For the tables of Keras. Loaded, and not yet used: what TensorFlow starts on its first use outlives no fork.
_KERAS = ("tensorflow", "keras", "tf_keras")
_ONE_THREAD = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}

# Plugins that cost every fork more than most tests do; and what forks of one process would share is no file.
_HEAVY = ("cacheprovider", "unraisableexception", "threadexception", "logging", "faulthandler", "junitxml")
_LIGHT = [option for plugin in _HEAVY for option in ("-p", f"no:{plugin}")] + ["--capture=sys"]
_MOST_BYTES = 12 << 30
_SPARE_S = 20.0
_UNREACHABLE = 3  # exit status of a fork that has not found the function


@dataclass(frozen=True, slots=True)
class Job:
    """A mutant and its tests.

    Attributes:
        source: of the module, with the mistake.
        patch: what makes the imported module this one; None where it must be imported anew.
        tests: by id, in their order.
        seconds: that they take.
    """

    source: str
    patch: Patch | None
    tests: Sequence[str]
    seconds: float


def preload(*, keras: bool = False) -> None:
    """Load what every fork needs, but nothing of bnfuse."""
    if keras:
        os.environ.update(_ONE_THREAD)
    for name in (*_NEEDED, *_KERAS) if keras else _NEEDED:
        importlib.import_module(name)


def run_all(path: Path, name: str, jobs: Sequence[Job], processes: int) -> Iterator[tuple[int, str]]:
    """(number, outcome) of every job, as they end.

    Args:
        path: the module's file.
        name: the module's name.
        jobs: what to run.
        processes: at once.
    """
    gc.collect()
    gc.freeze()  # forks share what is not touched
    cold = {at for at, job in enumerate(jobs) if job.patch is None}
    warm = [at for at in range(len(jobs)) if at not in cold]
    if warm:
        for at, status in _warmed(name, jobs, warm, processes):
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _UNREACHABLE:
                cold.add(at)
            else:
                yield at, _outcome(status)

    def tested(at: int) -> int:
        sys.meta_path.insert(0, _Instead(name, path, jobs[at].source))
        return _tested(jobs[at].tests)

    for at, status in _forked(sorted(cold), tested, lambda at: jobs[at].seconds, processes):
        yield at, _outcome(status)


def _outcome(status: int) -> str:
    if os.WIFSIGNALED(status):
        return TIMEOUT if os.WTERMSIG(status) in (9, 24) else KILLED
    return SURVIVED if os.WEXITSTATUS(status) == 0 else KILLED


def _forked(
    numbers: Sequence[int], run: Callable[[int], int], seconds: Callable[[int], float], processes: int
) -> Iterator[tuple[int, int]]:
    """(number, status) of every fork, as they end, so many at once."""
    running: dict[int, tuple[int, str]] = {}
    waiting = list(reversed(numbers))
    while waiting or running:
        while waiting and len(running) < processes:
            at = waiting.pop()
            folder = tempfile.mkdtemp()
            running[_fork(partial(run, at), folder, seconds(at))] = at, folder
        pid, status = os.wait()
        if pid in running:
            at, folder = running.pop(pid)
            shutil.rmtree(folder, ignore_errors=True)
            yield at, status


def _fork(run: Callable[[], int], folder: str, seconds: float) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        limit = int(_SPARE_S + 5 * seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
        os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.tempdir = folder
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        code = run()
    finally:
        os._exit(code)


def _tested(tests: Sequence[str]) -> int:
    """In a fork that has imported nothing: collect these tests and run them."""
    chosen = _Chosen(tests)
    code = _pytest(tests, chosen)
    return 0 if code == 0 and chosen.complete else 1


def _pytest(tests: Sequence[str], plugin: _Chosen) -> int:
    gc.disable()
    files = sorted({test.partition("::")[0] for test in tests})
    return run_pytest([*files, "-x", "--tb=no"], plugin)


def run_pytest(arguments: Sequence[str], plugin: object) -> int:
    """As tests run on mutants: with few plugins."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return int(pytest.main([*arguments, "-q", *_PRELOADED, *_LIGHT], plugins=[plugin]))


def _warmed(
    name: str, jobs: Sequence[Job], numbers: Sequence[int], processes: int
) -> Iterator[tuple[int, int]]:
    """(number, status) from a process that collects the tests of all these jobs once."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            runs = _Runs(name, jobs, numbers, processes, writing)
            code = _pytest(list(runs.place), runs)
            os._exit(0 if code == 0 and runs.complete else 1)
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
            traceback.print_exc()
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as lines:
        for line in lines:
            at, status = map(int, line.split())
            yield at, status
    if os.waitpid(pid, 0)[1]:
        sys.exit("the tests of these mutants could not be run")


class Derandomised:
    """A pytest plugin: every run of a test draws the same examples, and as many as it says."""

    def pytest_configure(self) -> None:
        """Behind the profile of ``tests/conftest.py``, which this one has the rest from."""
        from hypothesis import HealthCheck, Phase, settings

        settings.register_profile(
            "mutants",
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=tuple(HealthCheck),
        )
        settings.load_profile("mutants")


class _Chosen(Derandomised):
    """A pytest plugin that keeps some tests, in their order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.place = {test: at for at, test in enumerate(tests)}
        self.complete = False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid])
        self.complete = len(items) == len(self.place)


class _Runs(_Chosen):
    """A pytest plugin that runs every job's tests in a fork of its own, instead of all tests once."""

    def __init__(
        self, name: str, jobs: Sequence[Job], numbers: Sequence[int], processes: int, pipe: int
    ) -> None:
        super().__init__(list(dict.fromkeys(test for at in numbers for test in jobs[at].tests)))
        self.name = name
        self.jobs = jobs
        self.numbers = numbers
        self.processes = processes
        self.pipe = pipe
        self.failed = False

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own."""
        items = {item.nodeid: item for item in session.items}

        def run(at: int) -> int:
            job = self.jobs[at]
            return self._run(job, [items[test] for test in job.tests])

        for at, status in _forked(self.numbers, run, lambda at: self.jobs[at].seconds, self.processes):
            os.write(self.pipe, f"{at} {status}\n".encode())
        return True

    def _run(self, job: Job, items: Sequence[pytest.Item]) -> int:
        assert job.patch is not None
        if not reachable(self.name, job.patch):
            return _UNREACHABLE
        apply(self.name, job.patch)
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return 1
        return 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One that is skipped has passed before: it fails."""
        self.failed |= report.failed or report.skipped


class _Instead(MetaPathFinder):
    """Finds one module, as this source."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        loader = _Source(name, str(self.path))
        loader.source = self.source
        package = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            name, self.path, loader=loader, submodule_search_locations=package
        )


class _Source(SourceFileLoader):
    source: str

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec", dont_inherit=True)
