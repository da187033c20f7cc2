"""Guards of the ONNX table: each refuses what would come out wrong, and nothing else."""

from __future__ import annotations

from contextlib import closing
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfuse.core.axes import Chain, Relabel, Take, regroup
from bnfuse.core.decisions import Fold
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque, Pass
from bnfuse.formats.base import ReadOptions
from bnfuse.formats.extents import Sizes
from bnfuse.formats.onnx import FORMAT
from bnfuse.formats.onnx.graph.extents.call import ExtentCall
from bnfuse.formats.onnx.rows.choosing_ops import expand, gather, gather_elements, gather_nd, slice_, tile
from bnfuse.formats.onnx.rows.layout_ops import along, relabelled, reshape, spatial
from bnfuse.formats.onnx.rows.ops import ROWS, constant_through, output_extents, takes_channel
from bnfuse.formats.onnx.rows.signature import checked, of_types
from bnfuse.formats.table import Malformed, ShapeUnknown
from tests import (
    guard_rows_affine,
    guard_rows_linear,
    guard_rows_moving,
    guard_rows_pointwise,
    guard_rows_windows,
)
from tests.guard_rows import FOLD, Guard
from tests.onnx_graphs import Net, assert_equal, fold_model, session, why

pytestmark = pytest.mark.usefixtures("shapes_inferred_here")

GUARDS = [
    *guard_rows_linear.GUARDS, *guard_rows_windows.GUARDS, *guard_rows_moving.GUARDS,
    *guard_rows_pointwise.GUARDS, *guard_rows_affine.GUARDS,
]  # fmt: skip


@pytest.mark.parametrize("case", GUARDS, ids=lambda case: case.name)
def test_guard(case: Guard, tmp_path: Path) -> None:
    folded = fold_model(case.build(Net(sum(case.name.encode()))), tmp_path)
    decisions = [d for d in folded.plan.decisions if d.is_batchnorm]
    assert len(decisions) == len(case.expected)
    for decision, expected in zip(decisions, case.expected, strict=True):
        if expected is FOLD:
            assert isinstance(decision, Fold), decision.message
        else:
            assert expected in why(decision), decision.message
    assert case.says in decisions[0].message
    if case.runs:
        assert_equal(folded.before, folded.after)


def _resized(**attributes: Any) -> onnx.ModelProto:
    """Conv → Resize from 6×6 to 8×8, of a region that is larger than the image → BN."""
    net = Net(1)
    y = net.conv("x", 3, 4, 1, 1)
    region = net.const(np.array([0.0, 0.0, -0.2, -0.2, 1.0, 1.0, 1.2, 1.2]))
    sizes = net.const(np.array([1, 4, 8, 8]))
    y = net.op("Resize", y, region, "", sizes, mode="linear", **attributes)
    return net.build({"x": (1, 3, 6, 6)}, net.bn(y, 4))


def test_what_a_resize_puts_beside_the_image_is_not_shifted(tmp_path: Path) -> None:
    """Cropping as TensorFlow does writes a number of its own where the region leaves the image."""
    cropping: dict[str, Any] = {
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 7.0,
    }
    folded = fold_model(_resized(**cropping), tmp_path)
    (decision,) = folded.plan.decisions
    assert Reason.UNSUPPORTED_OP in why(decision)
    assert_equal(folded.before, folded.after)


@pytest.mark.parametrize("mode", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
def test_other_ways_to_resize_let_a_shift_pass(tmp_path: Path, mode: str) -> None:
    folded = fold_model(_resized(coordinate_transformation_mode=mode), tmp_path)
    (decision,) = folded.plan.decisions
    assert isinstance(decision, Fold)
    assert_equal(folded.before, folded.after)


PADDED = [
    ({"pads": [1, 1, 0, 0], "count_include_pad": 1}, True),
    ({"auto_pad": "SAME_UPPER", "count_include_pad": 1}, True),
    ({"ceil_mode": 1, "count_include_pad": 1}, True),  # runtimes differ in what they count there
    ({"pads": [1, 1, 0, 0]}, False),
    ({"auto_pad": "SAME_UPPER"}, False),
    ({"ceil_mode": 1}, False),
    ({"count_include_pad": 1}, False),
    ({"auto_pad": "VALID", "count_include_pad": 1}, False),
]


@pytest.mark.parametrize(("attributes", "refused"), PADDED)
def test_an_average_that_counts_what_is_not_there(
    tmp_path: Path, attributes: dict[str, Any], refused: bool
) -> None:
    """A shift passes only where every average is over elements that are there."""
    net = Net(1)
    y = net.conv("x", 3, 4, 1, 1)
    y = net.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2], **attributes)
    folded = fold_model(net.build({"x": (1, 3, 5, 7)}, net.bn(y, 4)), tmp_path)
    (decision,) = folded.plan.decisions
    assert (Reason.ZERO_PADDING in why(decision)) == refused
    assert isinstance(decision, Fold) != refused
    assert_equal(folded.before, folded.after)


