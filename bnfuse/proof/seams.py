"""Proof at the seams: between the folds, stretch by stretch, nothing amplified and nothing masked.

The reference runs once and its values at the seams are noted. Then the candidate runs with those values
*forced*: behind every seam it goes on from what the reference had there. So each stretch, the few operations
of one fold or of several that are entangled, sees the same values in both models, and what it makes of them
may differ by the rounding of those operations alone (``channels`` has the figures). What lies between the
stretches is untouched and sees the same values too; the outputs of such a run show that it was left alone.

A stretch that differs by more is looked at again: the reference too runs forced (a runtime may keep more
digits between operations than it shows at a seam), and both run with the weights near the folds moved by one
unit in their last place, ``SHAKES`` times, which is how their own rounding shows.

Values are taken in groups of bounded size; where a group begins inside the model, the seams before it are
forced along. Does not decide what the whole models' outputs mean (``verdict``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import Probe, Runner, RunSettings
from bnfuse.inputs.samples import Feeds
from bnfuse.proof.channels import Channels, Excess, channels, excess
from bnfuse.proof.deviation import ROUNDOFF, is_float
from bnfuse.proof.inside import SeamPair
from bnfuse.results import SeamAgreement

Loader = Callable[[Path, RunSettings], Runner]

# Input sets whose values are noted at the seams.
SETS = 3
# Runs with moved weights, of each model.
SHAKES = 4
# Values noted at a time.
_MOST_BYTES = 1 << 28
# Seams whose sizes tell how many of the others are taken at a time.
_FIRST = 8
_TOLD = 3

# One set's differences at one value, by axis; the key is the point, or an output's name.
Key = int | str
Found = dict[tuple[int, Key], tuple[Channels, ...]]
Shaken = dict[tuple[int, Key], list[tuple[Channels, ...]]]


@dataclass(slots=True, eq=False)
class SeamProof:
    """A comparison at the seams; ``run`` does it, ``agreement`` tells what came out.

    ``roundoff`` is that of the coarsest weights near the folds; a seam of a coarser type has its own.
    """

    reference: Path
    candidate: Path
    inside: SeamPair
    settings: RunSettings
    load: Loader
    roundoff: float
    deadline: float
    worst: dict[Key, Excess] = field(default_factory=dict)
    problem: str = ""

    def run(self, feeds: Sequence[Feeds]) -> None:
        """Compare on these input sets; what stops a model is a problem that is told, not raised."""
        try:
            for group in self._groups(feeds):
                _Group(self, group, feeds).compare()
                if time.perf_counter() > self.deadline:
                    self.problem = "the time was up"
                    break
        except BnfuseError as error:
            self.problem = str(error)
        except MemoryError:
            self.problem = "memory ran out"

    def _groups(self, feeds: Sequence[Feeds]) -> Iterator[list[int]]:
        """Points in graph order, as many as their sizes allow; the last group holds those before outputs."""
        left = list(range(len(self.inside.points)))
        most = max(1, len(left)) if len(left) <= _FIRST else self._fitting(left, feeds[0])
        while len(left) > most:
            yield left[:most]
            left = left[most:]
        yield sorted({*left, *self.inside.exits[1]})

    def _fitting(self, points: Sequence[int], feeds: Feeds) -> int:
        """How many points fit, by the largest of a few that are spread over the model."""
        some = sorted({points[len(points) * k // _FIRST] for k in range(_FIRST)})
        names = tuple(self.inside.points[k].original for k in some)
        with self.opened(self.reference, Probe(names)) as runner:
            made = runner.run(feeds)
        sizes = [made[name].nbytes for name in names]
        return max(1, int(_MOST_BYTES // max(1, SETS * (sum(sizes) // len(sizes) + max(sizes)) // 2)))

    @contextmanager
    def opened(self, path: Path, probe: Probe) -> Iterator[Runner]:
        """A model, opened up."""
        with self.load(path, replace(self.settings, probe=probe)) as runner:
            yield runner

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
            worst=self._name(top),
            share=self.worst[top].share if self.worst else 0.0,
            failing=tuple(self._sentence(key) for key in bad[:_TOLD]),
            suspects=self._suspects(bad, proved),
            detail=self._detail(len(proved)),
        )

    def _name(self, key: Key) -> str:
        return key if isinstance(key, str) else self.inside.points[key].original

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
        what = f"output '{key}'" if isinstance(key, str) else f"the value '{self._name(key)}'"
        size = f"{found.size:.1e}, where rounding explains {found.allowed:.1e}"
        return (
            f"{what} {found.figure.verb} {where}by {size}, though both models were given the same before it"
        )

    def _detail(self, proved: int) -> str:
        left = len(self.inside.folds) - proved
        if not left or any(found.share > 1.0 for found in self.worst.values()):
            return ""
        why = self.problem
        if not why and self.inside.hidden:
            why = "inside bodies, functions and custom layers a runtime shows no values"
        text = f"{left} of {len(self.inside.folds)} folds could not be looked at by themselves"
        return f"{text} ({why})" if why else text


@dataclass(slots=True, eq=False)
class _Group:
    """Points that are noted, forced and compared together."""

    proof: SeamProof
    points: list[int]
    feeds: Sequence[Feeds]
    along: list[int] = field(default_factory=list)  # forced with them, to begin where the reference is
    noted: list[dict[Key, np.ndarray]] = field(default_factory=list)

    def compare(self) -> None:
        """Compare, and look again where rounding alone does not explain a difference."""
        every = self.proof.inside.points
        self.along = sorted({*self.points, *(k for p in self.points for k in every[p].before)})
        with self.proof.opened(self.proof.reference, Probe(tuple(self._names(original=True)))) as runner:
            self.noted = [self._keyed(runner.run(feeds), original=True) for feeds in self.feeds]
        self._settle_on_floats()
        with self._forced(original=False) as runner:
            made = [self._run(runner, row, original=False) for row in range(len(self.feeds))]
        found = self._differences(self.noted, made)
        worst = self._judged(found, {}, {})
        if any(each.share > 1.0 for each in worst.values()):
            worst = self._second_look(made)
        self.proof.worst.update(worst)

    def _second_look(self, made: list[dict[Key, np.ndarray]]) -> dict[Key, Excess]:
        """The reference forced too, and both models shaken."""
        with self._forced(original=True) as runner:
            wanted = [self._run(runner, row, original=True) for row in range(len(self.feeds))]
        found = self._differences(wanted, made)
        worst = self._judged(found, {}, {})
        rows = {row for (row, key), _ in found.items() if worst[key].share > 1.0}
        if not rows:
            return worst
        own = self._shaken(made, rows, original=False)
        original = self._shaken(wanted, rows, original=True)
        return self._judged(found, own, original)

    def _shaken(self, base: list[dict[Key, np.ndarray]], rows: set[int], *, original: bool) -> Shaken:
        """How a model's own values move with its weights."""
        moved: Shaken = {}
        for seed in range(SHAKES):
            with self._forced(original=original, seed=seed + 1) as runner:
                for row in sorted(rows):
                    made = self._run(runner, row, original=original)
                    for key, array in base[row].items():
                        other = made.get(key)
                        if other is not None and _comparable(array, other):
                            moved.setdefault((row, key), []).append(channels(array, other))
        return moved

    # --- running

    def _names(self, *, original: bool) -> dict[str, list[Key]]:
        """The points by their names in a model; values that became one tensor share a name."""
        points = self.proof.inside.points
        named: dict[str, list[Key]] = {}
        for k in self.along:
            named.setdefault(points[k].original if original else points[k].result, []).append(k)
        return named

    def _keyed(self, made: Mapping[str, np.ndarray], *, original: bool) -> dict[Key, np.ndarray]:
        """By point, and by name for outputs."""
        named = self._names(original=original)
        return {key: array for name, array in made.items() for key in named.get(name, [name])}

    def _settle_on_floats(self) -> None:
        """A seam that is not finite anywhere, or of no type of floats, is neither forced nor compared."""
        usable = [k for k in self.along if all(_usable(row[k]) for row in self.noted)]
        self.along, self.points = usable, [k for k in self.points if k in usable]

    @contextmanager
    def _forced(self, *, original: bool, seed: int = 0) -> Iterator[Runner]:
        """A model that goes on, behind each seam, from what the reference had there."""
        proof, named = self.proof, self._names(original=original)
        dtypes = tuple(self.noted[0][keys[0]].dtype.name for keys in named.values())
        shaken = (proof.inside.original if original else proof.inside.result) if seed else ()
        probe = Probe(tuple(named), True, dtypes, shaken, seed=seed)
        with proof.opened(proof.reference if original else proof.candidate, probe) as runner:
            yield runner

    def _run(self, runner: Runner, row: int, *, original: bool) -> dict[Key, np.ndarray]:
        named = self._names(original=original)
        given = {name: self.noted[row][keys[0]] for name, keys in named.items()}
        return self._keyed(runner.run({**self.feeds[row], **given}), original=original)

    # --- judging

    def _differences(
        self, wanted: Sequence[Mapping[Key, np.ndarray]], made: Sequence[Mapping[Key, np.ndarray]]
    ) -> Found:
        keys: list[Key] = [*self.points, *(key for key in wanted[0] if isinstance(key, str))]
        return {
            (row, key): channels(wanted[row][key], made[row][key])
            for row in range(len(wanted))
            for key in keys
            if key in made[row] and _comparable(wanted[row][key], made[row][key])
        }

    def _judged(self, found: Found, own: Shaken, original: Shaken) -> dict[Key, Excess]:
        """The worst of every value, over input sets and axes."""
        worst: dict[Key, Excess] = {}
        for (row, key), axes in found.items():
            u = max(self.proof.roundoff, ROUNDOFF[self.noted[row][key].dtype.name])
            for at, each in enumerate(axes):
                moved = [[run[at] for run in runs.get((row, key), ())] for runs in (own, original)]
                here = excess(each, u, *moved)
                if here is not None and (key not in worst or here.share > worst[key].share):
                    worst[key] = here
        return worst


def _usable(array: np.ndarray) -> bool:
    return is_float(array) and array.size > 0 and bool(np.isfinite(array).any())


def _comparable(wanted: np.ndarray, made: np.ndarray) -> bool:
    """Floats of one shape."""
    return _usable(wanted) and made.shape == wanted.shape and is_float(made)
