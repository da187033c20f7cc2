"""A patch applied to a Keras model: layers go, settings change, variables get new values.

Knows nothing of folding. Configs are edited by ``rewrite``, which keeps the dialect and puts the layers
into Keras's order; here each layer of the result gets its variables, by its path: those of the
input, or new ones. Calls that share a layer agree on what it absorbs, so the first one speaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.core.apply import Moved, Patch, refuse
from bnfuse.core.axes import Shape
from bnfuse.core.graph import Node
from bnfuse.core.planning.constant_channel import stored_axis
from bnfuse.core.weights.scaled import ScaledTensor, round_once
from bnfuse.core.weights.tensor import Array
from bnfuse.core.widened import WidenedLinear, widened
from bnfuse.formats.child.messages import dtype_named
from bnfuse.formats.keras.edit.insert_layer import Move
from bnfuse.formats.keras.edit.insert_ops import Compute, Follow
from bnfuse.formats.keras.edit.insert_sum import Sum
from bnfuse.formats.keras.edit.rewrite import Become, Configure, Edit, NewConstants, Remove, rewrite
from bnfuse.formats.keras.edit.widen import wider_values
from bnfuse.formats.keras.graph.call_constants import CallVariable
from bnfuse.formats.keras.graph.call_nodes import WIDENED, handle_of
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.network import Layer, LayerPath, Network, Variable, walk
from bnfuse.formats.keras.graph.variables import NewVariable
from bnfuse.formats.keras.rows.ops import slots
from bnfuse.formats.keras.rows.site import Site
from bnfuse.formats.keras.rows.stored import (
    AffineStore,
    BatchNormStore,
    ClampStore,
    LinearStore,
    Store,
    TableStore,
    rescaling_of,
)

if TYPE_CHECKING:
    from bnfuse.formats.keras.graph.flow import OutputPath

_PLAIN = LinearStore()  # of all layers in WIDENED


class EditedConfig(Struct, eq=False):
    """The edited config, and the network it describes with its variables."""

    config: Any
    network: Network
    flushed_early: int = 0

    @property
    def flushed(self) -> int:
        """Subnormals flushed; complete once all variables have been read."""
        variables = (v for _, layer in walk(self.network) for v in layer.variables)
        return self.flushed_early + sum(v.flushed for v in variables if isinstance(v, NewVariable))


class ConfigEditor(Struct, eq=False):
    """Collects what a patch changes; the stores of ``rows`` write into it."""

    edits: dict[LayerPath, Edit] = field(default_factory=dict)
    arrays: dict[tuple[LayerPath, str], Array | ScaledTensor] = field(default_factory=dict)
    flushed: int = 0
    moves: dict[LayerPath, Move] = field(default_factory=dict)
    behind: dict[LayerPath, Follow] = field(default_factory=dict)
    _spoken: set[tuple[LayerPath, str]] = field(default_factory=set)
    _overflowing: set[str] = field(default_factory=set)  # whose folds do not fit

    def collect(self, patch: Patch) -> None:
        """Work out all small values; kernels and tables wait until they are written.

        Raises:
            OverflowingFold: new small values do not fit their types.
        """
        for node in patch.removed:
            self.edits[handle_of(node).site.path] = Remove()
        wider = widened(patch.linears, patch.edits, patch.channels)
        for node, linear in patch.linears.items():
            if node in wider:
                self._guarded(linear.folded, self._widen, node, wider[node])
            elif self._speaks(node):
                self._guarded(linear.folded, _store(node, LinearStore).store, node, linear)
        for node, affine in patch.affines.items():
            if self._speaks(node):
                self._guarded(affine.folded, _store(node, AffineStore).store, node, affine)
        for node, clamp in patch.clamps.items():
            self._guarded(clamp.folded, _store(node, ClampStore).store, node, clamp)
        for node, affine in patch.arithmetic.items():
            site = handle_of(node).site
            self.edits[site.path] = Become("Rescaling", rescaling_of(site, affine))
        for moved in patch.moved:
            self._guarded((moved.node.name,), self._move, moved.node, moved)
        for node, source in patch.sources.items():
            _store(node, TableStore).store(handle_of(node).site, source, self)
        refuse(self._overflowing)

    def _speaks(self, node: Node) -> bool:
        """Whether it is the first call of its layer."""
        handle = handle_of(node)
        key = handle.site.path, handle.part.role
        first = key not in self._spoken
        self._spoken.add(key)
        return first

    def _guarded(self, folded: tuple[str, ...], change: Any, node: Node, new: Any) -> None:
        try:
            change(handle_of(node).site, new, self)
        except FloatingPointError:
            self._overflowing.update(folded)

    def _widen(self, site: Site, new: WidenedLinear, out: ConfigEditor) -> None:
        """With another channel in front or behind."""
        at = stored_axis(new.new.rule.form, "o")
        assert at is not None, "constant_channel asks for that"
        count = {WIDENED[site.layer.class_name]: int(new.weight.shape[at])}
        _PLAIN.widen(site, new, count, out)

    def _move(self, site: Site, new: Moved, out: ConfigEditor) -> None:
        """In front of the joint, with those of its channels that stay."""
        joint = handle_of(new.joint).site
        self.moves[site.path] = Move(joint.path[-1], new.port, _sizes(joint.shapes[new.port]))
        _store(new.node, BatchNormStore).move(site, new, out)

    # --- what the stores ask for

    def put(self, site: Site, name: str, values: Array | ScaledTensor) -> None:
        """New values of a variable, or of a constant that stands in a call."""
        variable = site.variable(name)
        if not isinstance(variable, CallVariable):
            self.arrays[site.path, name] = values
            return
        if isinstance(values, ScaledTensor):
            made = NewVariable(name, values)
            values = made.read()
            self.flushed += made.flushed
        before = self._constants(site)
        self.edits[site.path] = replace(before, arrays={**before.arrays, variable.place: values})

    def add(self, site: Site, bias: Array) -> None:
        """A sum behind a function."""
        behind = Sum(bias, _sizes(site.out_shapes[0]), site.dtypes[0] or "float32")
        self.edits[site.path] = replace(self._constants(site), then=behind)

    def _constants(self, site: Site) -> NewConstants:
        before = self.edits.get(site.path)
        return before if isinstance(before, NewConstants) else NewConstants({})

    def configure(self, site: Site, changes: Mapping[str, Any]) -> None:
        """New settings of a layer."""
        before = self.edits.get(site.path)
        old = before.changes if isinstance(before, Configure) else {}
        self.edits[site.path] = Configure({**old, **changes}, site.inside)

    def compute(self, site: Site, ops: Sequence[tuple[str, Array]]) -> None:
        """Nodes of ``keras.ops`` in a layer's place, one behind the other, each with a constant."""
        self.edits[site.path] = Compute(tuple(ops))

    def follow(self, site: Site, ops: Sequence[tuple[str, Array]]) -> None:
        """The same behind a layer: who read it reads the last of them."""
        self.behind[site.path] = Follow(tuple(ops), _sizes(site.out_shapes[0]), site.compute_dtype)

    def rounded(self, values: Array, dtype: np.dtype[Any] | str) -> Array:
        """Values in the type they are to be stored in, or in that of a name.

        Raises:
            FloatingPointError: they do not fit.
        """
        wanted = dtype_named(dtype) if isinstance(dtype, str) else dtype
        rounded, flushed = round_once(np.asarray(values, np.float64), wanted)
        self.flushed += flushed
        return rounded