def test_a_product_that_counts_nothing_takes_no_weights(tmp_path: Path) -> None:
    """α = 0: whatever B becomes, A·B has no part in the result."""
    net = Net(1)
    y = net.op("Gemm", "x", net.weight(4, 6, fan_in=4), net.vector(6), alpha=0.0)
    folded = fold_model(net.build({"x": (3, 4)}, net.bn(y, 6)), tmp_path)
    (decision,) = folded.plan.decisions
    assert Reason.BAD_PARAMETERS in why(decision)
    assert_equal(folded.before, folded.after)


def _misfit(node: onnx.NodeProto, opset: int = 17) -> str:
    with pytest.raises(Malformed) as caught:
        checked(node, node.op_type, opset)
    return str(caught.value)


def test_nodes_that_do_not_fit_their_operator() -> None:
    twice = helper.make_node("Conv", ["x", "w"], ["y"], strides=[1, 1])
    twice.attribute.append(helper.make_attribute("strides", [2, 2]))
    assert _misfit(twice) == "an attribute is given twice"
    assert _misfit(helper.make_node("Conv", ["x"], ["y"])) == "1 inputs"
    assert _misfit(helper.make_node("Conv", ["x", "w", "b", "c"], ["y"])) == "4 inputs"
    assert "2 outputs" in _misfit(helper.make_node("Conv", ["x", "w"], ["y", "z"]))
    assert "0 outputs" in _misfit(helper.make_node("Conv", ["x", "w"], []))
    assert "first without a name" in _misfit(helper.make_node("Conv", ["x", "w"], [""]))
    assert "needs is absent" in _misfit(helper.make_node("Conv", ["x", ""], ["y"]))
    assert "needs is absent" in _misfit(helper.make_node("Conv", ["", "w"], ["y"]))
    assert "axis is missing" in _misfit(helper.make_node("Concat", ["x", "w"], ["y"]))
    typed = helper.make_node("Conv", ["x", "w"], ["y"], group=1.0)
    assert "group is of another type" in _misfit(typed)
    early = helper.make_node("Resize", ["x", "", "s"], ["y"])  # by the first version, which has two
    assert _misfit(early, 9) == "3 inputs"
    assert "approximate is of another" in _misfit(helper.make_node("Gelu", ["x"], ["y"], approximate=1), 17)
    newer = helper.make_node("Resize", ["x", "", "s"], ["y"], antialias=1)
    assert "antialias is not one of operator set 17" in _misfit(newer)


def test_nodes_that_fit_their_operator() -> None:
    """An absent input that may be, an attribute that no version knows, one that a function's caller sets."""
    bare = helper.make_node("Conv", ["x", "w", ""], ["y"])
    assert checked(bare, "Conv", 17) == {}
    odd = helper.make_node("Conv", ["x", "w"], ["y"], quantised=1)
    assert set(checked(odd, "Conv", 17)) == {"quantised"}
    assert set(checked(helper.make_node("Resize", ["x", "", "s"], ["y"], antialias=1), "Resize", 18)) == {
        "antialias"
    }
    set_by_caller = helper.make_node("Conv", ["x", "w"], ["y"])
    set_by_caller.attribute.append(onnx.AttributeProto(name="group", ref_attr_name="g"))
    assert set(checked(set_by_caller, "Conv", 17)) == {"group"}
    assert checked(helper.make_node("NoSuch", [], [], a=1), "NoSuch", 17).keys() == {"a"}


