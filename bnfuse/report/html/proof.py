"""On what evidence the result is equal: output by output, how much of the allowed difference was used."""

from __future__ import annotations

import math

from bnfuse.report.html.charts import meter
from bnfuse.report.html.markup import Cell, code, esc, figure, notes, section, table
from bnfuse.report.proved import between_folds
from bnfuse.report.sizes import sizes
from bnfuse.results import Accuracy, Agreement, Culprit, OutputAgreement, Status


def proof_section(agreement: Agreement) -> str:
    """Evidence, outputs, accuracy on labels, and who breaks equality; "" where nothing was compared."""
    if agreement.status is Status.SKIPPED and not agreement.outputs:
        return ""
    words = "; ".join(part for part in (agreement.evidence, agreement.detail) if part)
    return section(
        "proof",
        "Proof",
        f"<p>{esc(words)}</p>" if words else "",
        f"<p>Inputs: {esc(sizes(agreement.inputs))}</p>" if agreement.inputs else "",
        _culprit(agreement.culprit, agreement.suspects),
        "".join(f"<p>Folds: {esc(sentence)}</p>" for sentence in between_folds(agreement)),
        _outputs(agreement),
        _accuracy(agreement.accuracy),
        notes(dict.fromkeys(_bases(agreement))),
        notes(agreement.notes),
    )


def _outputs(agreement: Agreement) -> str:
    if not agreement.outputs:
        return ""
    head = ("output", "max |difference|", "RMS", "of the range", "allowed", "used", "SNR", "arg-max agrees")
    return table(head, [_output(output) for output in agreement.outputs], sortable=len(agreement.outputs) > 5)


def _output(output: OutputAgreement) -> tuple[str | Cell, ...]:
    used = output.max_rel / output.tolerance if output.tolerance > 0 else math.nan
    kind = "folded" if used <= 1 else "bad"
    bar = meter([(min(1.0, used) if used >= 0 else 1.0, kind)], 60)
    rms = "" if math.isnan(output.rms) else figure(output.rms)
    agrees = "" if output.argmax_agreement is None else f"{figure(100 * output.argmax_agreement, 4)} %"
    snr = "exact" if output.snr_db == math.inf else f"{figure(output.snr_db, 4)} dB"
    return (
        code(output.name),
        Cell(figure(output.max_abs), output.max_abs),
        rms,
        Cell(figure(output.max_rel), output.max_rel),
        figure(output.tolerance),
        Cell(f"{figure(100 * used, 2)} %{bar}" if not math.isnan(used) else bar, used),
        snr,
        agrees,
    )


def _bases(agreement: Agreement) -> list[str]:
    """Where the tolerances come from; mostly the same words for all outputs."""
    return [f"The tolerance: {output.basis}" for output in agreement.outputs if output.basis]


def _accuracy(every: tuple[Accuracy, ...]) -> str:
    if not every:
        return ""
    rows = [
        (
            code(one.output),
            str(one.samples),
            f"{figure(100 * one.before, 4)} %",
            "" if one.after is None else f"{figure(100 * one.after, 4)} %",
            str(one.changed),
            esc(one.rule),
        )
        for one in every
    ]
    head = ("output", "labels", "right before", "right after", "answers changed", "an answer is")
    return f"<h3>Accuracy on your labels</h3>{table(head, rows)}"


def _culprit(culprit: Culprit | None, suspects: tuple[str, ...]) -> str:
    if culprit is None and not suspects:
        return ""
    parts = []
    if culprit is not None:
        into = ", ".join(code(name) for name in culprit.into) or "nothing"
        parts.append(
            f"Equality breaks with the fold of {esc(culprit.op)} {code(culprit.node)} "
            f"({esc(culprit.split)} into {into})."
        )
    if suspects:
        parts.append(f"Under suspicion: {', '.join(code(name) for name in suspects[:20])}.")
    return f'<p class="alert">{" ".join(parts)}</p>'
