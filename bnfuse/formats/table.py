"""What the op tables of both formats are written with: what rows refuse, what they ask, their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class Malformed(Exception):
    """What a file says makes no sense: text where a number should be, axes that are not there.

    Rows of an op table raise it: nothing may be concluded from the node or layer then. Anything else that
    comes out of a row is a bug of its own, and is not blamed on the file.
    """


class ShapeUnknown(Exception):
    """What must be known of a shape is not known before the model runs: rows of an op table refuse then."""


def known(value: T | None) -> T:
    """What a row of an op table cannot do without.

    Raises:
        ShapeUnknown: it is not known.
    """
    if value is None:
        raise ShapeUnknown
    return value


def counted(axes: Any, rank: int) -> list[int]:
    """Axes, one or several, counted from zero.

    Raises:
        Malformed: one is none of ``rank``, or named twice.
    """
    several = [axes] if isinstance(axes, int) else list(axes)
    if all(type(a) is int and -rank <= a < rank for a in several):
        found = [a % rank for a in several]
        if len(set(found)) == len(found):
            return found
    raise Malformed(f"axes {several} of {rank}")


def curried(work: Callable[Concatenate[T, P], R]) -> Callable[P, Callable[[T], R]]:
    """``f(x, a)`` as ``f(a)(x)``: as a table names it, which does not have the x."""
    return lambda *more, **named: lambda one: work(one, *more, **named)
