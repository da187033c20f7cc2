"""A row of the op table: all that is known of an ONNX operator."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from bnfuse.core.rules.base import Rule
    from bnfuse.formats.onnx.graph.extents.call import Rule as Extents
    from bnfuse.formats.onnx.rows.stored import Store
    from bnfuse.formats.onnx.rows.view import View


EVERY = sys.maxsize  # of the operands


class OpKind(Struct, frozen=True):
    """What an operator is to every room of this format.

    Attributes:
        ops: its names: operators that differ in what their nodes say alone.
        rule: which rule of core a node obeys, by what the node says or whatever it says; None where it is not
            looked into.
        extents: how the sizes of axes change; None where that cannot be told.
        stored: how it stores a scale and shift that it absorbs; None where its rules absorb nothing.
        operands: how many of its first inputs, where constant, are nodes of their own, which can absorb.
        removable: whether a node that is affine may go, as a BatchNormalization does.
        constant: what it makes of a channel that is one positive number everywhere, where it works on every
            channel alone and alike; None (or an answer of None) where that is no number, or not known.
        attributes: their types by name, of an operator of another domain, whose name is "domain.Operator".
    """

    ops: tuple[str, ...]
    rule: Callable[[View], Rule] | Rule | None = None
    extents: Extents | None = None
    stored: Store | None = None
    operands: int = 0
    removable: bool = False
    constant: Callable[[View, float], float | None] | None = None
    attributes: Mapping[str, int] | None = None
