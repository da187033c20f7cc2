"""What both experiments of ``proof_power.py`` share: the networks, and the count of what became of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.core.apply import apply
from bnfuse.core.planning.plan import plan
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.proof.inside import inside
from bnfuse.results import Agreement
from bnfuse.use_cases.verify import VerifyRequest
from tests.tiny_models import Layer, layer

Kind = Callable[[int, int], list[Layer]]


def conv(seed: int, depth: int) -> list[Layer]:
    """Conv 3×3 with 8 channels."""
    rng = np.random.default_rng(seed)
    return [layer(rng, 8, 3 if i == 0 else 8, 3, 3) for i in range(depth)]


def dense(seed: int, depth: int) -> list[Layer]:
    """Dense layers of 16."""
    rng = np.random.default_rng(seed)
    return [layer(rng, 16, 5 if i == 0 else 16) for i in range(depth)]


KINDS: dict[str, Kind] = {"conv": conv, "dense": dense}


class Tally(Struct):
    """What became of one kind of case; ``share`` holds the difference over what was allowed, each case."""

    counts: dict[str, int] = field(default_factory=dict)
    share: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, outcome: str, found: Agreement) -> None:
        """Count one case."""
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        shares = [
            o.max_rel / o.tolerance for o in found.outputs if o.tolerance > 0 and np.isfinite(o.max_rel)
        ]
        if shares:
            self.share.append(max(shares))

    def of(self, outcome: str) -> int:
        """How many cases ended so."""
        return self.counts.get(outcome, 0)


Table = dict[str, Tally]


def looking_inside(model: Path, request: VerifyRequest) -> VerifyRequest:
    """The request with where to look between the folds of a model, as ``optimize`` has it."""
    opened = detect(model).read(model, ReadOptions())
    try:
        patch = apply(opened.graph, plan(opened.graph))
        near = opened.constants_of(patch.near)
        return replace(request, inside=inside(opened, patch, near), depth=max(1, len(patch.steps)))
    finally:
        opened.close()
