"""Honest folds, by hand and bnfuse's own: does the proof say "equal"?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from benchmarks.proof_cases import KINDS, Table, Tally, looking_inside
from bnfuse.core.apply import OverflowingFold, apply
from bnfuse.core.planning.plan import plan
from bnfuse.errors import BnfuseError
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.proof.inside import SeamPair, inside
from bnfuse.results import Agreement, Status
from bnfuse.use_cases.verify import VerifyRequest, verify
from tests.narrow_nets import NARROW
from tests.planted import border, keras_net
from tests.random_moves import NAMES, STEPS
from tests.random_nets import build, preactivation, recipe
from tests.tiny_models import net, save

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ONNX, KERAS = (".onnx",), (".keras", ".h5", ".hdf5")


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
            found = verify(*pair, request=looking_inside(pair[0], VerifyRequest(seed=seed)))
            judge_honest(table, f"by hand, 1 to 40 layers, {dtype}", found, f"{kind}, {depth}, seed {seed}")
    for seed in range(10):
        pair_ = border(honest=True, seed=seed)
        before, after = save(pair_.before, folder / "a.onnx"), save(pair_.after, folder / "b.onnx")
        judge_honest(table, "borders made right", verify(before, after), f"seed {seed}")


def fold(source: Path, target: Path) -> tuple[int, SeamPair | None]:
    """bnfuse's own fold of a file, without its proof: how many nodes went, and where to look between."""
    banned: frozenset[str] = frozenset()
    form = detect(source)
    while True:
        opened = form.read(source, ReadOptions())
        try:
            planned = plan(opened.graph, banned)
            decided = planned.plan
            patch = apply(opened.graph, planned)
            near = opened.constants_of(patch.near)
            opened.write(patch, target)
            return decided.rewrites, inside(opened, patch, near) if patch.steps else None
        except OverflowingFold as overflowing:
            banned |= overflowing.nodes
        finally:
            opened.close()


def honest_fold(table: Table, name: str, source: Path, target: Path, request: VerifyRequest) -> None:
    """bnfuse's own fold of one file; none where nothing folds."""
    count, look = fold(source, target)
    if not count:
        return
    found = verify(source, target, request=replace(request, depth=count, inside=look))
    if "cannot be loaded" in found.detail or "cannot load" in found.detail:
        print(f"left out: {source.name}: {found.detail}", file=sys.stderr)
        return
    judge_honest(table, name, found, source.name)


def honest_random(table: Table, folder: Path, graphs: int) -> None:
    """bnfuse's folds of random graphs, where onnxruntime gives finite outputs, and of residual stacks."""
    for seed in range(graphs):
        source = save(build(recipe(seed, NAMES), STEPS), folder / f"random-{seed}.onnx")
        wanted = VerifyRequest(verify_time=2.0)
        honest_fold(table, "bnfuse, random graphs", source, folder / "out.onnx", wanted)
        source.unlink()
    for blocks in (1, 4, 16):
        for seed in range(4):
            source = save(
                preactivation(blocks, positive=True, seed=seed), folder / f"pre-{blocks}-{seed}.onnx"
            )
            honest_fold(table, "bnfuse, pre-activation stacks", source, folder / "out.onnx", VerifyRequest())


def honest_narrow(table: Table, folder: Path, per_kind: int) -> None:
    """bnfuse's folds of networks whose outputs hide the rounding inside."""
    for name, build_one in NARROW.items():
        for seed in range(per_kind):
            source = save(build_one(seed), folder / f"{name}-{seed}.onnx")
            honest_fold(
                table, f"bnfuse, {name.replace('_', ' ')}", source, folder / "out.onnx", VerifyRequest()
            )
            source.unlink()


def honest_files(table: Table, folder: Path, roots: Sequence[Path], suffixes: Sequence[str]) -> None:
    """bnfuse's folds of the models of these suffixes in folders; what no runtime loads is left out."""
    for root in roots:
        for source in sorted(path for path in root.rglob("*") if path.suffix in suffixes):
            name = f"bnfuse, {'fixtures' if root == FIXTURES else 'real models'}"
            target = folder / f"out{source.suffix}"
            try:
                honest_fold(table, name, source, target, VerifyRequest(verify_time=12.0, samples=3))
            except BnfuseError as error:
                print(f"left out: {source.name}: {error}", file=sys.stderr)


def honest_keras(table: Table, folder: Path, keras: Any, count: int) -> None:
    """Folds of Keras models made from the equation."""
    for seed in range(count):
        depth, kind = 1 + seed % 8, ("conv", "dense")[seed % 2]
        for folded in (False, True):
            keras_net(keras, KINDS[kind](9000 + seed, depth), folded=folded).save(folder / f"{folded}.keras")
        request = looking_inside(folder / "False.keras", VerifyRequest(verify_time=6.0, samples=3))
        found = verify(folder / "False.keras", folder / "True.keras", request=request)
        judge_honest(table, "by hand, Keras", found, f"{kind}, {depth} layers, seed {seed}")
