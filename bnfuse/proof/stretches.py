"""Both models between the seams, stretch by stretch, nothing amplified and nothing masked.

The reference runs once and its values at the seams are noted. Then the candidate runs with those values
*forced*: behind every seam it goes on from what the reference had there. So each stretch, the few operations
of one fold or of several that are entangled, sees the same values in both models, and what it makes of them
may differ by the rounding of those operations alone (``channels`` has the figures). What lies between the
stretches is untouched and sees the same values too; where all seams before the outputs are forced, the
outputs of such a run show that it was left alone.

A stretch that differs by more is looked at again, it alone: the reference too runs forced (where its runtime
may keep more digits between operations than it shows at a seam), and both run with the weights near the folds
moved by one unit in their last place, up to ``SHAKES`` times, which is how their own rounding shows; the
reference only where that of the candidate does not suffice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.formats.base import Loader, Probe, Runner, RunSettings
from bnfuse.inputs.samples import Feeds
from bnfuse.proof.channels import Channels, Excess, channels, excess
from bnfuse.proof.deviation import ROUNDOFF, is_float
from bnfuse.proof.inside import Point, SeamPair
from bnfuse.proof.noting import Noted

# Runs with moved weights, of each model.
SHAKES = 4

# One value: a point by its number, or an output by its name. A pair is a value on one input set.
Key = int | str
Pair = tuple[int, Key]
Values = dict[Pair, np.ndarray]
Figures = dict[Pair, tuple[Channels, ...]]
Shaken = dict[Pair, list[tuple[Channels, ...]]]


class Models(Struct, frozen=True, eq=False):
    """Two models, and where to look inside.

    ``roundoff`` is that of the coarsest weights near the folds; a seam of a coarser type has its own.
    """

    reference: Path
    candidate: Path
    inside: SeamPair
    settings: RunSettings
    load: Loader
    roundoff: float

    @contextmanager
    def opened(self, probe: Probe, *, original: bool) -> Iterator[Runner]:
        """One of them, opened up."""
        path = self.reference if original else self.candidate
        with self.load(path, replace(self.settings, probe=probe)) as runner:
            yield runner


class Stretches(Struct, eq=False):
    """The stretches that end at some points, and those before the outputs; ``compare`` does it.

    Points are numbers of ``inside.points``; a value that is not finite anywhere, or of no type of floats, is
    neither forced nor compared.
    """

    models: Models
    points: list[int]
    feeds: Sequence[Feeds]
    earlier: Noted = field(default_factory=Noted)  # runs of the reference, opened up at these points
    along: list[int] = field(default_factory=list)  # forced: the points, and those before them
    noted: Values = field(default_factory=dict)

    def compare(self) -> dict[Key, Excess]:
        """Compare, and look again where rounding alone explains no difference; the worst of each value."""
        every, exits = self.models.inside.points, self.models.inside.exits[1]
        self.along = _with_those_before(self.points, every)
        ends = exits <= set(self.along)
        self._note()
        wanted = {
            pair: a
            for pair, a in self.noted.items()
            if pair[1] in self.points or (ends and isinstance(pair[1], str))
        }
        made, found = self._differences(wanted, self._forced(False, range(len(self.feeds))))
        worst = {pair: self._excess(pair, axes) for pair, axes in found.items()}
        beyond = [pair for pair, each in worst.items() if each is not None and each.share > 1.0]
        if beyond:
            worst |= self._second_look({pair: found[pair] for pair in beyond}, made)
        return _worst(worst)

    def _note(self) -> None:
        """What the reference has at the seams."""
        found = [self.earlier.of(feeds) for feeds in self.feeds]
        if any(made is None for made in found):
            probe = Probe(tuple(self._names(self.along, original=True)))
            with self.models.opened(probe, original=True) as runner:
                found = [runner.run(feeds) for feeds in self.feeds]
        for row, made in enumerate(found):
            self.noted |= self._keyed(row, made or {}, original=True)
        rows = range(len(self.feeds))
        self.along = [k for k in self.along if all(_usable(self.noted[row, k]) for row in rows)]
        self.points = [k for k in self.points if k in self.along]

    def _second_look(self, beyond: Figures, made: Values) -> dict[Pair, Excess | None]:
        """The reference forced too, and both models shaken: the stretches alone, on the sets that show it."""
        found, wanted = beyond, self.noted
        again = {pair: self._excess(pair, axes) for pair, axes in found.items()}
        if not self.models.inside.exact:  # else it makes what was noted of what was noted
            wanted = {}
            for values in self._forced(True, *_rows_and_keys(beyond)):
                wanted |= values
            found = {pair: channels(wanted[pair], made[pair]) for pair in beyond}
            again = {pair: self._excess(pair, axes) for pair, axes in found.items()}
        own: Shaken = {pair: [] for pair in beyond}
        original: Shaken = {pair: [] for pair in beyond}
        left = _unsettled(again, SHAKES)
        for count in range(2 * SHAKES):
            if not left:
                break
            second = bool(count % 2)  # the candidate first: most often its own rounding explains it
            base, moved = (wanted, original) if second else (made, own)
            self._shake({pair: base[pair] for pair in left}, moved, original=second)
            fresh = {pair: self._excess(pair, found[pair], own, original) for pair in left}
            left = _unsettled(fresh, (count + 1) // 2 or 1)
            again |= fresh
        return again

    def _shake(self, base: Values, moved: Shaken, *, original: bool) -> None:
        """How a model's own values move with its weights, once more."""
        seed = 1 + max(len(moved[pair]) for pair in base)
        runs = self._forced(original, *_rows_and_keys(base), seed=seed)
        for pair, axes in self._differences(base, runs)[1].items():
            moved[pair].append(axes)

    def _differences(self, wanted: Values, runs: Iterable[Values]) -> tuple[Values, Figures]:
        """What runs made, and how it differs from what was wanted: reckoned while the next run goes on."""
        made: Values = {}
        with ThreadPoolExecutor(1) as beside:
            reckoned = []
            for values in runs:
                made |= values
                reckoned.append(beside.submit(_figures, wanted, values))
        return made, {pair: axes for each in reckoned for pair, axes in each.result().items()}

    # --- running

    def _names(self, points: Iterable[int], *, original: bool) -> dict[str, list[int]]:
        """Points by their names in a model; values that became one tensor share a name."""
        every = self.models.inside.points
        named: dict[str, list[int]] = {}
        for k in points:
            named.setdefault(every[k].original if original else every[k].result, []).append(k)
        return named

    def _keyed(self, row: int, made: Mapping[str, np.ndarray], *, original: bool) -> Values:
        """By point, and by name for outputs."""
        named = self._names(self.along, original=original)
        return {(row, key): array for name, array in made.items() for key in named.get(name, [name])}

    def _forced(
        self, original: bool, rows: Iterable[int], keys: Sequence[Key] = (), *, seed: int = 0
    ) -> Iterator[Values]:
        """What a model makes where it goes on, behind each seam, from what the reference had there: by rows.

        ``keys`` are the values that matter, () for all.
        """
        inside = self.models.inside
        along = self.along if not keys else [k for k in self._needed(keys) if k in self.along]
        named = self._names(along, original=original)
        dtypes = tuple(self.noted[0, points[0]].dtype.name for points in named.values())
        shaken = (inside.original if original else inside.result) if seed else ()
        wanted = {name for name, points in named.items() if not set(points).isdisjoint(keys)}
        wanted |= {key for key in keys if isinstance(key, str)}
        probe = Probe(tuple(named), True, dtypes, shaken, seed=seed, wanted=tuple(sorted(wanted)))
        with self.models.opened(probe, original=original) as runner:
            for row in rows:
                given = {name: self.noted[row, points[0]] for name, points in named.items()}
                yield self._keyed(row, runner.run({**self.feeds[row], **given}), original=original)

    def _needed(self, keys: Iterable[Key]) -> list[int]:
        """The points that the stretches before some values begin and end at."""
        inside = self.models.inside
        points = {key for key in keys if isinstance(key, int)}
        if any(isinstance(key, str) for key in keys):
            points |= inside.exits[1]
        return _with_those_before(points, inside.points)

    # --- judging

    def _excess(
        self, pair: Pair, axes: Sequence[Channels], own: Shaken | None = None, original: Shaken | None = None
    ) -> Excess | None:
        """The worst over axes; None for a tensor without elements."""
        u = max(self.models.roundoff, ROUNDOFF[self.noted[pair].dtype.name])
        worst: Excess | None = None
        for at, each in enumerate(axes):
            moved = [[run[at] for run in (runs or {}).get(pair, ())] for runs in (own, original)]
            here = excess(each, u, *moved, terms=self.models.inside.alike)
            if here is not None and (worst is None or here.share > worst.share):
                worst = here
        return worst


