"""Runs the reference on as many input sets as the time allows, and measures its own rounding noise.

The noise comes from the same inputs moved a little (equation: ``bnfuse.proof.verdict``). The runtime's
graph optimisation is the caller's to switch off: switched on, it may fold the reference itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import Runner, TensorSpec
from bnfuse.proof.deviation import ROUNDOFF, is_float, relative_change, rounding_noise, scales
from bnfuse.proof.verdict import roundoff_of
from bnfuse.samples import Feeds, InputRequest, Samples, fit

_MAX_KEPT_BYTES = 1 << 29
# Batch 2 shows whether samples of a batch get mixed up.
_BATCH = 2
# Perturbed runs per input set.
_PROBES = 3


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to run: at most ``samples`` input sets, until ``budget_s`` have passed since ``start``.

    ``start`` is a ``time.perf_counter``; loading and running the candidate are to fit into the budget
    as well. ``weights`` is the dtype the model computes in where its outputs do not show it.
    """

    samples: int
    start: float
    budget_s: float
    weights: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What the reference did. ``used`` numbers the input sets on which it ran.

    ``outputs`` and ``noises`` hold, per input set, a value for every output by name.
    """

    inputs: tuple[TensorSpec, ...]
    declared: tuple[TensorSpec, ...]
    runtime: str
    samples: Samples
    roundoff: float
    used: list[int]
    outputs: list[Feeds]
    noises: list[dict[str, float]]

    def scales(self, name: str) -> list[float]:
        """The output's range, per input set."""
        return scales([outputs[name] for outputs in self.outputs])

    def size_bytes(self) -> int:
        """What the kept outputs take."""
        return sum(array.nbytes for outputs in self.outputs for array in outputs.values())


def observe(load: Callable[[], Runner], wanted: InputRequest, effort: Effort) -> Observed:
    """Run the reference on as many input sets as the budget allows, at least one, and on moved copies.

    Raises:
        UsageError: what was wanted does not fit the model's inputs.
        BnfuseError: the model does not run.
    """
    start = effort.start
    with load() as runner:
        samples, first = fit(runner, wanted, _BATCH)
        roundoff = roundoff_of(list(first.values()), effort.weights)
        specs = tuple(runner.inputs), tuple(runner.outputs)
        seen = Observed(*specs, runner.runtime, samples, roundoff, used=[], outputs=[], noises=[])
        setup_s = time.perf_counter() - start
        deadline = start + max(0.0, effort.budget_s - setup_s)  # the candidate must load as well
        for index in range(max(1, effort.samples)):
            begin = time.perf_counter()
            outputs = first if index == 0 else _attempt(runner, samples.feeds(index))
            if outputs is not None:
                seen.used.append(index)
                seen.outputs.append(outputs)
                seen.noises.append(_noise(runner, samples.feeds(index), outputs, roundoff, deadline))
            now = time.perf_counter()
            # Still to come: the candidate loads, and runs each set once.
            ahead = setup_s + (now - begin) * (1.0 + (len(seen.used) + 1) / (1.0 + _PROBES))
            if now - start + ahead > effort.budget_s or seen.size_bytes() > _MAX_KEPT_BYTES:
                break
        return seen


def _attempt(runner: Runner, feeds: Feeds) -> Feeds | None:
    """Outputs, or None where these values stop the model (an index that is out of range)."""
    try:
        return runner.run(feeds)
    except BnfuseError:
        return None


def _noise(
    runner: Runner, feeds: Feeds, outputs: Feeds, roundoff: float, deadline: float
) -> dict[str, float]:
    """The reference's own noise in each output (equation: ``bnfuse.proof.verdict``).

    NaN where it cannot be measured: no input is a float, the deadline has passed, or the model
    does not run on the moved inputs.
    """
    noises = dict.fromkeys(outputs, math.nan)
    if not any(is_float(array) for array in feeds.values()):
        return noises

    def moved(step: float, seed: int) -> Feeds | None:
        return None if time.perf_counter() > deadline else _attempt(runner, perturb(feeds, step, seed))

    shaken = moved(2.0 * roundoff, 0)
    up, down = moved(roundoff**0.75, 1), moved(-(roundoff**0.75), 1)
    for name, array in outputs.items():
        scale = scales([array])[0]
        found = []
        if shaken is not None:
            found.append(relative_change(array, shaken[name], scale))
        if up is not None and down is not None:
            found.append(rounding_noise(array, up[name], down[name], scale))
        noises[name] = max(found, default=math.nan)
    return noises


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
