"""Runs the reference on input sets, and measures its own rounding noise.

All of the user's data is run, however long it takes; made-up sets are added as the time allows. The noise
comes from the same inputs, and the model's own weights, moved a little (equation: ``bnfuse.proof.verdict``).
It is measured later, and only where a difference is to be explained (``measure_noise``, ``shaken_noise``).
The runtime's graph optimisation is the caller's to switch off: switched on, it may fold the reference itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from msgspec import Struct, field

from bnfuse.errors import BnfuseError, RuntimeLost
from bnfuse.formats.base import Runner, TensorSpec
from bnfuse.inputs.repeatable import check_repeatable
from bnfuse.inputs.samples import Feeds, InputRequest, Samples, ample_batch, fit
from bnfuse.inputs.tables import with_tables
from bnfuse.proof.accuracy import Answers, Labels, check_labels
from bnfuse.proof.deviation import (
    ROUNDOFF,
    is_float,
    largest_magnitude,
    relative_change,
    rounding_noise,
    scales,
)
from bnfuse.proof.noting import Look, Noted, NotingRunner
from bnfuse.proof.output_store import StoredOutputs
from bnfuse.proof.verdict import roundoff_of

# The share of the time that looking for the sizes of tables may take.
_TABLE_SHARE = 0.2


class Effort(Struct, frozen=True):
    """How much to run: at most ``samples`` made-up sets, for ``budget_s`` in all.

    The time counts from when the model is loaded and has run once; running the candidate is to fit into it as
    well, loading it is not. ``weights`` is the dtype the model computes in where its outputs do not show it.
    ``only`` numbers the sets to run, () for all. ``tables`` says whether to look for the sizes of tables;
    few samples are drawn at a time for a model of many ``model_bytes``.
    """

    samples: int
    budget_s: float
    weights: str = ""
    only: tuple[int, ...] = ()
    tables: bool = True
    model_bytes: int = 0


class Observed(Struct, eq=False):
    """What the reference did. ``used`` numbers the input sets on which it ran, of those ``planned``.

    ``cut`` is what they were cut short for, "time" or "memory", else "".
    ``outputs``, ``noises`` and ``magnitudes`` hold, per input set, a value for every output by name;
    ``magnitudes`` is max |value|. ``labels`` are the user's, by output, ``answers`` what the model says.
    ``noted`` is what it holds at the seams, where it was opened up.
    """

    inputs: tuple[TensorSpec, ...]
    declared: tuple[TensorSpec, ...]
    runtime: str
    samples: Samples
    roundoff: float
    labels: Labels
    answers: Answers
    planned: int = 0
    cut: str = ""
    used: list[int] = field(default_factory=list)
    outputs: StoredOutputs = field(default_factory=StoredOutputs)
    noises: list[dict[str, float]] = field(default_factory=list)
    magnitudes: list[dict[str, float]] = field(default_factory=list)
    noted: Noted = field(default_factory=Noted)

    def scales(self, name: str) -> list[float]:
        """The output's range, per input set."""
        return scales([row[name] for row in self.magnitudes])

    def own_rows(self, row: int) -> int:
        """Samples of the user's in this row; 0 where it was made up."""
        user, index = self.samples.user, self.used[row]
        return user.rows(index) if user is not None and index < len(user) else 0

    def add(self, index: int, outputs: Feeds) -> None:
        """Keep what came out for one input set; its noise is not known yet.

        Raises:
            UsageError: no accuracy can be read from an output that has labels.
        """
        self.used.append(index)
        self.outputs.append(outputs)
        self.noises.append(unmeasured(outputs))
        self.magnitudes.append({name: largest_magnitude(array) for name, array in outputs.items()})
        if rows := self.own_rows(len(self.used) - 1):
            self.answers.add(outputs, rows)


def observe(
    load: Callable[[], Runner],
    wanted: InputRequest,
    effort: Effort,
    labels: Labels | None = None,
    specs: Sequence[TensorSpec] | None = None,
    look: Look | None = None,
) -> Observed:
    """Run the reference on the user's data and on made-up sets, at least one in all.

    ``specs`` narrows what the inputs must fit, as for ``samples.fit``; ``look`` opens it up for the first.

    Raises:
        UsageError: what was wanted does not fit the model's inputs, or labels not its outputs.
        BnfuseError: the model does not run, or not on one of the user's samples.
    """
    with NotingRunner(load, look) as runner:
        samples, first = fit(runner, wanted, ample_batch(runner.inputs, effort.model_bytes), specs)
        runner.note(runs=1)
        check_repeatable(runner, samples.feeds(0), first, wanted.model)
        deadline = time.perf_counter() + effort.budget_s
        if effort.tables and not samples.own_sets:
            samples = _sized(runner, samples, first, deadline)
        runner.note()
        outputs = tuple(runner.outputs)
        own = 0 if samples.user is None else samples.user.samples
        named = check_labels(labels or {}, [spec.name for spec in outputs], own)
        roundoff = roundoff_of(list(first.values()), effort.weights)
        interface = tuple(runner.inputs), outputs
        seen = Observed(*interface, runner.runtime, samples, roundoff, named, Answers(list(named)))
        seen.noted = runner.noted
        _observe_own(runner, seen, first, effort)
        _observe_made_up(runner, seen, first, effort, deadline)
        return seen