# Of operators without a schema: onnxruntime's docs/ContribOperators.md, and the ai.onnx.ml specification.
_GEMM = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
_SHAPED: dict[str, Any] = {"kernel_shape": [1], "strides": [1], "dilations": [1], "pads": [0, 0]}
_PRODUCT = {"transA": 0, "transB": 0, "transBatchA": 0, "transBatchB": 0, "alpha": 1.0}
_FITTED: dict[str, Any] = {"coefficients": [1.0], "intercepts": [1.0], "post_transform": "NONE"}
_BITS = {"K": 1, "N": 1, "bits": 4, "block_size": 16, "accuracy_level": 0, "weight_prepacked": 0}
_ACTIVATION = {"activation": "", "activation_alpha": 1.0, "activation_beta": 1.0, "activation_gamma": 1.0}
_LABELS: dict[str, Any] = {"multi_class": 0, "classlabels_ints": [0], "classlabels_strings": ["a"]}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "com.microsoft.FusedGemm": _GEMM | _ACTIVATION,
    "com.microsoft.FusedMatMul": _PRODUCT,
    "com.microsoft.TransposeMatMul": _PRODUCT,
    "com.microsoft.FusedConv": {
        "auto_pad": "VALID", "group": 1, "activation": "", "activation_params": [1.0], **_SHAPED
    },
    "com.microsoft.MatMulNBits": _BITS,
    "ai.onnx.ml.Scaler": {"offset": [1.0], "scale": [1.0]},
    "ai.onnx.ml.LinearRegressor": {**_FITTED, "targets": 1},
    "ai.onnx.ml.LinearClassifier": _FITTED | _LABELS,
}  # fmt: skip


def test_attributes_of_operators_without_a_schema() -> None:
    """Each is known by its type, and no other is."""
    assert ATTRIBUTES.keys() == {op for op, row in ROWS.items() if row.attributes is not None}
    for op, attributes in ATTRIBUTES.items():
        types = ROWS[op].attributes
        assert types is not None and types.keys() == attributes.keys(), op
        node = helper.make_node(op, ["x"], ["y"], **attributes)
        assert of_types(node, types).keys() == attributes.keys(), op
        node.attribute[0].type = onnx.AttributeProto.TENSOR
        with pytest.raises(Malformed, match="of another type"):
            of_types(node, types)
        for inputs, outputs in (([], ["y"]), ([""], ["y"]), (["x"], []), (["x"], [""])):
            with pytest.raises(Malformed, match="is absent"):
                of_types(helper.make_node(op, inputs, outputs, **attributes), types)
    twice = helper.make_node("Scaler", ["x"], ["y"], scale=[1.0])
    twice.attribute.append(twice.attribute[0])
    with pytest.raises(Malformed, match="given twice"):
        of_types(twice, {"scale": onnx.AttributeProto.FLOATS})


@pytest.mark.parametrize(("op", "scales"), [("Mul", True), ("Div", True), ("Add", False), ("Sub", False)])
def test_a_number_of_unknown_rank_takes_no_vector(tmp_path: Path, op: str, scales: bool) -> None:
    """BN → x · 1.75 behind a Reshape that is told its shape at run time: the vector's place is not known.

    Not a weight that overflows: the node goes into the BN instead, and the BN's reason is the shape.
    """
    net = Net(1)
    y = net.op("Reshape", "x", "shape")
    statistics = net.statistics(4, shift=False) if scales else _unit_scale(net)
    y = net.op(op, net.op("BatchNormalization", y, *statistics, name="bn"), net.const(1.75), name="number")
    made = net.build({"x": ("N", 4, 6)}, y, ranks={y: 3})
    made.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, ["R"]))
    folded = fold_model(made, tmp_path)
    bn, number = folded.plan.decisions
    assert Reason.SHAPE_UNKNOWN in why(bn) and Reason.OVERFLOW not in why(bn)
    assert isinstance(number, Fold)
    fed = {"x": net.rng.standard_normal((2, 4, 6)).astype(np.float32), "shape": np.array([2, 4, 2, 3])}
    old, new = (session(path).run(None, fed)[0] for path in (folded.before, folded.after))
    np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("numbers", [np.array(1.5), np.array([0.5, -2.0, 1.5, 3.0, 0.25])])
