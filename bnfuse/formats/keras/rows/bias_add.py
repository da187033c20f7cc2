"""Where Keras 3 adds a vector, which under TensorFlow is not where its shape says.

``keras.ops.add(x, v)`` there takes a v that is one vector (other axes of size 1, if it has any) for the bias
of a layer. It goes along the last axis of x where the sizes fit, else along axis 1 where they fit, and only
else along the axis that broadcasting gives it. EinsumDense adds its bias so. The other backends broadcast.

Source: ``add`` in keras/src/backend/tensorflow/numpy.py (3.15.1).
"""

from __future__ import annotations

from collections.abc import Sequence

ADDS_ELSEWHERE = "what Keras adds to another axis under TensorFlow than elsewhere"


def adds_along(shape: Sequence[int | str | None] | None, axis: int, size: int) -> bool:
    """Whether every backend adds a vector of this size to x along this axis.

    Args:
        shape: of x, the batch first.
        axis: where broadcasting lays the vector, counted from 0.
        size: its length.
    """
    if size == 1 or shape is None:
        return size == 1
    last, second = shape[-1], shape[min(1, len(shape) - 1)]
    if axis == len(shape) - 1:
        return True
    if not isinstance(last, int) or last == size:
        return False
    return axis == 1 or (isinstance(second, int) and second != size)
