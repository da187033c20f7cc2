"""Does a window take in padding? Judged by what it reaches, not by what the padding is called.

A window of k elements, d apart, moves in steps of s over n elements with p before and q behind them. It takes
in padding where p > 0, or where the last window, which begins at (m − 1)·s − p, reaches beyond n − 1:

    m = ⌊(n + p + q − e) / s⌋ + 1,    e = (k − 1)·d + 1

``auto_pad`` SAME pads as much as ⌈n/s⌉ windows need. Most windows are told by k, d, s, p and q alone; where n
decides, and is not known, that counts as padding.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnfuse.core.axes import Dim
from bnfuse.formats.onnx.rows.view import View
from bnfuse.formats.table import Malformed


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
    strides, dilations = view.attr("strides") or [1] * rank, view.attr("dilations") or [1] * rank
    pads = [0] * 2 * rank if auto == b"VALID" else view.attr("pads") or [0] * 2 * rank
    fit = len(strides) == len(dilations) == rank and len(pads) == 2 * rank
    if not fit or any(step < 1 for step in strides):
        raise Malformed(f"strides {strides}, dilations {dilations}, pads {pads} of a window of {rank} axes")
    depending = []
    for at, (step, before, behind) in enumerate(zip(strides, pads[:rank], pads[rank:], strict=True)):
        extent = (kernel[at] - 1) * dilations[at] + 1
        around = None if auto.startswith(b"SAME") else (before, behind)
        told = _at_any_size(extent, step, around, ceils)
        if told:
            return True
        if told is None:
            depending.append((at, extent, step, around))
    if not depending:  # the usual case, in which shapes need not be inferred
        return False
    shape = view.shape(0)
    sizes = (None,) * rank if shape is None or len(shape) != rank + 2 else shape[2:]
    return any(_at_size(sizes[at], extent, step, around, ceils) for at, extent, step, around in depending)


def _at_any_size(extent: int, step: int, pads: tuple[int, int] | None, ceils: bool) -> bool | None:
    """Whether it takes in padding whatever n is; None where n decides. ``pads`` are None for SAME."""
    if pads is None:  # ⌈n/s⌉·s lies from n to n + s − 1
        return True if extent > step else None if extent > 1 else False
    if pads[0] > 0:
        return True
    return None if pads[1] > 0 or (ceils and step > 1) else False


def _at_size(size: Dim, extent: int, step: int, pads: tuple[int, int] | None, ceils: bool) -> bool:
    if not isinstance(size, int):
        return True
    if pads is None:
        return (-(-size // step) - 1) * step + extent > size
    room = size + sum(pads) - extent
    if ceils and room % step:
        return True
    return room // step * step - pads[0] + extent > size  # none but negative ones before, or that had told