def test_a_number_of_unknown_rank_takes_numbers_and_what_lies_along_the_last_axis(
    numbers: np.ndarray, tmp_path: Path
) -> None:
    net = Net(2)
    y = net.op("Mul", net.op("Reshape", "x", "shape"), net.const(numbers), name="first")
    y = net.op("Tanh", net.op("Mul", y, net.const(np.array(1.75)), name="number"))
    made = net.build({"x": ("N", 5)}, y, ranks={y: 3})
    made.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, ["R"]))
    folded = fold_model(made, tmp_path)
    first, _ = folded.plan.decisions
    assert isinstance(first, Fold) and first.into == ("number",)
    fed = {"x": net.rng.standard_normal((6, 5)).astype(np.float32), "shape": np.array([2, 3, 5])}
    old, new = (session(path).run(None, fed)[0] for path in (folded.before, folded.after))
    np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)


def test_a_product_of_unknown_rank_takes_what_lies_along_the_last_axis(tmp_path: Path) -> None:
    net = Net(4)
    y = net.op("Mul", net.op("Reshape", "x", "shape"), net.const(net.factors(4)))
    y = net.op("MatMul", y, net.weight(4, 5, fan_in=4))
    y = net.op("Tanh", net.op("Mul", y, net.const(net.factors(5))))
    made = net.build({"x": ("N", 4)}, y, ranks={y: 3})
    made.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, ["R"]))
    folded = fold_model(made, tmp_path)
    assert folded.operators(folded.after) == ["Reshape", "MatMul", "Tanh"]
    fed = {"x": net.rng.standard_normal((6, 4)).astype(np.float32), "shape": np.array([2, 3, 4])}
    old, new = (session(path).run(None, fed)[0] for path in (folded.before, folded.after))
    np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-6)


def _unit_scale(net: Net) -> list[str]:
    shifts = net.rng.standard_normal((2, 4))
    return [net.const(v) for v in (np.full(4, np.sqrt(1.00001)), *shifts, np.ones(4))]


def test_a_number_of_known_rank_becomes_a_vector_along_the_channels(tmp_path: Path) -> None:
    """Channels, height and width differ in size: a vector along another axis would not fit."""
    net = Net(1)
    y = net.op("Mul", net.bn("x", 4, shift=False), net.const(1.75))
    y = net.op("Tanh", net.op("AveragePool", y, kernel_shape=[2, 2], strides=[1, 1]))
    folded = fold_model(net.build({"x": ("N", 4, 7, 6)}, y), tmp_path)
    assert isinstance(folded.plan.decisions[0], Fold)
    (constant,) = (t for t in folded.proto.graph.initializer if len(t.dims) == 3)
    assert list(constant.dims) == [4, 1, 1]
    assert_equal(folded.before, folded.after)


def test_slices_choose_what_the_runtime_chooses(tmp_path: Path) -> None:
    """Every beginning, end and step, of five elements, as the row of a Slice has it."""
    net = Net()
    net.op("Slice", "x", "starts", "ends", net.const(np.array([0])), "steps", out="y")
    numbers = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in ("starts", "ends", "steps")
    ]
    graph = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5]), *numbers],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        net.initializers,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "slice.onnx")
    runs = session(tmp_path / "slice.onnx")
    x = np.arange(5, dtype=np.float32)
    for start, end, step in product(range(-7, 8), range(-7, 8), (-3, -2, -1, 1, 2, 3)):
        given = {"starts": start, "ends": end, "steps": step}
        (want,) = runs.run(None, {"x": x} | {k: np.array([n]) for k, n in given.items()})
        held = {1: [start], 2: [end], 3: [0], 4: [step]}
        view: Any = SimpleNamespace(
            shape=lambda i: (5,), ints=held.get, given_ints=held.get, attr=lambda name: None
        )
        rule = slice_(view)
        assert isinstance(rule, Pass) and isinstance(rule.axes, Chain)
        chosen = [step.indices for step in rule.axes.steps if isinstance(step, Take)] or [tuple(range(5))]
        assert chosen == [tuple(want)], given


def _shaped(size: int, *held: list[int]) -> Any:
    """A view of x (1, size), and constants behind it."""
    inputs = dict(enumerate(held, start=1))
    return SimpleNamespace(
        opset=17,
        attr=lambda name, default=None: {"axis": 1}.get(name, default),
        shape=lambda i: (1, size) if i == 0 else (len(inputs[i]),),
        rank=lambda i: 1,
        is_const=lambda i: i > 0,
        ints=inputs.get,
        given_ints=inputs.get,
    )


