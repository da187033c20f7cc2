"""A row of the tables of guards: a small model that is at the edge of what a row of the op table takes on.

It says what becomes of every BatchNormalization in it, and, where it stays, what is said of that. The numbers
are compared in onnxruntime, unless that refuses the original.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from msgspec import Struct

from bnfuse.core.reasons import Reason
from bnfuse.formats.base import ReadOptions
from tests.onnx_graphs import Net

Build = Callable[[Net], onnx.ModelProto]
FOLD = None


class Guard(Struct, frozen=True):
    """One model.

    Attributes:
        name: what is at its edge.
        expected: FOLD or a reason, for each BatchNormalization.
        build: makes it.
        says: a part of what is said of the first one.
        runs: whether onnxruntime runs it.
    """

    name: str
    expected: tuple[Reason | None, ...]
    build: Build
    says: str = ""
    runs: bool = True
    options: ReadOptions = ReadOptions()


class Guards(list[Guard]):
    """Rows as they are written down."""

    def folds(self, name: str, build: Build, *, options: ReadOptions | None = None) -> None:
        """One whose BatchNormalization goes."""
        self.append(Guard(name, (FOLD,), build, options=options or ReadOptions()))

    def stays(self, name: str, reason: Reason, build: Build, *, says: str = "", runs: bool = True) -> None:
        """One whose BatchNormalization stays."""
        self.append(Guard(name, (reason,), build, says, runs))
