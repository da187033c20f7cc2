"""What rows of the table make of layers that move, pool, pad and merge: by the call alone, without Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bnfuse.core.reparam import from_backward
from bnfuse.core.rules.base import Pass
from bnfuse.core.rules.joint import ConcatSplit
from bnfuse.formats.keras.graph.network import Call, Shape
from bnfuse.formats.table import Malformed
from tests.held_values import hold, mixed
from tests.keras_sites import called, parts, rule_of, rules, site

Told = dict[str, Any]

IMAGE, FIRST = (None, 9, 8, 3), {"data_format": "channels_first"}
PLANES = (None, 3, 9, 8)
OPAQUE = "opaque: {}".format
FREE, PADS = "pass, any, mixes [1, 2]", "pass, any, no shift: ZERO_PADDING, mixes [1, 2]"
MOVES: list[tuple[str, Shape | None, Told, Told, str]] = [
    ("Identity", IMAGE, {}, {}, "pass, any"),
    ("ActivityRegularization", IMAGE, {}, {}, "pass, any"),
    *((f"{kind}", IMAGE, {}, {}, "pass, any")
      for kind in ("Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout")),
    *((f"SpatialDropout{n}D", IMAGE, {}, {"training": True}, OPAQUE("TRAINING_MODE")) for n in (1, 2, 3)),
    ("Dropout", IMAGE, {}, {"training": True}, OPAQUE("TRAINING_MODE")),
    ("MaxPooling2D", IMAGE, {"pool_size": [3, 2]}, {}, "pass, non-negative, mixes [1, 2]"),
    ("MaxPooling2D", IMAGE, {}, {}, "pass, non-negative, mixes [1, 2]"),
    ("MaxPooling2D", IMAGE, {"pool_size": 1}, {}, FREE),
    ("MaxPooling2D", IMAGE, {"pool_size": [1, 2]}, {}, "pass, non-negative, mixes [1, 2]"),
    ("MaxPooling2D", PLANES, {"pool_size": 2, **FIRST}, {}, "pass, non-negative, mixes [2, 3]"),
    ("MaxPooling2D", (None, *IMAGE), {}, {"lead": 1}, "pass, non-negative, mixes [2, 3]"),
    ("MaxPooling2D", (None, *PLANES), FIRST, {"lead": 1}, "pass, non-negative, mixes [3, 4]"),
    ("AveragePooling2D", IMAGE, {"pool_size": 2}, {}, FREE),
    ("GlobalMaxPooling2D", IMAGE, {}, {}, "pass, non-negative, mixes [1, 2]"),
    ("GlobalMaxPooling2D", IMAGE, {"keepdims": True}, {}, "pass, non-negative, mixes [1, 2], of [1, 2]"),
    ("GlobalAveragePooling2D", IMAGE, {"keepdims": True}, {}, f"{FREE}, of [1, 2]"),
    ("GlobalAveragePooling1D", (None, 5, 9, 3), {}, {"lead": 1}, "pass, any, mixes [2]"),
    ("ZeroPadding2D", IMAGE, {"padding": [[0, 0], [0, 1]]}, {}, PADS),
    ("ZeroPadding2D", IMAGE, {"padding": [[0, 0], [0, 0]]}, {}, FREE),
    ("ZeroPadding2D", IMAGE, {"padding": 0}, {}, FREE),
    ("ZeroPadding2D", IMAGE, {}, {}, PADS),
    ("ZeroPadding1D", (None, 5, 9, 3), {"padding": 1}, {"lead": 1},
     "pass, any, no shift: ZERO_PADDING, mixes [2]"),
    ("Cropping2D", IMAGE, {"cropping": 1}, {}, FREE),
    ("Cropping1D", (None, 5, 9, 3), {"cropping": 1}, {"lead": 1}, "pass, any, mixes [2]"),
    ("AdaptiveMaxPooling2D", IMAGE, {"output_size": 2}, {}, "pass, non-negative, mixes [1, 2]"),
    ("AdaptiveAveragePooling2D", IMAGE, {"output_size": 2}, {}, FREE),
    ("RepeatVector", (None, 5), {"n": 4}, {}, "pass, any, of [1]"),
    ("Permute", IMAGE, {"dims": 5}, {}, OPAQUE("BAD_PARAMETERS")),
    ("Permute", IMAGE, {"dims": "312"}, {}, OPAQUE("BAD_PARAMETERS")),
    ("Permute", IMAGE, {"dims": [3, 1, "2"]}, {}, OPAQUE("BAD_PARAMETERS")),
    ("Permute", IMAGE, {"dims": [3, 1]}, {}, OPAQUE("BAD_PARAMETERS")),
    ("Permute", IMAGE, {"dims": [0, 1, 2]}, {}, OPAQUE("BAD_PARAMETERS")),
    ("Flatten", None, {}, {"out": (None, 216)}, OPAQUE("SHAPE_UNKNOWN")),
    ("Flatten", IMAGE, {}, {}, OPAQUE("SHAPE_UNKNOWN")),
    ("Flatten", (None,), FIRST, {"out": (None, 1)}, "pass, any"),
    ("Reshape", None, {}, {"out": (None, 216)}, OPAQUE("SHAPE_UNKNOWN")),
    ("Reshape", (), {}, {"out": (None, 216)}, OPAQUE("SHAPE_UNKNOWN")),
    ("Reshape", IMAGE, {}, {}, OPAQUE("SHAPE_UNKNOWN")),
    # images
    ("UpSampling2D", IMAGE, {"size": 2}, {}, FREE),
    ("UpSampling2D", IMAGE, {"interpolation": "BILINEAR"}, {}, FREE),
    ("UpSampling2D", IMAGE, {"interpolation": "x"}, {}, OPAQUE("UNSUPPORTED_OP")),
    ("UpSampling2D", None, {}, {}, FREE),
    ("UpSampling2D", (None, 9, 8), {}, {}, OPAQUE("SHAPE_UNKNOWN")),
    ("UpSampling2D", IMAGE, {}, {"more": (None,)}, OPAQUE("SHAPE_UNKNOWN")),
    ("UpSampling1D", (None, 5, 9, 3), {}, {"lead": 1}, "pass, any, mixes [2]"),
    ("UpSampling2D", None, FIRST, {}, "pass, any, mixes [2, 3]"),
    *(("Resizing", IMAGE, {"interpolation": mode}, {}, FREE) for mode in
      ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5", "area", "gaussian", "mitchellcubic")),
    ("Resizing", IMAGE, {"pad_to_aspect_ratio": True}, {}, PADS),
    ("Resizing", IMAGE, {"pad_to_aspect_ratio": True, "fill_value": 1.0}, {}, OPAQUE("UNSUPPORTED_OP")),
    ("Resizing", IMAGE, {"fill_value": 1.0}, {}, FREE),
    ("CenterCrop", IMAGE, {}, {}, FREE),
    ("CenterCrop", IMAGE, {}, {"training": True}, OPAQUE("TRAINING_MODE")),
    ("RandomFlip", IMAGE, {}, {}, "pass, any"),
    ("RandomFlip", IMAGE, {}, {"training": True}, OPAQUE("TRAINING_MODE")),
    ("RandomFlip", IMAGE, {}, {"training": True, "call": None}, OPAQUE("TRAINING_MODE")),
    ("RandomHeight", IMAGE, {}, {"training": True}, OPAQUE("TRAINING_MODE")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape", "config", "told", "expected"), MOVES)
def test_what_a_layer_passes_on(
    kind: str, shape: Shape | None, config: Told, told: Told, expected: str
) -> None:
    assert rules(site(kind, shape, config, **told)) == [expected]


def test_keras3_writes_training_into_every_call_of_an_augmentation() -> None:
    """At inference it tells all layers otherwise; Keras 2 writes what was asked for."""
    call = called()
    keras3 = Call(call.inputs, call.keywords, {}, {}, call.shapes, call.dtypes, {"args": [], "kwargs": {}})
    for kind, passes in (("RandomFlip", "pass, any"), ("RandomCrop", FREE)):
        assert rules(site(kind, IMAGE, {}, call=keras3, training=True)) == [passes]
        assert rules(site(kind, IMAGE, {}, training=True)) == [OPAQUE("TRAINING_MODE")]


def test_paddings_that_are_no_numbers() -> None:
    for padding in ("1", None, [[0, 0.5], [0, 0]], True):
        with pytest.raises(Malformed, match="padding"):
            rules(site("ZeroPadding2D", IMAGE, {"padding": padding}))


def _last(x: np.ndarray, lead: int = 0) -> np.ndarray:
    return np.moveaxis(x, 1 + lead, -1)


# kind, settings, the shape of the input, how many axes lie before its own, what it does, and which axes go on
MOVED: list[tuple[str, Told, tuple[int, ...], int, Callable[[np.ndarray], np.ndarray], set[int]]] = [
    ("Flatten", {}, (2, 3, 4, 5), 0, lambda x: x.reshape(2, 60), {1, 2, 3}),
    ("Flatten", FIRST, (2, 3, 4, 5), 0, lambda x: _last(x).reshape(2, 60), {1, 2, 3}),
    ("Flatten", FIRST, (2, 3, 4), 0, lambda x: _last(x).reshape(2, 12), {1, 2}),
    ("Flatten", FIRST, (2, 5), 0, lambda x: x, {1}),
    ("Flatten", {}, (2, 3, 4, 5), 1, lambda x: x.reshape(2, 3, 20), {1, 2, 3}),
    ("Flatten", FIRST, (2, 3, 4, 5, 6), 1, lambda x: _last(x, 1).reshape(2, 3, 120), {1, 2, 3, 4}),
    ("Flatten", FIRST, (2, 3, 4), 1, lambda x: x.reshape(2, 3, 4), {1, 2}),
    ("Reshape", {}, (2, 3, 4, 5), 0, lambda x: x.reshape(2, 12, 5), {1, 2, 3}),
    ("Permute", {"dims": [3, 1, 2]}, (2, 3, 4, 5), 0, lambda x: x.transpose(0, 3, 1, 2), {1, 2, 3}),
    ("Permute", {"dims": [2, 1]}, (2, 3, 4, 5), 1, lambda x: x.transpose(0, 1, 3, 2), {1, 2, 3}),
    ("RepeatVector", {"n": 6}, (2, 5), 0, lambda x: np.repeat(x[:, None], 6, 1), {1}),
    ("RepeatVector", {"n": 6}, (2, 3, 5), 1, lambda x: np.repeat(x[:, :, None], 6, 2), {1, 2}),
    ("GlobalAveragePooling2D", {}, (2, 3, 4, 5), 0, lambda x: x.mean((1, 2)), {3}),
    ("GlobalAveragePooling2D", FIRST, (2, 3, 4, 5), 0, lambda x: x.mean((2, 3)), {1}),
    ("GlobalAveragePooling1D", {}, (2, 3, 4, 5), 1, lambda x: x.mean(2), {1, 3}),
    ("GlobalAveragePooling1D", {"keepdims": True}, (2, 4, 5), 0, lambda x: x.mean(1, keepdims=True), {2}),
]


@pytest.mark.parametrize(("kind", "config", "shape", "lead", "does", "passing"), MOVED)
def test_where_axes_go(
    kind: str,
    config: Told,
    shape: tuple[int, ...],
    lead: int,
    does: Callable[[np.ndarray], np.ndarray],
    passing: set[int],
) -> None:
    """What is held before, moved, is what is held behind; forward and back."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal(shape)
    (part,) = parts(site(kind, (None, *shape[1:]), config, out=(None, *does(x).shape[1:]), lead=lead))
    rule = rule_of(part)
    assert isinstance(rule, Pass)
    found = set()
    for axis in range(1, len(shape)):
        held = from_backward((axis,), mixed(rng, shape[axis]), rng.standard_normal(shape[axis]))
        moved = rule.axes.forward(held)
        if moved is None or (rule.mixes is not None and rule.mixes(axis)):
            continue
        found.add(axis)
        np.testing.assert_allclose(hold(moved, does(x)), does(hold(held, x)), atol=1e-12)
        back = rule.axes.backward(moved)
        assert back is not None
        np.testing.assert_allclose(hold(back, x), hold(held, x), atol=1e-12)
    assert found == passing


