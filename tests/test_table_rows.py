"""Every row of the ONNX op table × {scale, shift, both, negative, zero} × {before, behind}.

Before: ``x → BN → op → linear``, where x cannot change, so that the BatchNormalization goes down or stays.
Behind: ``linear → op → BN``, whose result cannot change, so that it goes up or stays. What must happen
stands in ``table_cases``; what was folded is compared in onnxruntime with its own optimisation off.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from _pytest.mark import ParameterSet
from msgspec.structs import replace
from onnx import helper

from bnfuse.core.apply import apply
from bnfuse.core.decisions import Decision, Fold, Keep
from bnfuse.core.planning.plan import plan
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.extents import Sizes
from bnfuse.formats.onnx import FORMAT
from bnfuse.formats.onnx.graph.extents.call import ExtentCall
from bnfuse.formats.onnx.rows.ops import ROWS, output_extents, row_of
from tests.onnx_graphs import TOLERANCE, session
from tests.random_nets import Net, Shape, Value, feeds, model_of
from tests.runtime_versions import runs_case
from tests.table_cases import Case, Outcomes, linear
from tests.table_choosing_cases import CHOOSING
from tests.table_clamp_cases import CLAMPS
from tests.table_edge_cases import EDGES
from tests.table_foreign_cases import FOREIGN
from tests.table_joint_cases import JOINT
from tests.table_linear_cases import LINEAR
from tests.table_moving_cases import MOVING

pytestmark = pytest.mark.usefixtures("shapes_inferred_here")

Place = Literal["before", "behind"]
_BN = "the_batchnorm"
CASES = (
    *LINEAR, *MOVING, *CHOOSING, *FOREIGN, *JOINT, *EDGES,
    *(replace(case, moves_bounds=True) for case in CLAMPS),
)  # fmt: skip


def _batchnorm(net: Net, x: Value, kind: str) -> Value:
    """A BatchNormalization of one kind: a = 1 exactly where it only shifts, c = 0 where it only scales."""
    c, rng = x.channels, net.rng
    one, nothing = np.ones(c), np.zeros(c)
    gamma = rng.uniform(0.4, 2.5, c)
    match kind:
        case "scale":
            statistics = (gamma, nothing, nothing, rng.uniform(0.5, 2, c))
        case "shift":
            statistics = (one, rng.standard_normal(c), rng.standard_normal(c), one)
        case "both":
            statistics = (gamma, rng.standard_normal(c), rng.standard_normal(c), rng.uniform(0.5, 2, c))
        case "negative":
            statistics = (gamma * (1 - 2 * (np.arange(c) % 2)), nothing, nothing, one)
        case _:
            statistics = (gamma * (np.arange(c) != 1), nothing, nothing, one)
    epsilon = 0.0 if kind == "shift" else 1e-3
    y = net.node("BatchNormalization", [x.name, *map(net.const, statistics)], x.shape, epsilon=epsilon)
    net.nodes[-1].name = _BN
    return y


def model_around(case: Case, place: Place, kind: str) -> onnx.ModelProto:
    net = Net(False, case.opset, np.random.default_rng([ord(c) for c in case.name + place + kind]))
    net.static = True
    if place == "before":
        x = Value("x", case.shape)
        net.values.append(x)
        y = case.build(net, _batchnorm(net, x, kind))
        out = linear(net, y, case.axis_out, 3)
    else:
        axis, sizes = case.axis_in, case.shape
        x = Value("x", (*sizes[:axis], 3, *sizes[axis + 1 :]))
        net.values.append(x)
        out = _batchnorm(net, case.build(net, linear(net, x, axis, sizes[axis])), kind)
    read = {name for node in net.nodes for name in node.input}
    ends = [v for v in net.values if v.name not in read and v.name not in (out.name, "x")]
    return model_of(net, x.shape, [out, *ends])


def decide(model: onnx.ModelProto, folder: Path, *, moves_bounds: bool = False) -> Decision:
    """Fold the model into after.onnx; what became of the BatchNormalization."""
    onnx.checker.check_model(model)
    (folder / "before.onnx").write_bytes(model.SerializeToString())
    options = ReadOptions(activations="move" if moves_bounds else "keep")
    opened = FORMAT.read(folder / "before.onnx", options)
    planned = plan(opened.graph)
    decided = planned.plan
    opened.write(apply(opened.graph, planned), folder / "after.onnx")
    opened.close()
    return next(d for d in decided.decisions if d.node == _BN)


def _assert_equal(model: onnx.ModelProto, folder: Path, kind: str) -> None:
    fed = feeds(model, 3)
    old, new = (session(folder / f"{name}.onnx").run(None, fed) for name in ("before", "after"))
    for want, got in zip(old, new, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype), kind
        assert np.isfinite(want).all(), kind
        span = max(float(np.ptp(want)), float(np.abs(want).max()))
        assert np.abs(got - want).max() <= TOLERANCE["float32"] * span, kind


def _expectations() -> Iterator[ParameterSet]:
    for case in CASES:
        places: tuple[tuple[Place, Outcomes | None], ...] = (("before", case.before), ("behind", case.behind))
        for place, expected in places:
            if expected is not None:
                moved = " moved" if case.moves_bounds else ""
                yield pytest.param(case, place, expected, id=f"{place} {case.name}{moved}")


@pytest.mark.parametrize(("case", "place", "expected"), list(_expectations()))
def test_a_row_of_the_table(case: Case, place: Place, expected: Outcomes, tmp_path: Path) -> None:
    """With every kind of BatchNormalization: it goes, or stays for the reason that is told."""
    for kind, reason in expected.items():
        model = model_around(case, place, kind)
        decision = decide(model, tmp_path, moves_bounds=case.moves_bounds)
        if reason is None:
            assert isinstance(decision, Fold), f"{kind}: {decision.message}"
            assert decision.into or decision.through, kind
            if runs_case(case.name):
                _assert_equal(model, tmp_path, kind)
            continue
        assert isinstance(decision, Keep), f"{kind}: {decision.message}"
        way = "down" if place == "before" else "up"
        refusals = {r.split: r.reason for r in decision.refusals}
        assert refusals[way] is reason, f"{kind}: {decision.message}"


def test_every_row_of_the_table_is_tried() -> None:
    assert {case.op for case in CASES} == {op for op, kind in ROWS.items() if kind.rule is not None}


def test_the_cases_hold_their_operator() -> None:
    """A case that forgot its operator would test another row."""
    for case in CASES:
        place: Place = "before" if case.before is not None else "behind"
        assert case.op.rpartition(".")[2] in {
            n.op_type for n in model_around(case, place, "scale").graph.node
        }, case.name


# Whose sizes are decided at run time, or told by values that are not looked into.
_UNTOLD = {
    "Slice, of channels backwards", "Gather, of a table", "Gather, at run time",
    "Gather, of channels at run time", "Expand, at run time", "Resize, keeping its proportions",
    "Pad, of some axes",
}  # fmt: skip


def test_the_sizes_that_follow_from_those_of_the_inputs() -> None:
    """Every operator whose row says how sizes change, of inputs of known sizes."""
    told = set()
    for case in CASES:
        net = Net(False, case.opset, np.random.default_rng(1))
        net.values.append(Value("x", case.shape))
        case.build(net, net.values[0])
        shapes = {v.name: v.shape for v in net.values}
        held = dict(net.constants)
        for node in net.nodes:
            row = row_of(node.domain, node.op_type)
            if row is None or row.extents is None or node.output[0] not in shapes or case.name in _UNTOLD:
                continue
            given = [held[n].shape if n in held else shapes.get(n) for n in node.input]
            if any(n and shape is None for n, shape in zip(node.input, given, strict=True)):
                continue
            numbers = [tuple(held[n].ravel().tolist()) if n in held else None for n in node.input]
            call = ExtentCall(node, case.opset, Sizes(1), given, numbers)
            assert output_extents(call) == shapes[node.output[0]], f"{case.name}: {node.op_type}"
            told.add(node.op_type)
    looked_into = {op.rpartition(".")[2] for op, row in ROWS.items() if row.extents and row.rule}
    assert told >= looked_into - OTHER_SIZES.keys()


_X: tuple[int, ...] = (2, 4, 7, 5)
OTHER_SIZES: dict[str, tuple[tuple[Shape, ...], Shape, dict[str, Any]]] = {
    "ArgMax": ((_X,), (2, 1, 7, 5), {"axis": 1}),
    "ArgMin": ((_X,), (2, 4, 7), {"axis": -1, "keepdims": 0}),
    "ConvInteger": ((_X, (6, 2, 3, 2)), (2, 6, 5, 4), {"group": 2}),
    "QLinearConv": ((_X, (), (), (6, 4, 3, 2), (), (), (), ()), (2, 6, 5, 4), {}),
    **{op: ((_X, (4, 1, 5)), _X, {}) for op in ("Mod", "Equal", "Less", "Greater", "And", "Or", "Xor")},
    **{op: (((7, 1), _X), _X, {}) for op in ("LessOrEqual", "GreaterOrEqual", "Pow", "PRelu")},
    **{
        op: ((_X,), (2, 7, 5), {"axes": [1], "keepdims": 0})
        for op in ("ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
    },
    **{
        op: ((_X,), _X, {})
        for op in ("MeanVarianceNormalization", "LRN", "Reciprocal", "Floor", "Ceil", "Round", "Sin", "Cos",
                   "Not", "IsNaN", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuant",
                   "Quant", "QuickGelu", "FastGelu", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
    },
}  # fmt: skip


def test_the_sizes_of_what_is_not_looked_into() -> None:
    assert OTHER_SIZES.keys() >= {op for op, row in ROWS.items() if row.extents and not row.rule}
    for op, (given, wanted, attributes) in OTHER_SIZES.items():
        node = helper.make_node(op, [f"x{at}" for at in range(len(given))], ["y"], **attributes)
        call = ExtentCall(node, 17, Sizes(1), list(given), [None] * len(given))
        assert output_extents(call) == wanted, op


def test_no_two_axes_are_alike() -> None:
    """Equal sizes hide a factor that lies along the wrong axis."""
    for case in CASES:
        sizes = [n for n in case.shape if n != 1]
        assert len(set(sizes)) == len(sizes), case.name
