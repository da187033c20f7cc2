"""Runs tests on mutants: every mutant in a fork of one process that has the other packages loaded.

A mutant is killed by the first test that fails, by a module that cannot be imported, or by the time it takes;
it survives what it passes. A fork imports bnfuse anew, with the mutant in place of the module, and runs the
tests that meet the mutated lines, the quickest first. Time is the processor's, so that load does not kill.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import resource
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"

# What is loaded already cannot have its asserts rewritten; pytest warns of that, and warnings are errors.
PRELOADED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")

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

# Plugins that cost every fork more than most tests do.
_LIGHT = [
    option
    for plugin in (
        "cacheprovider",
        "unraisableexception",
        "threadexception",
        "logging",
        "faulthandler",
        "junitxml",
    )
    for option in ("-p", f"no:{plugin}")
]
_MOST_BYTES = 12 << 30
_SPARE_S = 20.0


def preload(*, keras: bool = False) -> None:
    """Load what every fork needs, but nothing of bnfuse."""
    if keras:
        os.environ.update(_ONE_THREAD)
    for name in (*_NEEDED, *_KERAS) if keras else _NEEDED:
        importlib.import_module(name)


def run_all(
    path: Path, name: str, jobs: Sequence[tuple[str, Sequence[str], float]], processes: int
) -> Iterator[tuple[int, str]]:
    """(number, outcome) of every job, as they end.

    Args:
        path: the module's file.
        name: the module's name.
        jobs: source, the tests to run, and how many seconds they take.
        processes: at once.
    """
    gc.collect()
    gc.freeze()  # forks share what is not touched
    running: dict[int, int] = {}
    waiting = iter(enumerate(jobs))
    while True:
        for at, (source, tests, seconds) in waiting:
            running[_forked(path, name, source, tests, seconds)] = at
            if len(running) >= processes:
                break
        if not running:
            return
        pid, status = os.wait()
        if pid in running:
            yield running.pop(pid), _outcome(status)


def _outcome(status: int) -> str:
    if os.WIFSIGNALED(status):
        return TIMEOUT if os.WTERMSIG(status) in (9, 24) else KILLED
    return SURVIVED if os.WEXITSTATUS(status) == 0 else KILLED


def _forked(path: Path, name: str, source: str, tests: Sequence[str], seconds: float) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        limit = int(_SPARE_S + 5 * seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        sys.meta_path.insert(0, _Instead(name, path, source))
        code = _tested(tests)
    finally:
        os._exit(code)


def _tested(tests: Sequence[str]) -> int:
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    gc.disable()
    files = sorted({test.partition("::")[0] for test in tests})
    chosen = _Chosen(tests)
    code = pytest.main([*files, "-x", "-q", "--tb=no", *PRELOADED, *_LIGHT], plugins=[chosen])
    return 0 if code == 0 and chosen.complete else 1


class _Chosen:
    """A pytest plugin that keeps some tests, in their order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.place = {test: at for at, test in enumerate(tests)}
        self.complete = False

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

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid])
        self.complete = len(items) == len(self.place)


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
