"""A model and its twin in another format: what both declare, and how to feed them with the same values.

The second model's inputs are made of the first one's (``alignment``) before a clock is started; its outputs
are not looked at. Models of one format are fed as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bnfuse.errors import BnfuseError, UnreadableModel, UsageError
from bnfuse.formats import detect
from bnfuse.formats.base import CallTimes, Loader, Profiling, Runner, RunSettings, Tensors, TensorSpec
from bnfuse.inputs.alignment import Alignment, Unalignable, align

Interface = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


class _Fed:
    """A runner that is fed with another model's inputs."""

    def __init__(
        self, runner: Runner, inputs: Sequence[TensorSpec], translate: Callable[[Tensors], Tensors]
    ) -> None:
        self.inputs, self._runner, self._translate = inputs, runner, translate
        self.outputs, self.providers, self.runtime = runner.outputs, runner.providers, runner.runtime
        self.versions = runner.versions
        self.optimises = runner.optimises
        self.load_s = runner.load_s

    def run(self, feeds: Tensors) -> dict[str, np.ndarray]:
        return self._runner.run(self._translate(feeds))

    def time(self, feeds: Tensors, calls: int) -> list[int]:
        return self._runner.time(self._translate(feeds), calls)

    def profile(self, feeds: Tensors, calls: int) -> Sequence[CallTimes]:
        if not isinstance(self._runner, Profiling):
            raise BnfuseError(f"{self.runtime} has no profiler that bnfuse could read")
        return self._runner.profile(self._translate(feeds), calls)

    def __enter__(self) -> _Fed:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, value, trace)


class ModelPair(Struct, frozen=True):
    """Two models of two formats. ``notes`` say what was done to bring their interfaces together."""

    second: Path
    alignment: Alignment

    @property
    def notes(self) -> tuple[str, ...]:
        """As sentences."""
        return self.alignment.notes

    def feeds(self, path: Path, feeds: Tensors) -> Tensors:
        """Inputs of the first model as the model at ``path`` takes them."""
        return self.alignment.feeds(feeds) if path == self.second else feeds

    def loader(self, load: Loader) -> Loader:
        """``load``, whose runners all take the first model's inputs."""

        def aligned(path: Path, settings: RunSettings) -> Runner:
            inputs = self.alignment.narrowed()
            return _Fed(load(path, settings), inputs, lambda feeds: self.feeds(path, feeds))

        return aligned


def of_two_formats(first: Path, second: Path) -> bool:
    """Whether both are models, of two formats; what is no model is told when it is loaded."""
    try:
        return detect(first).name != detect(second).name
    except UnreadableModel:
        return False


def interface_of(path: Path, settings: RunSettings, load: Loader) -> Interface:
    """What a model declares: its inputs and outputs.

    Raises:
        UnreadableModel, UnsafeModel, RuntimeMissing: it cannot be loaded.
    """
    with load(path, replace(settings, profile=False)) as runner:
        return tuple(runner.inputs), tuple(runner.outputs)


def twins_of(paths: Sequence[Path], settings: RunSettings, load: Loader) -> ModelPair | None:
    """How two models of two formats correspond; None for models of one format.

    Raises:
        UsageError: their inputs or outputs do not correspond.
        UnreadableModel: the runtime refuses one of them.
        RuntimeMissing: a runtime or the device is not there.
    """
    if len(paths) < 2 or not of_two_formats(*paths):
        return None
    first, second = (interface_of(path, settings, load) for path in paths)
    try:
        return ModelPair(paths[1], align(first, second))
    except Unalignable as mismatch:
        raise UsageError(f"the two models cannot be fed alike: {mismatch}") from mismatch
