"""What functions with a kernel in their call are for the row of the layer that means the same.

A kernel is a variable of that layer, whose other settings are told by the kernel's shape. Products of
matrices are equations of an EinsumDense. What the call means else raises ``Malformed``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfuse.formats.keras.graph.call_constants import Constant
from bnfuse.formats.keras.graph.calls import as_shape
from bnfuse.formats.keras.rows.function_calls import Arguments, Called, tf_layout
from bnfuse.formats.table import Malformed, curried

_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")


@curried
def tf_convolution(call: Called, /, row: str) -> tuple[str, Arguments]:
    """The same with TensorFlow's names of data formats, and windows for each axis."""
    given = call.given
    if any(given.get(name) is not None for name in ("other", "input", "filters")):
        raise Malformed("an argument under two names")
    kernels = {name: given[name] for name in _KERNELS if name in given}
    strides, rates = (1 if given[k] is None else given[k] for k in ("strides", "dilations"))
    return _convolution(row, call, {**kernels, **tf_layout(call, strides=strides, dilation_rate=rates)})


@curried
def convolution(call: Called, /, row: str) -> tuple[str, Arguments]:
    """Of one, two or three spatial axes."""
    return _convolution(row, call, call.given)


def _convolution(row: str, call: Called, given: Arguments) -> tuple[str, Arguments]:
    if given["data_format"] not in ("channels_last", "channels_first") or given["padding"] not in (
        "valid",
        "same",
    ):
        raise Malformed("a convolution of another kind")
    n, x = call.rank("x") - 2, call.shape("x")
    first = _shape(given["depthwise_kernel" if row == "SeparableConv" else "kernel"])
    if len(first) != n + 2 or x is None:
        raise Malformed("a kernel of another rank")
    config = {k: v for k, v in given.items() if k != "x"}
    config["kernel_size"] = list(first[:-2])
    if row == "DepthwiseConv":
        config["depth_multiplier"] = first[-1]
    elif row == "SeparableConv":
        config["filters"] = _shape(given["pointwise_kernel"])[-1]
    else:
        config["filters"] = first[-1]
        channels = x[1 if given["data_format"] == "channels_first" else -1]
        if channels is None or channels % first[-2]:
            raise Malformed("groups that are not known")
        config["groups"] = channels // first[-2]
    return f"{row}{n}D", config


def matmul(call: Called) -> tuple[str, Arguments]:
    """x·K, or K·x over the last axis but one."""
    return _product(call, "...a,ab->...b", "...ab,ca->...cb")


def dot(call: Called) -> tuple[str, Arguments]:
    """x·K over the last axis of one and the first of the other; a constant in front moves the batch."""
    axes = call.given.get("axes", 1)
    rank = call.rank("x")
    if axes not in (1, [rank - 1, 0], [[rank - 1], [0]], [-1, 0], [[-1], [0]]):
        raise Malformed(f"axes {axes}")
    return _product(call, "...a,ab->...b", "")


def tf_matmul(call: Called) -> tuple[str, Arguments]:
    """The constant may be laid the other way round."""
    given = call.given
    if any(given[k] for k in ("a_is_sparse", "b_is_sparse", "output_type")):
        raise Malformed("a product of another kind")
    a, b = (given[f"transpose_{k}"] or given[f"adjoint_{k}"] for k in "ab")
    if a if isinstance(given["y"], Constant) else b:
        raise Malformed("the axes of x exchanged")
    return _product(
        call, "...a,ba->...b" if b else "...a,ab->...b", "...ab,ac->...cb" if a else "...ab,ca->...cb"
    )


def einsum(call: Called) -> tuple[str, Arguments]:
    """An equation of two, the second of which a layer calls its kernel."""
    equation = str(call.given["subscripts"]).replace(" ", "")
    left, arrow, out = equation.partition("->")
    x, comma, kernel = left.partition(",")
    if not arrow or not comma:
        raise Malformed(f"equation {equation}")
    return _product(call, equation, f"{kernel},{x}->{out}")


def _product(call: Called, /, constant_last: str, constant_first: str) -> tuple[str, Arguments]:
    """An EinsumDense, whose ``output_shape`` tells the sizes that only the kernel has."""
    x, y = call.given["x"], call.given["y"]
    constant, equation = (x, constant_first) if isinstance(x, Constant) else (y, constant_last)
    if not isinstance(constant, Constant) or not equation:
        raise Malformed("no kernel")
    kernel, _, out = equation.partition(",")[2].partition("->")
    sizes = dict(zip(kernel, _shape(constant), strict=True))
    return "EinsumDense", {
        "equation": equation,
        "output_shape": [sizes.get(letter) for letter in out.replace("...", "")],
        "kernel": constant,
    }


def _shape(kernel: Any) -> tuple[int, ...]:
    """Of an array, or of lists of numbers."""
    shape = as_shape(list(np.shape(kernel.value)))
    if not shape:
        raise Malformed("a kernel that is none")
    return tuple(n or 0 for n in shape)