def _rows_and_keys(pairs: Iterable[Pair]) -> tuple[list[int], list[Key]]:
    """The input sets and the values of some pairs."""
    return sorted({row for row, _ in pairs}), list(dict.fromkeys(key for _, key in pairs))


def _unsettled(found: Mapping[Pair, Excess | None], shaken: int) -> list[Pair]:
    """What so many runs with moved weights, of each model that was run so, do not explain, nor would all.

    Of all ``SHAKES`` runs the root mean square is at least √(shaken/SHAKES) of that of the first ones.
    """
    settled = (shaken / SHAKES) ** 0.5
    return [pair for pair, each in found.items() if each is not None and each.share > settled]


def _figures(wanted: Values, made: Values) -> Figures:
    """How each value that was wanted and made differs, as far as both can be compared."""
    return {
        pair: channels(wanted[pair], array)
        for pair, array in made.items()
        if pair in wanted and _comparable(wanted[pair], array)
    }


def _with_those_before(points: Iterable[int], every: Sequence[Point]) -> list[int]:
    return sorted({*points, *(k for p in points for k in every[p].before)})


def _worst(found: Mapping[Pair, Excess | None]) -> dict[Key, Excess]:
    """The worst of every value, over input sets."""
    worst: dict[Key, Excess] = {}
    for (_, key), here in found.items():
        if here is not None and (key not in worst or here.share > worst[key].share):
            worst[key] = here
    return worst


def _usable(array: np.ndarray) -> bool:
    return is_float(array) and array.size > 0 and bool(np.isfinite(array).any())


def _comparable(wanted: np.ndarray, made: np.ndarray) -> bool:
    """Floats of one shape."""
    return _usable(wanted) and made.shape == wanted.shape and is_float(made)
