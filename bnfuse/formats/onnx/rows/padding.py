"""Does a window take in padding? Judged by what it reaches, not by what the padding is called.

A window of k elements, d apart, moves in steps of s over n elements with p before and q behind them. It takes
in padding where p > 0, or where the last window, which begins at (m − 1)·s − p, reaches beyond n − 1:

    m = ⌊(n + p + q − e) / s⌋ + 1,    e = (k − 1)·d + 1

``auto_pad`` SAME pads as much as ⌈n/s⌉ windows need. What depends on a size that is not known counts as
padding.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnfuse.core.axes import Dim
from bnfuse.formats.base import Malformed
from bnfuse.formats.onnx.rows.view import View


def takes_in_padding(view: View, kernel: Sequence[int], ceils: bool = False) -> bool:
    """Whether a window of a Conv or pool reads what is not there.

    Args:
        view: the node, with ``pads``, ``auto_pad``, ``strides`` and ``dilations``.
        kernel: sizes of the window.
        ceils: whether windows count that do not fit in whole.

    Raises:
        Malformed: attributes of other lengths than the window's.
    """
    rank = len(kernel)
    auto = view.attr("auto_pad", b"NOTSET")
    strides, dilations = (view.attr(name) or [1] * rank for name in ("strides", "dilations"))
    pads = [0] * 2 * rank if auto == b"VALID" else view.attr("pads") or [0] * 2 * rank
    if not len(strides) == len(dilations) == len(pads) // 2 == rank or min(strides, default=1) < 1:
        raise Malformed(f"strides {strides}, dilations {dilations}, pads {pads} of a window of {rank} axes")
    shape = view.shape(0)
    sizes = (None,) * rank if shape is None or len(shape) != rank + 2 else shape[2:]
    for at, (size, step) in enumerate(zip(sizes, strides, strict=True)):
        extent = (kernel[at] - 1) * dilations[at] + 1
        if auto.startswith(b"SAME"):
            if _same(size, extent, step):
                return True
        elif _explicit(size, extent, step, (pads[at], pads[at + rank]), ceils):
            return True
    return False


def _same(size: Dim, extent: int, step: int) -> bool:
    if not isinstance(size, int):
        return extent > 1
    return (-(-size // step) - 1) * step + extent > size


def _explicit(size: Dim, extent: int, step: int, pads: tuple[int, int], ceils: bool) -> bool:
    if pads[0] > 0:
        return True
    if not isinstance(size, int):
        return pads[1] > 0 or (ceils and step > 1)
    room = size + sum(pads) - extent
    if ceils and room % step:
        return True
    return room // step * step - pads[0] + extent > size
