"""Shapes for inputs whose axes are free: what the model declares, and what to try for the rest.

A free first axis is the batch; the same symbol has the same size everywhere; any other free axis gets the
sizes that the file speaks for (``inputs.hinted``), then usual ones: 224 for images, 64 for sequences, and on
down a short ladder. Whether a guess works is for the caller to find out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnfuse.errors import UsageError
from bnfuse.formats.hints import Axes, free_axes, is_size, usual_sizes
from bnfuse.inputs.hinted import FileHints
from bnfuse.results.inputs import Axis, RanInput

if TYPE_CHECKING:
    from bnfuse.formats.base import TensorSpec

Shape = tuple[int, ...]
NamedShapes = Mapping[str, Shape]
# Numbers of channels to try where nothing tells it.
CHANNELS = (3, 1)
# More elements are not made up, and not guessed: the model would take long to run.
_MAX_ELEMENTS, _MAX_GUESSED = 1 << 28, 1 << 24
# Samples of more elements are taken one at a time, so that there is time for several sets of them.
_LARGE_SAMPLE = 1 << 20


def shape_guesses(
    specs: Sequence[TensorSpec], fixed: NamedShapes, batch: int | None, default_batch: int, hints: FileHints
) -> Iterator[dict[str, Shape]]:
    """Shapes to try for all inputs, the likeliest first, without repetition."""
    usual = dict.fromkeys((default_batch, min(2, default_batch), 1))
    batches = tuple(usual) if batch is None else (batch,)
    most = _MAX_GUESSED if guessing(specs, fixed) else _MAX_ELEMENTS
    tried: set[tuple[tuple[str, Shape], ...]] = set()
    for (hinted, step), channels, first in itertools.product(_steps(specs, fixed, hints), CHANNELS, batches):
        shapes = _resolve(specs, fixed, first, channels, hinted, step)
        if first > 1 and batch is None and elements(shapes) > first * _LARGE_SAMPLE:
            continue
        key = tuple(shapes.items())
        if key not in tried and elements(shapes) <= most:
            tried.add(key)
            yield shapes


Hinted = Mapping[str, "tuple[int | None, ...]"]


def _steps(specs: Sequence[TensorSpec], fixed: NamedShapes, hints: FileHints) -> Iterator[tuple[Hinted, int]]:
    """What to fill free axes with: shapes that the file speaks for, and a step of the ladder for the rest."""
    open_ones = [spec for spec in specs if spec.name not in fixed and _is_open(spec)]
    told = {spec.name: hints.sizes(spec) for spec in open_ones} if open_ones else {}
    most = max((len(shapes) for shapes in told.values()), default=0)
    for at in range(most):
        yield {name: shapes[min(at, len(shapes) - 1)] for name, shapes in told.items() if shapes}, 0
    for at in range(max((len(usual_sizes(spec.shape or ())) for spec in open_ones), default=1)):
        yield {}, at


def with_batch(
    specs: Sequence[TensorSpec], shapes: NamedShapes, fixed: NamedShapes, batch: int
) -> dict[str, Shape]:
    """The same sizes with another number of samples."""
    made = {}
    for spec in specs:
        shape = shapes[spec.name]
        free = shape and spec.name not in fixed and not (spec.shape and is_size(spec.shape[0]))
        made[spec.name] = (batch, *shape[1:]) if free else shape
    return made


def guessing(specs: Sequence[TensorSpec], fixed: NamedShapes) -> bool:
    """Whether sizes must be guessed: an axis is free that is neither the batch nor given."""
    return any(_is_open(spec) for spec in specs if spec.name not in fixed)


def elements(shapes: NamedShapes) -> int:
    """In all inputs together."""
    return sum(int(np.prod(shape, dtype=object)) for shape in shapes.values())


def _is_open(spec: TensorSpec) -> bool:
    """Whether an axis other than the batch has no fixed size."""
    return spec.shape is None or not all(map(is_size, spec.shape[1:]))


def _resolve(
    specs: Sequence[TensorSpec], fixed: NamedShapes, batch: int, channels: int, hinted: Hinted, step: int
) -> dict[str, Shape]:
    """Every free axis filled in: by its symbol elsewhere, as batch, as hinted, as channels, or by size."""
    symbols = _symbols(specs, fixed, batch, hinted)
    shapes: dict[str, Shape] = {}
    for spec in specs:
        if spec.name in fixed:
            shapes[spec.name] = tuple(fixed[spec.name])
            continue
        told = hinted.get(spec.name)
        declared = spec.shape if spec.shape is not None else told or ()
        ladder = usual_sizes(declared)
        size = ladder[min(step, len(ladder) - 1)]
        dims: list[int] = []
        for axis, dim in enumerate(declared):
            known = told[axis] if told is not None and axis else None
            if isinstance(dim, int) and is_size(dim):
                dims.append(dim)
            elif isinstance(dim, str) and dim in symbols:
                dims.append(symbols[dim])
            elif axis == 0:
                dims.append(batch)
            elif known is not None:
                dims.append(known)
            else:
                dims.append(channels if axis == _channel_axis(declared) else size)
        shapes[spec.name] = tuple(dims)
    return shapes


def _channel_axis(shape: Axes) -> int | None:
    """Of images whose number of channels is open: the first behind the batch, unless the last is fixed."""
    return 1 if len(shape) == 4 and free_axes(shape) != (1, 2) else None


def _symbols(specs: Sequence[TensorSpec], fixed: NamedShapes, batch: int, hinted: Hinted) -> dict[str, int]:
    """Sizes of named axes: what the user fixed, the batch for symbols of a first axis, what is hinted."""
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name in fixed and spec.shape is not None:
            for dim, size in zip(spec.shape, fixed[spec.name], strict=True):
                if _is_symbol(dim):
                    sizes.setdefault(str(dim), size)
    for spec in specs:
        first = spec.shape[0] if spec.shape else None
        if isinstance(first, str) and _is_symbol(first):
            sizes.setdefault(first, batch)
    for spec in specs:
        for dim, told in zip(spec.shape or (), hinted.get(spec.name, ()), strict=False):
            if _is_symbol(dim) and told is not None:
                sizes.setdefault(str(dim), told)
    return sizes


def _is_symbol(dim: int | str | None) -> bool:
    """Whether it names a size; "?" stands for any."""
    return isinstance(dim, str) and dim != "?"


def ran_inputs(specs: Sequence[TensorSpec], shapes: NamedShapes, given: NamedShapes) -> tuple[RanInput, ...]:
    """Inputs of these shapes with where each size comes from; ``given`` are those that the user fixed."""
    made = []
    for spec in specs:
        shape = shapes[spec.name]
        declared = (
            spec.shape if spec.shape is not None and len(spec.shape) == len(shape) else (None,) * len(shape)
        )
        origins = (
            Axis.DECLARED if is_size(dim) else Axis.GIVEN if spec.name in given else _chosen(axis)
            for axis, dim in enumerate(declared)
        )
        made.append(RanInput(spec.name, spec.dtype, shape, tuple(origins)))
    return tuple(made)


def _chosen(axis: int) -> Axis:
    return Axis.GUESSED if axis else Axis.BATCH


def check_shape(spec: TensorSpec, shape: Shape, source: str) -> None:
    """Whether a given shape is one that the model declares possible.

    Raises:
        UsageError: another rank, or another size of a fixed axis.
    """
    if spec.shape is None:
        return
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(want, int) or want == got for want, got in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if d is None else str(d) for d in spec.shape)
        raise UsageError(
            f"{source} gives input '{spec.name}' the shape {list(shape)}, but it needs [{wanted}]"
        )


def check_batch(spec: TensorSpec, batch: int | None) -> None:
    """Whether the batch that was asked for is one the model takes.

    Raises:
        UsageError: the first axis has another, fixed size.
    """
    first = spec.shape[0] if spec.shape else None
    if batch is not None and isinstance(first, int) and first != batch:
        text = f"input '{spec.name}' has a fixed first axis of {first}, which --batch {batch} does not fit"
        raise UsageError(text)
