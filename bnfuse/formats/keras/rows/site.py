"""One call of one layer, as the op table sees it; and the core nodes that a row makes of it.

A layer may be several nodes: a Dense with an activation is a linear op and an activation, a separable
convolution two linear ops. Inside a TimeDistributed a layer sees one step, but the values here have
their time axis: ``lead`` says how many axes that layer does not know of stand behind the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from bnfuse.core.axes import Shape
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.core.rules.base import Opaque, Rule
from bnfuse.core.weights.tensor import Array
from bnfuse.formats.child.messages import dtype_named
from bnfuse.formats.keras.graph.network import Call, Layer, LayerPath, Variable
from bnfuse.formats.table import Malformed, ShapeUnknown

if TYPE_CHECKING:
    from bnfuse.formats.keras.rows.stored import Store

FLOATS = ("float16", "bfloat16", "float32", "float64")  # types that layers compute in, and hold


class Part(Struct, eq=False):
    """One core node: ``rule`` is asked for when a demand meets it.

    ``constant`` is what it makes of a channel that is one positive number everywhere, where its rule does not
    tell.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rule: Rule | Callable[[str], Rule]  # called with the node's label
    role: str = ""  # tells the parts of one layer from each other
    stored: Store | None = None
    site: Site | None = None  # what ``stored`` is told, where that is not the layer as it is
    is_batchnorm: bool = False
    is_affine: bool = False  # may be removed too
    constant: Callable[[float], float] | None = None


class VariableTensor:
    """A variable as core reads it; held only while it is read through."""

    def __init__(self, variable: Variable, first_row: bool = False, copies: int = 0) -> None:
        self._variable = variable
        self._first_row = first_row
        self._copies = copies
        self._flat: Array | None = None
        shape = variable.shape[1:] if first_row else variable.shape
        self.shape = (copies, *shape) if copies else tuple(shape)
        self.dtype: np.dtype[Any] = variable.dtype

    def read(self, start: int, stop: int) -> Array:
        """Elements [start, stop) in C order."""
        if self._flat is None:
            array = self._variable.read()
            flat = np.ascontiguousarray(array[0] if self._first_row else array).reshape(-1)
            self._flat = np.tile(flat, self._copies or 1)
        found = self._flat[start:stop]
        if stop >= len(self._flat):
            self._flat = None
        return found


