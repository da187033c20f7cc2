"""Is a model slower than it was in an earlier report? Reads that report, and compares run by run.

Of each report the last model counts: the result where there are two, else the only one. Runs are the
same where setting, batch, threads and the sizes of inputs are; runs of fewer than six rounds are left
out. Two ways:

*speed-up*, where both reports measured against the same original (by its SHA-256), so that what
differs between two days hits both sides of each ratio alike::

    slowdown = low(speed-up then) / high(speed-up now) / stray        (ends of the 95 % intervals)

*time*, else. Times of different runs are noisy, so only the clear counts::

    slowdown = p50(now) / p90(then) / stray

``stray`` is by how much the original was shown to differ from itself (A/A), in the worse of the two
reports. A slow-down beyond 1 is one that is left when all of this doubt is taken off; below 1 nothing
is shown.

Does not compare what was measured on another machine: processor, number of usable processors, system,
device and GPU must be the same. Another runtime is compared, with a note: it may be what one asks about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from bnfuse.errors import UsageError
from bnfuse.results import Baseline, BaselineRun, BenchRun, Latency, Machine

SCHEMAS = ("bnfuse.bench/1", "bnfuse.report/1")
_ROUNDS = 6
_TIME, _SPEEDUP = "time", "speed-up"

Key = tuple[str, int, int]
Sizes = tuple[tuple[int, ...], ...]


class _Then(Struct, frozen=True):
    """One run, of either report; times in ms."""

    p50: float
    p90: float
    ci95: tuple[float, float] | None
    stray: float
    sizes: Sizes | None = None


class Earlier(Struct, frozen=True):
    """What an earlier report says. ``runs`` is empty where it measured nothing."""

    path: Path
    original: str
    device: str
    runtime: str
    machine: Machine | None
    runs: Mapping[Key, _Then]


def read_baseline(path: Path) -> Earlier:
    """An earlier report, of ``bench --json``, ``optimize --json`` or ``optimize --report FILE.json``.

    Raises:
        UsageError: it cannot be read, or is no such report.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the baseline '{path}' cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the baseline '{path}' is not JSON: give a report of bnfuse") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema not in SCHEMAS:
        raise UsageError(f"the baseline '{path}' is no report of bench or optimize ({' or '.join(SCHEMAS)})")
    try:
        return _earlier(path, document)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"the baseline '{path}' does not hold what its schema says ({error})") from error


def _earlier(path: Path, document: Mapping[str, Any]) -> Earlier:
    original = document["before" if document["schema"] == SCHEMAS[0] else "input"]
    found = document["benchmark"]
    if found is None:
        return Earlier(path, "", "", "", None, {})
    facts = found.get("machine")
    return Earlier(
        path=path,
        original=str(original["sha256"] or ""),
        device=str(found["device"]),
        runtime=str(found.get("runtime") or ""),
        machine=None if facts is None else _machine(facts),
        runs=dict(_runs(found)),
    )


def _machine(facts: Mapping[str, Any]) -> Machine:
    memory = facts["memory_bytes"]
    return Machine(
        cpu=str(facts["cpu"]),
        processors=int(facts["processors"]),
        memory_bytes=None if memory is None else int(memory),
        system=str(facts["system"]),
        gpu=str(facts["gpu"]),
    )


def _runs(found: Mapping[str, Any]) -> Iterator[tuple[Key, _Then]]:
    """Runs with figures; a figure that was not finite is null, and its run left out."""
    for run in found["runs"]:
        key = str(run["setting"]), int(run["batch"]), int(run.get("threads") or found["threads"])
        times = run["after_ms"] or run["before_ms"]
        if int(run["pairs"]) < _ROUNDS or not times["p50"] or not times["p90"]:
            continue
        ci95, control = _interval(run["ci95"]), _interval(run["control"])
        then = _Then(
            float(times["p50"]), float(times["p90"]), ci95, stray(control), _sizes(run.get("inputs"))
        )
        yield key, then


def _sizes(inputs: Any) -> Sizes | None:
    """The shapes of all inputs; None where the report does not tell them."""
    return tuple(tuple(map(int, one["shape"])) for one in inputs) if inputs else None


def _same_sizes(run: BenchRun, then: _Then) -> bool:
    """Whether inputs had the same sizes; where the earlier report does not say, no size may be a guess."""
    if not run.inputs or then.sizes is None:
        return not any(one.guessed for one in run.inputs)
    return tuple(one.shape for one in run.inputs) == then.sizes


def _interval(value: Any) -> tuple[float, float] | None:
    """Two positive numbers, or None."""
    if value is None or None in value:
        return None
    low, high = (float(end) for end in value)
    return (low, high) if 0 < low <= high < math.inf else None


def stray(control: tuple[float, float] | None) -> float:
    """By what factor, at least 1, the original is shown to differ from itself (A/A)."""
    return 1.0 if control is None else max(1.0, control[0], 1.0 / control[1])


def compare(now: Latency, original: str, then: Earlier) -> Baseline:
    """Each run of ``now`` beside the same of the earlier report.

    ``original`` is the SHA-256 of the first model measured now, "" where it is not known.
    """
    refusal = _refusal(now, then)
    if refusal:
        return Baseline(str(then.path), refusal=refusal)
    same_original = bool(original) and original == then.original
    pairs = [(run, then.runs.get(_key(run, now))) for run in now.runs if run.pairs >= _ROUNDS]
    alike = [(run, old) for run, old in pairs if old is not None and _same_sizes(run, old)]
    runs = [_compared(run, _key(run, now), old, same_original) for run, old in alike]
    if not runs:
        others = any(old is not None for _, old in pairs)
        what = "sizes of inputs" if others else "setting, batch and threads"
        why = f"no run with the same {what} had {_ROUNDS} rounds or more, then and now"
        return Baseline(str(then.path), refusal=why)
    notes = (
        (f"another runtime: {then.runtime} then, {now.runtime} now",) if then.runtime != now.runtime else ()
    )
    return Baseline(str(then.path), tuple(runs), notes=notes)


def _key(run: BenchRun, latency: Latency) -> Key:
    return run.setting, run.batch, getattr(run, "threads", 0) or latency.threads


def _refusal(now: Latency, then: Earlier) -> str:
    """Why the two cannot be compared, else ""."""
    if not then.runs and not then.device:
        return "the earlier report measured nothing"
    if then.machine is None or now.machine is None:
        return "the earlier report does not say on what machine it was measured"
    facts = (
        ("processor", then.machine.cpu, now.machine.cpu),
        ("usable processors", then.machine.processors, now.machine.processors),
        ("system", then.machine.system, now.machine.system),
        ("device", then.device, now.device),
        ("GPU", then.machine.gpu, now.machine.gpu),
    )
    other = [
        f"{what} {before or 'unknown'} then, {after or 'unknown'} now"
        for what, before, after in facts
        if before != after
    ]
    return f"another machine: {'; '.join(other)}" if other else ""


def _compared(run: BenchRun, key: Key, old: _Then, same_original: bool) -> BaselineRun:
    times = run.after_ms or run.before_ms
    doubt = max(old.stray, stray(run.control))
    if same_original and old.ci95 is not None and run.ci95 is not None:
        basis, slowdown = _SPEEDUP, old.ci95[0] / run.ci95[1] / doubt
    else:
        basis, slowdown = _TIME, times.p50 / old.p90 / doubt
    return BaselineRun(*key, then_ms=old.p50, now_ms=times.p50, slowdown=slowdown, basis=basis)
