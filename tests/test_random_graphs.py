"""Random small ONNX graphs, folded and compared in onnxruntime with its own optimiser off.

The graphs are those of the seeds 0, 1, 2, …: always the same, so that a failure can be repeated.
``make fuzz`` tries ``BNFUSE_FUZZ`` graphs from ``BNFUSE_FUZZ_SEED`` on. What fails is made smaller by
leaving out steps, and printed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bnfuse.core.apply import OverflowingFold, apply
from bnfuse.core.decisions import Keep, Plan
from bnfuse.core.planning.plan import plan, replay
from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.onnx import FORMAT
from bnfuse.formats.onnx.rows.ops import ROWS
from tests.random_moves import NAMES, STEPS
from tests.random_nets import Recipe, build, feeds, recipe, smaller

pytestmark = pytest.mark.usefixtures("shapes_inferred_here")

_GRAPHS = int(os.environ.get("BNFUSE_FUZZ", "1000"))
_FIRST_SEED = int(os.environ.get("BNFUSE_FUZZ_SEED", "0"))
_PER_TEST = max(1, _GRAPHS // 20)
# Of the output's range; graphs of a dozen steps with badly scaled statistics add up roundings.
_TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


def _run(data: bytes, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs, with onnxruntime's graph optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, fed))


def _fold(
    source: Path, target: Path, options: ReadOptions, *, replayed: bool
) -> tuple[Plan, Counter[str], Counter[str]]:
    """Fold a file; its plan and the operators before and after. ``replayed``: from the plan alone.

    What overflows when it is written stays, as the command line has it.
    """
    banned: frozenset[str] = frozenset()
    while True:
        with closing(FORMAT.read(source, options)) as model:
            planned = plan(model.graph, banned, equalizes=options.equalize)
            decided = planned.plan
            patch = apply(model.graph, replay(model.graph, decided) if replayed else planned)
            try:
                before, after = Counter(model.operators()), Counter(model.operators_after(patch))
                model.write(patch, target)
                return decided, before, after
            except OverflowingFold as overflow:
                assert overflow.nodes - banned, "the same fold overflows again"
                banned |= overflow.nodes


def _cost_digits(decided: Plan, node: str) -> bool:
    """Whether it is what became of a BatchNormalization that stayed for the digits that its fold would cost.

    Its statistics told that, and Mul and Add have none.
    """
    kept = [d for d in decided.decisions if isinstance(d, Keep) and d.becomes]
    reasons = {d.node: {refusal.reason for refusal in d.refusals} for d in kept}
    return any(node.startswith(name) and Reason.PRECISION in why for name, why in reasons.items())


def check(wanted: Recipe, folder: Path) -> None:
    """Fold the model of a recipe and check what holds for every fold."""
    proto = build(wanted, STEPS)
    source, target, again = (folder / f"{name}.onnx" for name in "abc")
    source.write_bytes(proto.SerializeToString())
    # In every other graph activations may change, in every fourth no BatchNormalization may be left; a third
    # is equalised.
    options = ReadOptions(
        activations="move" if wanted.seed % 2 == 1 else "keep",
        target="no-bn" if wanted.seed % 4 == 3 else "any",
        equalize=wanted.seed % 3 == 0,
    )
    decided, before, after = _fold(source, target, options, replayed=False)
    replayed, _, _ = _fold(source, again, options, replayed=True)
    assert decided == replayed, "two plans of one file differ"
    assert target.read_bytes() == again.read_bytes(), "the plan alone leads to another file"
    goes = [d for d in (*decided.decisions, *decided.settled) if not isinstance(d, Keep)]
    if not goes and not decided.narrowed and target.read_bytes() == source.read_bytes():
        return  # a second fold of the same bytes was just made, and they compute what they compute
    assert after.total() <= before.total() + len(decided.arithmetic), "the graph grew"
    if options.target == "no-bn":
        assert after["BatchNormalization"] == len(decided.left), "a BatchNormalization is left unsaid"
    folded = onnx.load(target)
    onnx.checker.check_model(folded)
    second, found, _ = _fold(target, again, options, replayed=False)
    assert found == after, "the file holds other operators than foretold"
    more = [d for d in (*second.decisions, *second.settled) if not isinstance(d, Keep)]
    more = [d for d in more if not _cost_digits(decided, d.node)]
    assert not more and not second.narrowed, f"a second fold would still remove {more}, {second.narrowed}"
    fed = feeds(proto, wanted.seed)
    outputs = zip(_run(source.read_bytes(), fed), _run(target.read_bytes(), fed), strict=True)
    for info, (old, new) in zip(proto.graph.output, outputs, strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
        assert np.isfinite(old).all()
        error, span = float(np.abs(old - new).max()), float(max(np.abs(old).max(), np.ptp(old)))
        assert error <= _TOLERANCE[old.dtype.name] * span, f"{info.name}: {error:.3g} of {span:.3g}"


def _complaint(wanted: Recipe, folder: Path) -> str:
    """What is wrong with the fold of a recipe; "" for nothing."""
    try:
        check(wanted, folder)
    except Exception as e:  # noqa: BLE001 - whatever a fold of a valid model raises is a failure
        return f"{type(e).__name__}: {e}"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(_FIRST_SEED, _FIRST_SEED + _GRAPHS, _PER_TEST))
def test_a_random_graph_computes_the_same_after_folding(first: int, tmp_path: Path) -> None:
    for seed in range(first, min(first + _PER_TEST, _FIRST_SEED + _GRAPHS)):
        wanted = recipe(seed, NAMES)
        try:
            check(wanted, tmp_path)
        except Exception as e:  # noqa: BLE001 - as above
            least = smaller(wanted, lambda r: bool(_complaint(r, tmp_path)))
            text = onnx.printer.to_text(build(least, STEPS))
            pytest.fail(f"{wanted}\n{e}\nleast: {least}\n{_complaint(least, tmp_path)}\n{text}")


def test_what_went_in_parts_goes_the_same_way_from_the_plan(tmp_path: Path) -> None:
    """A BatchNormalization of which the one part went, and then the rest, is spelled out in a replay, too."""
    check(recipe(600499, NAMES), tmp_path)


def _operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _operators(attribute.g)


# Upsample left the operator set with version 10; nonlinear ops need not all come up.
_NOT_DRAWN = frozenset(
    ("Upsample", "LogSoftmax", "Selu", "Celu", "HardSigmoid", "HardSwish", "Mish", "Gelu", "Exp", "Log",
     "Sqrt", "Pow", "Softsign", "ThresholdedRelu", "CastLike", "RMSNormalization",
     "RotaryEmbedding", "Swish", "com.microsoft.TransposeMatMul")
)  # fmt: skip


def test_random_graphs_hold_every_row_of_the_table() -> None:
    seen: set[str] = set()
    for seed in range(1000):
        seen.update(_operators(build(recipe(seed, NAMES), STEPS).graph))
    assert {op for op, kind in ROWS.items() if kind.rule is not None} - seen - _NOT_DRAWN == set()


def test_random_graphs_do_fold(tmp_path: Path) -> None:
    """The tests above prove nothing where nothing folds, or everything does."""
    folded = kept = 0
    for seed in range(150):
        path = tmp_path / "a.onnx"
        path.write_bytes(build(recipe(seed, NAMES), STEPS).SerializeToString())
        _, goes, stays = plan(FORMAT.read(path, ReadOptions()).graph).plan.counts(batchnorm=True)
        folded, kept = folded + goes, kept + stays
    assert folded > 60 and kept > 60
