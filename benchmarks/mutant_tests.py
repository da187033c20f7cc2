"""Which tests meet which lines: one run of the chosen tests, traced.

The run is a process of its own, and what it finds is kept beside the results, file by file of the tests:
until the package, that file, or what it imports of the tests changes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutant_runs import Derandomised, run_pytest

ROOT = Path(__file__).resolve().parents[1]

# Where mutants are made: the rest need not be traced.
_TRACED = ("core", "formats/onnx/rows", "formats/onnx/edit", "formats/keras/rows")
_IMPORT = re.compile(r"^from (tests[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Lines of the package by file, and the tests that ran each: numbers of ``tests``.

    Those that run little of the package come first: they look at it closely.

    Attributes:
        tests: their ids.
        seconds: that each takes of a processor.
        lines: by file and line, who runs it.
        imports: by file, the lines that run before the first test: while modules or tests are imported.
        starts: whether each may start a process with a runtime, as the command does.
    """

    tests: tuple[str, ...]
    seconds: tuple[float, ...]
    lines: dict[str, dict[int, tuple[int, ...]]]
    imports: dict[str, frozenset[int]]
    starts: tuple[bool, ...]

    def of_file(self, path: str) -> list[int]:
        """Tests that ran any function of a file."""
        return sorted({test for tests in self.lines.get(path, {}).values() for test in tests})

    def of_lines(self, path: str, lines: range) -> list[int]:
        """Tests that ran any of these lines, but for those that run whenever the file is imported."""
        known = self.lines.get(path, {})
        return sorted({test for line in lines for test in known.get(line, ())})


def traced(files: Sequence[str], store: Path, *, slow: bool = False) -> None:
    """Run the tests that have changed since they were traced, and store who runs what.

    Args:
        files: of the tests.
        store: where it is kept, of all files that were ever asked for.
        slow: whether to run those too that are marked so.
    """
    known = _read(store)
    keys = {file: _key(file) for file in files}
    stale = [file for file in files if known.get(file, {}).get("key") != keys[file]]
    if not stale:
        return
    for file, found in _trace(stale, slow).items():
        known[file] = {"key": keys[file], **found}
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text(json.dumps(known), encoding="utf-8")


def stored(files: Sequence[str], store: Path) -> Coverage:
    """What was traced."""
    known = _read(store)
    seconds: dict[str, float] = {}
    lines: dict[str, dict[int, list[str]]] = {}
    imports: dict[str, set[int]] = {}
    for file in files:
        found = known[file]
        seconds |= found["seconds"]
        names = list(found["seconds"])
        for path, met in found["lines"].items():
            for line, numbers in met.items():
                by_line = lines.setdefault(path, {})
                by_line.setdefault(int(line), []).extend(names[number] for number in numbers)
        for path, met in found["imports"].items():
            imports.setdefault(path, set()).update(met)
    return _ordered(seconds, lines, {path: frozenset(met) for path, met in imports.items()})


def _ordered(
    seconds: dict[str, float],
    lines: dict[str, dict[int, list[str]]],
    imports: dict[str, frozenset[int]],
) -> Coverage:
    breadth = Counter(test for met in lines.values() for tests in met.values() for test in tests)
    order = sorted(seconds, key=lambda test: (breadth[test], seconds[test]))
    place = {test: at for at, test in enumerate(order)}
    numbered = {
        path: {line: tuple(sorted(place[test] for test in tests)) for line, tests in met.items()}
        for path, met in lines.items()
    }
    commands = {file: _commanding(ROOT / file) for file in {test.partition("::")[0] for test in order}}
    starts = tuple(re.split(r"::|\[", test)[1] in commands[test.partition("::")[0]] for test in order)
    return Coverage(tuple(order), tuple(seconds[test] for test in order), numbered, imports, starts)


def _commanding(file: Path) -> set[str]:
    """Tests of a file that run the command line, or all of a use case."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
                a.arg for a in node.args.args
            }
            if names & {"call", "optimized", "cli"}:
                found.add(node.name)
    return found


def _read(store: Path) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    return known


def _key(file: str) -> str:
    seen = hashlib.sha256()
    for path in sorted((*(ROOT / "bnfuse").rglob("*.py"), *_imported(ROOT / file))):
        seen.update(path.read_bytes())
    return seen.hexdigest()


def _imported(file: Path) -> set[Path]:
    """A file of the tests and those that it imports, and these, in turn; conftest is everybody's."""
    found: set[Path] = set()
    waiting = [file, ROOT / "tests" / "conftest.py"]
    while waiting:
        path = waiting.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        for module, names in _IMPORT.findall(path.read_text(encoding="utf-8")):
            folder = ROOT / module.replace(".", "/")
            waiting.append(folder.with_suffix(".py"))
            waiting += [folder / f"{name}.py" for name in re.findall(r"\w+", names)]
            waiting += sorted(folder.glob("*.py")) if folder != ROOT / "tests" else []
    return found


class _Contexts(Derandomised):
    """A pytest plugin that tells coverage which test is running, and times it.

    What several tests share is run once, before the first of them, and all of them run its lines.
    """

    def __init__(self, coverage: Any) -> None:
        self.coverage = coverage
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.running = ""
        self.made: dict[Any, str] = {}  # what is shared by now, and the context that it was made in
        self.sharing: dict[str, list[str]] = {}  # who had it, by context

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            yield
            return
        outer = self.running
        self.made[fixturedef] = self.running = f"shared {len(self.sharing)}"
        self.sharing[self.running] = []
        self.coverage.switch_context(self.running)
        yield
        self.running = outer
        self.coverage.switch_context(outer)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Iterator[None]:
        for name in item.fixturenames:
            for fixture in item._fixtureinfo.name2fixturedefs.get(name, ()):
                if fixture in self.made:
                    self.sharing[self.made[fixture]].append(item.nodeid)
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
            self.failed.add(report.nodeid)


def _trace(files: Sequence[str], slow: bool) -> dict[str, dict[str, Any]]:
    """By file of tests: how long each test takes, the lines that it runs, and those that ran before."""
    from coverage import Coverage as Tracer

    tracer = Tracer(data_file=None, source=[str(ROOT / "bnfuse" / folder) for folder in _TRACED])
    contexts = _Contexts(tracer)
    tracer.start()
    code = run_pytest([*files, *([] if slow else ["-m", "not slow"])], contexts)
    tracer.stop()
    if code not in (0, 1):
        sys.exit(f"pytest ended with {code}")
    found: dict[str, dict[str, Any]] = {file: {"seconds": {}, "lines": {}, "imports": {}} for file in files}
    place: dict[str, int] = {}
    for test, seconds in contexts.seconds.items():
        if test not in contexts.failed:
            known = found[test.partition("::")[0]]["seconds"]
            place[test] = len(known)
            known[test] = seconds
    data = tracer.get_data()
    for measured in data.measured_files():
        path = Path(measured).relative_to(ROOT).as_posix()
        for line, met in data.contexts_by_lineno(measured).items():
            running = {test for context in met for test in contexts.sharing.get(context, [context])}
            for test in running & place.keys():
                lines = found[test.partition("::")[0]]["lines"].setdefault(path, {})
                lines.setdefault(line, []).append(place[test])
            if "" in met:
                for of_file in found.values():
                    of_file["imports"].setdefault(path, []).append(line)
    return found
