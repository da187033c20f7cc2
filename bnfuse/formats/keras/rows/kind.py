"""A row of the op table: all that is known of a layer class, or of a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Flag, auto
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from bnfuse.formats.keras.rows.sizes import Shapes, unknown
from bnfuse.formats.keras.rows.variables import Config, Slots, none, unknown_slots

if TYPE_CHECKING:
    from bnfuse.core.rules.base import Rule
    from bnfuse.formats.keras.rows.site import Parts, Site


class Trait(Flag):
    """What else is known of a layer: what it tells of the model's inputs (``graph.hints``), and more."""

    NONE = 0
    HANDS_ON = auto()  # the numbers in its input
    MERGES = auto()  # tensors that fit together: equal along each axis, or broadcast
    JOINS = auto()  # tensors that may differ along ``axis``
    JOINT = auto()  # a BatchNormalization behind it can be moved in front of one of its inputs
    SIZES = auto()  # images, to the ``height`` and ``width`` of its config
    DRAWS = auto()  # random numbers, where a call asks for training


class LayerKind(Struct, frozen=True):
    """What a layer class is to every room of this format.

    Attributes:
        classes: its names.
        parts: the core nodes of one call: which rules they obey, and how they store what they absorb; a rule
            alone where a layer is one node; None where it is not looked into.
        shapes: what a call puts out. Asked only where the input has ``rank`` axes, if there is one.
        variables: what it holds, by its config; None where that cannot be told.
        rank: the number of axes it insists on in its input, batch included; None if it takes several.
        quantised: what it holds where its kernel is stored as integers; None of ways not known.
        linear: whether it reads in a wider type than its input has without loss.
        traits: what else is known of it.
        knows: the entry of its config that says how many numbers, from 0 on, it can be given.
    """

    classes: tuple[str, ...]
    parts: Callable[[Site], Parts] | Rule | None = None
    shapes: Shapes = unknown
    variables: Callable[[Config], Slots | None] = none
    rank: int | None = None
    linear: bool = False
    quantised: Callable[[Config], Slots | None] = unknown_slots
    traits: Trait = Trait.NONE
    knows: str = ""


def spatial_kinds(
    classes: tuple[str, ...],
    parts: Callable[..., Parts],
    shapes: Shapes,
    variables: Callable[[Config], Slots | None] = none,
    *,
    dims: Sequence[int] = (1, 2, 3),
    linear: bool = False,
) -> Iterator[LayerKind]:
    """A row for each number ``n`` of spatial axes, which ``parts`` is told: "Conv{n}D"."""
    for n in dims:
        names = tuple(name.format(n=n) for name in classes)
        yield LayerKind(names, partial(parts, n=n), shapes, variables, n + 2, linear)