def _sizes(shape: Shape | None) -> tuple[int | None, ...]:
    """A shape as configs hold it."""
    assert shape is not None, "rows let nothing be done there that needs a shape which is not known"
    return tuple(n if isinstance(n, int) else None for n in shape)


_S = TypeVar("_S", bound=Store)


def _store(node: Node, kind: type[_S]) -> _S:
    """How a node stores what it absorbed, which a rule of its kind says."""
    stored = handle_of(node).part.stored
    assert isinstance(stored, kind), f"{node.label} absorbs, but its row does not say how it stores"
    return stored


def edit(
    config: Any, network: Network, keras_version: str, patch: Patch, inside: Mapping[str, OutputPath]
) -> EditedConfig:
    """The edited model.

    Args:
        config: the stored config object; it is not changed.
        network: what it describes, with its variables bound.
        keras_version: as the file says.
        patch: what to do.
        inside: which layer puts out each of core's values.

    Raises:
        OverflowingFold: a new value does not fit its type.
    """
    editor = ConfigEditor()
    editor.collect(patch)
    wider = wider_values(patch.channels, inside)
    new_config = rewrite(config, editor.edits, keras_version, editor.moves, editor.behind, wider)
    new_network = parse(new_config, keras_version)
    before = {(*path, layer.name): layer for path, layer in walk(network)}
    for path, layer in walk(new_network):
        place = (*path, layer.name)
        old = before.get(place)  # None where it is new
        if old is not None and layer.class_name == old.class_name:
            layer.variables = _variables(layer, old, place, editor.arrays)
    return EditedConfig(new_config, new_network, editor.flushed)


def _variables(
    layer: Layer, old: Layer, place: LayerPath, arrays: Mapping[tuple[LayerPath, str], Array | ScaledTensor]
) -> list[Variable]:
    """The variables of a layer of the result, in Keras's order."""
    sources = {variable.name: variable.source for variable in old.variables}
    made: dict[str, Variable] = {
        name: NewVariable(name, values, sources.get(name, ""))
        for (path, name), values in arrays.items()
        if path == place
    }
    if not made:
        return list(old.variables)
    kept: Sequence[Variable] = [made.pop(v.name, v) for v in old.variables]
    if not made:
        return list(kept)
    order = [slot.name for slot in slots(layer) or ()]
    return sorted((*kept, *made.values()), key=lambda v: order.index(v.name))
