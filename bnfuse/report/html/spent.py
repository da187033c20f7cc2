"""What the time went into: by operator, by phase of a cold start, and beside an earlier report."""

from __future__ import annotations

from bnfuse.report import text
from bnfuse.report.html.charts import meter
from bnfuse.report.html.markup import Cell, code, esc, figure, notes, table
from bnfuse.results import Baseline, BaselineRun, ColdStart, Latency, OperatorTime, Profile

# Operators beyond these are summed up in one line.
_MOST_OPERATORS = 15


def profile(measured: Profile | None) -> str:
    """Time by operator before and after, the slowest first; "" without a profile."""
    if measured is None or not measured.operators:
        return ""
    ranked = sorted(measured.operators, key=lambda one: -max(one.before_ms, one.after_ms or 0.0))
    most = max(ranked[0].before_ms, ranked[0].after_ms or 0.0)
    paired = measured.after_ms is not None
    rows = [_operator(one, most, paired=paired) for one in ranked[:_MOST_OPERATORS]]
    rest = ranked[_MOST_OPERATORS:]
    more = f"; {len(rest)} more took {text.milliseconds(sum(one.before_ms for one in rest))}" if rest else ""
    head = ("operator", "nodes", "time", "", "") if paired else ("operator", "nodes", "time", "")
    whole = _whole(measured)
    placed = ", ".join(f"{n} nodes on {provider}" for provider, n in measured.before_placed.items())
    words = f"{measured.setting}, batch {measured.batch}, median of {measured.calls} calls: {whole}{more}"
    return (
        f"<h3>Where the time goes, by operator</h3>{table(head, rows)}"
        f'<p class="dim small">{esc(words)}{"; " + esc(placed) if placed else ""}. What the operators do not '
        "add up to is spent between them.</p>"
    )


def _whole(measured: Profile) -> str:
    before = text.milliseconds(measured.before_ms)
    return before if measured.after_ms is None else f"{before} → {text.milliseconds(measured.after_ms)}"


def _operator(one: OperatorTime, most: float, *, paired: bool) -> tuple[str | Cell, ...]:
    bars = meter([(one.before_ms / most, "before")]) if most > 0 else ""
    if not paired:
        return (
            code(one.op),
            str(one.before_nodes),
            text.milliseconds(one.before_ms),
            f'<span class="bars">{bars}</span>',
        )
    after, nodes = one.after_ms or 0.0, one.after_nodes or 0
    bars += meter([(after / most, "after")]) if most > 0 else ""
    change = 1000 * (after - one.before_ms)
    return (
        code(one.op),
        str(nodes) if nodes == one.before_nodes else f"{one.before_nodes} → {nodes}",
        f"{text.milliseconds(one.before_ms)} → {text.milliseconds(after)}",
        f"{change:+.3g} µs".replace("-", "−") if abs(change) >= 0.5 else "0 µs",
        f'<span class="bars">{bars}</span>',
    )


def cold_start(latency: Latency) -> str:
    """The phases of a start, and the memory; "" where none was measured."""
    rows = []
    for run in latency.runs:
        for which, cold in (("before", run.before_cold), ("after", run.after_cold)):
            if cold is not None:
                rows.append(_start(which, run.batch, cold))
    if not rows:
        return ""
    head = ("cold start", "batch", "process", "runtime", "loading", "first answer", "", "peak memory")
    keys = " ".join(f'<span class="key phase-{i}">{head[i + 1]}</span>' for i in range(1, 5))
    return f'<h3>A cold start, phase by phase</h3>{table(head, rows)}<p class="dim small">{keys}</p>'


def _start(which: str, batch: int, cold: ColdStart) -> tuple[str, ...]:
    phases = (cold.start_ms, cold.runtime_ms, cold.load_ms, cold.first_run_ms)
    total = sum(phases)
    shades = ("phase-1", "phase-2", "phase-3", "phase-4")
    bar = meter([(ms / total, shade) for ms, shade in zip(phases, shades, strict=True)]) if total > 0 else ""
    memory = "" if cold.peak_bytes is None else text.size(cold.peak_bytes)
    times = [text.milliseconds(ms) for ms in phases]
    return which, str(batch), *times, f'<span class="bars">{bar}</span>', memory


def baseline(compared: Baseline | None) -> str:
    """Beside an earlier report; "" where none was given."""
    if compared is None:
        return ""
    told = f'<p class="alert">{esc(compared.refusal)}</p>' if compared.refusal else ""
    head = ("setting", "batch", "threads", "then", "now", "at least", "by")
    rows = table(head, [_then(run) for run in compared.runs]) if compared.runs else ""
    title = f"<h3>Beside {code(compared.path)}</h3>"
    return title + told + rows + notes(compared.notes)


def _then(run: BaselineRun) -> tuple[str, ...]:
    share = 100 * (run.slowdown - 1)
    least = f"{figure(share)} % slower" if share > 0 else "not slower"
    times = (text.milliseconds(run.then_ms), text.milliseconds(run.now_ms))
    return esc(run.setting), str(run.batch), str(run.threads), *times, least, esc(run.basis)
