"""Does `bnfuse verify` catch what a fold can get wrong, and does it leave honest folds alone?

Two experiments, printed as Markdown tables:

- *planted*: one defect at a time (``tests/planted.py``) in the first, a middle or the last layer of networks
  of several depths, in ONNX (float32, float16) and Keras. Right is "different". A defect in a channel that
  an activation cuts off for every input has no effect; such cases are told apart by comparing the planted
  result with the honest one, bit by bit.
- *honest*: folds by hand (random statistics, 1 to 40 layers, float16 and float64 included), bnfuse's own
  folds of random graphs and pre-activation stacks, fixtures, and real models where their folder is given.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bnfuse.core.apply import OverflowingFold, apply
from bnfuse.core.plan import plan
from bnfuse.errors import BnfuseError
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.results import Agreement, Status
from bnfuse.verify import VerifyRequest, verify
from tests.planted import DEFECTS, Pair, border, keras_net, overflow, spoiled
from tests.random_moves import NAMES, STEPS
from tests.random_nets import build, preactivation, recipe
from tests.tiny_models import Layer, layer, net, save

ROOT = Path(__file__).resolve().parents[1]
Kind = Callable[[int, int], list[Layer]]
SUFFIXES = (".onnx", ".keras", ".h5", ".hdf5")


def conv(seed: int, depth: int) -> list[Layer]:
    """Conv 3×3 with 8 channels."""
    rng = np.random.default_rng(seed)
    return [layer(rng, 8, 3 if i == 0 else 8, 3, 3) for i in range(depth)]


def dense(seed: int, depth: int) -> list[Layer]:
    """Dense layers of 16."""
    rng = np.random.default_rng(seed)
    return [layer(rng, 16, 5 if i == 0 else 16) for i in range(depth)]


KINDS: dict[str, Kind] = {"conv": conv, "dense": dense}


@dataclass
class Tally:
    """What became of one kind of case; ``share`` holds the difference over what was allowed, each case."""

    counts: dict[str, int] = field(default_factory=dict)
    share: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, outcome: str, found: Agreement) -> None:
        """Count one case."""
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        shares = [
            o.max_rel / o.tolerance for o in found.outputs if o.tolerance > 0 and np.isfinite(o.max_rel)
        ]
        if shares:
            self.share.append(max(shares))

    def of(self, outcome: str) -> int:
        """How many cases ended so."""
        return self.counts.get(outcome, 0)


Table = dict[str, Tally]


# ---- planted --------------------------------------------------------------------------------------


def places(depth: int) -> list[int]:
    """The first, a middle and the last layer."""
    return sorted({0, depth // 2, depth - 1})


def plant_all(
    table: Table,
    label: str,
    write: Callable[[list[Layer], bool, str], Path],
    depths: Sequence[int],
    seeds: Sequence[int],
    usual: VerifyRequest,
) -> None:
    """Every defect at every place; ``write(layers, folded, name)`` saves a network."""
    for kind, make in KINDS.items():
        for depth in depths:
            for seed in seeds:
                layers = make(seed, depth)
                rng = np.random.default_rng((seed, depth))
                before, honest = write(layers, False, "before"), write(layers, True, "honest")
                request = replace(usual, depth=depth)  # as optimize does
                for at in places(depth):
                    for name, plant in DEFECTS.items():
                        channel = int(rng.integers(layers[at].gamma.size))
                        after = write(spoiled(layers, at, plant, channel), True, "after")
                        found = verify(before, after, request=request)
                        outcome = "caught" if found.status is Status.DIFFERENT else "missed"
                        if outcome == "missed":
                            effect = largest(verify(honest, after, request=request))
                            outcome = "too small" if "float16" in label else outcome
                            outcome = outcome if effect else "no effect"
                        tally = table.setdefault(f"{name} | {label}", Tally())
                        tally.add(outcome, found)
                        if outcome == "missed":
                            where = f"{kind}, {depth} layers, seed {seed}, layer {at}"
                            tally.wrong.append(f"{where}: {effect:.1e}")


def largest(found: Agreement) -> float:
    """The largest difference of all outputs, relative to their range."""
    return max(output.max_rel for output in found.outputs)


def once(table: Table, name: str, before: Path, after: Path, request: VerifyRequest) -> None:
    """One defect of the whole model."""
    found = verify(before, after, request=request)
    tally = table.setdefault(name, Tally())
    tally.add("caught" if found.status is Status.DIFFERENT else "missed", found)
    if found.status is not Status.DIFFERENT:
        tally.wrong.append(found.detail)


def retyped(proto: onnx.ModelProto, output: str, dtype: int) -> onnx.ModelProto:
    """The same model whose output is cast to another type."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.node[-1].output[0] = "uncast"
    copy.graph.node.append(helper.make_node("Cast", ["uncast"], [output], to=dtype))
    copy.graph.output[0].type.tensor_type.elem_type = dtype
    return copy