class Site(Struct, eq=False):
    """One call of a layer.

    Attributes:
        path: names that lead to the layer, its own last.
        inputs, outputs: core values, in the order of ``call.inputs`` and of the layer's outputs.
        shapes, out_shapes: theirs, batch included; None where unknown.
        dtypes: of the inputs, where known.
        training: whether the call (or one around it) asks for training behaviour.
        lead: axes between the batch and what the layer knows of.
        locked: why the variables must stay as they are; "" if they may change.
        keeps_sizes: whether the shapes are those at inference in all axes, not in their channels alone.
        carries_mask: whether the mask in the call, if there is one, is that of the first input anyway.
        holds_arrays: whether Keras loads arrays that stand in calls from such a file.
        inside: the keys that lead from the config of what is at ``path`` to that of ``layer``, which it
            wraps.
    """

    layer: Layer
    path: LayerPath
    call: Call | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[Shape | None, ...]
    out_shapes: tuple[Shape | None, ...]
    dtypes: tuple[str | None, ...]
    training: bool = False
    lead: int = 0
    locked: str = ""
    carries_mask: bool = True
    keeps_sizes: bool = True
    holds_arrays: bool = True
    inside: tuple[str | int, ...] = ()

    @property
    def config(self) -> Mapping[str, Any]:
        """The layer's config."""
        return self.layer.config

    def rank(self, known: int | None = None) -> int | None:
        """Axes of the first input; ``known`` is what the layer insists on, without ``lead``."""
        shape = self.shapes[0] if self.shapes else None
        if shape is not None:
            return len(shape)
        return None if known is None else known + self.lead

    def out_rank(self) -> int | None:
        """Axes of the first output."""
        shape = self.out_shapes[0] if self.out_shapes else None
        return None if shape is None else len(shape)

    @property
    def channels_first(self) -> bool:
        """Where the layer's ``data_format`` puts the channels; Keras reads it in any case.

        Raises:
            Malformed: it says neither.
        """
        stored = str(self.config.get("data_format") or "channels_last").lower()
        if stored not in ("channels_first", "channels_last"):
            raise Malformed(f"data_format '{stored}'")
        return stored == "channels_first"

    def window(self, key: str, n: int, default: int | None = None) -> tuple[int, ...]:
        """A setting of ``n`` sizes above 0, one per spatial axis; one number stands for all.

        Raises:
            Malformed: it is nothing of the kind, or missing where there is no default.
        """
        stored = self.config.get(key, default)
        sizes = tuple(stored) if isinstance(stored, (list, tuple)) else (stored,) * n
        if len(sizes) != n or any(type(k) is not int or not 0 < k < 1 << 31 for k in sizes):
            raise Malformed(f"{key} {stored}")
        return sizes

    def channel_axis(self, rank: int) -> int:
        """The axis that ``data_format`` calls channels."""
        return 1 + self.lead if self.channels_first else rank - 1

    def spatial_axes(self, rank: int) -> range:
        """All axes but the batch, the leading ones and the channels."""
        return range(2 + self.lead, rank) if self.channels_first else range(1 + self.lead, rank - 1)

    def axis(self, given: int, rank: int) -> int:
        """An axis as the layer counts it, as the values count it."""
        return given + rank if given < 0 else given + (self.lead if given else 0)

    def variable(self, name: str) -> Variable | None:
        """A variable of the layer by name."""
        return next((v for v in self.layer.variables if v.name == name), None)

    def tensor(self, name: str, first_row: bool = False, copies: int = 0) -> VariableTensor | None:
        """A floating-point variable as core reads it: its first row, or several copies of it."""
        found = self.variable(name)
        if found is None or found.dtype.kind not in "fV" or found.dtype.itemsize < 2:
            return None
        return VariableTensor(found, first_row, copies)

    def vector(self, name: str) -> np.ndarray | None:
        """A small variable in float64."""
        found = self.variable(name)
        return None if found is None else np.asarray(found.read()).astype(np.float64)

    @property
    def unmasked(self) -> tuple[str, ...]:
        """The inputs without the mask, for a layer that does not look at it at inference."""
        names = self.call.keywords if self.call is not None else ()
        return tuple(v for j, v in enumerate(self.inputs) if names[j : j + 1] != ("mask",))

    @property
    def one_tensor(self) -> bool:
        """Whether its call hands it one tensor, by position; a mask may be beside it."""
        names = self.call.keywords if self.call is not None else ("",) * len(self.inputs)
        return [name for name in names if name != "mask"] == [""]

    @property
    def compute_dtype(self) -> str:
        """What the layer computes in, by its dtype policy."""
        return compute_dtype(self.config.get("dtype"))

    @property
    def variable_dtype(self) -> str:
        """What the layer's variables have, by its dtype policy."""
        return variable_dtype(self.config.get("dtype"))

    @property
    def holds(self) -> np.dtype[Any] | None:
        """What γ and β have, or would have if they were made; None where that is no type that is known."""
        floats = (v.dtype for v in self.layer.variables if v.dtype.kind in "fV")
        named = self.variable_dtype
        return next(floats, dtype_named(named) if named in FLOATS else None)

    def casts(self, label: str) -> Refusal | None:
        """A refusal where the layer computes in another type than its input has."""
        has = self.dtypes[0] if self.dtypes else None
        if has is None or has == self.compute_dtype:
            return None
        return Refusal(Reason.OTHER_TYPE, label, detail=f"{self.compute_dtype}, not {has}")


_COMPUTES = {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}


def compute_dtype(policy: Any) -> str:
    """The dtype that a layer with this stored policy computes in."""
    name = policy_name(policy)
    return _COMPUTES.get(name, name)


def variable_dtype(policy: Any) -> str:
    """The dtype of the variables of a layer with this stored policy."""
    name = policy_name(policy)
    return "float32" if name in _COMPUTES else name


def policy_name(policy: Any) -> str:
    """The name of a stored policy; "float32" where the file does not say."""
    if isinstance(policy, Mapping):
        inner = policy.get("config")
        policy = (inner.get("name") or inner.get("source_name")) if isinstance(inner, Mapping) else None
    return policy.rpartition("_from_")[2] if isinstance(policy, str) else "float32"


# What a row makes of a call: core nodes, or the rule of a layer that is one node.
Parts = Rule | Sequence[Part]


def nodes(row: Callable[[Site], Parts] | Rule, site: Site) -> Sequence[Part]:
    """The core nodes that a row makes of a call."""
    try:
        made = row if isinstance(row, Rule) else row(site)
    except ShapeUnknown:
        made = Opaque(Reason.SHAPE_UNKNOWN)
    return single(site, made) if isinstance(made, Rule) else made


def single(
    site: Site,
    rule: Rule | Callable[[str], Rule],
    stored: Store | None = None,
    *,
    is_batchnorm: bool = False,
    is_affine: bool = False,
) -> Sequence[Part]:
    """A layer that is one node."""
    op, ends = site.layer.class_name, (site.inputs, site.outputs)
    return [Part(op, *ends, rule, stored=stored, is_batchnorm=is_batchnorm, is_affine=is_affine)]


def alone(
    rule: Callable[[Site, str], Rule], stored: Store, *, is_affine: bool = False
) -> Callable[[Site], Sequence[Part]]:
    """A row of layers that are one node, of which ``rule`` tells by call and label."""
    return lambda site: single(site, partial(rule, site), stored, is_affine=is_affine)
