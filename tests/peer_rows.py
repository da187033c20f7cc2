"""A row of the table of places in which a BatchNormalization can stand.

A row builds one small model and says, per candidate in graph order, ``FOLD`` or the reason it stays,
and how many nodes go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import onnx

from bnfuse.core.reasons import Reason
from tests.onnx_graphs import Net

Build = Callable[[Net], onnx.ModelProto]
FOLD = None


@dataclass(frozen=True)
class Row:
    """``decisions``: FOLD or a reason, per candidate; ``gone``: how many nodes the model loses."""

    name: str
    decisions: tuple[Reason | None, ...]
    gone: int
    build: Build


class Adding(Protocol):
    """Makes a decorator that adds a row; unless told, each fold removes its node and adds none."""

    def __call__(
        self, name: str, *decisions: Reason | None, gone: int | None = None
    ) -> Callable[[Build], Build]: ...


def adding_to(rows: list[Row]) -> Adding:
    """The decorator of one module's rows."""

    def row(name: str, *decisions: Reason | None, gone: int | None = None) -> Callable[[Build], Build]:
        expected = decisions or (FOLD,)

        def add(build: Build) -> Build:
            rows.append(Row(name, expected, expected.count(FOLD) if gone is None else gone, build))
            return build

        return add

    return row
