"""What functions of ``keras.ops`` and of TensorFlow pass on, against numpy; without Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reparam import from_backward
from bnfuse.core.rules.base import Pass, Sign
from bnfuse.formats.keras.rows.ops import output_shapes
from bnfuse.formats.keras.rows.site import Site
from tests.held_values import hold
from tests.keras_sites import function, parts, rule_of, rules, tf_function

Does = Callable[[np.ndarray], np.ndarray]
X = (2, 3, 4, 5)
DEPTH = (2, 3, 4, 12)


def _cut(start: int | None = None, stop: int | None = None, step: int | None = None) -> dict[str, Any]:
    """A slice as Keras 3 stores it."""
    return {"class_name": "__slice__", "config": {"start": start, "stop": stop, "step": step}}


INDICES = {"class_name": "__numpy__", "config": {"value": [3, 1], "dtype": "int32"}}
ALL, REST = _cut(), {"class_name": "__ellipsis__", "config": {}}


def _to_space(x: np.ndarray) -> np.ndarray:
    n, h, w, c = x.shape
    blocks = x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, 2 * h, 2 * w, c // 4)


def _to_depth(x: np.ndarray) -> np.ndarray:
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)


# The call, what it does, and the axes along which what is held before is known behind it.
OF_KERAS: list[tuple[str, tuple[int, ...], tuple[Any, ...], dict[str, Any], Does, set[int]]] = [
    ("Transpose", X, (), {"axes": [0, 2, 3, 1]}, lambda x: x.transpose(0, 2, 3, 1), {1, 2, 3}),
    ("Transpose", X, (), {"axes": None}, lambda x: x.T, {1, 2}),
    ("Transpose", X, (), {"axes": [0, -1, 1, 2]}, lambda x: x.transpose(0, 3, 1, 2), {1, 2, 3}),
    ("Swapaxes", X, (), {"axis1": 1, "axis2": -1}, lambda x: x.swapaxes(1, 3), {1, 2, 3}),
    ("Moveaxis", X, (), {"source": 1, "destination": -1}, lambda x: np.moveaxis(x, 1, -1), {1, 2, 3}),
    ("Moveaxis", X, (), {"source": [1, 3], "destination": [2, 1]},
     lambda x: np.moveaxis(x, (1, 3), (2, 1)), {1, 2, 3}),
    ("ExpandDims", X, (), {"axis": 1}, lambda x: x[:, None], {1, 2, 3}),
    ("ExpandDims", X, (), {"axis": -1}, lambda x: x[..., None], {1, 2, 3}),
    ("ExpandDims", X, (), {"axis": [1, 3]}, lambda x: np.expand_dims(x, (1, 3)), {1, 2, 3}),
    ("Squeeze", (2, 1, 4, 5), (), {"axis": 1}, lambda x: x[:, 0], {1, 2, 3}),
    ("Reshape", X, (), {"newshape": [2, 12, 5]}, lambda x: x.reshape(2, 12, 5), {1, 2, 3}),
    ("Reshape", X, (), {"newshape": [-1, 12, 5]}, lambda x: x.reshape(-1, 12, 5), {1, 2, 3}),
    ("Reshape", X, (), {"newshape": [-1, 5]}, lambda x: x.reshape(-1, 5), {3}),
    ("Reshape", X, (), {"newshape": [-1, 4, 5]}, lambda x: x.reshape(-1, 4, 5), {2, 3}),
    ("ExpandDims", X, (), {"axis": [1, -1]}, lambda x: np.expand_dims(x, (1, -1)), {1, 2, 3}),
    ("DepthToSpace", DEPTH, (), {"block_size": 2, "data_format": "channels_last"}, _to_space, {1, 2, 3}),
    ("SpaceToDepth", (2, 4, 6, 3), (), {"block_size": 2, "data_format": "channels_last"}, _to_depth,
     {1, 2, 3}),
    # elements
    ("Flip", X, (), {"axis": None}, lambda x: x[::-1, ::-1, ::-1, ::-1], {1, 2, 3}),
    ("Flip", X, (), {"axis": 3}, lambda x: x[..., ::-1], {1, 2, 3}),
    ("Flip", X, (), {"axis": [1, -1]}, lambda x: x[:, ::-1, :, ::-1], {1, 2, 3}),
    ("Fliplr", X, (), {}, lambda x: x[:, ::-1], {1, 2, 3}),
    ("Flipud", X, (), {}, lambda x: x[::-1], {1, 2, 3}),
    ("Roll", X, (), {"shift": 2, "axis": 3}, lambda x: np.roll(x, 2, 3), {1, 2, 3}),
    ("Roll", X, (), {"shift": [1, -2], "axis": [1, 3]}, lambda x: np.roll(x, (1, -2), (1, 3)), {1, 2, 3}),
    ("Roll", X, (), {"shift": 1, "axis": [1, 3]}, lambda x: np.roll(x, (1, 1), (1, 3)), {1, 2, 3}),
    ("Repeat", X, (), {"repeats": 2, "axis": 3}, lambda x: np.repeat(x, 2, 3), {1, 2, 3}),
    ("Repeat", X, (), {"repeats": [2, 1, 3], "axis": 1}, lambda x: np.repeat(x, [2, 1, 3], 1), {1, 2, 3}),
    ("Tile", X, (), {"repeats": [1, 3, 1, 2]}, lambda x: np.tile(x, (1, 3, 1, 2)), {1, 2, 3}),
    ("Tile", X, (), {"repeats": 2}, lambda x: np.tile(x, 2), {1, 2, 3}),
    ("Take", X, ([2, 0, -1],), {"axis": 3}, lambda x: x[..., [2, 0, 4]], {1, 2, 3}),
    ("Take", X, ([-5, 4],), {"axis": 3}, lambda x: x[..., [0, 4]], {1, 2, 3}),
    ("Take", X, (INDICES,), {"axis": 3}, lambda x: x[..., [3, 1]], {1, 2, 3}),
    ("Take", X, (-1,), {"axis": 1}, lambda x: x[:, 2], {1, 2, 3}),
    ("GetItem", X, ([ALL, _cut(1, None), ALL, _cut(None, None, -2)],), {}, lambda x: x[:, 1:, :, ::-2],
     {1, 2, 3}),
    ("GetItem", X, ([ALL, 1],), {}, lambda x: x[:, 1], {1, 2, 3}),
    ("GetItem", X, ([ALL, None, ALL, None],), {}, lambda x: x[:, None, :, None], {1, 2, 3}),
    ("GetItem", (2, 1, 4), ([ALL, 0, _cut(0, 4)],), {}, lambda x: x[:, 0], {1, 2}),
    ("GetItem", X, ([ALL, -3],), {}, lambda x: x[:, 0], {1, 2, 3}),
    ("GetItem", X, ([ALL, _cut(0, 3), _cut(3, 1, -1)],), {}, lambda x: x[:, 0:3, 3:1:-1], {1, 2, 3}),
    ("GetItem", X, ([ALL, -1, REST],), {}, lambda x: x[:, -1], {1, 2, 3}),
    ("GetItem", X, ([REST, 0],), {}, lambda x: x[..., 0], {1, 2, 3}),
    ("GetItem", X, ([ALL, None, _cut(0, 2), REST, None],), {}, lambda x: x[:, None, :2, ..., None],
     {1, 2, 3}),
    ("GetItem", X, (REST,), {}, lambda x: x, {1, 2, 3}),
    # margins
    ("Pad", X, (), {"pad_width": [[0, 0], [0, 0], [0, 0], [1, 2]], "mode": "constant"},
     lambda x: np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2))), {3}),
    ("Pad", X, (), {"pad_width": [[0, 0], [1, 0], [0, 0], [0, 0]], "mode": "reflect"},
     lambda x: np.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)), "reflect"), {2, 3}),
    ("Pad", X, (), {"pad_width": [[0, 0], [1, 0], [0, 2], [0, 0]], "mode": "constant"},
     lambda x: np.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0))), {3}),
    ("Pad", X, (), {"pad_width": [[0, 0]] * 4, "mode": "constant"}, lambda x: x, {1, 2, 3}),
    ("Pad", X, (), {"pad_width": [[0, 0], [1, 0], [0, 0], [0, 0]], "mode": "symmetric"},
     lambda x: np.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)), "symmetric"), {2, 3}),
    ("Pad", X, (), {"pad_width": [[0, 0], [1, 0], [0, 0], [0, 0]], "mode": "edge"},
     lambda x: np.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)), "edge"), {2, 3}),
    ("Pad", X, (), {"pad_width": [[0, 0], [1, 0], [0, 0], [0, 0]], "mode": "constant"},
     lambda x: np.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0))), {2, 3}),
    # over axes
    ("Mean", X, (), {"axis": [1, 2], "keepdims": False}, lambda x: x.mean((1, 2)), {3}),
    ("Mean", X, (), {"axis": -1, "keepdims": True}, lambda x: x.mean(-1, keepdims=True), {1, 2}),
    ("Sum", X, (), {"axis": [1, 2], "keepdims": False}, lambda x: x.sum((1, 2)), {3}),
    ("Sum", X, (), {"axis": 1, "keepdims": True}, lambda x: x.sum(1, keepdims=True), {2, 3}),
    ("Max", X, (), {"axis": 1, "keepdims": False, "initial": None}, lambda x: x.max(1), {2, 3}),
    ("Amin", X, (), {"axis": [1, 2], "keepdims": True}, lambda x: x.min((1, 2), keepdims=True), {3}),
    ("Mean", X, (), {"axis": None, "keepdims": False}, lambda x: np.asarray(x.mean()), set()),
    ("Average", X, (), {"axis": 1}, lambda x: x.mean(1), {2, 3}),
    ("Sort", X, (), {"axis": 1}, lambda x: np.sort(x, 1), {2, 3}),
    ("Cumsum", X, (), {"axis": 1, "dtype": None}, lambda x: x.cumsum(1), {2, 3}),
    # element by element
    ("Negative", X, (), {}, lambda x: -x, {1, 2, 3}),
    ("Copy", X, (), {}, lambda x: x, {1, 2, 3}),
    ("StopGradient", X, (), {}, lambda x: x, {1, 2, 3}),
    ("Abs", X, (), {}, np.abs, {1, 2, 3}),
    ("Absolute", X, (), {}, np.abs, {1, 2, 3}),
    ("LeakyRelu", X, (), {"negative_slope": 0.2}, lambda x: np.maximum(x, 0.2 * x), {1, 2, 3}),
    ("Relu", X, (), {}, lambda x: np.maximum(x, 0), {1, 2, 3}),
]  # fmt: skip
# What they do depends on how large the batch is.
OF_A_BATCH: list[tuple[str, tuple[int, ...], tuple[Any, ...], dict[str, Any], Does, set[int]]] = [
    ("Reshape", X, (), {"newshape": [2, -1]}, lambda x: x.reshape(2, -1), {1, 2, 3}),
    ("Squeeze", (2, 1, 4, 1, 5), (), {"axis": None}, lambda x: x[:, 0, :, 0], {1, 2, 3, 4}),
    ("Squeeze", (2, 1, 4, 1, 5), (), {"axis": []}, lambda x: x[:, 0, :, 0], {1, 2, 3, 4}),
    ("GetItem", X, (_cut(0, 1),), {}, lambda x: x[:1], {1, 2, 3}),
]  # fmt: skip
OF_TENSORFLOW: list[tuple[str, tuple[int, ...], dict[str, Any], Does, set[int]]] = [
    ("transpose", X, {"perm": [0, 3, 1, 2]}, lambda x: x.transpose(0, 3, 1, 2), {1, 2, 3}),
    ("expand_dims", X, {"axis": 1}, lambda x: x[:, None], {1, 2, 3}),
    ("squeeze", (2, 1, 4), {"axis": [1]}, lambda x: x[:, 0], {1, 2}),
    ("reshape", X, {"shape": [-1, 60]}, lambda x: x.reshape(-1, 60), {1, 2, 3}),
    ("reverse", X, {"axis": [3]}, lambda x: x[..., ::-1], {1, 2, 3}),
    ("roll", X, {"shift": [2], "axis": [3]}, lambda x: np.roll(x, 2, 3), {1, 2, 3}),
    ("tile", X, {"multiples": [1, 1, 2, 1]}, lambda x: np.tile(x, (1, 1, 2, 1)), {1, 2, 3}),
    ("repeat", X, {"repeats": 2, "axis": 3}, lambda x: np.repeat(x, 2, 3), {1, 2, 3}),
    ("gather", X, {"indices": [2, 0], "axis": 3}, lambda x: x[..., [2, 0]], {1, 2, 3}),
    ("slice", X, {"begin": [0, 1, 0, 2], "size": [-1, 1, -1, 2]}, lambda x: x[:, 1:2, :, 2:4], {1, 2, 3}),
    ("strided_slice", X, {"begin": [7, 1, 7], "end": [7, 2, 7], "strides": [1, 1, 2], "begin_mask": 5,
                          "end_mask": 5}, lambda x: x[:, 1:2, ::2], {1, 2, 3}),
    ("strided_slice", X, {"begin": [0, 1], "end": [0, 9], "begin_mask": 1, "end_mask": 1,
                          "shrink_axis_mask": 2}, lambda x: x[:, 1], {1, 2, 3}),
    ("strided_slice", X, {"begin": [0, 0, 3], "end": [9, 2, 1], "strides": [1, 1, -1], "end_mask": 1},
     lambda x: x[:, :2, 3:1:-1], {1, 2, 3}),
    ("__operators__.getitem", X, {"slice_spec": [{"start": None, "stop": None, "step": None}, 1]},
     lambda x: x[:, 1], {1, 2, 3}),
    ("nn.depth_to_space", DEPTH, {"block_size": 2}, _to_space, {1, 2, 3}),
    ("nn.space_to_depth", (2, 4, 6, 3), {"block_size": 2, "data_format": "NHWC"}, _to_depth, {1, 2, 3}),
    ("pad", X, {"paddings": [[0, 0], [0, 0], [0, 0], [1, 0]]},
     lambda x: np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 0))), {3}),
    ("math.reduce_mean", X, {"axis": [1, 2]}, lambda x: x.mean((1, 2)), {3}),
    ("math.reduce_sum", X, {"axis": [1], "keepdims": True}, lambda x: x.sum(1, keepdims=True), {2, 3}),
    ("math.reduce_max", X, {"axis": 1}, lambda x: x.max(1), {2, 3}),
    ("math.reduce_min", X, {"axis": 1}, lambda x: x.min(1), {2, 3}),
    ("sort", X, {"axis": 1, "direction": "DESCENDING"}, lambda x: np.sort(x, 1)[:, ::-1], {2, 3}),
    ("math.cumsum", X, {"axis": 1}, lambda x: x.cumsum(1), {2, 3}),
    ("math.negative", X, {}, lambda x: -x, {1, 2, 3}),
    ("math.abs", X, {}, np.abs, {1, 2, 3}),
    ("identity", X, {}, lambda x: x, {1, 2, 3}),
    ("convert_to_tensor", X, {}, lambda x: x, {1, 2, 3}),
    ("nn.leaky_relu", X, {"alpha": 0.1}, lambda x: np.maximum(x, 0.1 * x), {1, 2, 3}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "args", "config", "does", "passing", "batch"),
    [*((*row, batch) for row in OF_KERAS for batch in (2, None)), *((*row, 2) for row in OF_A_BATCH)],
)
def test_what_a_function_of_keras_passes_on(
    name: str,
    shape: tuple[int, ...],
    args: tuple[Any, ...],
    config: dict[str, Any],
    does: Does,
    passing: set[int],
    batch: int | None,
) -> None:
    given = (batch, *shape[1:])
    _assert_passes(function(name, [given], *args, **config), shape, does, passing)


@pytest.mark.parametrize("batch", [2, None])
@pytest.mark.parametrize(("name", "shape", "kwargs", "does", "passing"), OF_TENSORFLOW)
def test_what_a_function_of_tensorflow_passes_on(
    name: str,
    shape: tuple[int, ...],
    kwargs: dict[str, Any],
    does: Does,
    passing: set[int],
    batch: int | None,
) -> None:
    given = (batch, *shape[1:])
    _assert_passes(tf_function(name, [given], **kwargs), shape, does, passing)


def _assert_passes(at: Site, shape: tuple[int, ...], does: Does, passing: set[int]) -> None:
    """What is held before, moved by the rule, is what comes out of what was held; its shape is known."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape)
    (part,) = parts(at)
    rule = rule_of(part).plain
    assert isinstance(rule, Pass), rules(at)
    assert output_shapes(at.layer, at.call.shapes if at.call else (), at.call) == (_out(at, shape, does),)
    found = set()
    for axis in range(1, len(shape)):
        s, t = (rng.standard_normal(shape[axis]) for _ in range(2))
        s = s if rule.sign is Sign.ANY else np.abs(s)
        held = from_backward((axis,), s, t if rule.shift is None else np.zeros_like(t))
        moved = rule.axes.forward(held)
        if moved is None or (rule.mixes is not None and rule.mixes(axis)):
            continue
        found.add(axis)
        np.testing.assert_allclose(hold(moved, does(x)), does(hold(held, x)), atol=1e-12)
        if any(a in rule.mixed_out for a in moved.axes):
            continue
        back = rule.axes.backward(moved)
        if back is not None and back.backward is not None:
            np.testing.assert_allclose(does(hold(back, x)), does(hold(held, x)), atol=1e-12)
    assert found == passing


