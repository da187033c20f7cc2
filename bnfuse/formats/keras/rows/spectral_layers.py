"""A row of the op table: SpectralNormalization, at inference what it wraps.

It divides the kernel by its norm while it trains, and stores what comes of it. The wrapper holds the kernel
too, so that an archive has it twice, and a vector of its own. Sources: ``SpectralNormalization`` of
keras/src/layers/normalization and of tf_keras.

When it does not act: told to train, it changes the kernel at each call. Keras 3 casts what comes out to the
type of what went in, so that the rows of an Embedding that reads whole numbers become whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque
from bnfuse.formats.keras.graph.calls import is_keras3
from bnfuse.formats.keras.graph.network import Call, Layer
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.site import Parts, Site, nodes
from bnfuse.formats.keras.rows.sizes import UNKNOWN, Inputs, Outputs, ranked
from bnfuse.formats.keras.rows.variables import Config, Slot, Slots, below, is_own, special_storage

Kinds = Mapping[str, LayerKind]
# What has one kernel, or a table, and a row.
_WRAPPED = frozenset(
    {"Dense", "EinsumDense", "Embedding", "DepthwiseConv1D", "DepthwiseConv2D"}
    | {"LocallyConnected1D", "LocallyConnected2D"}
    | {f"Conv{n}D{transposed}" for n in (1, 2, 3) for transposed in ("", "Transpose")}
)


def spectral(site: Site, *, kinds: Kinds) -> Parts:
    """What it wraps, on the variables of both."""
    inner = wrapped(site.layer)
    if inner is None:
        return Opaque(detail="what it wraps is not looked into")
    if site.training or (site.call is not None and site.call.constants):
        return Opaque(Reason.TRAINING_MODE)
    within = replace(site, layer=inner, inside=("layer", "config"))
    given, made = site.dtypes[0] if site.dtypes else None, within.compute_dtype
    is_keras2 = site.call is not None and site.call.raw is not None and not is_keras3(site.call.raw)
    if made != site.compute_dtype or (given != made and not is_keras2):
        return Opaque(Reason.OTHER_TYPE, f"{made}, not {given}")
    row = kinds[inner.class_name].parts
    parts = () if row is None else nodes(row, within)
    for part in parts:
        part.site = within
    return parts


def wrapped(layer: Layer) -> Layer | None:
    """The layer in a SpectralNormalization, with the variables of both; None where nothing is known of it."""
    stored = _stored(layer.config) if layer.class_name == "SpectralNormalization" else None
    if stored is None:
        return None
    return replace(layer, class_name=stored["class_name"], module="", config=stored["config"], entry=stored)


def _stored(config: Config) -> dict[str, Any] | None:
    """What it wraps, if a plain layer of its own with a kernel; a mask would be one more thing to hand on."""
    stored: Any = config.get("layer")
    if isinstance(stored, dict) and isinstance(stored.get("shared_object_id"), int):
        return None  # its variables lie where Keras met it first
    if not is_own(stored, _WRAPPED) or special_storage(stored["config"]) or stored["config"].get("mask_zero"):
        return None
    return stored  # type: ignore[no-any-return]


def _shapes(layer: Layer, inputs: Inputs, call: Call | None, *, kinds: Kinds) -> Outputs:
    inner = wrapped(layer)
    if inner is None:
        return UNKNOWN
    kind = kinds[inner.class_name]
    if kind.rank is not None:
        inputs = (ranked(inputs[0], kind.rank), *inputs[1:])
    return kind.shapes(inner, inputs, call)


def _variables(config: Config, *, kinds: Kinds) -> Slots | None:
    """The kernel as its own and again as that of the layer in it; ``vector_u``; and the bias."""
    stored = _stored(config)
    slots = None if stored is None else kinds[stored["class_name"]].variables(stored["config"])
    if stored is None or not slots:
        return None
    trains = stored["config"].get("trainable", True) is not False
    kernel, *rest = (replace(slot, trainable=trains) for slot in slots)
    twice = replace(kernel, place="vars/0", copy=f"layer/{kernel.place}")
    return (twice, Slot("vector_u", "vars/1", trainable=False), *below("layer", rest))


def row(kinds: Kinds) -> LayerKind:
    """The row, by those of the layers that it may wrap."""
    return LayerKind(
        ("SpectralNormalization",),
        partial(spectral, kinds=kinds),
        partial(_shapes, kinds=kinds),
        partial(_variables, kinds=kinds),
        linear=True,
    )
