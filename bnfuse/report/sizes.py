"""The sizes of the inputs that models were run on, in words: a proof and a latency hold for those.

Plain text without markup, as ``report.text``; names of inputs are untrusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bnfuse.errors import listed

if TYPE_CHECKING:
    from bnfuse.results import BenchRun, RanInput

_MOST = 3
_MORE_OPTION = "--shape gives others"
# By the number of axes, and which of them were guessed.
_CALLED = {
    (4, (2, 3)): "height and width",
    (4, (1, 2)): "height and width",
    (5, (2, 3, 4)): "depth, height and width",
    (5, (1, 2, 3)): "depth, height and width",
}


def inputs(every: Sequence[RanInput]) -> str:
    """``x 1×3×224×224 (height and width guessed), ids 1×64 (axis 1 guessed) and 2 more``; "" for none."""
    return listed([_one(each, _guessed(each)) for each in every], _MOST)


def sizes(every: Sequence[RanInput]) -> str:
    """The same with how many samples were taken at a time, and what to do about guesses."""
    shown = listed([_one(each, [*_batch(each), *_guessed(each)]) for each in every], _MOST)
    hint = f"; {_MORE_OPTION}" if any(each.guessed for each in every) else ""
    return shown + hint


def benched(runs: Iterable[BenchRun]) -> list[str]:
    """The sizes of all runs; the batch, which a table tells, is N where several have the rest in common.

    Where not all have it in common, each sentence ends in the settings that it is about.
    """
    alike: dict[tuple[RanInput, ...], dict[tuple[RanInput, ...], list[str]]] = {}
    for run in runs:
        if run.inputs:
            rest = alike.setdefault(tuple(map(_without_batch, run.inputs)), {})
            rest.setdefault(run.inputs, []).append(f"{run.setting}, batch {run.batch}")
    hint = f"; {_MORE_OPTION}" if any(one.guessed for ran in alike for one in ran) else ""
    told = []
    for ran, every in alike.items():
        said = sizes(next(iter(every))) if len(every) == 1 else inputs(ran) + hint
        where = dict.fromkeys(setting for settings in every.values() for setting in settings)
        told.append(f"{said} (with {'; '.join(where)})" if len(alike) > 1 else said)
    return told


def axes(one: RanInput) -> str:
    """``height and width``, ``axis 1``: the axes that were guessed; "" for none."""
    found = one.guessed
    if not found or (len(one.shape), found) in _CALLED:
        return _CALLED.get((len(one.shape), found), "")
    if len(found) == 1:
        return f"axis {found[0]}"
    return f"axes {', '.join(map(str, found[:-1]))} and {found[-1]}"


def _one(one: RanInput, origins: Sequence[str]) -> str:
    more = [f"and {one.more} other size{'s' if one.more > 1 else ''}"] if one.more else []
    told = ", ".join([*origins, *more])
    return f"{one.name} {shape(one)}" + (f" ({told})" if told else "")


def shape(one: RanInput) -> str:
    """``1×3×224×224``; a batch of any size is N."""
    if not one.shape:
        return "of one value"
    return "×".join("N" if size < 0 else str(size) for size in one.shape)


def _guessed(one: RanInput) -> list[str]:
    return [f"{axes(one)} guessed"] if one.guessed else []


def _batch(one: RanInput) -> list[str]:
    return [f"batch {one.shape[0]}"] if one.batched else []


def _without_batch(one: RanInput) -> RanInput:
    if not one.batched:
        return one
    return replace(one, shape=(-1, *one.shape[1:]))
