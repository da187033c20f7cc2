"""Rows of the op table: ai.onnx.ml, what scikit-learn's pipelines are exported as. Numbers are attributes.

Source: the ai.onnx.ml specification, versions 1 to 5.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.rules.affine import Affine
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.core.rules.linear_rule import Linear
from bnfuse.core.weights.linear import linear_form
from bnfuse.core.weights.tensor import Array, ArrayTensor
from bnfuse.formats.onnx.graph.extents.rules import same
from bnfuse.formats.onnx.rows.kind import OpKind
from bnfuse.formats.onnx.rows.stored import AffineStore, LinearStore
from bnfuse.formats.onnx.rows.view import NodeHandle, View

if TYPE_CHECKING:
    from bnfuse.core.apply import NewAffine, NewLinear
    from bnfuse.formats.onnx.edit.apply_patch import ModelEditor


def scaler(view: View) -> Rule:
    """y = (x − offset)·scale along the features of (N, C), or by one number, in float32."""
    offset, scale = (np.asarray(view.attr(name, ()), np.float64) for name in ("offset", "scale"))
    rank, n = view.rank(0), scale.size
    if view.dtype(0) != TensorProto.FLOAT:
        return Opaque(Reason.UNSUPPORTED_OP, "its input is not float32")
    single = n == 1
    if n == 0 or offset.size != n or not (single or rank == 2):
        return Opaque(Reason.BAD_PARAMETERS, f"{offset.size} offsets and {n} scales for {rank} axes")
    with np.errstate(invalid="ignore"):  # 0·∞, which is refused below
        a, c = (scale[0], -offset[0] * scale[0]) if single else (scale, -offset * scale)
    invalid = Refusal(Reason.INVALID_STATISTICS, view.node.label)
    stores = rank == 2 and bool(scale.all())  # its shift is offset·scale: none without a scale
    return Affine(
        (np.asarray(a), np.asarray(c)),
        () if single else (1,),
        has_scale=stores,
        has_shift=stores,
        stores_along=1,
        divides=True,
        broken=None if bool(np.isfinite(c).all()) else invalid,  # a that is not finite makes c so
        stored=np.dtype(np.float32),
    )


def _set_floats(handle: NodeHandle, name: str, values: Array) -> None:
    """An attribute that is a list of float32."""
    kept = [a for a in handle.proto.attribute if a.name != name]
    kept.append(onnx.helper.make_attribute(name, values.ravel().tolist()))
    del handle.proto.attribute[:]
    handle.proto.attribute.extend(kept)


class ScalerStore(AffineStore, frozen=True):
    """scale = a, offset = −c/a, with the a that is stored."""

    def dtype(self, handle: NodeHandle, x: int, out: ModelEditor) -> np.dtype[Any]:
        """Attributes are float32."""
        return np.dtype(np.float32)

    def store(self, handle: NodeHandle, new: NewAffine, out: ModelEditor) -> None:
        """In the attributes."""
        single = np.dtype(np.float32)
        scale = out.rounded(new.a.ravel(), single)
        offset = out.rounded(-new.c.ravel() / scale.astype(np.float64), single)
        _set_floats(handle, "scale", scale)
        _set_floats(handle, "offset", offset)


def _model(view: View, classes: bool) -> Rule:
    """LinearRegressor and LinearClassifier: coefficients are (outputs, features), row by row."""
    given, intercepts = view.attr("coefficients", ()), view.attr("intercepts", ())
    rows = len(intercepts) if classes else view.attr("targets", 1)
    shape = view.shape(0)
    if view.dtype(0) != TensorProto.FLOAT or (shape is not None and len(shape) != 2):
        return Opaque(Reason.UNSUPPORTED_OP, "its input is no matrix of float32")
    features, told = len(given) // max(rows, 1), None if shape is None else shape[1]
    if (
        not features
        or features * rows != len(given)
        or len(intercepts) not in (0, rows)
        or told not in (None, features)
    ):
        return Opaque(Reason.BAD_PARAMETERS, f"{len(given)} coefficients, {len(intercepts)} intercepts")
    weight = ArrayTensor(np.asarray(given, np.float32).reshape(rows, features))
    bias = ArrayTensor(np.asarray(intercepts, np.float32)) if intercepts else None
    # A classifier's first output are labels, which no scale reaches; its scores are the second.
    plain = not classes and view.attr("post_transform", b"NONE") == b"NONE"
    return Linear(weight, linear_form((rows, features), "o i"), bias, 1, 1, writes=plain)


class ModelStore(LinearStore, frozen=True):
    """Coefficients and intercepts, in the attributes."""

    def store(self, handle: NodeHandle, new: NewLinear, out: ModelEditor) -> None:
        """Those that change."""
        if new.weight is not None:
            out.deferred.weight(new.weight, partial(_set_floats, handle, "coefficients"))
        if new.makes_bias:
            put = partial(_set_floats, handle, "intercepts")
            out.deferred.vector(new.bias(), new.rule.weight.dtype, new.folded, put)


_FLOATS, _INTS, _STRING = AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRING
_REGRESSOR = {"coefficients": _FLOATS, "intercepts": _FLOATS, "targets": AttributeProto.INT,
              "post_transform": _STRING}  # fmt: skip
_CLASSIFIER = {"coefficients": _FLOATS, "intercepts": _FLOATS, "multi_class": AttributeProto.INT,
               "post_transform": _STRING, "classlabels_strings": AttributeProto.STRINGS,
               "classlabels_ints": _INTS}  # fmt: skip
ROWS = (
    OpKind(("ai.onnx.ml.Scaler",), scaler, same, ScalerStore(), removable=True,
           attributes={"offset": _FLOATS, "scale": _FLOATS}),
    OpKind(("ai.onnx.ml.LinearRegressor",), partial(_model, classes=False), stored=ModelStore(),
           attributes=_REGRESSOR),
    OpKind(("ai.onnx.ml.LinearClassifier",), partial(_model, classes=True), stored=ModelStore(),
           attributes=_CLASSIFIER),
)  # fmt: skip
