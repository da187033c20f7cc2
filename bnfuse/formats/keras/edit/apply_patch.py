"""A patch applied to a Keras model: layers go, settings change, variables get new values.

Knows nothing of folding. Configs are edited by ``rewrite``, which keeps the dialect and puts the layers
into Keras's order; here each layer of the result gets its variables, by its path: those of the
input, or new ones. Calls that share a layer agree on what it absorbs, so the first one speaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnfuse.core.apply import Moved, NewAffine, NewLinear, OverflowingFold, Patch
from bnfuse.core.graph import Node
from bnfuse.core.scaled import ScaledTensor, round_once
from bnfuse.core.tensor import Array
from bnfuse.formats.child.messages import dtype_named
from bnfuse.formats.keras.edit.insert_layer import Move
from bnfuse.formats.keras.edit.rewrite import Configure, Edit, Remove, rewrite
from bnfuse.formats.keras.graph.config import parse
from bnfuse.formats.keras.graph.flow import CallHandle, handle_of
from bnfuse.formats.keras.graph.layer_variables import slots
from bnfuse.formats.keras.graph.network import Layer, Network, Variable, walk
from bnfuse.formats.keras.graph.variables import ArrayVariable, ScaledVariable
from bnfuse.formats.keras.rows.site import LayerPath, Site, StoredVar


@dataclass(eq=False)
class EditedConfig:
    """The edited config, and the network it describes with its variables."""

    config: Any
    network: Network
    flushed_early: int = 0

    @property
    def flushed(self) -> int:
        """Subnormals flushed; complete once all variables have been read."""
        variables = (v for _, layer in walk(self.network) for v in layer.variables)
        return self.flushed_early + sum(v.flushed for v in variables if isinstance(v, ScaledVariable))


@dataclass(eq=False)
class ConfigEditor:
    """Collects what a patch changes."""

    edits: dict[LayerPath, Edit] = field(default_factory=dict)
    arrays: dict[tuple[LayerPath, str], Array | ScaledTensor] = field(default_factory=dict)
    flushed: int = 0
    moves: dict[LayerPath, Move] = field(default_factory=dict)

    def collect(self, patch: Patch) -> None:
        """Work out all small values; kernels and tables wait until they are written.

        Raises:
            OverflowingFold: a new small value does not fit its type.
        """
        for node in patch.removed:
            self.edits[handle_of(node).site.path] = Remove()
        for node, linear in patch.linears.items():
            self._guarded(linear.folded, self._linear, node, linear)
        for node, affine in patch.affines.items():
            self._guarded(affine.folded, self._affine, node, affine)
        for moved in patch.moved:
            self._guarded((moved.node.name,), self._move, moved.node, moved)
        for node, source in patch.sources.items():
            stored = _stored(handle_of(node))
            self.arrays[stored.path, stored.weight] = source.values

    def _guarded(self, folded: tuple[str, ...], change: Any, node: Node, new: Any) -> None:
        try:
            change(handle_of(node), new)
        except FloatingPointError as e:
            raise OverflowingFold(folded) from e

    def _configure(self, path: LayerPath, changes: Mapping[str, Any]) -> None:
        before = self.edits.get(path)
        old = before.changes if isinstance(before, Configure) else {}
        self.edits[path] = Configure({**old, **changes})

    def _round(self, values: Array, dtype: np.dtype[Any]) -> Array:
        rounded, flushed = round_once(np.asarray(values, np.float64), dtype)
        self.flushed += flushed
        return rounded

    # --- what layers take on

    def _linear(self, handle: CallHandle, new: NewLinear) -> None:
        stored = _stored(handle)
        if (stored.path, stored.weight) in self.arrays or (stored.path, stored.bias) in self.arrays:
            return  # another call of the same layer
        if new.weight is not None:
            self.arrays[stored.path, stored.weight] = new.weight
        if new.makes_bias:
            bias = self._round(new.bias(), new.rule.weight.dtype)
            self.arrays[stored.path, stored.bias] = self._shaped(handle.site, stored, bias)
            if handle.site.variable(stored.bias) is None:
                self._configure(stored.path, stored.enables)

    def _shaped(self, site: Site, stored: StoredVar, bias: Array) -> Array:
        """A bias as the layer stores it."""
        old = site.variable(stored.bias)
        if not stored.bias_rows:
            return bias.reshape(-1, *(1,) * stored.bias_tail) if old is None else bias.reshape(old.shape)
        rows = np.zeros((stored.bias_rows, bias.size), bias.dtype) if old is None else np.array(old.read())
        rows[0] = bias
        return rows

    def _affine(self, handle: CallHandle, new: NewAffine) -> None:
        stored, site = _stored(handle), handle.site
        if (stored.path, stored.weight) in self.arrays:
            return
        if site.layer.class_name == "Rescaling":
            scale, offset = (float(v) if v.ndim == 0 else v.tolist() for v in (new.a, new.c))
            self._configure(stored.path, {"scale": scale, "offset": offset})
            return
        gamma, beta = new.a, new.c
        if handle.part.is_batchnorm:  # γ' = a'·√(σ² + ε), β' = c' + μ·a'
            mean, variance = site.vector("moving_mean"), site.vector("moving_variance")
            assert mean is not None and variance is not None
            gamma = new.a * np.sqrt(variance + float(site.config.get("epsilon", 1e-3)))
            beta = new.c + mean * new.a
        self._pair(site, stored, gamma, beta)

    def _move(self, handle: CallHandle, new: Moved) -> None:
        """In front of the joint, with those of its channels that stay."""
        stored, site, joint = _stored(handle), handle.site, handle_of(new.joint).site
        shape = joint.shapes[new.port]
        assert shape is not None
        sizes = tuple(n if isinstance(n, int) else None for n in shape)
        self.moves[stored.path] = Move(joint.path[-1], new.port, sizes)
        mean, variance = site.vector("moving_mean"), site.vector("moving_variance")
        assert mean is not None and variance is not None
        deviation = np.sqrt(variance[new.channels] + float(site.config.get("epsilon", 1e-3)))
        gamma, beta = new.a * deviation, new.c + mean[new.channels] * new.a
        # What the layer computes without γ or β comes back from a and c up to roundings of float64.
        gamma = np.where(np.abs(gamma - 1.0) < 1e-14, 1.0, gamma)
        beta = np.where(np.abs(beta) < 1e-14 * np.abs(new.c), 0.0, beta)
        self._pair(site, stored, gamma, beta)
        for name in ("moving_mean", "moving_variance"):
            variable = site.variable(name)
            assert variable is not None
            self.arrays[stored.path, name] = np.asarray(variable.read())[new.channels]

    def _pair(self, site: Site, stored: StoredVar, gamma: Array, beta: Array) -> None:
        """γ and β, made where the layer had none."""
        switches = {stored.weight: "scale", stored.bias: "center"}
        like = next((v.dtype for v in site.layer.variables if v.dtype.kind in "fV"), None)
        like = like or dtype_named(site.variable_dtype)
        for name, values, neutral in ((stored.weight, gamma, 1.0), (stored.bias, beta, 0.0)):
            old = site.variable(name)
            if old is None and (values == neutral).all():
                continue
            self.arrays[stored.path, name] = self._round(values, like if old is None else old.dtype)
            if old is None:
                self._configure(stored.path, {switches[name]: True})


def _stored(handle: CallHandle) -> StoredVar:
    assert handle.part.stored is not None
    return handle.part.stored


def edit(config: Any, network: Network, keras_version: str, patch: Patch) -> EditedConfig:
    """The edited model.

    Args:
        config: the stored config object; it is not changed.
        network: what it describes, with its variables bound.
        keras_version: as the file says.
        patch: what to do.

    Raises:
        OverflowingFold: a new value does not fit its type.
    """
    editor = ConfigEditor()
    editor.collect(patch)
    new_config = rewrite(config, editor.edits, keras_version, editor.moves)
    new_network = parse(new_config, keras_version)
    before = {(*path, layer.name): layer for path, layer in walk(network)}
    for path, layer in walk(new_network):
        place = (*path, layer.name)
        old = before[place]
        if layer.class_name == old.class_name:
            layer.variables = _variables(layer, old, place, editor.arrays)
    return EditedConfig(new_config, new_network, editor.flushed)


def _variables(
    layer: Layer, old: Layer, place: LayerPath, arrays: Mapping[tuple[LayerPath, str], Array | ScaledTensor]
) -> list[Variable]:
    """The variables of a layer of the result, in Keras's order."""
    made: dict[str, Variable] = {
        name: _variable(name, values, _source(old, name))
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


def _variable(name: str, values: Array | ScaledTensor, source: str) -> Variable:
    if isinstance(values, ScaledTensor):
        return ScaledVariable(name, values, source)
    return ArrayVariable(name, values, source)


def _source(layer: Layer, name: str) -> str:
    return next((v.source for v in layer.variables if v.name == name), "")
