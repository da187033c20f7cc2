"""Constants that the reader works out, against onnxruntime, its own optimisation off.

Every operator that is worked out, in every version of its schema, with every element type that is held:
operands come as inputs of the model, so that the runtime's kernels compute, not its own constant folding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from bnfuse.core.weights.tensor import ArrayTensor, whole
from bnfuse.formats.onnx.graph.evaluate import LAST_OPSET, ROWS, evaluate, operators
from bnfuse.formats.onnx.graph.evaluate.call import Unknown
from bnfuse.formats.onnx.runtime.ort_values import from_value, to_value
from tests import constant_cases
from tests.constant_cases import Variant, dtype, versions
from tests.runtime_versions import ORT, runs_opset


def node_of(op: str, variant: Variant, of: str = "") -> onnx.NodeProto:
    """The node, its inputs and outputs named by position; ``of`` begins each name."""
    names = [f"{of}i{k}" if x is not None else "" for k, x in enumerate(variant.inputs)]
    while names and not names[-1]:
        names.pop()
    return helper.make_node(op, names, [f"{of}o{k}" for k in range(variant.outputs)], **variant.attributes)


def computed(op: str, opset: int, variants: Sequence[Variant]) -> list[list[np.ndarray] | None]:
    """What onnxruntime makes of each; None where it refuses the node.

    All side by side in one model; where it refuses that, each in one of its own.
    """
    results = _run(op, opset, variants)
    if results is None:
        return [None] if len(variants) == 1 else [computed(op, opset, [v])[0] for v in variants]
    rest = iter(results)
    return [list(islice(rest, variant.outputs)) for variant in variants]


def _run(op: str, opset: int, variants: Sequence[Variant]) -> list[np.ndarray] | None:
    """All outputs, one after the other; None where onnxruntime refuses one of the nodes."""
    fed = {
        f"v{at}i{k}": x
        for at, variant in enumerate(variants)
        for k, x in enumerate(variant.inputs)
        if x is not None
    }
    nodes = [node_of(op, variant, f"v{at}") for at, variant in enumerate(variants)]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in fed.items()
        ],
        [onnx.ValueInfoProto(name=o) for node in nodes for o in node.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run_with_ort_values(None, {n: to_value(x, x.dtype.name) for n, x in fed.items()})
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions share no base class: it refuses the node
        return None
    return [np.asarray(from_value(r)) for r in results]


def difference(want: np.ndarray, got: np.ndarray, op: str, variant: Variant) -> str:
    """What differs beyond what the variant allows; "" where nothing does."""
    if (want.shape, want.dtype) != (got.shape, got.dtype):
        return f"{got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
    if variant.ulps or variant.bound is not None:
        exact, found = want.astype(np.float64), got.astype(np.float64)
        assert np.isfinite(exact).all(), "numbers that prove nothing"
        unit = variant.ulps * np.spacing(np.abs(want)).astype(np.float64)
        same = bool((np.abs(exact - found) <= (unit if variant.bound is None else variant.bound)).all())
    else:
        same = _bits(want, op) == _bits(got, op)
    return "" if same else f"{got} instead of {want}"


def _bits(array: np.ndarray, op: str) -> bytes:
    """All bits; every NaN is as good as another, and of two zeros Max and Min may choose either."""
    if array.dtype.kind in "fV":
        array = np.where(np.isnan(array), array.dtype.type(0), array)
        if op in ("Max", "Min"):
            array = np.where(array == 0, array.dtype.type(0), array)
    return array.tobytes()


def runs(op: str) -> Iterator[tuple[int, str, Iterator[Variant]]]:
    """(operator set, element type, variants) that are compared.

    Every version of the schema with every type; all variants with one of the types, a seventh with the
    others, and again a seventh in the last operator set that the version rules.
    """
    found = versions(op)
    for version, following in zip(found, [*found[1:], LAST_OPSET + 1], strict=True):
        types = sorted(ROWS[op].types(version), key=lambda name: (name not in ("float32", "int64"), name))
        for k, name in enumerate(types):
            each = 7 if k else 1
            yield version, name, islice(constant_cases.variants(op, version, dtype(name)), None, None, each)
        if types and following - 1 > version:
            yield (
                following - 1,
                types[0],
                islice(constant_cases.variants(op, version, dtype(types[0])), None, None, 7),
            )


COUNT: Counter[str] = Counter()


def _compare(op: str, opset: int, variant: Variant, want: list[np.ndarray] | None) -> str | None:
    """What is wrong, "" if nothing is; None where the runtime refuses the node."""
    tensors = [None if x is None else ArrayTensor(x) for x in variant.inputs]
    if want is None:
        return None
    COUNT[op] += 1
    try:
        got = [whole(t) for t in evaluate(node_of(op, variant), opset, tensors)]
    except Unknown as reason:
        return f"not worked out ({reason}), and it is {want}"
    return "".join(difference(a, b, op, variant) for a, b in zip(want, got, strict=True))


# onnxruntime 1.23 has no LpNormalization of operator set 22, holds a truth value in other bits than numpy
# does behind an Xor, and numpy 1.24 rounds an exponential otherwise.
_NOT_BEFORE_1_32 = {"Exp", "LpNormalization", "Xor"}


@pytest.mark.parametrize("op", [op for op in ROWS if ORT >= (1, 32) or op not in _NOT_BEFORE_1_32])
def test_constants_are_what_onnxruntime_computes(op: str) -> None:
    wrong: list[str] = []
    for opset, name, some in runs(op):
        if not runs_opset(opset):
            continue
        variants = list(some)
        wanted = computed(op, opset, variants)
        outcomes = [(v, _compare(op, opset, v, want)) for v, want in zip(variants, wanted, strict=True)]
        if all(outcome is None for _, outcome in outcomes):
            wrong.append(f"{op} of opset {opset}, {name}: nothing compared")
        for variant, outcome in outcomes:
            if outcome:
                shapes = [None if x is None else x.shape for x in variant.inputs]
                wrong.append(f"{op} of opset {opset}, {name}, {shapes}, {variant.attributes}: {outcome}")
    assert not wrong, f"{len(wrong)} of {COUNT[op]}\n" + "\n".join(wrong[:12])


@pytest.mark.skipif(ORT < (1, 32), reason="an onnxruntime older than the last operator set")
def test_all_operator_sets_are_compared() -> None:
    assert all(map(runs_opset, range(7, LAST_OPSET + 1)))


@pytest.mark.parametrize("op", ROWS)
def test_older_and_newer_versions_and_other_types_are_not_worked_out(op: str) -> None:
    """Before the first version that is held, after the last, and of a type that no row names."""
    row = ROWS[op]
    first = min(row.held)
    for opset in {first - 1, LAST_OPSET + 1}:
        assert not row.types(opset) and op not in operators(opset)
    held = set().union(*row.held.values())
    assert held <= {"bool", "bfloat16", *map(str, np.sctypeDict)}
    known = [version for version in row.held if version <= onnx.defs.onnx_opset_version()]
    assert all(version == 1 or any(version <= v for v in versions(op)) for version in known)
    text = [ArrayTensor(np.array(["a"], object))] * 3
    with pytest.raises(Unknown):
        evaluate(helper.make_node(op, ["a", "b", "c"], ["y"]), LAST_OPSET, text)