def planted_onnx(folder: Path, seeds: Sequence[int]) -> Table:
    """All defects in ONNX models."""
    table: Table = {}
    request = VerifyRequest()
    for dtype in ("float32", "float16"):

        def write(layers: list[Layer], folded: bool, name: str, dtype: str = dtype) -> Path:
            return save(net(layers, folded=folded, dtype=dtype), folder / f"{name}.onnx")

        plant_all(table, f"ONNX {dtype}", write, (1, 3, 8, 20), seeds, request)
    for seed in range(10):
        pairs = {
            "shift through zero padding (borders)": border(seed=seed),
            "overflow in float16": overflow(seed),
            "output renamed": Pair(
                net(dense(seed, 3), folded=False), net(dense(seed, 3), folded=True, output="z")
            ),
            "output of another type": Pair(
                net(dense(seed, 3), folded=False),
                retyped(net(dense(seed, 3), folded=True), "y", onnx.TensorProto.DOUBLE),
            ),
        }
        for name, pair in pairs.items():
            before, after = save(pair.before, folder / "a.onnx"), save(pair.after, folder / "b.onnx")
            once(table, f"{name} | ONNX", before, after, request)
    return table


def planted_keras(folder: Path, keras: Any, seeds: Sequence[int]) -> Table:
    """All defects in Keras models, but those of ONNX alone."""
    table: Table = {}
    request = VerifyRequest(budget_s=6.0, samples=4)

    def write(layers: list[Layer], folded: bool, name: str, **changes: Any) -> Path:
        path = folder / f"{name}.keras"
        keras_net(keras, layers, folded=folded, **changes).save(path)
        keras.utils.clear_session(free_memory=False)
        return path

    plant_all(table, "Keras", lambda a, b, c: write(a, b, c), (3, 8), seeds, request)
    layers = dense(0, 3)
    before = write(layers, False, "before")
    once(table, "output renamed | Keras", before, write(layers, True, "after", output="other"), request)
    half = write(layers, True, "after", dtype="float16")
    once(table, "output of another type | Keras", before, half, request)
    huge = layer(np.random.default_rng(0), 16, 5)
    before = write([huge], False, "before", dtype="float16")
    huge.gamma[3] = 1e9
    with np.errstate(over="ignore"):
        once(
            table,
            "overflow in float16 | Keras",
            before,
            write([huge], True, "after", dtype="float16"),
            request,
        )
    return table


# ---- honest ---------------------------------------------------------------------------------------


def judge_honest(table: Table, name: str, found: Agreement, case: str) -> None:
    """Count one honest fold."""
    tally = table.setdefault(name, Tally())
    tally.add(found.status.value, found)
    if found.status is not Status.EQUAL:
        tally.wrong.append(f"{case}: {found.detail}")


def honest_by_hand(table: Table, folder: Path, per_dtype: int) -> None:
    """Folds made from the equation, apart from bnfuse."""
    for dtype in ("float32", "float16", "float64"):
        for seed in range(per_dtype):
            depth = (1, 2, 3, 5, 8, 12, 20, 40)[seed % 8]
            kind = "dense" if dtype == "float64" or seed % 2 else "conv"
            layers = KINDS[kind](5000 + seed, depth)
            pair = [
                save(net(layers, folded=folded, dtype=dtype), folder / f"{folded}.onnx")
                for folded in (False, True)
            ]
            found = verify(*pair, request=VerifyRequest(seed=seed, depth=depth))
            judge_honest(table, f"by hand, 1 to 40 layers, {dtype}", found, f"{kind}, {depth}, seed {seed}")
    for seed in range(10):
        pair_ = border(honest=True, seed=seed)
        before, after = save(pair_.before, folder / "a.onnx"), save(pair_.after, folder / "b.onnx")
        judge_honest(table, "borders made right", verify(before, after), f"seed {seed}")


