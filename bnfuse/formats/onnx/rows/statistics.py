"""The statistics of all BatchNormalizations of a model as affine maps, many at a time.

A graph of fifty thousand nodes has fifteen thousand of them, each with four vectors of a few numbers:
taken together they cost a third. Only the usual case is taken on: four float32 initializers
of one length; everything else is left to ``affine_ops``, which also decides on validity.
"""

from __future__ import annotations

from math import inf

import numpy as np
import onnx
from msgspec import Struct, field

from bnfuse.core.reparam import Vector
from bnfuse.core.rules.affine import Typical
from bnfuse.core.rules.batchnorm import affine_maps
from bnfuse.formats.onnx.rows.stored import epsilon_of
from bnfuse.formats.onnx.rows.view import NodeHandle

# Numbers worked on at once: enough to spread the cost of a call, small beside any model.
_ELEMENTS = 1 << 16

# Four vectors of float32.
_BYTES_A_CHANNEL = 16
# What nodes may hold, whatever the file: 32 bytes each. Many nodes may name the same large vectors.
_LEAST_NUMBERS, _BYTES_A_NUMBER = 1 << 21, 4

Maps = tuple[Vector, Vector, Typical]  # a, c, and what x is like


def most_numbers(file_bytes: int) -> float:
    """How many numbers nodes may hold: more than the file stores, where each has its own."""
    return _LEAST_NUMBERS + file_bytes / _BYTES_A_NUMBER


class Statistics(Struct, eq=False):
    """Collects handles while a graph is read, and computes when the first is asked for."""

    most_numbers: float = inf  # channels, of all that are computed together
    _expected: list[NodeHandle] = field(default_factory=list)
    _maps: dict[NodeHandle, Maps] = field(default_factory=dict)

    def expect(self, handle: NodeHandle) -> None:
        """A BatchNormalization that will be asked for."""
        self._expected.append(handle)

    def take(self, handle: NodeHandle) -> Maps | None:
        """Its affine map, once; None where it is not the usual case or gives no finite map."""
        if self._expected:
            expected, self._expected = self._expected, []
            self._compute(expected)
        return self._maps.pop(handle, None)

    def _compute(self, handles: list[NodeHandle]) -> None:
        waiting: dict[int, list[tuple[NodeHandle, bytes]]] = {}
        left = self.most_numbers
        for handle in handles:
            raw = _vectors(handle)
            if raw is None:
                continue
            left -= len(raw) // _BYTES_A_CHANNEL
            if left < 0:  # who is asked for all the same is computed then
                break
            group = waiting.setdefault(len(raw), [])
            group.append((handle, raw))
            if len(group) * len(raw) > 4 * _ELEMENTS:
                self._group(waiting.pop(len(raw)))
        for group in waiting.values():
            self._group(group)

    def _group(self, group: list[tuple[NodeHandle, bytes]]) -> None:
        """All of one length."""
        joined = np.frombuffer(b"".join(raw for _, raw in group), np.float32).astype(np.float64)
        gamma, beta, mean, variance = joined.reshape(len(group), 4, -1).swapaxes(0, 1)
        epsilon = np.array([[epsilon_of(handle.proto)] for handle, _ in group])
        a, c, typical, fits = affine_maps(gamma, beta, mean, variance, epsilon)
        for k, (handle, _) in enumerate(group):
            if fits[k].all():
                self._maps[handle] = a[k], c[k], Typical(typical.mean[k], typical.deviation[k])


def _vectors(handle: NodeHandle) -> bytes | None:
    """γ, β, μ and σ² one behind the other, if they are float32 initializers of one length."""
    scope = handle.scope
    if scope.overridable:
        return None
    raw = []
    length = -1
    for name in handle.proto.input[1:5]:
        proto = scope.initializer(name)
        if proto is None or proto.data_type != onnx.TensorProto.FLOAT:
            return None
        dims, data = proto.dims, proto.raw_data
        if len(dims) != 1 or not data or len(data) != 4 * dims[0] or length not in (-1, len(data)):
            return None
        length = len(data)
        raw.append(data)
    return b"".join(raw) if len(raw) == 4 else None
