"""Proof at the seams: how two models agree between the folds (``stretches``), and what is said of each fold.

Values are taken in groups of bounded size; where a group begins inside the model, the seams before it are
forced along. Does not decide what the whole models' outputs mean (``verdict``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import Loader, Probe, RunSettings
from bnfuse.inputs.samples import Feeds
from bnfuse.proof.channels import Excess
from bnfuse.proof.inside import SeamPair
from bnfuse.proof.noting import Look, Noted
from bnfuse.proof.stretches import Key, Models, Stretches
from bnfuse.results import SeamAgreement

# Input sets whose values are noted at the seams.
SETS = 3
# Values noted at a time.
MOST_BYTES = 1 << 28
# Seams whose sizes tell how many of the others are taken at a time.
_FIRST = 8
_TOLD = 3


def look_at(reference: Path, inside: SeamPair | None, settings: RunSettings, load: Loader) -> Look | None:
    """How to open the reference up while it runs for its outputs; None where that is to be done apart."""
    if inside is None or not inside.exact or not inside.points:
        return None
    names, most = tuple(dict.fromkeys(point.original for point in inside.points)), MOST_BYTES // SETS
    wanted = replace(settings, probe=Probe(names, most_bytes=most))
    return Look(lambda: load(reference, wanted), frozenset(names), SETS, most)


class SeamProof(Struct, eq=False):
    """A comparison at the seams, until ``deadline``; ``run`` does it, ``agreement`` tells what came out."""

    models: Models
    deadline: float
    noted: Noted = field(default_factory=Noted)  # of the reference, at all seams
    worst: dict[Key, Excess] = field(default_factory=dict)
    problem: str = ""

    def run(self, feeds: Sequence[Feeds]) -> None:
        """Compare on these input sets; what stops a model is a problem that is told, not raised."""
        try:
            groups = list(self._groups(feeds))
            for group in groups:
                self.worst |= Stretches(self.models, group, feeds, self.noted).compare()
                if time.perf_counter() > self.deadline and group is not groups[-1]:
                    self.problem = "the time was up"
                    break
        except BnfuseError as error:
            self.problem = str(error)
        except MemoryError:
            self.problem = "memory ran out"

    def _groups(self, feeds: Sequence[Feeds]) -> Iterator[list[int]]:
        """Points in graph order, as many as their sizes allow; the last group holds those before outputs."""
        left = list(range(len(self.inside.points)))
        if all(self.noted.of(each) is not None for each in feeds):
            yield left
            return
        self.noted = Noted()
        most = max(1, len(left)) if len(left) <= _FIRST else self._fitting(left, feeds[0])
        while len(left) > most:
            yield left[:most]
            left = left[most:]
        yield sorted({*left, *self.inside.exits[1]})

    def _fitting(self, points: Sequence[int], feeds: Feeds) -> int:
        """How many points fit, by the largest of a few that are spread over the model."""
        some = sorted({points[len(points) * k // _FIRST] for k in range(_FIRST)})
        names = tuple(self.inside.points[k].original for k in some)
        with self.models.opened(Probe(names), original=True) as runner:
            made = runner.run(feeds)
        sizes = [made[name].nbytes for name in names]
        return max(1, int(MOST_BYTES // max(1, SETS * (sum(sizes) // len(sizes) + max(sizes)) // 2)))

    @property
    def inside(self) -> SeamPair:
        """Where the seams are."""
        return self.models.inside

    # --- what came out

    def agreement(self) -> SeamAgreement:
        """What is said in the end.

        Where folds are hidden, what a body rounds comes out in the middle of a stretch: a difference there
        shows nothing, and is left to the outputs.
        """
        if self.inside.hidden:
            self.worst = {key: found for key, found in self.worst.items() if found.share <= 1.0}
        bad = sorted((k for k, e in self.worst.items() if e.share > 1.0), key=lambda k: -self.worst[k].share)
        proved = self._proved()
        inside, top = self.inside, max(self.worst, key=lambda k: self.worst[k].share, default="")
        return SeamAgreement(
            folds=len(inside.folds),
            proved=len(proved),
            seams=len(self.worst),
            worst="" if top == "" else self._name(top),
            share=self.worst[top].share if self.worst else 0.0,
            failing=tuple(self._sentence(key) for key in bad[:_TOLD]),
            suspects=self._suspects(bad, proved),
            detail=self._detail(len(proved)),
            parts=inside.parts,
            rescalings=inside.rescalings,
        )

    def _name(self, key: Key) -> str:
        return f"output '{key}'" if isinstance(key, str) else self.inside.points[key].told

    def _proved(self) -> set[int]:
        """Folds that are felt only where the models were compared and agree."""
        good = {key for key, found in self.worst.items() if found.share <= 1.0}
        outputs = all(found.share <= 1.0 for key, found in self.worst.items() if isinstance(key, str))
        proved = set(range(len(self.inside.folds))) - self.inside.hidden
        for k, point in enumerate(self.inside.points):
            if k not in good:
                proved -= set(point.folds)
        felt = {f for k in good if isinstance(k, int) for f in self.inside.points[k].folds}
        exits = self.inside.exits[0]
        shown = any(isinstance(key, str) for key in self.worst)
        return {f for f in proved if (outputs and shown if f in exits else f in felt)}

    def _suspects(self, bad: Sequence[Key], proved: set[int]) -> tuple[str, ...]:
        """The folds that are felt where the models part first, less those that agree elsewhere."""
        if not bad:
            return ()
        points = sorted(key for key in bad if isinstance(key, int))
        felt = self.inside.points[points[0]].folds if points else sorted(self.inside.exits[0])
        elsewhere = {
            f
            for k, found in self.worst.items()
            if isinstance(k, int) and found.share <= 1.0 and set(self.inside.points[k].folds) < set(felt)
            for f in self.inside.points[k].folds
        }
        return tuple(self.inside.folds[f] for f in felt if f not in elsewhere or len(felt) == len(elsewhere))

    def _sentence(self, key: Key) -> str:
        found = self.worst[key]
        where = f"in channel {found.channel} of axis {found.axis} " if found.axis >= 0 else ""
        size = f"{found.size:.2g}, where rounding explains {found.allowed:.2g}"
        parts = f"{self._name(key)} {found.figure.verb} {where}by {size}"
        return f"{parts}, though both models were given the same before it"

    def _detail(self, proved: int) -> str:
        left = len(self.inside.folds) - proved
        if not left or any(found.share > 1.0 for found in self.worst.values()):
            return ""
        why = self.problem
        if not why and self.inside.hidden:
            why = "they end inside a body, where a runtime shows no values"
        text = f"{left} of {len(self.inside.folds)} folds could not be looked at by themselves"
        return f"{text} ({why})" if why else text
