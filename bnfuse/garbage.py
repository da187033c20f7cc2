"""When Python looks for garbage in cycles: not while the graph of a model is built and worked on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """No search for cycles for as long as the context lasts.

    A graph of 50,000 nodes is a million objects that live as long as it does, and none of them is garbage:
    to look at them again and again takes a third of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
