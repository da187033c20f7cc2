"""Shapes for inputs whose axes are free: what the model declares, and what to try for the rest.

A free first axis is the batch; the same symbol has the same size everywhere; any other free axis is
guessed from a short ladder of sizes. Whether a guess works is for the caller to find out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnfuse.errors import BnfuseError, UsageError

if TYPE_CHECKING:
    from bnfuse.formats.base import TensorSpec

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
# Sizes to try for axes of unknown length, the likeliest first; 3 channels before 1.
LADDER = (64, 224, 32, 16, 1, 128)
CHANNELS = (3, 1)
_MAX_ELEMENTS = 1 << 28


def shape_guesses(
    specs: Sequence[TensorSpec], fixed: Shapes, batch: int | None, default_batch: int
) -> Iterator[dict[str, Shape]]:
    """Shapes to try for all inputs, the likeliest first, without repetition."""
    usual = dict.fromkeys((default_batch, min(2, default_batch), 1))
    batches = tuple(usual) if batch is None else (batch,)
    tried: set[tuple[tuple[str, Shape], ...]] = set()
    for size, channels, first in itertools.product(LADDER, CHANNELS, batches):
        shapes = _resolve(specs, fixed, first, channels, size)
        key = tuple(shapes.items())
        if key not in tried and sum(int(np.prod(s, dtype=object)) for s in shapes.values()) <= _MAX_ELEMENTS:
            tried.add(key)
            yield shapes


def _resolve(
    specs: Sequence[TensorSpec], fixed: Shapes, batch: int, channels: int, size: int
) -> dict[str, Shape]:
    """Every free axis filled in: by the same symbol elsewhere, as batch, as channels, or by size."""
    symbols = _symbols(specs, fixed, batch)
    shapes: dict[str, Shape] = {}
    for spec in specs:
        if spec.name in fixed:
            shapes[spec.name] = tuple(fixed[spec.name])
            continue
        dims: list[int] = []
        for axis, dim in enumerate(spec.shape or ()):
            if isinstance(dim, int):
                dims.append(dim)
            elif isinstance(dim, str) and dim in symbols:
                dims.append(symbols[dim])
            elif axis == 0:
                dims.append(batch)
            else:
                is_channel = axis == 1 and len(spec.shape or ()) == 4
                dims.append(channels if is_channel else size)
        shapes[spec.name] = tuple(dims)
    return shapes


def _symbols(specs: Sequence[TensorSpec], fixed: Shapes, batch: int) -> dict[str, int]:
    """Sizes of named axes: what the user fixed, then the batch for symbols of a first axis."""
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name in fixed and spec.shape is not None:
            for dim, size in zip(spec.shape, fixed[spec.name], strict=True):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
    for spec in specs:
        first = spec.shape[0] if spec.shape else None
        if isinstance(first, str):
            sizes.setdefault(first, batch)
    return sizes


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


def no_shape(specs: Sequence[TensorSpec], fixed: Shapes, failure: BnfuseError | None) -> BnfuseError:
    """The error for a model that ran with none of the guesses."""
    reason = f" ({failure})" if failure is not None else ""
    for spec in specs:
        if spec.name in fixed or (spec.shape is not None and all(isinstance(d, int) for d in spec.shape)):
            continue
        example = ",".join(str(d) if isinstance(d, int) else "N" for d in spec.shape or (1, 3, 224, 224))
        return UsageError(
            f"no size for the free axes of input '{spec.name}' could be guessed{reason}: "
            f"give its shape with --shape {spec.name}={example}, whole numbers for N"
        )
    return failure or BnfuseError("the model has no inputs that could be made up")
