"""The op table: which core nodes and rules each Keras layer stands for.

A new layer is a row in ``ROWS``. A row is a function of a ``Site`` (one call of a layer with its config,
variables and shapes). Layers without a row, custom ones and Lambdas among them, are opaque.

Source of every line: keras/src/layers and tf_keras/src/layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from bnfuse.core.reasons import Reason
from bnfuse.core.rules import Sign
from bnfuse.formats.base import Malformed
from bnfuse.formats.keras.graph.network import Layer
from bnfuse.formats.keras.rows.activations import activation_rule, layer_rule
from bnfuse.formats.keras.rows.affine_layers import batchnorm, layer_norm, normalization, rescaling, untouched
from bnfuse.formats.keras.rows.linear_layers import (
    attention,
    convolution,
    dense,
    depthwise,
    einsum_dense,
    embedding,
    recurrent,
    separable,
    transposed,
)
from bnfuse.formats.keras.rows.moving_layers import (
    chosen,
    concatenate,
    dropout,
    flatten,
    global_pool,
    permute,
    pool,
    product,
    repeat,
    reshape,
    same,
    spatial,
    total,
    upsampling,
    zero_padding,
)
from bnfuse.formats.keras.rows.site import Part, Site, opaque, single

Row = Callable[[Site], Sequence[Part]]

BATCHNORMS = frozenset(
    ("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization")
)


def _activation(site: Site) -> Sequence[Part]:
    rule = activation_rule(site.config.get("activation"))
    return same(site) if rule is None else single(site, rule)


def _activation_layer(site: Site) -> Sequence[Part]:
    return single(site, layer_rule(site.layer.class_name, site.config))


def _nonlinear(site: Site) -> Sequence[Part]:
    return single(site, opaque(Reason.NONLINEAR))


_average = total(lambda n: (1.0 / n,) * n)
_MAX = Sign.NONNEGATIVE

_LINEAR: dict[str, Row] = {
    "Dense": dense,
    "EinsumDense": einsum_dense,
    **{f"Conv{n}D": partial(convolution, n=n) for n in (1, 2, 3)},
    **{f"Convolution{n}D": partial(convolution, n=n) for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": partial(transposed, n=n) for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": partial(depthwise, n=n) for n in (1, 2)},
    **{f"SeparableConv{n}D": partial(separable, n=n) for n in (1, 2)},
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), recurrent),
    "MultiHeadAttention": attention,
    "Embedding": embedding,
}
ROWS: dict[str, Row] = {
    **_LINEAR,
    # affine per channel
    **dict.fromkeys(BATCHNORMS, batchnorm),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization"), layer_norm),
    "Normalization": normalization,
    "Rescaling": rescaling,
    # activations
    "Activation": _activation,
    **dict.fromkeys(("ReLU", "LeakyReLU", "PReLU"), _activation_layer),
    **dict.fromkeys(("ELU", "Softmax", "ThresholdedReLU"), _nonlinear),
    # pooling
    **{f"MaxPooling{n}D": partial(pool, n=n, sign=_MAX) for n in (1, 2, 3)},
    **{f"AveragePooling{n}D": partial(pool, n=n) for n in (1, 2, 3)},
    **{f"GlobalMaxPooling{n}D": partial(global_pool, n=n, sign=_MAX) for n in (1, 2, 3)},
    **{f"GlobalAveragePooling{n}D": partial(global_pool, n=n) for n in (1, 2, 3)},
    # moving values about
    **dict.fromkeys(("Identity", "ActivityRegularization"), same),
    **dict.fromkeys(
        ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianNoise",
         "GaussianDropout", "AlphaDropout"),
        dropout,
    ),
    **{f"ZeroPadding{n}D": partial(zero_padding, n=n) for n in (1, 2, 3)},
    **{f"Cropping{n}D": partial(spatial, n=n) for n in (1, 2, 3)},
    **{f"UpSampling{n}D": partial(upsampling, n=n) for n in (1, 2, 3)},
    "Flatten": flatten,
    "Reshape": reshape,
    "Permute": permute,
    "RepeatVector": repeat,
    # several inputs
    "Add": total(lambda n: (1.0,) * n),
    "Subtract": total(lambda n: (1.0, -1.0)),
    "Average": _average,
    "Multiply": product,
    **dict.fromkeys(("Maximum", "Minimum"), chosen),
    "Concatenate": concatenate,
}  # fmt: skip

# keras.ops nodes whose class name is also a layer's, and that mean the same.
_SHARED_WITH_OPS = frozenset(("Add", "Subtract", "Multiply"))


_FLOATS = ("float16", "bfloat16", "float32", "float64")
_WIDENS = frozenset(
    (a, b) for a in _FLOATS for b in ("float32", "float64") if _FLOATS.index(a) < _FLOATS.index(b)
)


def parts_of(site: Site) -> Sequence[Part]:
    """The core nodes of one call of a layer, and of the casts of its inputs to what it computes in."""
    casts = {
        v: f"{site.outputs[0]}/cast/{v}"
        for v, has in zip(site.inputs, site.dtypes, strict=False)
        if _casts(site, has)
    }
    if not casts:
        return _layer_parts(site)
    cast = opaque(Reason.OTHER_TYPE, f"cast to {site.compute_dtype}")
    made = [Part("cast", (v,), (new,), cast, role="cast") for v, new in casts.items()]
    behind = replace(site, inputs=tuple(casts.get(v, v) for v in site.inputs))
    return [*made, *_layer_parts(behind)]


def _casts(site: Site, has: str | None) -> bool:
    """Whether an input is rounded to a narrower type, or changes type on its way through.

    What an unnormalised value loses when it is cast is not what the normalised one loses. A linear
    layer that reads in a wider type loses nothing.
    """
    layer, computes = site.layer, site.compute_dtype
    if layer.class_name not in ROWS or _is_op(layer):  # opaque anyway; a function has no type of its own
        return False
    if has == computes or has not in _FLOATS or computes not in _FLOATS:
        return False
    return layer.class_name not in _LINEAR or (has, computes) not in _WIDENS


def _layer_parts(site: Site) -> Sequence[Part]:
    layer = site.layer
    if layer.registered or layer.class_name not in ROWS:
        return untouched(site)
    if _is_op(layer) and layer.class_name not in _SHARED_WITH_OPS:
        return untouched(site)
    try:
        return ROWS[layer.class_name](site)
    except Malformed as e:
        part = Part(layer.class_name, site.inputs, site.outputs, opaque(Reason.BAD_PARAMETERS, str(e)))
        part.is_batchnorm = layer.class_name in BATCHNORMS
        return [part]


def _is_op(layer: Layer) -> bool:
    """Whether it is a ``keras.ops`` node."""
    return ".ops." in f".{layer.module}."
