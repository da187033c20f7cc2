"""The flat list in which HDF5 keeps the weights of everything inside one top-level layer.

Keras writes ``layer.trainable_weights + layer.non_trainable_weights``: for a nested model or a wrapper
that is first the trainable variables of all layers inside, then the others, a frozen layer (``trainable``
false) counting wholly among the others. For a network that is itself frozen Keras 3 writes layer by
layer instead. Loading goes by position alone, so a wrong order gives no error and a wrong model.

The rule says the position; the stored names (``inn/dense_1/kernel:0``) are the witness. Where they
contradict both orders, or a class is unknown and the names do not say whose a variable is, the file is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from msgspec import Struct

from bnfuse.formats.keras.graph.network import Layer, LayerPath, saved_layers
from bnfuse.formats.keras.rows.ops import slots
from bnfuse.formats.keras.rows.variables import Slot, in_turn


class FlatLayer(Struct, frozen=True):
    """A layer that holds variables of its own, with the names that lead to it and its slots if known."""

    path: LayerPath
    layer: Layer
    slots: tuple[Slot, ...] | None

    @property
    def frozen(self) -> bool:
        """Whether all its variables count as non-trainable."""
        return self.layer.config.get("trainable", True) is False


# One expected variable: whose it is, and which.
Expected = tuple[FlatLayer, Slot]


def leaves(layer: Layer, path: LayerPath) -> Iterator[FlatLayer]:
    """What is inside a layer, in the order Keras tracks it; the layer itself if nothing is."""
    if layer.inner is not None:
        for inner in saved_layers(layer.inner):
            yield from leaves(inner, (*path, inner.name))
    elif layer.wrapped:
        for wrapped in layer.wrapped:
            yield from leaves(wrapped, (*path, wrapped.name))
    else:
        yield FlatLayer(path, layer, slots(layer))


def is_trainable(leaf: FlatLayer, slot: Slot) -> bool:
    """Whether a variable counts among the trainable ones."""
    return slot.trainable and not leaf.frozen


def expected(inside: Sequence[FlatLayer], interleaved: bool) -> list[Expected] | None:
    """The variables in the order of the file; None where a class is unknown."""
    pairs: list[Expected] = []
    for leaf in inside:
        if leaf.slots is None:
            return None
        pairs += [(leaf, slot) for slot in in_turn(leaf.slots)]
    return pairs if interleaved else sorted(pairs, key=lambda pair: not is_trainable(*pair))


def contradiction(order: Sequence[Expected], stored: Sequence[str]) -> str | None:
    """The first stored name that speaks for another layer or another variable; None if all agree."""
    names = {leaf.layer.name for leaf, _ in order}
    parted = {name for name in names if "/" in name}
    for (leaf, slot), name in zip(order, stored, strict=True):
        owners = _owners(name, names, parted)
        if owners and leaf.layer.name not in owners:
            return name
        kinds = {s.name.rsplit("/", 1)[-1] for s in leaf.slots or ()}
        kind = variable_name(name).rsplit("/", 1)[-1]
        if kind in kinds and kind != slot.name.rsplit("/", 1)[-1]:
            return name
    return None


def by_name(inside: Sequence[FlatLayer], stored: Sequence[str]) -> list[FlatLayer] | str:
    """Whose each stored variable is, by its name; or the first name that does not say."""
    names = {leaf.layer.name: leaf for leaf in inside}
    if len(names) < len(inside):
        return stored[0]
    owner: list[FlatLayer] = []
    parted = {name for name in names if "/" in name}
    for name in stored:
        owners = _owners(name, names.keys(), parted)
        if len(owners) != 1:
            return name
        owner.append(names[owners.pop()])
    return owner


def _owners(stored: str, names: Set[str], parted: Set[str]) -> set[str]:
    """Those of ``names`` that are part of a stored name's path; ``parted`` are those with a slash."""
    found = {part for part in stored.split("/")[:-1] if part in names}
    return found or {name for name in parted if f"/{name}/" in f"/{stored}"}


def variable_name(stored: str) -> str:
    """A stored name without TensorFlow's output number: ``kernel:0`` → ``kernel``."""
    head, colon, number = stored.rpartition(":")
    return head if colon and number.isdigit() else stored
