"""Do the tests notice mistakes in the algebra and in the tables? Not a part of CI.

    make mutants                                # every module, hours
    make mutants MODULE=core/axes.py            # one

Every module is mutated (``mutant_sources``), and every mutant is run against the tests that meet its lines
(``mutant_choices``, ``mutant_tests``, ``mutant_runs``). What was killed once is not run again until its
module changes; what survived is, since a test may have come. The results are in ``build/mutants``; a survivor
that no test can kill is listed in ``docs/mutants.md`` with the reason, and then counts as equivalent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks.mutant_choices import CORE, KERAS, ONNX, choice, files_of, kind_of
from benchmarks.mutant_runs import KILLED, SURVIVED, TIMEOUT, Job, preload, run_all
from benchmarks.mutant_sources import Mutant, mutants
from benchmarks.mutant_swaps import names_taken, patch_of
from benchmarks.mutant_tests import ROOT, Coverage, stored, traced

STORE = ROOT / "build" / "mutants"
NO_TEST = "no test"  # meets it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants of the modules, print the table, list who survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("module", nargs="*", help=f"below bnfuse/, as core/axes.py; of {', '.join(CORE)}, …")
    parser.add_argument("--processes", type=int, default=2, help="at once (2)")
    parser.add_argument("--most", type=float, default=60.0, help="seconds of tests a mutant is given (60)")
    parser.add_argument("--tests", nargs="+", metavar="NAME", help="only those of tests/test_NAME.py")
    wanted = parser.parse_args(arguments)
    modules = wanted.module or [*CORE, *ONNX, *KERAS]
    kinds = {kind_of(module) for module in modules}
    for file in sorted({file for kind in kinds for file in files_of(kind, wanted.tests)}):
        if not (ROOT / file).exists():
            parser.error(f"there is no {file}")
    preload(keras="keras" in kinds)
    rows = [_run(module, wanted.tests, wanted.processes, wanted.most) for module in modules]
    _table(modules, rows)
    return 0


def _run(module: str, names: Sequence[str] | None, processes: int, most_s: float) -> dict[str, str]:
    """Outcome by mutant, from the store where it is known."""
    path = ROOT / "bnfuse" / module
    source = path.read_text(encoding="utf-8")
    found = list(mutants(source))
    store = STORE / f"{module}.json"
    key = hashlib.sha256(source.encode()).hexdigest()
    known = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    known = known["outcomes"] if known.get("key") == key else {}
    outcomes = {m.name: known[m.name] for m in found if known.get(m.name) in (KILLED, TIMEOUT)}
    open_ones = [m for m in found if m.name not in outcomes]
    if open_ones:
        kind = kind_of(module)
        coverage = _traced_apart(files_of(kind, names), kind)
        name = "bnfuse." + module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        told = _jobs(name, path, source, open_ones, coverage, most_s)
        meeting = {mutant.name for mutant, _ in told}
        outcomes |= {mutant.name: NO_TEST for mutant in open_ones if mutant.name not in meeting}
        for done, (at, outcome) in enumerate(run_all(path, name, [job for _, job in told], processes), 1):
            outcomes[told[at][0].name] = outcome
            if sys.stderr.isatty():
                print(f"\r{module}: {done} of {len(told)}", end="", file=sys.stderr, flush=True)
            if done % 10 == 0 or done == len(told):
                _keep(store, key, outcomes)
    _keep(store, key, outcomes)
    return {m.name: outcomes[m.name] for m in found}


def _jobs(
    name: str, path: Path, source: str, open_ones: Sequence[Mutant], coverage: Coverage, most_s: float
) -> list[tuple[Mutant, Job]]:
    """What is to be run of a module: mutants that any test meets."""
    module = path.relative_to(ROOT / "bnfuse").as_posix()
    choose = choice(coverage, module, source)
    imports, taken = coverage.imports.get(f"bnfuse/{module}", frozenset()), names_taken(name, _sources())
    jobs = []
    for mutant in open_ones:
        tests, seconds = choose.tests(mutant, most_s)
        if tests:
            patch = patch_of(name, source, mutant.source, str(path), imports, taken)
            jobs.append((mutant, Job(mutant.source, patch, tests, seconds)))
    return jobs


@cache
def _sources() -> tuple[str, ...]:
    """Of the package and the tests."""
    paths = (*(ROOT / "bnfuse").rglob("*.py"), *(ROOT / "tests").rglob("*.py"))
    return tuple(path.read_text(encoding="utf-8") for path in paths)


def _keep(store: Path, key: str, outcomes: dict[str, str]) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text(json.dumps({"key": key, "outcomes": outcomes}, indent=0), encoding="utf-8")


def _traced_apart(files: Sequence[str], kind: str) -> Coverage:
    """Traced in a fork: here nothing of bnfuse may be imported."""
    store = STORE / f"coverage-{kind}.json"
    pid = os.fork()
    if pid == 0:
        try:
            traced(files, store, slow=kind == "keras")
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit("the tests could not be traced")
    return stored(files, store)


def _table(modules: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    print("| module | mutants | killed | timeout | survived | no test | |")
    print("|---|---|---|---|---|---|---|")
    total: Counter[str] = Counter()
    for module, row in zip(modules, rows, strict=True):
        counts = Counter(row.values())
        total += counts
        if row:
            _line(module, counts)
    _line("all", total)
    for module, row in zip(modules, rows, strict=True):
        left = [name for name, outcome in row.items() if outcome in (SURVIVED, NO_TEST)]
        if left:
            print(f"\n{module}", *(f"  {name}" for name in left), sep="\n")


def _line(name: str, counts: Counter[str]) -> None:
    columns = [counts[outcome] for outcome in (KILLED, TIMEOUT, SURVIVED, NO_TEST)]
    share = (counts[KILLED] + counts[TIMEOUT]) / max(1, counts.total())
    print("|", " | ".join([name, *map(str, (counts.total(), *columns)), f"{share:.1%}"]), "|")


if __name__ == "__main__":
    sys.exit(main())
