"""Sizes that layers put out, setting by setting, without Keras; ``test_keras_layer_shapes`` asks Keras."""

from __future__ import annotations

from typing import Any

import pytest

from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import Ref, Shape
from bnfuse.formats.keras.graph.shapes import infer
from tests.keras_configs import functional, layer, old, source

IMAGE, OPEN, PLANES, LINE = (2, 9, 8, 3), (2, None, 8, 3), (2, 3, 9, 8), (2, 9, 3)
CUBE = (2, 9, 8, 7, 3)
FIRST = {"data_format": "channels_first"}
CONV: dict[str, Any] = {"filters": 5, "kernel_size": [3, 2]}
Row = tuple[str, dict[str, Any], tuple[Shape | None, ...], Shape | None]
WINDOWS: list[Row] = [
    ("Conv2D", CONV, (IMAGE,), (2, 7, 7, 5)),
    ("Conv2D", CONV, (OPEN,), (2, None, 7, 5)),
    ("Conv2D", CONV | {"strides": 2}, (IMAGE,), (2, 4, 4, 5)),
    ("Conv2D", CONV | {"strides": [2, 3], "padding": "same"}, (IMAGE,), (2, 5, 3, 5)),
    ("Conv2D", CONV | {"dilation_rate": [2, 3]}, (IMAGE,), (2, 5, 5, 5)),
    ("Conv2D", CONV | FIRST, (PLANES,), (2, 5, 7, 7)),
    ("Conv2D", CONV | {"padding": "full"}, (IMAGE,), None),
    ("Conv2D", CONV | {"data_format": "first"}, (IMAGE,), None),
    ("Conv2D", CONV | {"strides": [1, 2, 3]}, (IMAGE,), None),
    ("Conv2D", CONV | {"strides": [1, None]}, (IMAGE,), None),
    ("Conv1D", {"filters": 5, "kernel_size": 3, "padding": "causal", "strides": 2}, (LINE,), (2, 5, 5)),
    ("DepthwiseConv2D", {"kernel_size": 3}, (IMAGE,), (2, 7, 6, 3)),
    ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2}, (IMAGE,), (2, 7, 6, 6)),
    ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2, **FIRST}, (PLANES,), (2, 6, 7, 6)),
    ("DepthwiseConv2D", {"kernel_size": 3}, ((2, 9, 8, None),), (2, 7, 6, None)),
    ("DepthwiseConv2D", {"kernel_size": 3, **FIRST}, ((2, None, 9, 8),), (2, None, 7, 6)),
    ("Conv2DTranspose", CONV, (IMAGE,), (2, 11, 9, 5)),
    ("Conv2DTranspose", CONV, (OPEN,), (2, None, 9, 5)),
    ("Conv2DTranspose", CONV | {"strides": [2, 3]}, (IMAGE,), (2, 19, 24, 5)),
    ("Conv2DTranspose", CONV | {"strides": [2, 3], "padding": "same"}, (IMAGE,), (2, 18, 24, 5)),
    ("Conv2DTranspose", CONV | {"strides": 4}, (IMAGE,), (2, 36, 32, 5)),
    ("Conv2DTranspose", CONV | {"strides": 4, "output_padding": [0, 2]}, (IMAGE,), (2, 35, 32, 5)),
    ("Conv2DTranspose", CONV | {"strides": 4, "padding": "same", "output_padding": 1}, (IMAGE,),
     (2, 34, 29, 5)),
    ("Conv2DTranspose", CONV | {"dilation_rate": [2, 3]}, (IMAGE,), (2, 13, 11, 5)),
    ("Conv2DTranspose", CONV | {"padding": "causal"}, (IMAGE,), None),
    ("Conv2DTranspose", CONV | FIRST, (PLANES,), (2, 5, 11, 9)),
    ("MaxPooling2D", {"pool_size": [3, 2]}, (IMAGE,), (2, 3, 4, 3)),
    ("MaxPooling2D", {"pool_size": [3, 2], "strides": None}, (IMAGE,), (2, 3, 4, 3)),
    ("MaxPooling2D", {"pool_size": 3, "strides": [1, 2], "padding": "same"}, (OPEN,), (2, None, 4, 3)),
    ("MaxPooling2D", {"pool_size": 3, "strides": [1, 2]}, (IMAGE,), (2, 7, 3, 3)),
    ("AveragePooling2D", {"pool_size": 2, **FIRST}, (PLANES,), (2, 3, 4, 4)),
    ("AveragePooling2D", {}, (IMAGE,), None),
    ("GlobalMaxPooling2D", {}, (IMAGE,), (2, 3)),
    ("GlobalMaxPooling2D", {"keepdims": True}, (IMAGE,), (2, 1, 1, 3)),
    ("GlobalAveragePooling2D", FIRST, (PLANES,), (2, 3)),
    ("GlobalAveragePooling2D", {"keepdims": True, **FIRST}, (PLANES,), (2, 3, 1, 1)),
    ("AdaptiveMaxPooling2D", {"output_size": [4, 5]}, (OPEN,), (2, 4, 5, 3)),
    ("AdaptiveAveragePooling2D", {"output_size": 4}, (IMAGE,), (2, 4, 4, 3)),
]  # fmt: skip
BORDERS: list[Row] = [
    ("ZeroPadding1D", {"padding": 2}, (LINE,), (2, 13, 3)),
    ("ZeroPadding1D", {"padding": [1, 2]}, (LINE,), (2, 12, 3)),
    ("ZeroPadding1D", {"padding": [[1, 2]]}, (LINE,), (2, 12, 3)),
    ("ZeroPadding2D", {"padding": [1, 2]}, (IMAGE,), (2, 11, 12, 3)),
    ("ZeroPadding2D", {"padding": [[1, 2], [0, 3]]}, (IMAGE,), (2, 12, 11, 3)),
    ("ZeroPadding2D", {"padding": {"class_name": "__tuple__", "items": [[1, 2], 3]}}, (IMAGE,),
     (2, 12, 14, 3)),
    ("ZeroPadding2D", {"padding": [[1, 2], [0, 3]]}, (OPEN,), (2, None, 11, 3)),
    ("ZeroPadding2D", {"padding": [1]}, (IMAGE,), None),
    ("ZeroPadding2D", {"padding": "11"}, (IMAGE,), None),
    ("ZeroPadding2D", {"padding": [1, 2], **FIRST}, (PLANES,), (2, 3, 11, 12)),
    ("Cropping1D", {"cropping": [1, 2]}, (LINE,), (2, 6, 3)),
    ("Cropping3D", {"cropping": 1}, (CUBE,), (2, 7, 6, 5, 3)),
    ("Cropping3D", {"cropping": [[1, 0], [0, 2], [1, 1]]}, (CUBE,), (2, 8, 6, 5, 3)),
    ("UpSampling2D", {"size": [2, 3]}, (OPEN,), (2, None, 24, 3)),
    ("UpSampling2D", {"size": 2, **FIRST}, (PLANES,), (2, 3, 18, 16)),
    ("Resizing", {"height": 4, "width": 5}, (IMAGE,), (2, 4, 5, 3)),
    ("Resizing", {"height": 4, "width": 5, **FIRST}, (PLANES,), (2, 3, 4, 5)),
    ("Resizing", {"height": 4, "width": 5}, (LINE,), None),
    ("CenterCrop", {"height": 4, "width": 5}, (IMAGE,), (2, 4, 5, 3)),
]  # fmt: skip
AXES: list[Row] = [
    ("Dense", {"units": 5}, (LINE,), (2, 9, 5)),
    ("Dense", {"units": 5}, ((2,),), None),
    ("Dense", {"units": 5}, ((2, 3),), (2, 5)),
    ("EinsumDense", {"equation": "abc,cd->abd"}, (LINE,), (2, 9, None)),
    ("Embedding", {"input_dim": 9, "output_dim": 5}, ((2, 4),), (2, 4, 5)),
    ("EinsumDense", {"equation": "abc,cd->abd", "output_shape": [9, 6]}, (LINE,), (2, 9, 6)),
    ("EinsumDense", {"equation": "abc, cd -> adb", "output_shape": [6, 9]}, (LINE,), (2, 6, 9)),
    ("EinsumDense", {"equation": "abc,cde->abde", "output_shape": [None, 4, 6]}, ((2, None, 3),),
     (2, None, 4, 6)),
    ("EinsumDense", {"equation": "...x,xy->...y", "output_shape": 6}, (IMAGE,), (2, 9, 8, 6)),
    ("EinsumDense", {"equation": "x...,xy->y...", "output_shape": 6}, (LINE,), (6, 9, 3)),
    ("EinsumDense", {"equation": "...xz,xy->...yz", "output_shape": [6, 3]}, (IMAGE,), (2, 9, 6, 3)),
    ("EinsumDense", {"equation": "a...c,cd->ad", "output_shape": 6}, (IMAGE,), (2, 6)),
    ("EinsumDense", {"equation": "ab,bc->ac", "output_shape": 6}, (LINE,), None),
    ("EinsumDense", {"equation": "abcd...,de->abce...", "output_shape": 6}, (LINE,), None),
    ("Flatten", {}, (IMAGE,), (2, 216)),
    ("Flatten", {}, (OPEN,), (2, None)),
    ("Flatten", {}, ((2,),), (2, 1)),
    ("Reshape", {"target_shape": [8, 27]}, (IMAGE,), (2, 8, 27)),
    ("Reshape", {"target_shape": [8, -1]}, (IMAGE,), (2, 8, 27)),
    ("Reshape", {"target_shape": {"class_name": "__tuple__", "items": [-1, 3]}}, (OPEN,), (2, None, 3)),
    ("Reshape", {"target_shape": [0, -1]}, (IMAGE,), (2, 0, None)),
    ("Reshape", {"target_shape": [None, 27]}, (IMAGE,), (2, None, 27)),
    ("Reshape", {"target_shape": [-1, -1]}, (IMAGE,), (2, None, None)),
    ("Permute", {"dims": [3, 1, 2]}, (IMAGE,), (2, 3, 9, 8)),
    ("Permute", {"dims": [3, 1, 1]}, (IMAGE,), None),
    ("Permute", {"dims": [2, 1]}, (IMAGE,), None),
    ("RepeatVector", {"n": 4}, ((2, 5),), (2, 4, 5)),
    ("RepeatVector", {"n": 4}, (LINE,), None),
    ("SpatialDropout1D", {}, (IMAGE,), None),
    *((f"SpatialDropout{n}D", {}, (None,), (None,) * (n + 2)) for n in (1, 2, 3)),
    ("RepeatVector", {"n": 4}, (None,), (None, 4, None)),
    ("Dropout", {}, (IMAGE,), IMAGE),
    ("Dropout", {}, (None,), None),
    ("Dense", {"units": 5}, (None,), None),
    ("Conv2D", CONV | {"strides": [1, None]}, (IMAGE,), None),
    ("MaxPooling2D", {"pool_size": None}, (IMAGE,), None),
    ("MaxPooling2D", {"pool_size": [2, 3, 4]}, (IMAGE,), None),
    ("Add", {}, ((2, None, 3), (2, 4, 3)), (2, None, 3)),
    ("Add", {}, ((2, 4, 3), (2, None, 3)), (2, None, 3)),
    ("Identity", {}, (IMAGE,), IMAGE),
    ("ActivityRegularization", {}, (IMAGE,), IMAGE),
    ("RandomCrop", {"height": 4, "width": 5}, (IMAGE,), (2, 4, 5, 3)),
    ("RandomFlip", {}, (IMAGE,), IMAGE),
    ("RandomHeight", {}, (IMAGE,), None),
]  # fmt: skip
MERGES: list[Row] = [
    ("Add", {}, (IMAGE, IMAGE), IMAGE),
    ("Add", {}, (IMAGE, (2, 1, 8, 3), (2, 9, 1, 1)), IMAGE),
    ("Subtract", {}, ((2, 1, 8, 3), OPEN), (2, None, 8, 3)),
    ("Average", {}, (IMAGE, (2, 3)), IMAGE),  # missing axes stand behind the batch
    ("Multiply", {}, ((2, 3), IMAGE), IMAGE),
    ("Maximum", {}, (IMAGE, OPEN), OPEN),
    ("Minimum", {}, (IMAGE, (2, 9, 7, 3)), None),
    ("Add", {}, (IMAGE, None), None),
    ("Add", {}, ((2,), (2,)), (2,)),
    ("Add", {}, (IMAGE, ()), None),
    ("Concatenate", {}, (IMAGE, (2, 9, 8, 4)), (2, 9, 8, 7)),
    ("Concatenate", {"axis": 1}, (IMAGE, OPEN), (2, None, 8, 3)),
    ("Concatenate", {"axis": 2}, (IMAGE, OPEN), (2, 9, 16, 3)),
    ("Concatenate", {"axis": 2}, (OPEN, IMAGE), (2, 9, 16, 3)),
    ("Concatenate", {"axis": -4}, (IMAGE, IMAGE), (4, 9, 8, 3)),
    ("Concatenate", {"axis": 4}, (IMAGE, IMAGE), None),
    ("Concatenate", {"axis": -5}, (IMAGE, IMAGE), None),
    ("Concatenate", {}, (IMAGE, None), (2, 9, 8, None)),
    ("Concatenate", {}, (None, IMAGE), (2, 9, 8, None)),
    ("Concatenate", {}, (None, None), None),
    ("Concatenate", {}, (IMAGE, LINE), None),
    ("Dot", {"axes": 1}, ((2, 9), (2, 9)), (2, 1)),
    ("Dot", {"axes": -1}, ((2, 4, 9), (2, 5, 9)), (2, 4, 5)),
    ("Dot", {"axes": [2, 1]}, ((2, 4, 9), (2, 9, 5)), (2, 4, 5)),
    ("Dot", {"axes": [1, 2]}, ((2, 9), (2, 5, 9)), (2, 5)),
    ("Dot", {"axes": 1}, ((2, 9), None), None),
    ("Dot", {"axes": 1}, (None, (2, 9)), None),
    ("Merge", {}, (IMAGE, IMAGE), None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "config", "given", "expected"), [*WINDOWS, *BORDERS, *AXES, *MERGES])
def test_what_a_layer_puts_out(
    kind: str, config: dict[str, Any], given: tuple[Shape | None, ...], expected: Shape | None
) -> None:
    """What the settings, or the input, do not tell is not known."""
    entries = [source("unknown")]
    names = []
    for k, shape in enumerate(given):
        names.append(f"x{k}" if shape is not None else f"m{k}")
        if shape is None:
            entries.append(layer("Mystery", f"m{k}", old(("unknown", 0, 0))))
        else:
            entries.append(layer("InputLayer", f"x{k}", batch_input_shape=list(shape)))
    entries.append(layer(kind, "it", old(*((name, 0, 0) for name in names)), **config))
    inputs = [[entry["name"], 0, 0] for entry in entries if entry["class_name"] == "InputLayer"]
    shapes = infer(parse(functional(entries, inputs, [["it", 0, 0]])))
    assert shapes.of((), Ref("it", 0, 0)) == expected