@pytest.mark.parametrize(
    ("rule", "held", "size"),
    [
        (slice_, ([0], [5], [1]), 1 << 20),
        (gather, ([3],), 1 << 20),
        (tile, ([1, 2],), 1 << 19),
    ],
)
def test_a_long_axis_is_not_followed_one_by_one(rule: Any, held: Any, size: int) -> None:
    for long in (False, True):
        made = rule(_shaped(size + long, *held))
        gone = isinstance(made.axes, Relabel) and made.axes.target[1] is None
        assert (gone or (made.mixes is not None and made.mixes(1))) == long
        assert long or any(isinstance(step, Take) for step in made.axes.steps)


def test_an_axis_that_becomes_long_is_not_followed_either() -> None:
    for long in (False, True):
        made = expand(_shaped(1, [1, (1 << 20) + long]))
        assert isinstance(made, Pass) and isinstance(made.axes, Chain) and made.mixes is not None
        assert (made.mixes(1), len(made.axes.steps)) == (long, 1 - long)


def test_an_axis_counted_from_behind_may_be_any() -> None:
    """Of a value whose rank is not known."""
    assert [spatial(axis) for axis in (-2, -1, 0, 1, 2, 3)] == [True, True, False, False, True, True]
    assert [along({0, 2})(axis) for axis in (-3, -1, 0, 1, 2)] == [True, True, True, False, True]


def test_a_pool_over_an_axis_counted_from_behind(tmp_path: Path) -> None:
    """x · vector → MaxPool along the last axis → MatMul, behind a Reshape that is told at run time."""
    net = Net(2)
    y = net.op("Mul", net.op("Reshape", "x", "shape"), net.const(net.factors(5, positive=True)))
    y = net.op("MaxPool", y, kernel_shape=[1, 3], pads=[0, 1, 0, 1])
    made = net.build({"x": ("N", 5)}, net.op("MatMul", y, net.weight(5, 4, fan_in=5)), ranks={"v3": 4})
    made.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, ["R"]))
    folded = fold_model(made, tmp_path)
    assert folded.operators(folded.after) == ["Reshape", "Mul", "MaxPool", "MatMul"]


@pytest.mark.parametrize(
    ("weight", "opset", "becomes"),
    [((4, 5), 11, ["Gemm"]), ((4, 5), 10, ["MatMul", "Add"]), ((1, 4, 5), 17, ["MatMul", "Add"])],
    ids=["MatMul, opset 11", "MatMul, opset 10", "MatMul, a stack"],
)
def test_where_the_bias_of_a_product_goes(
    weight: tuple[int, ...], opset: int, becomes: list[str], tmp_path: Path
) -> None:
    """BN → MatMul: a Gemm has a place for it, from operator set 11 on one that may be left out."""
    net = Net(8)
    y = net.op("MatMul", net.bn("x", 4), net.weight(*weight, fan_in=4))
    folded = fold_model(net.build({"x": (2, 4)}, y, opset=opset), tmp_path)
    assert folded.operators(folded.after) == becomes
    assert_equal(folded.before, folded.after)


@pytest.mark.parametrize("more", [0, 1])
def test_a_constant_of_a_million_numbers_is_no_scale(more: int, tmp_path: Path) -> None:
    """It would be looked at as one more often than it is one."""
    net, n = Net(), (1 << 20) + more
    y = net.op("Tanh", net.op("Mul", net.conv("x", 1, 1, 1, 1), net.const(np.ones(n))))
    onnx.save(net.build({"x": (1, 1, 1, n)}, y), tmp_path / "m.onnx")
    with closing(FORMAT.read(tmp_path / "m.onnx", ReadOptions())) as opened:
        assert len(opened.graph.candidates) == 1 - more


_FREE = ("N", 4, "h", "w")


