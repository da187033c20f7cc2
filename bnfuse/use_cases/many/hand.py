"""A model that is at hand, wherever it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bnfuse.results.many import Outcome


@dataclass(frozen=True, slots=True)
class AtHand:
    """A model as a path, and where to write its result.

    ``parts`` are the names of its files where one of them is here in part only: there is no hash of it then.
    ``send`` puts what was written where it is to be; ``named`` makes an outcome speak of the places that the
    user knows.
    """

    model: Path
    output: Path | None
    parts: tuple[str, ...] = ()
    send: Callable[[], None] = lambda: None
    named: Callable[[Outcome], Outcome] = lambda outcome: outcome
