"""What a user may say about how a model is read, and what may be made of it."""

from __future__ import annotations

from os import PathLike
from typing import Literal

from msgspec import Struct


class ReadOptions(Struct, frozen=True):
    """What the user said about reading, and what may be made of it.

    ``strict_inputs`` refuses models whose initializers are all listed as inputs (IR ≥ 4);
    ``freeze_inputs`` treats initializers that a caller could override as constants.
    ``activations`` "move" lets them become clamps with other bounds, where more folds go so.
    ``target`` "no-bn" does that too, and has what stays written as other operators, where that can be.
    ``allow_growth`` lets a small file ask for large weights, which it computes, and the result store them.
    ``round_bias`` keeps biases that are stored in whole steps (ONNX, 32-bit integers) so, which rounds them.
    ``weights`` is the file that belongs to an architecture in JSON.
    ``equalize`` has channels rescaled in the end, for those who quantise the result.
    ``keep`` holds names, and patterns with ``*``, ``?`` and ``[…]``, of BatchNormalizations that are to stay.
    """

    strict_inputs: bool = False
    freeze_inputs: bool = False
    activations: Literal["keep", "move"] = "keep"
    target: Literal["any", "no-bn"] = "any"
    equalize: bool = False
    keep: tuple[str, ...] = ()
    allow_growth: bool = False
    round_bias: bool = False
    weights: str | PathLike[str] | None = None
