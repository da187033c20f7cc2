"""Calls of a session whose inputs and outputs stay on the device, for ``bench`` on a GPU.

``session.run`` takes arrays from the CPU's memory and brings outputs back to it: on a GPU that costs more
than many a model. Bound, inputs are copied once, before the first call, and outputs stay where they are made.

Does not act where a value cannot live there: strings, sequences, maps. Those models are timed as ``run`` runs
them, copies included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from bnfuse.formats.base import Tensors, TensorSpec

_NUMBERS = ("bool", "int", "uint", "float")

Placer = Callable[[np.ndarray], Any]


def bindable(specs: Sequence[TensorSpec]) -> bool:
    """Whether all of them are tensors of numbers that numpy has, which a device can hold."""
    return all(spec.dtype.startswith(_NUMBERS) for spec in specs)


class Bound(Struct, frozen=True):
    """A session's IOBinding, and the values it reads.

    Some versions of onnxruntime (1.23) bind the address of a value and do not keep it, nor the array that it
    was made of on the CPU: they are kept here as long as the binding is.
    """

    binding: Any
    held: tuple[Any, ...]


def bind(
    session: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    feeds: Tensors,
    device: str,
    place: Placer,
) -> Bound:
    """The session's inputs and outputs: inputs on the device, outputs to be made there, of whatever shape.

    Args:
        session: an onnxruntime session.
        inputs: what it takes.
        outputs: what it makes.
        feeds: values by name.
        device: onnxruntime's name of the device, "cuda" or "cpu".
        place: makes an OrtValue on that device of an array.
    """
    binding = session.io_binding()
    arrays = [np.ascontiguousarray(feeds[spec.name]) for spec in inputs]
    values = [place(array) for array in arrays]
    for spec, value in zip(inputs, values, strict=True):
        binding.bind_ortvalue_input(spec.name, value)
    for spec in outputs:
        binding.bind_output(spec.name, device)
    binding.synchronize_inputs()
    return Bound(binding, (*values, *arrays))


def time_bound(session: Any, bound: Bound, calls: int) -> list[int]:
    """Nanoseconds of each of some calls in a row; the device has finished before the clock is read."""
    clock, times = time.perf_counter_ns, []
    for _ in range(calls):
        begin = clock()
        session.run_with_iobinding(bound.binding)
        bound.binding.synchronize_outputs()
        times.append(clock() - begin)
    return times
