"""Do the tests notice mistakes in the algebra and in the tables? Not a part of CI.

    make mutants                                # every module, hours
    make mutants MODULE=core/axes.py            # one

Every module is mutated (``mutant_sources``), and every mutant is run against the tests that meet its lines
(``mutant_tests``, ``mutant_runs``). What was killed once is not run again until its module changes; what
survived is, since a test may have come. The results are in ``build/mutants``; a survivor that no test can
kill is listed in ``docs/mutants.md`` with the reason, and then counts as equivalent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from benchmarks.mutant_runs import KILLED, SURVIVED, TIMEOUT, Job, preload, run_all
from benchmarks.mutant_sources import Mutant, mutants
from benchmarks.mutant_swaps import names_taken, patch_of
from benchmarks.mutant_tests import ROOT, Coverage, stored, traced

STORE = ROOT / "build" / "mutants"
NO_TEST = "no test"  # meets it
_STARTS_S = 1.5  # of a processor: another process with a runtime, which a fork does not share

CORE = sorted(
    path.relative_to(ROOT / "bnfuse").as_posix() for path in (ROOT / "bnfuse" / "core").rglob("*.py")
)
ONNX = [
    *sorted(f"formats/onnx/rows/{path.name}" for path in (ROOT / "bnfuse/formats/onnx/rows").glob("*.py")),
    "formats/onnx/edit/apply_patch.py",
]
KERAS = sorted(
    f"formats/keras/rows/{path.name}" for path in (ROOT / "bnfuse/formats/keras/rows").glob("*_layers.py")
)

# Tests that need no TensorFlow and are quick; those of the tables run rows on real files.
CORE_TESTS = [
    "absorbing",
    "affine_rule",
    "algebra",
    "axis_maps",
    "barred_channels",
    "bars",
    "batchnorm_of_constants",
    "clamp",
    "completeness",
    "completeness_clamps",
    "constant_channel",
    "constant_operands",
    "dead_ends",
    "equalize",
    "explain_plan",
    "explained_core",
    "fed_by_constants",
    "few_bits",
    "foreign_operators",
    "freedoms",
    "graph_facts",
    "hubs",
    "inference_map",
    "joint_rules",
    "layer_changes",
    "limits",
    "merge_affines",
    "merged_chains",
    "missed_folds",
    "narrow",
    "narrow_core",
    "narrow_places",
    "no_batchnorms",
    "onnx_overflow",
    "operands",
    "parts_of_files",
    "patches",
    "planner",
    "propagate",
    "qonnx_weights",
    "quantised_weights",
    "random_graphs",
    "random_scales",
    "range_rule",
    "ranges",
    "regroup",
    "reparam",
    "round_bias",
    "rounds",
    "scale_classes",
    "settled_parts",
    "settling",
    "shared_values",
    "siblings",
    "simple_rules",
    "small_choices",
    "small_files",
    "small_plans",
    "streams",
    "surroundings",
    "table_rows",
    "told_decisions",
    "vector_products",
    "waiting",
    "worth_a_fold",
]
ONNX_TESTS = [
    "activation_curves",
    "batchnorm_of_constants",
    "clamp",
    "completeness",
    "completeness_clamps",
    "constant_channel",
    "constant_operands",
    "fed_by_constants",
    "few_bits",
    "foreign_operators",
    "hubs",
    "merge_affines",
    "missed_folds",
    "narrow",
    "no_batchnorms",
    "onnx_bound",
    "onnx_dialects",
    "onnx_functions",
    "onnx_graph_attributes",
    "onnx_malformed",
    "onnx_old_files",
    "onnx_overflow",
    "onnx_scopes",
    "onnx_training",
    "operator_coverage",
    "overflow_everywhere",
    "peers_table",
    "qonnx_weights",
    "quantised_weights",
    "random_graphs",
    "random_scales",
    "ranges",
    "regroup",
    "round_bias",
    "shared_values",
    "siblings",
    "small_files",
    "streams",
    "surroundings",
    "table_guards",
    "table_rows",
    "traps",
    "vector_products",
    "window_padding",
    "worked_out_weights",
]
KERAS_TESTS = ["keras_config", "keras_config_refused", "keras_layer_shapes"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants of the modules, print the table, list who survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("module", nargs="*", help=f"below bnfuse/, as core/axes.py; of {', '.join(CORE)}, …")
    parser.add_argument("--processes", type=int, default=2, help="at once (2)")
    parser.add_argument("--most", type=float, default=60.0, help="seconds of tests a mutant is given (60)")
    wanted = parser.parse_args(arguments)
    modules = wanted.module or [*CORE, *ONNX, *KERAS]
    preload()
    rows = [_run(module, wanted.processes, wanted.most) for module in modules]
    _table(modules, rows)
    return 0


def _tests_of(module: str) -> tuple[str, list[str]]:
    """The name and files of the tests that a module's mutants meet."""
    kind = module.split("/")[1] if module.startswith("formats/") else "core"
    names = {"onnx": ONNX_TESTS, "keras": [*CORE_TESTS, *KERAS_TESTS]}.get(kind, CORE_TESTS)
    files = [ROOT / "tests" / f"test_{name}.py" for name in names]
    return kind, [path.relative_to(ROOT).as_posix() for path in files if path.exists()]


