"""The table of traps: one small model each, and per candidate whether it folds or why it stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx

from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from tests.onnx_graphs import Net, Shape

Build = Callable[[Net], onnx.ModelProto]
FOLD = None
IMAGE: dict[str, Shape] = {"x": ("N", 3, 8, 9)}


@dataclass(frozen=True)
class Trap:
    """``decisions``: FOLD or a reason, per candidate in graph order."""

    name: str
    decisions: tuple[Reason | None, ...] | None  # None: nothing folds, whatever counts as a candidate
    build: Build
    dtype: str = "float32"
    options: ReadOptions = field(default_factory=ReadOptions)
    runs: bool = True  # whether onnxruntime runs the original


TRAPS: list[Trap] = []


def trap(
    name: str,
    *decisions: Reason | None,
    nothing: bool = False,
    dtype: str = "float32",
    runs: bool = True,
    options: ReadOptions | None = None,
) -> Callable[[Build], Build]:
    """Add a trap: one BN that folds unless told otherwise; ``nothing`` where nothing may be folded."""
    expected = None if nothing else decisions or (FOLD,)

    def add(build: Build) -> Build:
        TRAPS.append(Trap(name, expected, build, dtype, options or ReadOptions(), runs))
        return build

    return add


def plain(seed: int = 0, opset: int = 17) -> onnx.ModelProto:
    """Conv → BN, which folds."""
    net = Net(seed)
    return net.build(IMAGE, net.bn(net.conv("x", 3, 5, 3, 3), 5, out="answer"), opset=opset)