@pytest.mark.parametrize(
    ("before", "inferred", "target", "allowzero", "after"),
    [
        (_FREE, None, [0, 4, -1], 0, ("N", 4, None)),
        (_FREE, (None, None, None), [0, 4, -1], 0, ("N", 4, None)),
        ((2, 12), (2, 6, 2), [2, 6, 0], 0, (2, 6, 2)),
        (_FREE, ("N", 4, "hw"), [0, 4, -1], 0, ("N", 4, "hw")),
        (_FREE, ("N", 4, "hw"), None, 0, ("N", 4, "hw")),
        (_FREE, ("M", 4, None), [0, 4, -1], 1, ("M", 4, None)),
        ((2, 12), (2, 3, 4, 1, 1), [2, 3, 4, 1, 0], 0, (2, 3, 4, 1, 1)),
    ],
)
def test_the_sizes_that_a_reshape_is_told(
    before: Any, inferred: Any, target: Any, allowzero: int, after: Any
) -> None:
    """Shapes that inference lost, or lost in part; a zero copies the size there, if there is one."""
    view: Any = SimpleNamespace(
        shape=lambda i: before,
        out_shape=lambda: inferred,
        ints=lambda i: target,
        attr=lambda name, default=None: allowzero if name == "allowzero" else default,
    )
    made = reshape(view)
    assert isinstance(made, Pass) and made.axes == regroup(before, after)


def test_elements_of_sizes_that_are_not_known() -> None:
    """What is chosen along, what is cut off, and what may be, mixes; two axes of one symbol do not."""
    shapes = [(2, 4, None, "h"), (2, 3, None, "h")]
    made = gather_elements(
        SimpleNamespace(shape=shapes.__getitem__, attr=lambda name, default: default)  # type: ignore[arg-type]
    )
    assert isinstance(made, Pass) and made.mixes is not None
    assert [made.mixes(axis) for axis in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("rule", [gather_elements, gather_nd])
@pytest.mark.parametrize("shapes", [(None, (2, 1)), ((2, 3), None)])
def test_elements_of_shapes_that_are_not_known(rule: Any, shapes: Any) -> None:
    with pytest.raises(ShapeUnknown):
        rule(SimpleNamespace(shape=shapes.__getitem__, attr=lambda name, default: default))


def test_as_many_axes_as_nobody_knows() -> None:
    view: Any = SimpleNamespace(shape=[(2, 3), (2, "d")].__getitem__, attr=lambda name, default: default)
    made = gather_nd(view)
    assert isinstance(made, Opaque) and made.reason is Reason.SHAPE_UNKNOWN


def _handle(op: str, prefix: str = "", domain: str = "") -> Any:
    proto = helper.make_node(op, ["x"], ["y"], domain=domain)
    return SimpleNamespace(proto=proto, scope=SimpleNamespace(prefix=prefix))


def test_who_can_be_one_channel_wider() -> None:
    """Of the main graph's nodes: a convolution on both sides, a transposed one in its output."""
    found = {
        op: [c for c in "io" if takes_channel(_handle(op), c)] for op in ("Conv", "ConvTranspose", "Gemm")
    }
    assert found == {"Conv": ["i", "o"], "ConvTranspose": ["o"], "Gemm": []}
    assert not takes_channel(_handle("Conv", "0.0.0/"), "o")


def test_one_number_in_a_body_is_not_followed() -> None:
    for prefix, wanted in (("", 0.5), ("0.0.0/", None)):
        view: Any = SimpleNamespace(
            proto=helper.make_node("Relu", ["x"], ["y"]),
            node=SimpleNamespace(op="Relu", inputs=("x",), outputs=("y",)),
            handle=_handle("Relu", prefix),
            opset=17,
        )
        assert constant_through(view, 0.5) == wanted


def test_sizes_of_what_is_named_as_another_operator() -> None:
    for op, domain, wanted in (
        ("Relu", "some.domain", (2, 3)), ("Einsum", "", None), ("NoSuch", "", None), ("Concat", "", None)
    ):  # fmt: skip
        node = helper.make_node(op, ["x", "z"], ["y"], domain=domain)
        assert output_extents(ExtentCall(node, 17, Sizes(1), [(2, 3), None], [None, None])) == wanted


def test_blocks_of_what_is_not_known() -> None:
    """The channels, or how many axes there are; a shape of other axes makes no sense."""

    def view(*shape: Any) -> Any:
        return SimpleNamespace(shape=lambda i: shape or None, attr=lambda name: 2)

    made = relabelled(view(2, "c", 4, 4))
    assert isinstance(made, Opaque) and made.reason is Reason.SHAPE_UNKNOWN
    with pytest.raises(ShapeUnknown):
        relabelled(view())
    for shape in ((2, 4, 4), (2, 4, 4, 4, 4)):
        with pytest.raises(Malformed, match="axes"):
            relabelled(view(*shape))