def _run(module: str, processes: int, most_s: float) -> dict[str, str]:
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
        kind, files = _tests_of(module)
        coverage = _traced_apart(files, STORE / f"coverage-{kind}.json")
        name = "bnfuse." + module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        imports, taken = coverage.imports.get(f"bnfuse/{module}", frozenset()), names_taken(name, _sources())
        tables = _of_tables(coverage, f"bnfuse/{Path(module).parent.as_posix()}")
        operators = {name.rpartition(".")[2] for name in re.findall(r'"((?:[\w.]+\.)?[A-Z]\w+)"', source)}
        named = {
            number for number, test in enumerate(coverage.tests) if operators & set(re.findall(r"\w+", test))
        }
        jobs, told = [], []
        for mutant in open_ones:
            tests, seconds = _chosen(coverage, tables, named, mutant, f"bnfuse/{module}", most_s)
            if tests:
                patch = patch_of(name, source, mutant.source, str(path), imports, taken)
                jobs.append(Job(mutant.source, patch, tests, seconds))
                told.append(mutant)
            else:
                outcomes[mutant.name] = NO_TEST
        for done, (at, outcome) in enumerate(run_all(path, name, jobs, processes), 1):
            outcomes[told[at].name] = outcome
            if sys.stderr.isatty():
                print(f"\r{module}: {done} of {len(jobs)}", end="", file=sys.stderr, flush=True)
            if done % 10 == 0 or done == len(jobs):
                _keep(store, key, outcomes)
    _keep(store, key, outcomes)
    return {m.name: outcomes[m.name] for m in found}


@cache
def _sources() -> tuple[str, ...]:
    """Of the package and the tests."""
    paths = (*(ROOT / "bnfuse").rglob("*.py"), *(ROOT / "tests").rglob("*.py"))
    return tuple(path.read_text(encoding="utf-8") for path in paths)


def _keep(store: Path, key: str, outcomes: dict[str, str]) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text(json.dumps({"key": key, "outcomes": outcomes}, indent=0), encoding="utf-8")


def _traced_apart(files: Sequence[str], store: Path) -> Coverage:
    """Traced in a fork: here nothing of bnfuse may be imported."""
    pid = os.fork()
    if pid == 0:
        try:
            traced(files, store)
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit("the tests could not be traced")
    return stored(files, store)


def _chosen(
    coverage: Coverage,
    tables: Sequence[int],
    named: Collection[int],
    mutant: Mutant,
    path: str,
    most_s: float,
) -> tuple[list[str], float]:
    """The tests that meet a mutant, and then those that meet anything of its module, up to this time.

    The others, because a constant or a row is met by every import, and what is cached only once. Of those
    that look at whole tables before, and run little of any. Tests named as an operator of the module first:
    most tests run a row of Conv, and most of them look at something else.
    """
    close = coverage.of_lines(path, range(mutant.line, mutant.last_line + 1))
    close.sort(key=lambda number: (coverage.starts[number], number not in named))
    others = coverage.of_file(path)
    first = close or [
        *(number for number in others if number in named and not coverage.starts[number]),
        *tables,
    ]
    numbers = list(dict.fromkeys([*first, *others]))
    tests: list[str] = []
    seconds = 0.0
    for number in numbers:
        seconds += coverage.seconds[number] + coverage.starts[number] * _STARTS_S
        if seconds > most_s and tests:
            break
        tests.append(coverage.tests[number])
    return tests, seconds


def _of_tables(coverage: Coverage, folder: str) -> list[int]:
    """Tests that look at the rows of a folder, and run functions of one of its files at most."""
    files = [
        path
        for path in coverage.lines
        if path.startswith(folder) and path.endswith(("_ops.py", "_layers.py"))
    ]
    running = Counter(number for path in files for number in coverage.of_file(path))
    looking = {file for file in {test.partition("::")[0] for test in coverage.tests}
               if "ROWS" in (ROOT / file).read_text(encoding="utf-8")}  # fmt: skip
    return [
        number
        for number, test in enumerate(coverage.tests)
        if running[number] <= 1 and test.partition("::")[0] in looking
    ]


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