def _out(at: Site, shape: tuple[int, ...], does: Does) -> tuple[int | None, ...]:
    """The shape that comes out, without what depends on a batch of unknown size."""
    out = does(np.zeros(shape)).shape
    if at.shapes[0] == shape:
        return out
    try:
        other = does(np.zeros((3 * shape[0], *shape[1:]))).shape
    except ValueError:
        return out  # it says how large the batch is
    return tuple(n if n == m else None for n, m in zip(out, other, strict=True))


SIZES: list[tuple[str, tuple[int | None, ...], dict[str, Any], tuple[int | None, ...] | None]] = [
    (
        "DepthToSpace",
        (None, None, 4, 12),
        {"block_size": 2, "data_format": "channels_last"},
        (None, None, 8, 3),
    ),
    (
        "SpaceToDepth",
        (None, 4, None, 3),
        {"block_size": 2, "data_format": "channels_last"},
        (None, 2, None, 12),
    ),
    ("DepthToSpace", (None, 3, 4, None), {"block_size": 2, "data_format": "channels_last"}, None),
    ("SpaceToDepth", (2, 4, 4, 3), {"block_size": 2, "data_format": "channels_first"}, None),
    ("DepthToSpace", (2, 4, 4, 12), {"block_size": 2, "data_format": "channels_first"}, None),
    ("SpaceToDepth", (2, 4, 4, 3), {"block_size": 1, "data_format": "channels_last"}, (2, 4, 4, 3)),
    ("Reshape", (None, None, 4), {"newshape": [-1, 4]}, (None, 4)),
    ("Reshape", (2, 3, 4), {"newshape": [-1, 0]}, (None, 0)),
    ("Flip", (2, None), {"axis": 1}, (2, None)),
    ("Tile", (2, None, 3), {"repeats": [1, 2, 2]}, (2, None, 6)),
    ("Repeat", (2, None, 3), {"repeats": 2, "axis": 1}, (2, None, 3)),
    ("Pad", (2, None, 3), {"pad_width": [[0, 0], [1, 2], [1, 2]], "mode": "constant"}, (2, None, 6)),
    ("Where", (2, 3), {}, None),
    ("Stack", (2, 3), {"axis": 1}, None),
]


@pytest.mark.parametrize(("name", "shape", "config", "expected"), SIZES)
def test_sizes_that_are_not_known(
    name: str, shape: tuple[int | None, ...], config: dict[str, Any], expected: tuple[int | None, ...] | None
) -> None:
    at = function(name, [shape], **config)
    assert output_shapes(at.layer, [shape], at.call) == (expected,)
