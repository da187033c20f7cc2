"""A machine that others use too, made of numbers: what a model takes there follows from its work alone.

A process runs for a slice of processor time, then others run until it is its turn again. Calls take their
work, the waits that fall into them, and a little noise. Nothing of it depends on the machine of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bnfuse.formats.base import RunSettings
from tests.clockwork import Clock, Clockwork

_MULTIPLY_ADDS_PER_MS = 4e6


def multiply_adds(path: Path) -> int:
    """Of a saved net of padded convolutions: every weight once for each place of the image."""
    graph = onnx.load(path).graph
    place = prod(axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim[2:])
    return place * sum(prod(weight.dims) for weight in graph.initializer if len(weight.dims) == 4)


@dataclass
class BusyMachine:
    """``load`` others use the processor too, in turns of a few milliseconds; at 0 there is no waiting."""

    clock: Clock
    load: float
    seed: int
    noise: float = 0.03
    rng: np.random.Generator = field(init=False)
    slice_ms: float = 0.0  # what is left of this turn

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def call_ms(self, work_ms: float) -> float:
        """How long so much work takes from here on, the turns of others included."""
        left_ms = work_ms * float(np.exp(self.noise * self.rng.standard_normal()))
        taken_ms = left_ms
        while left_ms >= self.slice_ms:
            left_ms -= self.slice_ms
            self.slice_ms = float(self.rng.uniform(2.0, 4.0))
            taken_ms += float(self.rng.exponential(3.0 * self.load))
        self.slice_ms -= left_ms
        return taken_ms

    def load_model(self, path: Path, settings: RunSettings) -> Clockwork:
        """A Loader: of runners that take what the model's multiply-adds take here."""
        work_ms = multiply_adds(path) / _MULTIPLY_ADDS_PER_MS
        axes: Any = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1:]
        shape = ("N", *(axis.dim_value for axis in axes))
        return Clockwork(self.clock, [], path.name, lambda: self.call_ms(work_ms), shape=shape)
