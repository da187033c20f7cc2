"""Where does the time of a call go, operator by operator, before and after?

Both models are run some dozen times under their runtime's own profiler, with the runtime's graph
optimisation as it is for latency: what is counted is what really ran, the runtime's fusions included.
Per operator::

    time = median over calls of the sum over its nodes

The first calls are left out, since they allocate. Does not judge: profiled calls are slower than plain
ones, and one model is profiled after the other. Says so where a runtime has no profiler.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import CallTimes, Profiling, Runner, RunSettings
from bnfuse.results import OperatorTime, Profile

Feeds = Mapping[str, np.ndarray]

_WARM_UP = 3
_MIN_CALLS, _MAX_CALLS = 5, 48
_NS_PER_MS = 1e6
_QUICK_MS = 1.0


class _Spent(Struct, frozen=True):
    """One model: ms of a call, ms and nodes by operator, nodes by provider."""

    call_ms: float
    op_ms: dict[str, float]
    op_nodes: dict[str, int]
    placed: dict[str, int]
    calls: int


def profile(
    paths: Sequence[Path],
    settings: RunSettings,
    feeds: Sequence[Feeds],
    *,
    setting: str,
    batch: int,
    budget_s: float,
    load: Callable[[Path, RunSettings], Runner],
) -> Profile:
    """The profile of one model, or of two; ``feeds`` are the inputs of each.

    Raises:
        BnfuseError: the runtime has no profiler, or a model does not run.
    """
    wanted = replace(settings, profile=True)
    share_s = budget_s / len(paths)
    spent = [_spent(path, load, wanted, given, share_s) for path, given in zip(paths, feeds, strict=True)]
    return compared(spent[0], spent[1] if len(spent) > 1 else None, setting=setting, batch=batch)


def _spent(
    path: Path,
    load: Callable[[Path, RunSettings], Runner],
    settings: RunSettings,
    feeds: Feeds,
    budget_s: float,
) -> _Spent:
    with load(path, settings) as runner:
        if not isinstance(runner, Profiling):
            raise BnfuseError(f"{runner.runtime} has no profiler that bnfuse could read")
        start = time.perf_counter()
        for _ in range(_WARM_UP):
            runner.run(feeds)
        once_s = max(1e-6, (time.perf_counter() - start) / _WARM_UP)
        calls = int(np.clip(budget_s / once_s, _MIN_CALLS, _MAX_CALLS))
        return summed(runner.profile(feeds, calls)[-calls:])


def summed(calls: Sequence[CallTimes]) -> _Spent:
    """Calls by operator and by provider."""
    sums: dict[str, list[int]] = {}
    for at, call in enumerate(calls):
        for node in call.nodes:
            sums.setdefault(node.op, [0] * len(calls))[at] += node.ns
    nodes = {(node.name, node.op, node.provider) for call in calls for node in call.nodes}
    return _Spent(
        call_ms=median(call.ns for call in calls) / _NS_PER_MS,
        op_ms={op: median(ns) / _NS_PER_MS for op, ns in sums.items()},
        op_nodes=dict(Counter(op for _, op, _ in nodes)),
        placed=dict(Counter(provider for _, _, provider in sorted(nodes))),
        calls=len(calls),
    )


def compared(before: _Spent, after: _Spent | None, *, setting: str, batch: int) -> Profile:
    """Both models side by side; the operators that take most come first."""
    if after is None:
        alone = [OperatorTime(op, ms, before.op_nodes[op]) for op, ms in before.op_ms.items()]
        alone.sort(key=lambda line: (-line.before_ms, line.op))
        return Profile(setting, batch, before.calls, tuple(alone), before.call_ms, before.placed)
    lines = [
        OperatorTime(
            op,
            before.op_ms.get(op, 0.0),
            before.op_nodes.get(op, 0),
            after.op_ms.get(op, 0.0),
            after.op_nodes.get(op, 0),
        )
        for op in {**before.op_ms, **after.op_ms}
    ]
    lines.sort(key=lambda line: (-max(line.before_ms, line.after_ms or 0.0), line.op))
    return Profile(
        setting=setting,
        batch=batch,
        calls=min(before.calls, after.calls),
        operators=tuple(lines),
        before_ms=before.call_ms,
        before_placed=before.placed,
        after_ms=after.call_ms,
        after_placed=after.placed,
    )


def profile_hints(found: Profile, device: str) -> list[str]:
    """Sentences that keep a reader from concluding too much."""
    hints = []
    if device == "gpu":
        hints.append(
            "the time by operator is that of starting each node's work on the GPU, which does the work later"
        )
    if found.before_ms < _QUICK_MS:
        hints.append(
            "the time by operator is in whole microseconds, and taking it costs some for every node: in a "
            "model as quick as this only the larger changes mean something"
        )
    return hints
