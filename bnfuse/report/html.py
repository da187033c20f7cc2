"""The report as one self-contained HTML page: no network, light and dark, a filterable table.

Model strings are escaped as text, and the page forbids itself every script but its own (a content
security policy with the script's hash) and every connection.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from bnfuse.report import text
from bnfuse.report.groups import groups
from bnfuse.results import Agreement, BenchRun, Latency, Report

_STYLE = """
:root {
  color-scheme: light dark; --line: #d0d7de; --soft: #f6f8fa; --page: #fff; --text: #1f2328;
  --dim: #59636e; --good: #116329; --warn: #7d4e00; --bad: #a40e26;
}
@media (prefers-color-scheme: dark) {
  :root {
    --line: #3d444d; --soft: #161b22; --page: #0d1117; --text: #e6edf3;
    --dim: #9198a1; --good: #4ac26b; --warn: #d4a72c; --bad: #ff7b72;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem;
  background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
code { font: .875em/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.dim { color: var(--dim); }
.folded, .equal { color: var(--good); }
.kept, .inconclusive { color: var(--warn); }
.different { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .4rem .75rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--soft); font-weight: 600; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 1rem 0; }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
.filter { display: flex; flex-wrap: wrap; gap: .5rem; margin: 0 0 .5rem; align-items: center; }
.filter[hidden] { display: none; }
input, select {
  font: inherit; color: inherit; background: var(--soft); border: 1px solid var(--line);
  border-radius: 6px; padding: .3rem .6rem;
}
input { flex: 1 1 14rem; min-width: 0; }
#decisions td { min-width: 6rem; }
#decisions td:nth-child(2) { min-width: 12rem; }
#decisions td:last-child { min-width: 18rem; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
}
"""

_SCRIPT = """
const words = document.getElementById("words"), action = document.getElementById("action");
const rows = [...document.querySelectorAll("#decisions tbody tr")], shown = document.getElementById("shown");
function filter() {
  const wanted = words.value.toLowerCase();
  let count = 0;
  for (const row of rows) {
    const fits = (!action.value || row.dataset.action === action.value)
      && row.textContent.toLowerCase().includes(wanted);
    row.hidden = !fits;
    count += fits;
  }
  shown.textContent = `${count} of ${rows.length}`;
}
if (words) {
  words.addEventListener("input", filter);
  action.addEventListener("change", filter);
  document.querySelector(".filter").hidden = false;
  filter();
}
"""


def render(report: Report) -> str:
    """The whole report as one HTML document."""
    title = f"bnfuse: {report.input.path.name}"
    body = "\n".join(
        [
            f"<h1>{_text(text.headline(report))}</h1>",
            _facts(report),
            _kept(report),
            _decisions(report),
            _operators(report),
            _outputs(report.verification),
            _latency(report.benchmark),
            _notes("Notes", report.notes),
            _versions(report),
        ]
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy()}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _text(value: str) -> str:
    return escape(text.plain(value), quote=True)


def _code(value: str) -> str:
    return f"<code>{_text(value)}</code>"


def _facts(report: Report) -> str:
    status = report.verification.status.value
    facts = [
        ("model", _code(str(report.input.path))),
        *text.counts(report),
        ("proof", f'<span class="{status}">{_text(text.proof(report.verification))}</span>'),
        ("size", _text(text.size_change(report.input, report.output))),
        ("written", _code(str(report.output.path)) if report.output else "nothing"),
    ]
    if report.output is not None and report.output.sha256:
        facts.append(("SHA-256", _code(report.output.sha256)))
    return f"<dl>{''.join(f'<dt>{_text(name)}</dt><dd>{value}</dd>' for name, value in facts)}</dl>"


def _kept(report: Report) -> str:
    """One line per reason, with the first few names."""
    lines = [
        f"<li>{_text(group.message)} {_names(group.nodes)}</li>" for group in groups(report.plan.decisions)
    ]
    return f"<h2>What stays, and why</h2><ul>{''.join(lines)}</ul>" if lines else ""


def _names(every: Sequence[str]) -> str:
    shown = ", ".join(_code(name) for name in every[: text.SHOWN_NAMES])
    return f'<span class="dim">({shown}{text.more(every)})</span>'


def _decisions(report: Report) -> str:
    every = text.rows(report.plan.decisions)
    if not every:
        return ""
    lines = "\n".join(
        f'<tr data-action="{row.action}"><td>{_code(row.name)}</td><td>{_code(row.op)}</td>'
        f'<td class="{row.action}">{row.action}</td><td>{_code(row.reason)}</td>'
        f"<td>{_text(decision.message)}</td></tr>"
        for row, decision in zip(every, report.plan.decisions, strict=True)
    )
    head = "".join(f"<th>{name}</th>" for name in ("node", "operator", "decision", "split or reason", "why"))
    return f"""<h2>Every BatchNormalization</h2>
<div class="filter" hidden><input id="words" type="search" placeholder="filter" aria-label="filter">
<select id="action" aria-label="decision"><option value="">all</option><option>folded</option>
<option>kept</option></select><span id="shown" class="dim" aria-live="polite"></span></div>
<div class="scroll"><table id="decisions"><thead><tr>{head}</tr></thead><tbody>
{lines}
</tbody></table></div>"""


def _operators(report: Report) -> str:
    if report.operators_before == report.operators_after:
        return ""
    lines = [(_code(op), str(before), str(after)) for op, before, after in text.operator_rows(report)]
    return "<h2>Operators</h2>" + _table(("operator", "before", "after"), lines)


def _outputs(agreement: Agreement) -> str:
    if not agreement.outputs:
        return ""
    lines = [
        (_code(o.name), f"{o.max_abs:.3g}", f"{o.max_rel:.3g}", f"{o.tolerance:.3g}", f"{o.snr_db:.1f} dB")
        for o in agreement.outputs
    ]
    head = ("output", "max |difference|", "of the range", "allowed", "SNR")
    return "<h2>Proof, output by output</h2>" + _table(head, lines)


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return ""
    times = ("before p50", "p90", "p99", "after p50", "p90", "p99")
    head = ("setting", "batch", *times, "speed-up (95 %)", "verdict")
    where = _text(f"{latency.device}, {latency.threads} threads, {', '.join(latency.providers)}")
    table = _table(head, [_run(run) for run in latency.runs])
    return f'<h2>Latency of one call</h2><p class="dim">{where}</p>{table}{_notes("", latency.notes)}'


def _run(run: BenchRun) -> tuple[str, ...]:
    times = [
        text.milliseconds(value) if (value := getattr(which, name, None)) is not None else ""
        for which in (run.before_ms, run.after_ms)
        for name in ("p50", "p90", "p99")
    ]
    return _text(run.setting), str(run.batch), *times, text.speedup(run), _text(run.verdict)


def _notes(title: str, notes: Sequence[str]) -> str:
    if not notes:
        return ""
    heading = f"<h2>{title}</h2>" if title else ""
    return f"{heading}<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>"


def _versions(report: Report) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return f'<p class="dim">{_text(versions)}</p>' if versions else ""


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the first column is text, the others are figures."""
    kinds = ["", *[' class="number"'] * (len(head) - 1)]
    header = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, head, strict=True))
    cells = (
        "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, line, strict=True)) for line in lines
    )
    body = "".join(f"<tr>{line}</tr>" for line in cells)
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