MERGES: list[tuple[str, Shape | None, Told, Told, str]] = [
    ("Add", IMAGE, {}, {"more": (IMAGE,), "out": IMAGE}, "(1.0, 1.0) 0 0"),
    ("Add", IMAGE, {}, {"more": (IMAGE, IMAGE), "out": IMAGE}, "(1.0, 1.0, 1.0) 0 0 0"),
    ("Add", IMAGE, {}, {"more": ((None, 1, 1, 3),), "out": IMAGE}, "(1.0, 1.0) 0 0[1, 2]"),
    ("Add", (None, None, 3), {}, {"more": ((None, None, 3),), "out": (None, None, 3)}, "(1.0, 1.0) 0 0"),
    ("Add", IMAGE, {}, {"more": ((None, 3),), "out": IMAGE}, OPAQUE("BROADCAST")),
    ("Add", IMAGE, {}, {"more": (None,), "out": IMAGE}, OPAQUE("SHAPE_UNKNOWN")),
    ("Add", None, {}, {"more": (None,), "out": None}, OPAQUE("SHAPE_UNKNOWN")),
    ("Add", IMAGE, {}, {"out": IMAGE}, OPAQUE("BROADCAST")),
    ("Add", IMAGE, {}, {"more": (IMAGE,), "out": IMAGE, "call": None}, "(1.0, 1.0) 0 0"),
    ("Subtract", IMAGE, {}, {"more": (IMAGE,), "out": IMAGE}, "(1.0, -1.0) 0 0"),
    ("Average", IMAGE, {}, {"more": (IMAGE,) * 3, "out": IMAGE}, "(0.25, 0.25, 0.25, 0.25) 0 0 0 0"),
    ("Multiply", IMAGE, {}, {"more": ((None, 1, 1, 3),), "out": IMAGE}, "(1, 1) 0 0[1, 2]"),
    ("Maximum", IMAGE, {}, {"more": (IMAGE,), "out": IMAGE}, "one of (0, 1), non-negative"),
    ("Minimum", IMAGE, {}, {"more": (IMAGE,), "out": IMAGE}, "one of (0, 1), non-negative"),
    ("Maximum", IMAGE, {}, {"more": ((None, 1, 8, 3),), "out": IMAGE}, OPAQUE("BROADCAST")),
    ("Concatenate", IMAGE, {}, {"more": ((None, 9, 8, 4),)}, "(0, 1) side by side along 3: (3, 4)"),
    ("Concatenate", IMAGE, {"axis": 1}, {"more": ((None, None, 8, 3),)},
     "(0, 1) side by side along 1: (9, None)"),
    ("Concatenate", IMAGE, {"axis": -2}, {"more": (None,)}, "(0, 1) side by side along 2: (8, None)"),
    ("Concatenate", IMAGE, {"axis": 1}, {"more": (IMAGE,), "lead": 1}, "(0, 1) side by side along 2: (8, 8)"),
    ("Concatenate", IMAGE, {"axis": 3}, {"more": ((None, 9),)}, "(0, 1) side by side along 3: (3, None)"),
    ("Concatenate", IMAGE, {"axis": 3}, {"more": ((None, 9, 8),)}, "(0, 1) side by side along 3: (3, None)"),
    ("Concatenate", IMAGE, {"axis": 1}, {"more": ((None, "n", 8, 3),)},
     "(0, 1) side by side along 1: (9, None)"),
    ("Concatenate", IMAGE, {"axis": "3"}, {"more": (IMAGE,)}, OPAQUE("SHAPE_UNKNOWN")),
    ("Concatenate", None, {}, {"more": (IMAGE,)}, OPAQUE("SHAPE_UNKNOWN")),
    ("Concatenate", IMAGE, {}, {}, OPAQUE("SHAPE_UNKNOWN")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape", "config", "told", "expected"), MERGES)
def test_how_a_layer_merges(kind: str, shape: Shape | None, config: Told, told: Told, expected: str) -> None:
    assert rules(site(kind, shape, config, **told)) == [expected]


def test_parts_and_whole() -> None:
    rule = rule_of(parts(site("Concatenate", IMAGE, {}, more=(IMAGE,)))[0])
    assert isinstance(rule, ConcatSplit) and rule.whole == ~0


def test_a_merge_with_a_number() -> None:
    """It is no layer's call: what stands beside the tensors is not looked into."""
    call = called(2)
    with_number = Call(call.inputs, call.keywords, {}, {1: 2.0}, call.shapes, call.dtypes, None)
    assert rules(site("Add", IMAGE, {}, more=(IMAGE,), out=IMAGE, call=with_number)) == [OPAQUE("BROADCAST")]
