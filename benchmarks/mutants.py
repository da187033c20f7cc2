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
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.mutant_runs import KILLED, SURVIVED, TIMEOUT, preload, run_all
from benchmarks.mutant_sources import Mutant, mutants
from benchmarks.mutant_tests import ROOT, Coverage, stored, traced

STORE = ROOT / "build" / "mutants"
NO_TEST = "no test"  # meets it

CORE = sorted(
    path.relative_to(ROOT / "bnfuse").as_posix() for path in (ROOT / "bnfuse" / "core").rglob("*.py")
)
ONNX = [
    *sorted(f"formats/onnx/rows/{path.name}" for path in (ROOT / "bnfuse/formats/onnx/rows").glob("*.py")),
    "formats/onnx/edit/apply_patch.py",
]
KERAS = sorted(
    f"formats/keras/rows/{path.name}" for path in (ROOT / "bnfuse/formats/keras/rows").glob("*.py")
)

# Tests that are quick; those of the formats are the tests of the tables. Only those of Keras need TensorFlow.
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
    "settling_order",
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
    "onnx_bound",
    "onnx_dialects",
    "onnx_functions",
    "onnx_malformed",
    "onnx_scopes",
    "onnx_training",
    "operator_coverage",
    "table_guards",
    "worked_out_weights",
]
KERAS_TESTS = [
    "keras_affines",
    "keras_attention",
    "keras_call_constants",
    "keras_clamps",
    "keras_config",
    "keras_config_refused",
    "keras_function_coverage",
    "keras_function_guards",
    "keras_functions",
    "keras_kernels",
    "keras_layer_shapes",
    "keras_masks",
    "keras_merges",
    "keras_movers",
    "keras_quantised",
    "keras_recurrent",
    "keras_row_activations",
    "keras_row_affines",
    "keras_row_calls",
    "keras_row_equations",
    "keras_row_functions",
    "keras_row_joins",
    "keras_row_kinds",
    "keras_row_moves",
    "keras_row_quantised",
    "keras_row_reckoning",
    "keras_row_rules",
    "keras_row_shapes",
    "keras_row_tf_calls",
    "keras_rows",
    "keras_settings",
    "keras_shapes",
    "keras_spectral",
    "keras_types",
    "keras_unknown_shapes",
    "keras_wrappers",
]


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
    preload(keras=any(_kind(module) == "keras" for module in modules))
    rows = [_run(module, wanted.tests, wanted.processes, wanted.most) for module in modules]
    _table(modules, rows)
    return 0


def _kind(module: str) -> str:
    return module.split("/")[1] if module.startswith("formats/") else "core"


def _tests_of(kind: str) -> list[str]:
    """The names of the tests that the mutants of such modules meet."""
    if kind == "keras":
        return KERAS_TESTS  # those of the algebra read none of its models
    return [*CORE_TESTS, *ONNX_TESTS] if kind == "onnx" else CORE_TESTS


def _run(module: str, chosen: Sequence[str] | None, processes: int, most_s: float) -> dict[str, str]:
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
        kind = _kind(module)
        paths = [ROOT / "tests" / f"test_{name}.py" for name in chosen or _tests_of(kind)]
        files = [path.relative_to(ROOT).as_posix() for path in paths if path.exists()]
        told = hashlib.sha256(" ".join(files).encode()).hexdigest()[:12] if chosen else kind
        traces = STORE / f"coverage-{told}.json"
        coverage = _traced_apart(files, traces, slow=kind == "keras")
        jobs, asked = [], []
        for mutant in open_ones:
            tests, seconds = _chosen(coverage, mutant, f"bnfuse/{module}", source, most_s)
            if tests:
                jobs.append((mutant.source, tests, seconds))
                asked.append(mutant)
            else:
                outcomes[mutant.name] = NO_TEST
        name = "bnfuse." + module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for done, (at, outcome) in enumerate(run_all(path, name, jobs, processes), 1):
            outcomes[asked[at].name] = outcome
            if sys.stderr.isatty():
                print(f"\r{module}: {done} of {len(jobs)}", end="", file=sys.stderr, flush=True)
            if done % 10 == 0 or done == len(jobs):
                _keep(store, key, outcomes)
    _keep(store, key, outcomes)
    return {m.name: outcomes[m.name] for m in found}


def _keep(store: Path, key: str, outcomes: dict[str, str]) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text(json.dumps({"key": key, "outcomes": outcomes}, indent=0), encoding="utf-8")


def _traced_apart(files: Sequence[str], store: Path, *, slow: bool) -> Coverage:
    """Traced in a fork: here nothing of bnfuse may be imported."""
    pid = os.fork()
    if pid == 0:
        try:
            traced(files, store, slow=slow)
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit("the tests could not be traced")
    return stored(store)


def _chosen(
    coverage: Coverage, mutant: Mutant, path: str, source: str, most_s: float
) -> tuple[list[str], float]:
    """The tests that meet a mutant, those that meet anything of its module, and the others, up to this time.

    What is cached is met only once, and a constant, or a row, by every import: whoever reads the table as a
    whole may meet nothing else of its module.
    """
    close = coverage.of_lines(path, range(mutant.line, mutant.last_line + 1))
    numbers = list(dict.fromkeys([*close, *coverage.of_file(path), *range(len(coverage.tests))]))
    tests: list[str] = []
    seconds = 0.0
    for number in numbers:
        seconds += coverage.seconds[number]
        if seconds > most_s and tests:
            break
        tests.append(coverage.tests[number])
    return tests, seconds


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
