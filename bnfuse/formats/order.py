"""An order in which everything comes behind what it reads: depth first, without recursion."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def depth_first(
    starts: Iterable[T], reads: Callable[[T], Iterable[T]], refusal: Callable[[T], Exception]
) -> tuple[list[T], list[T]]:
    """What is found from ``starts`` on: in that order, and in the order in which it was met.

    Raises:
        Exception: the ``refusal`` of one that reads itself, be it by way of others.
    """
    finished: list[T] = []
    done: set[T] = set()
    met: dict[T, None] = {}
    for start in starts:
        stack: list[tuple[T, Iterator[T]]] = []
        source: T | None = None if start in met else start
        while source is not None or stack:
            if source is not None:
                met[source] = None
                stack.append((source, iter(reads(source))))
            node, sources = stack[-1]
            source = next((each for each in sources if each not in done), None)
            if source is None:
                stack.pop()
                done.add(node)
                finished.append(node)
            elif source in met:
                raise refusal(source)
    return finished, list(met)
