"""Which modules are mutated, and which tests a mutant meets, in which order.

What stands in the body of a function is met by whoever runs it; a constant or a row by every import, so that
those that only read a table as a whole may kill it, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from benchmarks.mutant_sources import Mutant
from benchmarks.mutant_tests import ROOT, Coverage

_STARTS_S = 1.5  # of a processor: another process with a runtime, which a fork does not share
_CLASS = re.compile(r'"((?:[\w.]+\.)?[A-Z]\w+)"')  # an operator or a layer


def _below(folder: str) -> list[str]:
    return sorted(
        path.relative_to(ROOT / "bnfuse").as_posix() for path in (ROOT / "bnfuse" / folder).rglob("*.py")
    )


CORE = _below("core")
ONNX = [*_below("formats/onnx/rows"), "formats/onnx/edit/apply_patch.py"]
KERAS = _below("formats/keras/rows")

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
    "effort",
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


def kind_of(module: str) -> str:
    """core, onnx or keras: modules of a kind meet the same tests, unless others are asked for."""
    return module.split("/")[1] if module.startswith("formats/") else "core"


def files_of(kind: str, names: Sequence[str] | None) -> list[str]:
    """The files of these tests, or of those that mutants of such modules meet."""
    tests = {"onnx": ONNX_TESTS, "keras": KERAS_TESTS}.get(kind, CORE_TESTS)
    return [f"tests/test_{name}.py" for name in names or tests]


@dataclass(frozen=True, slots=True)
class Choice:
    """Chooses tests for the mutants of one module.

    Attributes:
        coverage: what was traced.
        path: the module's file.
        named: tests that are named as an operator of the module.
        tables: tests that look at the rows beside it as a whole.
    """

    coverage: Coverage
    path: str
    named: Collection[int]
    tables: Sequence[int]

    def tests(self, mutant: Mutant, most_s: float) -> tuple[list[str], float]:
        """The tests that a mutant meets and how long they take, up to this time."""
        tests: list[str] = []
        seconds = 0.0
        for number in self._ordered(range(mutant.line, mutant.last_line + 1)):
            seconds += self.coverage.seconds[number] + self.coverage.starts[number] * _STARTS_S
            if seconds > most_s and tests:
                break
            tests.append(self.coverage.tests[number])
        return tests, seconds

    def _ordered(self, lines: range) -> list[int]:
        """Those that meet the lines, those that meet anything of the module, and maybe all others.

        Of the module, because what is cached is met only once. The others where no test meets the lines, or
        every import does; of these, those that look at whole tables first. Tests named as an operator of the
        module come before the rest: most tests run a row of Conv, and most of them look at something else.
        """
        starts = self.coverage.starts
        close = self.coverage.of_lines(self.path, lines)
        close.sort(key=lambda number: (starts[number], number not in self.named))
        others = self.coverage.of_file(self.path)
        named = [number for number in others if number in self.named and not starts[number]]
        found = [*(close or [*named, *self.tables]), *others]
        if not close or not self.coverage.imports.get(self.path, frozenset()).isdisjoint(lines):
            found += [*self.tables, *sorted(range(len(starts)), key=lambda number: starts[number])]
        return list(dict.fromkeys(found))


def choice(coverage: Coverage, module: str, source: str) -> Choice:
    """For a module with this source."""
    path = f"bnfuse/{module}"
    operators = {name.rpartition(".")[2] for name in _CLASS.findall(source)}
    named = {at for at, test in enumerate(coverage.tests) if operators & set(re.findall(r"\w+", test))}
    return Choice(coverage, path, named, _of_tables(coverage, path.rpartition("/")[0]))


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
