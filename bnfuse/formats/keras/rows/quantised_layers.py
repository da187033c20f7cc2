"""Kernels that Keras 3 stores as integers: int8 and int4 of Dense and EinsumDense.

    int8, int4         w = q/kernel_scale, one for each output; inputs may be rounded to int8, row by row
    int4 in blocks     w = (q − kernel_zero)·kernel_scale, for each output and block of inputs (``g_idx``)

An int4 kernel lies packed along the outputs, the lower half of a byte first. What older versions packed along
the inputs is not looked into, nor are float8, GPTQ and AWQ.

Sources: keras/src/layers/core/dense.py (``_int8_call``, ``_int4_call``), keras/src/quantizers/quantizers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfuse.core.weights.quantised import QuantisedTensor
from bnfuse.core.weights.tensor import Array, ArrayTensor
from bnfuse.formats.keras.rows.stored import LinearStore
from bnfuse.formats.keras.rows.variables import Config, Slots, own, quantised_to

if TYPE_CHECKING:
    from bnfuse.core.apply import NewLinear
    from bnfuse.formats.keras.edit.apply_patch import ConfigEditor
    from bnfuse.formats.keras.rows.site import Site

_NAMES = ("kernel", "bias", "kernel_scale", "kernel_zero", "g_idx")
_WHOLE = ("int8", "int4")


def quantised_slots(config: Config, switch: str) -> Slots | None:
    """The variables of a layer that ``switch`` of its config gives a bias; None of modes not known here."""
    mode = quantised_to(config) or ""
    names = _NAMES if _in_blocks(config) else _NAMES[:3]
    if mode.partition("/")[0] not in _WHOLE or config.get("lora_rank"):
        return None
    kept = tuple(name for name in names if name != "bias" or config.get(switch, switch == "use_bias"))
    return own(*kept, frozen=set(names) - {"bias"})


def _in_blocks(config: Config) -> bool:
    mode, _, size = (quantised_to(config) or "").partition("/")
    told = size or str(_settings(config).get("block_size"))
    return mode == "int4" and told not in ("None", "-1")


def _settings(config: Config) -> Mapping[str, Any]:
    """What the layer's ``quantization_config`` says, if it has one."""
    given = config.get("quantization_config")
    inner = given.get("config") if isinstance(given, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def rounds_inputs(config: Config) -> bool:
    """Whether what the layer reads is rounded, as it is unless its settings say so."""
    settings = _settings(config)
    by_default = "activation_quantizer" not in settings
    return not _in_blocks(config) and (by_default or settings["activation_quantizer"] is not None)


def quantised_kernel(site: Site, layout: str) -> QuantisedTensor | None:
    """W as stored; None where it is none, or lies in another way than expected."""
    config = site.config
    q, scale = (site.variable(name) for name in ("kernel", "kernel_scale"))
    if q is None or scale is None or q.dtype != np.int8 or scale.dtype != np.float32 or len(q.shape) != 2:
        return None
    stored, scales = np.asarray(q.read()), np.asarray(scale.read())
    four = (quantised_to(config) or "").startswith("int4")
    if four:
        made = _unpacked(stored, scales.shape[-1], site) if layout == "i o" else None
        if made is None:
            return None
        stored = made
    low, high = (-8, 7) if four else (-128, 127)
    out = layout.split().index("o")
    if _in_blocks(config):
        zero, places = site.variable("kernel_zero"), site.variable("g_idx")
        if zero is None or places is None or zero.shape != scales.shape or places.shape != stored.shape[:1]:
            return None
        at = np.asarray(places.read()).astype(np.int64)
        if at.min(initial=0) < 0 or at.max(initial=0) >= scales.shape[0]:
            return None
        points = np.asarray(zero.read())
        return QuantisedTensor(
            ArrayTensor(stored), scales, points, low, high, several=False, signed=True, blocks={0: at}
        )
    if scales.size != stored.shape[out] or not (scales > 0.0).all():
        return None
    along = (1.0 / scales.astype(np.float64)).astype(np.float32).reshape((-1, 1) if out == 0 else (1, -1))
    zeros = np.zeros(along.shape, np.int8)
    return QuantisedTensor(ArrayTensor(stored), along, zeros, low, high, several=False)


def _unpacked(packed: Array, outputs: int, site: Site) -> Array | None:
    """Integers of 4 bits, shape (inputs, outputs)."""
    shape = site.shapes[0] if site.shapes else None
    inputs = shape[-1] if shape else None
    rows, columns = packed.shape
    if inputs != rows or columns != -(-outputs // 2) or (rows, columns) == (-(-rows // 2), outputs):
        return None
    halves = np.stack([packed << 4 >> 4, packed >> 4], axis=-1)  # arithmetic shifts keep the sign
    return halves.reshape(rows, 2 * columns)[:, :outputs]


def _packed(values: Array) -> Array:
    even = np.pad(values, ((0, 0), (0, values.shape[1] % 2)))
    packed: Array = (even[:, 0::2] & 15 | even[:, 1::2] << 4).astype(np.int8)
    return packed


class QuantisedStore(LinearStore, frozen=True):
    """Scales, integers where signs change, and a bias of floats."""

    def store_weight(self, site: Site, new: NewLinear, out: ConfigEditor) -> None:
        """In the form that they have."""
        assert new.weight is not None
        base, form, factors = new.rule.weight, new.weight.form, new.weight.factors
        assert isinstance(base, QuantisedTensor)
        made, scale = base.rescaled(form, factors), site.variable("kernel_scale")
        assert scale is not None
        old = np.asarray(scale.read())
        if base.signed:
            scales = made.scale
        else:  # stored is what integers are divided by
            scales = old.reshape(base.scale.shape) * (base.scale.astype(np.float64) / made.scale)
        out.put(site, "kernel_scale", out.rounded(scales.reshape(old.shape), old.dtype))
        if made.stored is not None:
            packs = base.highest == 7
            out.put(site, self.weight, _packed(made.stored) if packs else made.stored)