def fold(source: Path, target: Path) -> int:
    """bnfuse's own fold of a file, without its proof; returns how many nodes went."""
    banned: frozenset[str] = frozenset()
    form = detect(source)
    while True:
        opened = form.read(source, ReadOptions())
        try:
            decided = plan(opened.graph, banned)
            opened.write(apply(opened.graph, decided), target)
            return decided.rewrites
        except OverflowingFold as overflowing:
            banned |= overflowing.nodes
        finally:
            opened.close()


def honest_fold(table: Table, name: str, source: Path, target: Path, request: VerifyRequest) -> None:
    """bnfuse's own fold of one file; none where nothing folds."""
    count = fold(source, target)
    if not count:
        return
    found = verify(source, target, request=replace(request, depth=count))
    if "cannot be loaded" in found.detail or "cannot load" in found.detail:
        print(f"left out: {source.name}: {found.detail}", file=sys.stderr)
        return
    judge_honest(table, name, found, source.name)


def honest_random(table: Table, folder: Path, graphs: int) -> None:
    """bnfuse's folds of random graphs, where onnxruntime gives finite outputs, and of residual stacks."""
    for seed in range(graphs):
        source = save(build(recipe(seed, NAMES), STEPS), folder / f"random-{seed}.onnx")
        honest_fold(table, "bnfuse, random graphs", source, folder / "out.onnx", VerifyRequest(budget_s=2.0))
        source.unlink()
    for blocks in (1, 4, 16):
        for seed in range(4):
            source = save(
                preactivation(blocks, positive=True, seed=seed), folder / f"pre-{blocks}-{seed}.onnx"
            )
            honest_fold(table, "bnfuse, pre-activation stacks", source, folder / "out.onnx", VerifyRequest())


def honest_files(table: Table, folder: Path, roots: Sequence[Path], *, keras: bool) -> None:
    """bnfuse's folds of the models in these folders; what no runtime loads is left out."""
    for root in roots:
        for source in sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES):
            if source.suffix != ".onnx" and not keras:
                continue
            name = f"bnfuse, {'fixtures' if root == ROOT / 'fixtures' else 'real models'}"
            target = folder / f"out{source.suffix}"
            try:
                honest_fold(table, name, source, target, VerifyRequest(budget_s=12.0, samples=3))
            except BnfuseError as error:
                print(f"left out: {source.name}: {error}", file=sys.stderr)


def honest_keras(table: Table, folder: Path, keras: Any, count: int) -> None:
    """Folds of Keras models made from the equation."""
    for seed in range(count):
        depth, kind = 1 + seed % 8, ("conv", "dense")[seed % 2]
        for folded in (False, True):
            keras_net(keras, KINDS[kind](9000 + seed, depth), folded=folded).save(folder / f"{folded}.keras")
        request = VerifyRequest(budget_s=6.0, samples=3, depth=depth)
        found = verify(folder / "False.keras", folder / "True.keras", request=request)
        judge_honest(table, "by hand, Keras", found, f"{kind}, {depth} layers, seed {seed}")


# ---- tables ---------------------------------------------------------------------------------------


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
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("planted", "honest"))
    wanted = parser.parse_args()
    begin = time.perf_counter()
    keras = None if wanted.no_keras else import_keras()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if wanted.only != "honest":
            table = planted_onnx(folder, range(wanted.seeds))
            if keras is not None:
                table |= planted_keras(folder, keras, range(1))
            wrong += print_planted(table)
        if wanted.only != "planted":
            honest: Table = {}
            honest_by_hand(honest, folder, 40 * wanted.seeds // 3)
            honest_random(honest, folder, 150 * wanted.seeds // 3)
            honest_files(honest, folder, [ROOT / "fixtures", *wanted.models], keras=keras is not None)
            if keras is not None:
                honest_keras(honest, folder, keras, 8)
            wrong += print_honest(honest)
    print(f"\n{time.perf_counter() - begin:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