def _sized(runner: Runner, samples: Samples, first: Feeds, deadline: float) -> Samples:
    """The samples with the sizes of tables, where integers index some and there is time to find out."""
    start = time.perf_counter()
    end = start + _TABLE_SHARE * (deadline - start)

    def accepts(feeds: Feeds) -> bool:
        outputs = None if time.perf_counter() > end else _attempt(runner, feeds)
        return outputs is not None and all(
            outputs[name].shape == array.shape for name, array in first.items()
        )

    return with_tables(samples, accepts)


def _observe_own(runner: Runner, seen: Observed, first: Feeds, effort: Effort) -> None:
    """All of the user's sets; one that stops the model is no set to leave out in silence."""
    user = seen.samples.user
    for index in range(seen.samples.own_sets):
        if user is None or (effort.only and index not in effort.only):
            continue
        feeds = seen.samples.feeds(index)
        try:
            outputs = first if index == 0 else runner.run(feeds)
        except BnfuseError as error:
            raise BnfuseError(f"with {user.where(index)} of your data: {error}") from error
        seen.add(index, outputs)


def _observe_made_up(
    runner: NotingRunner, seen: Observed, first: Feeds, effort: Effort, deadline: float
) -> None:
    """Sets of random values, until the time is up; at least one where there is no other set."""
    own = seen.samples.own_sets
    count = effort.samples if own else max(1, effort.samples)
    seen.planned = len(effort.only) or own + count
    for index in effort.only or range(own, own + count):
        if index < own:
            continue
        begin = time.perf_counter() - runner.loading_s
        if seen.used and not effort.only and begin > deadline:
            seen.cut = "time"
            break
        feeds = seen.samples.feeds(index)
        outputs = first if index == 0 else _attempt(runner, feeds)
        if outputs is not None:
            seen.add(index, outputs)
        now = time.perf_counter() - runner.loading_s
        ahead_s = (now - begin) * (len(seen.used) + 1)  # the candidate runs each set once, and one more comes
        if effort.only or index == own + count - 1:
            continue
        if now + ahead_s > deadline or seen.outputs.full():
            seen.cut = "memory" if seen.outputs.full() else "time"
            break


def _attempt(runner: Runner, feeds: Feeds) -> Feeds | None:
    """Outputs, or None where these values stop the model (an index that is out of range)."""
    try:
        return runner.run(feeds)
    except RuntimeLost:
        raise  # what the model does with other values can no longer be asked
    except BnfuseError:
        return None


def unmeasured(outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """NaN for each output: its noise is not known."""
    return dict.fromkeys(outputs, math.nan)


def measure_noise(runner: Runner, feeds: Feeds, outputs: Feeds, roundoff: float) -> dict[str, float]:
    """How far the reference's outputs move with its inputs (equation: ``bnfuse.proof.verdict``).

    NaN where it cannot be measured: no input is a float, or the model does not run on the moved inputs.
    """
    noises = unmeasured(outputs)
    if not any(is_float(array) for array in feeds.values()):
        return noises
    shaken = _attempt(runner, perturb(feeds, 2.0 * roundoff, 0))
    up, down = (_attempt(runner, perturb(feeds, step, 1)) for step in (roundoff**0.75, -(roundoff**0.75)))
    for name, array in outputs.items():
        scale = scales([largest_magnitude(array)])[0]
        found = []
        if shaken is not None:
            found.append(relative_change(array, shaken[name], scale))
        if up is not None and down is not None:
            found.append(rounding_noise(array, up[name], down[name], scale))
        noises[name] = max(found, default=math.nan)
    return noises


def shaken_noise(runner: Runner, feeds: Feeds, outputs: Feeds) -> dict[str, float]:
    """How far the outputs of a runner whose weights were moved are from the reference's; NaN if it stops."""
    moved = _attempt(runner, feeds)
    if moved is None:
        return unmeasured(outputs)
    return {
        name: relative_change(array, moved[name], scales([largest_magnitude(array)])[0])
        for name, array in outputs.items()
    }


def perturb(feeds: Feeds, step: float, seed: int) -> Feeds:
    """The float inputs times 1 ± step, signs at random but the same for a seed; zeros become ±step.

    The step is at least two unit roundoffs of the input's own type, so that it is not rounded away.
    """
    rng = np.random.default_rng(seed)
    moved = dict(feeds)
    for name, array in feeds.items():
        if not is_float(array):
            continue
        size = max(abs(step), 2.0 * ROUNDOFF[array.dtype.name])
        steps = np.copysign(size, step) * rng.choice((-1.0, 1.0), array.shape)
        wide = array.astype(np.float64)
        with np.errstate(over="ignore"):
            moved[name] = np.where(wide == 0.0, steps, wide * (1.0 + steps)).astype(array.dtype)
    return moved
