"""The op table: all that is known of each Keras layer and function, one row for each meaning.

A row says which core nodes and rules a layer stands for and how it stores what it absorbs, what it puts
out, and which variables it holds. The rows stand in the files beside this one, by kind of layer; the rest
of the format asks here. Layers without a row, custom ones and Lambdas among them, are opaque.

Source of every line: keras/src/layers and tf_keras/src/layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque
from bnfuse.formats.keras.graph.call_constants import CallVariable, Constant, only_leaf
from bnfuse.formats.keras.graph.calls import as_shape, is_keras3
from bnfuse.formats.keras.graph.network import Call, Layer, Variable
from bnfuse.formats.keras.rows import (
    activations,
    affine_layers,
    attention_layers,
    choosing_functions,
    convolution_layers,
    image_layers,
    joining_functions,
    linear_layers,
    merging_layers,
    moving_layers,
    opaque_layers,
    placing_functions,
    reckoning_functions,
    recurrent_layers,
    spectral_layers,
)
from bnfuse.formats.keras.rows.functions import Meaning, meaning
from bnfuse.formats.keras.rows.kind import LayerKind
from bnfuse.formats.keras.rows.site import FLOATS, Part, Site, nodes, single
from bnfuse.formats.keras.rows.sizes import UNKNOWN, Inputs, Outputs, ranked
from bnfuse.formats.keras.rows.stored import ClampStore
from bnfuse.formats.keras.rows.variables import Slots, refuses_edit, special_storage
from bnfuse.formats.table import Malformed

_FILES = (
    linear_layers, convolution_layers, recurrent_layers, attention_layers, affine_layers, activations,
    moving_layers, image_layers, merging_layers, opaque_layers,
)  # fmt: skip
_KINDS: tuple[LayerKind, ...] = tuple(kind for file in _FILES for kind in file.ROWS)
_PLAIN = {name: kind for kind in _KINDS for name in kind.classes}
ROWS = {**_PLAIN, "SpectralNormalization": spectral_layers.row(_PLAIN)}
_FUNCTIONS = (activations, placing_functions, choosing_functions, joining_functions, reckoning_functions)
_MEANINGS: dict[str, LayerKind] = {
    **ROWS,
    **{name: kind for file in _FUNCTIONS for name, kind in file.FUNCTIONS.items()},
}
_UNKNOWN = LayerKind(())
_NO_SENSE = (
    Malformed, TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, OverflowError, AttributeError,
)  # fmt: skip
_KERAS_MODULES = re.compile(r"(tf_)?keras(\.|$)|tensorflow(\.|$)|$")


def kind_of(layer: Layer) -> LayerKind | None:
    """The row of a layer; None where nothing is known of it, or it is a function."""
    return None if layer.registered or layer.function else ROWS.get(layer.class_name)


def named(class_name: str) -> LayerKind:
    """The row of a layer or function by its name alone; one that tells nothing where there is none."""
    return _MEANINGS.get(class_name, _UNKNOWN)


# --- shapes


def input_rank(layer: Layer) -> int | None:
    """The number of axes a layer insists on in its input, batch included; None if it takes several."""
    kind = kind_of(layer)
    return None if kind is None else kind.rank


def output_shapes(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    """The shapes of every output of one call of a layer that is no network and no TimeDistributed.

    Args:
        layer: the layer.
        inputs: the shape of each of the call's tensors.
        call: the call, for its other arguments; None inside a wrapper.
    """
    try:
        if layer.function:
            return _function_shapes(layer, inputs, call)
        kind = kind_of(layer)
        if kind is None:
            return UNKNOWN
        if kind.rank is not None:
            inputs = (ranked(inputs[0], kind.rank), *inputs[1:])
            if inputs[0] is None or len(inputs[0]) != kind.rank:
                return UNKNOWN
        return kind.shapes(layer, inputs, call)
    except _NO_SENSE:
        return UNKNOWN  # a config that makes no sense: nothing is known about the result


def _function_shapes(layer: Layer, inputs: Inputs, call: Call | None) -> Outputs:
    meant = None if layer.registered else meaning(layer, call, inputs)
    kind = None if meant is None else _MEANINGS.get(meant.row)
    if meant is None or kind is None:
        return UNKNOWN
    return kind.shapes(_stated(layer, meant), [inputs[port] for port in meant.ports], None)


def _stated(layer: Layer, meant: Meaning) -> Layer:
    """A function as the layer or row that it means, constants as variables; it still counts as a function."""
    config: dict[str, Any] = {k: v for k, v in meant.config.items() if not isinstance(v, Constant)}
    found = {k: v for k, v in meant.config.items() if isinstance(v, Constant)}
    variables = [CallVariable(name, constant) for name, constant in found.items()]
    return replace(layer, class_name=meant.row, module="keras.ops.", config=config, variables=list(variables))


# --- variables


def slots(layer: Layer) -> Slots | None:
    """The variables that hang on this layer itself, in the order of ``layer.weights``.

    Those of wrapped layers and of a nested network are not counted. None where the class is not known,
    is not Keras's own, or its config changes what is stored (quantised, LoRA), so that nobody relies on a
    position in them.
    """
    if layer.inner is not None or layer.wrapped:
        return ()
    kind = ROWS.get(layer.class_name)
    if layer.registered or not _KERAS_MODULES.match(layer.module) or kind is None:
        return None
    special = special_storage(layer.config) is not None
    return kind.quantised(layer.config) if special else kind.variables(layer.config)


def locked(layer: Layer) -> str:
    """Why the variables of a layer must stay as they are; "" if they may be changed."""
    quantised = special_storage(layer.config) is not None and bool(slots(layer))
    return refuses_edit(layer, quantised=quantised) or ""


# --- core nodes


# Rows that look at no axis, so that they are the same to one step of a TimeDistributed.
_ANYWHERE = frozenset(
    {"Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum", "Arithmetic", "Negative", "Identity"}
    | {"Homogeneous", "Nonlinear", "Nonlinear with a constant"}
)
_WIDENS = frozenset(
    (a, b) for a in FLOATS for b in ("float32", "float64") if FLOATS.index(a) < FLOATS.index(b)
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
    cast = Opaque(Reason.OTHER_TYPE, f"cast to {site.compute_dtype}")
    made = [Part("cast", (v,), (new,), cast, role="cast") for v, new in casts.items()]
    behind = replace(site, inputs=tuple(casts.get(v, v) for v in site.inputs))
    return [*made, *_layer_parts(behind)]


def _casts(site: Site, has: str | None) -> bool:
    """Whether an input is rounded to a narrower type, or changes type on its way through.

    What an unnormalised value loses when it is cast is not what the normalised one loses. A linear
    layer that reads in a wider type loses nothing.
    """
    kind, computes = kind_of(site.layer), site.compute_dtype
    if kind is None or kind.parts is None:
        return False  # opaque anyway, or a function, which has no type of its own
    if has == computes or has not in FLOATS or computes not in FLOATS:
        return False
    return not kind.linear or (has, computes) not in _WIDENS


def _layer_parts(site: Site) -> Sequence[Part]:
    if site.layer.function:
        return _function_parts(site)
    kind = kind_of(site.layer)
    if kind is None or kind.parts is None:
        why = "" if site.layer.registered else opaque_layers.WHY.get(site.layer.class_name, "")
        return single(site, Opaque(detail=why))
    try:
        return nodes(kind.parts, site)
    except Malformed as e:
        return single(site, Opaque(Reason.BAD_PARAMETERS, str(e)))


def _function_parts(site: Site) -> Sequence[Part]:
    """The row that a function means, where the call is understood as a whole."""
    unknown = single(site, Opaque())
    meant = (
        None if site.layer.registered else meaning(site.layer, site.call, [as_shape(s) for s in site.shapes])
    )
    kind = None if meant is None else _MEANINGS.get(meant.row)
    if meant is None or kind is None or kind.parts is None or (site.lead and meant.row not in _ANYWHERE):
        return unknown
    dtypes = tuple(site.dtypes[port] for port in meant.ports)
    try:
        layer = _stated(site.layer, meant)
        if "dtype" not in layer.config:  # a function computes in the type of what it reads
            layer.config["dtype"] = next(iter(dtypes), None) or "unknown"
        stated = replace(
            site,
            layer=layer,
            call=None,
            inputs=tuple(site.inputs[port] for port in meant.ports),
            shapes=tuple(site.shapes[port] for port in meant.ports),
            dtypes=dtypes,
            locked=_fixed(site, dtypes[0], layer.variables) if layer.variables else "",
        )
        parts = nodes(kind.parts, stated)
    except _NO_SENSE:
        return unknown
    for part in parts:
        if part.stored is not None:
            part.site = stated
    # A node that holds no variables can still be another node.
    holds = any(part.stored is not None and not isinstance(part.stored, ClampStore) for part in parts)
    return unknown if holds and not layer.variables else parts


def _fixed(site: Site, dtype: str | None, constants: Sequence[Variable]) -> str:
    """Why the constants of a call must stay as they are; "" if they may be rewritten."""
    call = site.call
    if call is None or len(site.layer.calls) != 1:
        return "its constants stand in calls that are not its own"
    if not site.holds_arrays:
        return "its constants stand in a call, of which Keras loads no arrays from HDF5"
    if any(v.shape and v.dtype.name != dtype for v in constants):
        return "its constants are of another type"
    if is_keras3(call.raw):
        return ""
    plain = only_leaf(call.raw) is not None
    # TensorFlow makes float32 of every list.
    return "" if plain and dtype == "float32" else "its constants stand where no others can be put"
