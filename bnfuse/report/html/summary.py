"""The head of the page: what happened in one sentence, and the figures an engineer looks for first."""

from __future__ import annotations

import math

from bnfuse.report import text
from bnfuse.report.content.latency import kind
from bnfuse.report.html.charts import meter
from bnfuse.report.html.markup import code, esc
from bnfuse.report.measured import ordered
from bnfuse.report.sizes import axes, shape
from bnfuse.results import BenchRun, FileInfo, Latency, Report, Status
from bnfuse.results.figures import figure

_PROOF = {
    Status.EQUAL: "Equal",
    Status.DIFFERENT: "Different",
    Status.INCONCLUSIVE: "Inconclusive",
    Status.SKIPPED: "Not verified",
}
_MOST_RUNS = 4
_FOLDED = "BatchNormalizations folded"


def head(report: Report) -> str:
    """The title, the verdict and the tiles."""
    cards = (_batchnorms(report), _proof(report), _latency(report), _size(report))
    return "\n".join(
        (
            "<header>",
            f'<p class="product">bnfuse report · {code(report.input.path.name)}</p>',
            f"<h1>{esc(text.headline(report))}</h1>",
            f'<p class="lead">{_verdict(report)}</p>',
            f'<div class="tiles">{"".join(card for card in cards if card)}</div>',
            "</header>",
        )
    )


def _verdict(report: Report) -> str:
    """Status of the proof as a badge, then what was written."""
    status = report.verification.status
    badge = f'<span class="badge {report.verification.shade.value}">{_outcome(report)}</span>'
    if report.output is not None:
        return f"{badge} {_both(report.output)} written."
    wrote = "Nothing was written." if status is not Status.SKIPPED else "A plan only: nothing was written."
    return f"{badge} {wrote}"


def _both(file: FileInfo) -> str:
    """``a was``; with weights apart ``a and b were``."""
    return f"{' and '.join(map(code, file.names))} {'was' if len(file.names) == 1 else 'were'}"


def _outcome(report: Report) -> str:
    """``Equal``; with fewer sets than planned that is said, and it is not green."""
    proof = report.verification
    return text.sentence(text.outcome(proof)) if proof.partial else _PROOF[proof.status]


def _tile(name: str, value: str, *below: str, kind: str = "") -> str:
    lines = "".join(f'<p class="below">{line}</p>' for line in below if line)
    return f'<div class="tile {kind}"><p class="name">{name}</p><p class="value">{value}</p>{lines}</div>'


def _batchnorms(report: Report) -> str:
    found, folded, kept = report.plan.counts(batchnorm=True)
    affines, gone, _ = report.plan.counts(batchnorm=False)
    bar = meter([(folded / found, "folded"), (kept / found, "kept")]) if found else ""
    also = f"and {gone} of {affines} per-channel Mul, Add, Sub, Div" if affines else ""
    stay = f"{kept} stay{'s' if kept == 1 else ''}" if kept else "none stays" if found else ""
    name = f"BatchNormalizations that {text.participle(report)}" if report.output is None else _FOLDED
    return _tile(name, f"{folded} <small>of {found}</small>", bar, stay, also)


def _proof(report: Report) -> str:
    proof = report.verification
    below = []
    if proof.outputs and proof.status in (Status.EQUAL, Status.DIFFERENT):
        worst = text.worst_output(proof)
        if not math.isnan(worst.max_rel):
            below.append(f"largest difference {figure(worst.max_rel, 2)} of the range")
        below.append(f"allowed {figure(worst.tolerance, 2)}")
    of = f" of {proof.planned} planned" if proof.partial else ""
    sets = f"on {proof.samples}{of} input set{'s' if proof.samples != 1 else ''}" if proof.samples else ""
    guessed = next((one for one in proof.inputs if one.guessed), None)
    at = f"for {esc(shape(guessed))}: {axes(guessed)} guessed" if guessed is not None else ""
    return _tile("Proof", _PROOF[proof.status], *below, sets, at, kind=proof.shade.value)


def _latency(report: Report) -> str:
    latency = report.benchmark
    paired = [run for run in ordered(latency.runs) if run.after_ms is not None] if latency else []
    if latency is None or not paired:
        return ""
    lines = [_run(run, latency) for run in paired[:_MOST_RUNS]]
    return f'<div class="tile"><p class="name">Speed-up (before ÷ after)</p>{"".join(lines)}</div>'


def _run(run: BenchRun, latency: Latency) -> str:
    """The ratio with its interval where it is told; the verdict in any case."""
    where = f"{esc(text.setting(run, latency))}, batch {run.batch}"
    if not run.told or run.ci95 is None:
        imprecise = f"{text.speedup(run)}, " if text.speedup(run) else ""
        return f'<p class="run"><span>{where} <br><small>{imprecise}{esc(run.verdict)}</small></span></p>'
    low, high = (figure(end) for end in run.ci95)
    return (
        f'<p class="run"><b class="{kind(run)}">{figure(run.speedup or 1.0)}×</b> <span>{where}'
        f" <br><small>{low}–{high}, {esc(run.verdict)}{_by_cause(run)}</small></span></p>"
    )


def _by_cause(run: BenchRun) -> str:
    return "".join(f"<br>{figure(share.speedup)}× by {esc(share.cause)}" for share in run.shares)


def _size(report: Report) -> str:
    before, after = sum(report.operators_before.values()), sum(report.operators_after.values())
    file = report.output or report.input
    weights = file.weight_bytes
    change = text.size_change(report.input, report.output) if report.output else ""
    fewer = f"{before} → {after} nodes" if before != after else f"{before} nodes"
    name, amount = ("Size", file.total_bytes) if weights is None else ("Size of the weights", weights)
    return _tile(name, esc(text.size(amount)), esc(change), esc(fewer))
