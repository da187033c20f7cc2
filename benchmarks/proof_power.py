"""Does `bnfuse verify` catch what a fold can get wrong, and does it leave honest folds alone?

Two experiments, printed as Markdown tables:

- *planted*: one defect at a time (``tests/planted.py``) in the first, a middle or the last layer of networks
  of several depths, in ONNX (float32, float16) and Keras. Right is "different". A defect in a channel that
  an activation cuts off for every input has no effect; such cases are told apart by comparing the planted
  result with the honest one, bit by bit.
- *honest*: folds by hand (random statistics, 1 to 40 layers, float16 and float64 included), bnfuse's own
  folds of random graphs, pre-activation stacks and networks whose outputs hide the rounding inside,
  fixtures, and real models where their folder is given.
  Right is "equal".

    python -m benchmarks.proof_power [--models FOLDER ...] [--no-keras] [--seeds 3]

"tolerances" is the difference over what was allowed: for what is caught the least, for what is honest the
most. "too small" are defects in float16 that move the output by less than its tolerance (at most 2 % of the
range), as rounding may. The exit code is 1 where any other defect with an effect is missed, or an honest
fold is not found equal.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.proof_cases import Table
from benchmarks.proof_honest import (
    FIXTURES,
    KERAS,
    ONNX,
    honest_by_hand,
    honest_files,
    honest_keras,
    honest_narrow,
    honest_random,
)
from benchmarks.proof_planted import planted_keras, planted_onnx
from bnfuse.formats.child.pool import keep_alive


def lines(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' if at == 0 else '---:' for at in range(len(head)))}|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def print_planted(table: Table) -> int:
    """The first table; returns how many cases are wrong."""
    rows = []
    for name, tally in table.items():
        shares = [share for share in tally.share if share > 1.0]
        least = f"{min(shares):.3g}" if shares else "-"
        defect, where = name.split(" | ")
        counts = [tally.of(outcome) for outcome in ("caught", "missed", "too small", "no effect")]
        rows.append([defect, where, sum(counts), *counts, least])
    print("\n## Planted defects\n")
    head = ("defect", "in", "cases", "caught", "missed", "too small", "no effect", "tolerances")
    print("\n".join(lines(head, rows)))
    return report_wrong(table)


def print_honest(table: Table) -> int:
    """The second table; returns how many cases are wrong."""
    rows = []
    for name, tally in table.items():
        counts = [tally.of(status) for status in ("equal", "different", "inconclusive")]
        most = f"{max(tally.share):.2g}" if tally.share else "-"
        rows.append([name, sum(counts), *counts, most])
    total = [sum(int(str(row[at])) for row in rows) for at in range(1, 5)]
    rows.append(["all", *total, ""])
    print("\n## Honest folds\n")
    print("\n".join(lines(("folds", "cases", "equal", "different", "inconclusive", "tolerances"), rows)))
    return report_wrong(table)


def report_wrong(table: Table) -> int:
    """Every case that is wrong; returns how many."""
    wrong = [(name, text) for name, tally in table.items() for text in tally.wrong]
    for name, text in wrong:
        print(f"\nwrong: {name}: {text}")
    return len(wrong)


def import_keras() -> Any:
    """Keras 3 on TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    return keras


def main() -> int:
    """Run both experiments and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--no-keras", action="store_true")
    parser.add_argument("--no-onnx", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("planted", "honest"))
    wanted = parser.parse_args()
    begin = time.perf_counter()
    keras = None if wanted.no_keras else import_keras()
    keep_alive(600.0)  # a runtime's process for all the models that follow
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if wanted.only != "honest":
            table = {} if wanted.no_onnx else planted_onnx(folder, range(wanted.seeds))
            if keras is not None:
                table |= planted_keras(folder, keras, range(1))
            wrong += print_planted(table)
        if wanted.only != "planted":
            honest: Table = {}
            if not wanted.no_onnx:
                honest_by_hand(honest, folder, 40 * wanted.seeds // 3)
                honest_random(honest, folder, 150 * wanted.seeds // 3)
                honest_narrow(honest, folder, 20 * wanted.seeds // 3)
            suffixes = (() if wanted.no_onnx else ONNX) + (() if keras is None else KERAS)
            honest_files(honest, folder, [FIXTURES, *wanted.models], suffixes)
            if keras is not None:
                honest_keras(honest, folder, keras, 8)
            wrong += print_honest(honest)
    print(f"\n{time.perf_counter() - begin:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
