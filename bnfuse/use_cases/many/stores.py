"""Models that are paths, and models that are addresses: one way to have either at hand.

A path is used where it is. What is behind an address (``s3://``, ``gs://``, ``https://``) is brought into a
temporary folder for as long as it is worked on, and its result sent from there; that is ``remote``, which
is imported, with the package it needs, only where an address is met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bnfuse.results.places import is_address
from bnfuse.use_cases.many.hand import AtHand


@contextmanager
def at_hand(model: str, output: str | None, *, force: bool = False, runs: bool = True) -> Iterator[AtHand]:
    """Have a model at hand while the context lasts; a large one that nothing ``runs`` perhaps in part.

    Raises:
        UnreadableModel: nothing is there, or it is larger than may be brought here.
        OutputError: something is where the result is to go.
        RuntimeMissing: an address needs a package that is not installed.
    """
    if not is_address(model) and not is_address(output or ""):
        yield AtHand(Path(model), None if output is None else Path(output))
        return
    from bnfuse.use_cases.many.remote import brought

    with brought(model, output, force=force, runs=runs) as here:
        yield here


def listed(address: str, *, recursive: bool, wanted: Callable[[str], bool]) -> list[tuple[str, str]]:
    """(address, path below what was named) of every model that an address means.

    Raises:
        RuntimeMissing: it needs a package that is not installed.
    """
    from bnfuse.use_cases.many.remote import listed

    return listed(address, recursive=recursive, wanted=wanted)


def may_be_many(address: str) -> bool:
    """Whether an address may mean several models: a pattern, or what a store calls a folder."""
    from bnfuse.use_cases.many.remote import may_be_many

    return may_be_many(address)


def check_writable(address: str) -> None:
    """Refuse to write where a store takes nothing.

    Raises:
        UsageError: it is read-only, such as ``https://``.
    """
    from bnfuse.use_cases.many.remote import check_writable

    check_writable(address)


def identity(address: str) -> str:
    """What changes when the content does, as a store tells it; "" where it does not."""
    from bnfuse.use_cases.many.addresses import identity

    return identity(address)
