"""Does a window read what is not there? Held against windows that are laid out one by one."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bnfuse.formats.onnx.rows.padding import takes_in_padding
from bnfuse.formats.table import Malformed


def _node(shape: tuple[Any, ...] | None, **attributes: Any) -> Any:
    """What is asked of a view."""
    return SimpleNamespace(
        attr=lambda name, default=None: attributes.get(name, default), shape=lambda i: shape
    )


def _reaches_out(n: int, extent: int, step: int, before: int, behind: int, ceils: bool) -> bool:
    """Along one axis of n elements; a last window that does not fit in whole counts where ``ceils``."""
    room = n + before + behind - extent
    count = (-(-room // step) if ceils else room // step) + 1
    starts = [k * step - before for k in range(count)]
    return any(start < 0 or start + extent > n for start in starts)


def _same(n: int, extent: int, step: int) -> bool:
    """The same of as many windows as there are whole steps, padding in all as much as they need."""
    missing = max((-(-n // step) - 1) * step + extent - n, 0)
    return missing > 0


ONE_AXIS = list(product(range(1, 8), (1, 2, 3), (1, 2), (1, 2, 3), (-1, 0, 1, 2), (0, 1, 2), (False, True)))


def test_along_one_axis_of_any_size() -> None:
    for n, kernel, dilation, step, before, behind, ceils in ONE_AXIS:
        extent = (kernel - 1) * dilation + 1
        if n + before + behind < extent:
            continue
        how = {"strides": [step], "dilations": [dilation], "pads": [before, behind]}
        found = takes_in_padding(_node((2, 4, n), **how), (kernel,), ceils)
        wanted = _reaches_out(n, extent, step, before, behind, ceils)
        assert found is wanted, (n, kernel, how, ceils)
        same = takes_in_padding(_node((2, 4, n), **how | {"auto_pad": b"SAME_UPPER"}), (kernel,), ceils)
        assert same is _same(n, extent, step), (n, kernel, how)


def test_where_the_size_is_not_known_any_may_be() -> None:
    for _, kernel, dilation, step, before, behind, ceils in ONE_AXIS:
        extent = (kernel - 1) * dilation + 1
        how = {"strides": [step], "dilations": [dilation], "pads": [before, behind]}
        sizes = range(max(1, extent - before - behind), 20)
        wanted = any(_reaches_out(n, extent, step, before, behind, ceils) for n in sizes)
        for shape in (None, (2, 4, "h"), (2, 4, None), (2, 4), (2, 4, 5, 5)):
            assert takes_in_padding(_node(shape, **how), (kernel,), ceils) is wanted, (kernel, how, ceils)
        same = takes_in_padding(_node(None, **how | {"auto_pad": b"SAME_LOWER"}), (kernel,), ceils)
        assert same is any(_same(n, extent, step) for n in range(1, 20)), (kernel, how)


def test_along_two_axes() -> None:
    """Each has its own numbers; pads are told of all beginnings first."""
    rng = np.random.default_rng(1)
    for _ in range(400):
        kernel, strides, dilations = (rng.integers(1, 4, 2).tolist() for _ in range(3))
        pads, sizes = rng.integers(0, 2, 4).tolist(), rng.integers(7, 10, 2).tolist()
        node = _node((2, 3, *sizes), strides=strides, dilations=dilations, pads=pads)
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        wanted = any(
            _reaches_out(sizes[at], extents[at], strides[at], pads[at], pads[at + 2], False) for at in (0, 1)
        )
        assert takes_in_padding(node, kernel) is wanted, (kernel, strides, dilations, pads, sizes)


def test_what_is_not_told() -> None:
    """Steps of one, elements beside each other, no padding; VALID does not look at pads."""
    assert not takes_in_padding(_node((2, 3, 5, 5)), (3, 2))
    assert not takes_in_padding(_node((2, 3, 5, 5), auto_pad=b"VALID", pads=[1, 1, 1, 1]), (3, 2))
    assert takes_in_padding(_node((2, 3, 5, 5), auto_pad=b"NOTSET", pads=[1, 1, 1, 1]), (3, 2))
    assert takes_in_padding(_node((2, 3, 4), auto_pad=b"SAME_UPPER"), (2,))
    assert not takes_in_padding(_node((2, 3, 5), strides=[3], pads=[0, 1]), (2,))
    assert not takes_in_padding(_node((2, 3)), ())


def test_no_shape_is_asked_for_where_none_is_needed() -> None:
    """It may have to be inferred first."""
    node = _node(None, strides=[2], pads=[0, 0])
    node.shape = None
    assert not takes_in_padding(node, (3,))


@pytest.mark.parametrize(
    "how",
    [
        {"strides": [1]},
        {"dilations": [1, 1, 1]},
        {"pads": [0, 0]},
        {"pads": [0] * 5},
        {"strides": [0, 1]},
        {"strides": [-1, 1]},
    ],
)
def test_numbers_of_another_window(how: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="of a window of 2 axes"):
        takes_in_padding(_node((2, 3, 5, 5), **how), (3, 2))
