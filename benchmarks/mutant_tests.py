"""Which tests meet which lines: one run of the chosen tests, traced.

The run is a process of its own, and what it finds is kept beside the results for as long as neither the
package nor the tests change.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutant_runs import PRELOADED

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Coverage:
    """Lines of the package by file, and the tests that ran each: numbers of ``tests``.

    Those that run little of the package come first: they look at it closely.
    """

    tests: tuple[str, ...]
    seconds: tuple[float, ...]
    lines: dict[str, dict[int, tuple[int, ...]]]

    def of_file(self, path: str) -> list[int]:
        """Tests that ran any function of a file."""
        return sorted({test for tests in self.lines.get(path, {}).values() for test in tests})

    def of_lines(self, path: str, lines: range) -> list[int]:
        """Tests that ran any of these lines, but for those that run whenever the file is imported."""
        known = self.lines.get(path, {})
        return sorted({test for line in lines for test in known.get(line, ())})


def traced(tests: Sequence[str], store: Path, *, slow: bool = False) -> None:
    """Run the tests and store who runs what, unless nothing has changed since that was done.

    Args:
        tests: their files.
        store: where it is kept.
        slow: whether to run those too that are marked so.
    """
    key = _key(tests)
    if store.exists() and json.loads(store.read_text(encoding="utf-8"))["key"] == key:
        return
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text(json.dumps({"key": key, **_trace(tests, slow)}), encoding="utf-8")


def stored(store: Path) -> Coverage:
    """What was traced."""
    return _coverage(json.loads(store.read_text(encoding="utf-8")))


def _key(tests: Sequence[str]) -> str:
    seen = hashlib.sha256(repr(sorted(tests)).encode())
    for path in sorted((*(ROOT / "bnfuse").rglob("*.py"), *(ROOT / "tests").glob("*.py"))):
        seen.update(path.read_bytes())
    return seen.hexdigest()


def _coverage(found: dict[str, Any]) -> Coverage:
    breadth = Counter(test for met in found["lines"].values() for tests in met.values() for test in tests)
    order = sorted(range(len(found["tests"])), key=lambda at: (breadth[at], found["seconds"][at]))
    place = {old: new for new, old in enumerate(order)}
    lines = {
        path: {int(line): tuple(sorted(place[at] for at in tests)) for line, tests in met.items()}
        for path, met in found["lines"].items()
    }
    names, seconds = (tuple(found[name][at] for at in order) for name in ("tests", "seconds"))
    return Coverage(names, seconds, lines)


class _Contexts:
    """A pytest plugin that tells coverage which test is running, and times it.

    What several tests share is run once, before the first of them, and all of them run its lines.
    """

    def __init__(self, coverage: Any) -> None:
        self.coverage = coverage
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.running = ""
        self.made: dict[Any, str] = {}  # what is shared by now, and the context that it was made in
        self.sharing: dict[str, list[str]] = {}  # who had it, by context

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            yield
            return
        self.made[fixturedef] = context = f"shared {len(self.sharing)}"
        self.sharing[context] = []
        self.coverage.switch_context(context)
        yield
        self.coverage.switch_context(self.running)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Iterator[None]:
        for name in item.fixturenames:
            for context in (self.made.get(each) for each in item._fixtureinfo.name2fixturedefs.get(name, ())):
                if context is not None:
                    self.sharing[context].append(item.nodeid)
        yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.running = item.nodeid
        self.coverage.switch_context(item.nodeid)
        start = time.process_time()
        yield
        self.seconds[item.nodeid] = time.process_time() - start
        self.running = ""
        self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self.failed.append(report.nodeid)


def _trace(tests: Sequence[str], slow: bool) -> dict[str, Any]:
    from coverage import Coverage as Tracer

    tracer = Tracer(data_file=None, source=[str(ROOT / "bnfuse")])
    contexts = _Contexts(tracer)
    tracer.start()
    marks = [] if slow else ["-m", "not slow"]
    code = pytest.main([*tests, *marks, "-q", "-p", "no:cacheprovider", *PRELOADED], plugins=[contexts])
    tracer.stop()
    if code not in (0, 1):
        sys.exit(f"pytest ended with {code}")
    data = tracer.get_data()
    names = [name for name in contexts.seconds if name not in contexts.failed]
    number = {name: at for at, name in enumerate(names)}
    running = {name: [name] for name in names} | contexts.sharing
    lines: dict[str, dict[int, list[int]]] = {}
    for path in data.measured_files():
        by_line = data.contexts_by_lineno(path)
        lines[Path(path).relative_to(ROOT).as_posix()] = {
            line: sorted({number[name] for c in met for name in running.get(c, ()) if name in number})
            for line, met in by_line.items()
            if any(met)
        }
    return {"tests": names, "seconds": [contexts.seconds[name] for name in names], "lines": lines}
