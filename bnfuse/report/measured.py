"""What a bench found beside the latencies, in words and rows that terminal and Markdown share.

Plain text without markup, as ``report.text``; strings of a model (operators of its own) are untrusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from bnfuse.report import text
from bnfuse.report.sizes import benched
from bnfuse.results import Baseline, BaselineRun, BenchRun, ColdStart, Latency, Profile
from bnfuse.results.figures import signed_percent
from bnfuse.results.latency import OFF, ON

_Run = TypeVar("_Run", BenchRun, BaselineRun)

OPERATORS = ("operator", "before", "nodes", "after", "nodes", "change")
OPERATORS_ALONE = ("operator", "time", "nodes", "share")
_BETWEEN = "between operators"
_MOST_OPERATORS = 15


def ordered(runs: Sequence[_Run]) -> list[_Run]:
    """As users run a model first: optimisation on, then off, then cold start."""
    places = {ON: 0, OFF: 1}
    return sorted(runs, key=lambda run: places.get(run.setting, 2))


def facts(latency: Latency) -> Iterator[tuple[str, str]]:
    """(label, sentence) of what is told beside the tables."""
    if latency.machine is not None:
        yield "machine", machine(latency)
    for sentence in shares(latency):
        yield "share", sentence
    for sentence in benched(latency.runs):
        yield "inputs", sentence
    for run in latency.runs:
        if run.before_cold is not None:
            yield "cold", _cold(run.before_cold, run.after_cold)
            if run.before_cold.peak_bytes is not None:
                yield "memory", _memory(run)
    if latency.profile is not None:
        yield "ran on", placed(latency.profile)


def shares(latency: Latency) -> list[str]:
    """Of each run that more than folding makes faster: what each cause contributes."""
    told = [run for run in latency.runs if run.shares]
    return [f"{text.setting(run, latency)}, batch {run.batch}: {_causes(run)}" for run in told]


def _causes(run: BenchRun) -> str:
    return "; ".join(
        f"{one.cause} {one.speedup:.3f}× ({one.ci95[0]:.3f}–{one.ci95[1]:.3f}, {one.verdict})"
        for one in run.shares
    )


def machine(latency: Latency) -> str:
    """``AMD EPYC, 2 processors, 25.28 GB, Linux x86_64; onnxruntime 1.32.0``."""
    found = latency.machine
    if found is None:
        return latency.runtime
    named = text.hardware(found)
    return f"{named}; {latency.runtime}" if latency.runtime else named


def _cold(before: ColdStart, after: ColdStart | None) -> str:
    """``medians: process 35 ms, runtime 220 ms, load 16 ms → 12 ms, first answer 0.7 ms → 0.5 ms``."""
    phases = (("process", "start_ms"), ("runtime", "runtime_ms"), ("load", "load_ms"))
    starts = [start for start in (before, after) if start is not None]
    return "medians: " + ", ".join(
        f"{name} {' → '.join(text.milliseconds(getattr(start, field)) for start in starts)}"
        for name, field in (*phases, ("first answer", "first_run_ms"))
    )


def _memory(run: BenchRun) -> str:
    """``peak of a process 180 MB → 172 MB (−4.4 %)``."""
    assert run.before_cold is not None
    before = run.before_cold.peak_bytes or 0
    after = run.after_cold.peak_bytes if run.after_cold is not None else None
    if not after or not before:
        return f"peak of a process {text.size(before)}"
    change = signed_percent(after / before - 1)
    return f"peak of a process {text.size(before)} → {text.size(after)} ({change})"


def placed(profile: Profile) -> str:
    """``CPUExecutionProvider 100 % of 23 nodes``; before and after where they differ."""
    before = _shares(profile.before_placed)
    after = before if profile.after_placed is None else _shares(profile.after_placed)
    return before if before == after else f"before: {before}; after: {after}"


def _shares(nodes: dict[str, int]) -> str:
    total = sum(nodes.values())
    order = sorted(nodes.items(), key=lambda entry: (-entry[1], entry[0]))
    parts = [f"{name or 'unknown'} {100 * count / total:.3g} %" for name, count in order]
    return f"{', '.join(parts)} of {total} nodes"


def profile_title(profile: Profile) -> str:
    """What the table of operators shows."""
    return f"time by operator, {profile.setting}, batch {profile.batch}, median of {profile.calls} calls"


def profile_rows(profile: Profile) -> list[tuple[str, ...]]:
    """Cells for ``OPERATORS``, or for ``OPERATORS_ALONE`` of one model; the last row is the whole call."""
    shown, rest = profile.operators[:_MOST_OPERATORS], profile.operators[_MOST_OPERATORS:]
    lines = [(o.op, o.before_ms, o.before_nodes, o.after_ms, o.after_nodes) for o in shown]
    if rest:
        after = None if profile.after_ms is None else sum(o.after_ms or 0.0 for o in rest)
        after_nodes = None if profile.after_ms is None else sum(o.after_nodes or 0 for o in rest)
        before_nodes = sum(o.before_nodes for o in rest)
        lines.append((f"{len(rest)} more", sum(o.before_ms for o in rest), before_nodes, after, after_nodes))
    gap = max(0.0, profile.before_ms - sum(o.before_ms for o in profile.operators))
    if profile.after_ms is None:
        rows = [(op, ms, str(count)) for op, ms, count, _, _ in lines]
        rows += [(_BETWEEN, gap, ""), ("whole call", profile.before_ms, "")]
        whole = profile.before_ms or 1.0
        return [(op, text.milliseconds(ms), count, f"{100 * ms / whole:.3g} %") for op, ms, count in rows]
    after_gap = max(0.0, profile.after_ms - sum(o.after_ms or 0.0 for o in profile.operators))
    cells = [(op, ms, str(n), ams or 0.0, str(an or 0)) for op, ms, n, ams, an in lines]
    cells += [(_BETWEEN, gap, "", after_gap, ""), ("whole call", profile.before_ms, "", profile.after_ms, "")]
    return [
        (op, text.milliseconds(ms), n, text.milliseconds(ams), an, change(ams - ms))
        for op, ms, n, ams, an in cells
    ]


def change(ms: float) -> str:
    """``+0.25 ms``, ``−13 ms``; what is below a nanosecond is none."""
    if abs(ms) < 1e-6:
        return "0 ms"
    return f"{'−' if ms < 0 else '+'}{text.milliseconds(abs(ms))}"


def baseline_title(baseline: Baseline) -> str:
    """What was compared with, or why it was not."""
    if baseline.refusal:
        return f"not comparable with '{baseline.path}': {baseline.refusal}"
    return f"compared with '{baseline.path}'" + "".join(f"; {note}" for note in baseline.notes)


def slowdown(run: BaselineRun) -> str:
    """The least one that the figures show."""
    return f"{100 * (run.slowdown - 1):.1f} %" if run.slowdown > 1 else "nothing shown"
