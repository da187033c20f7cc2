"""On what evidence the result is equal: output by output, on the user's labels, and who breaks equality."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report import proved, text
from bnfuse.report.sizes import sizes
from bnfuse.results import Status

if TYPE_CHECKING:
    from bnfuse.results import Accuracy, Agreement, Culprit, OutputAgreement, Report

_MOST_ROWS = {doc.Form.BRIEF: 30, doc.Form.MARKDOWN: 100}
_MOST_ALLOWANCES = 3
_MOST_SUSPECTS = 20
STYLES = {
    Status.EQUAL: "green",
    Status.DIFFERENT: "bold red",
    Status.INCONCLUSIVE: "yellow",
    Status.SKIPPED: "dim",
}


def _snr(output: OutputAgreement) -> str:
    return "identical" if output.snr_db == math.inf else f"{output.snr_db:.1f} dB"


def _snr_in_html(output: OutputAgreement) -> doc.Words:
    return "exact" if output.snr_db == math.inf else doc.Number(output.snr_db, 4, " dB")


def _used(output: OutputAgreement) -> doc.Cell:
    """How much of the allowed difference was used."""
    used = output.max_rel / output.tolerance if output.tolerance > 0 else math.nan
    bar = doc.Chart("meter", ([(min(1.0, used) if used >= 0 else 1.0, "folded" if used <= 1 else "bad")], 60))
    told = doc.Number(100 * used, 2, " %") if used < 10 else doc.Number(used, 2, "×")
    return doc.Cell(bar if math.isnan(used) else (told, bar), used)


def _share_of_range(share: float) -> doc.Words | doc.Cell:
    """Nothing where the output has no range: it is zero throughout."""
    return "" if math.isnan(share) else doc.Cell(doc.Number(share), share)


def _percent(share: float | None) -> doc.Words:
    return "" if share is None else doc.Number(100 * share, 4, " %")


OUTPUTS: tuple[doc.Column[OutputAgreement], ...] = (
    doc.Column("output", lambda output: doc.name(output.name)),
    doc.Column("max |difference|", lambda output: doc.Cell(doc.Number(output.max_abs), output.max_abs)),
    doc.Column("RMS", lambda output: "" if math.isnan(output.rms) else doc.Number(output.rms)),
    doc.Column("of the range", lambda output: _share_of_range(output.max_rel)),
    doc.Column("allowed", lambda output: doc.Number(output.tolerance)),
    doc.Column("used", _used, doc.Form.HTML),
    doc.Column("SNR", _snr, doc.Form.TEXT),
    doc.Column("SNR", _snr_in_html, doc.Form.HTML),
    doc.Column("arg-max agrees", lambda output: _percent(output.argmax_agreement)),
)
_ACCURACY: tuple[doc.Column[Accuracy], ...] = (
    doc.Column("output", lambda one: doc.name(one.output)),
    doc.Column("labels", lambda one: str(one.samples)),
    doc.Column("right before", lambda one: _percent(one.before)),
    doc.Column("right after", lambda one: _percent(one.after)),
    doc.Column("answers changed", lambda one: str(one.changed)),
    doc.Column("an answer is", lambda one: one.rule),
)


def proof(report: Report, form: doc.Form) -> doc.Section:
    """What was compared; a terminal has the outputs with -v only, and all else in ``outcome``."""
    agreement = report.verification
    match form:
        case doc.Form.HTML:
            blocks = _evidence(agreement)
        case doc.Form.MARKDOWN:
            blocks = _by_output(agreement)
        case _:
            blocks = outputs(agreement, form) if form is doc.Form.VERBOSE else ()
    return doc.Section("proof", "Proof", blocks)


def verdict(report: Report, form: doc.Form) -> doc.Section:
    """In red that equality was not shown; HTML's head tells it, a terminal has it on stderr."""
    alert = form is doc.Form.MARKDOWN and _is_bad(report.verification)
    said = (doc.Paragraph(text.proof(report.verification), style="alert"),) if alert else ()
    return doc.Section("verdict", "Verdict", said)


def _is_bad(agreement: Agreement) -> bool:
    return agreement.status in (Status.DIFFERENT, Status.INCONCLUSIVE)


def compared(agreement: Agreement, form: doc.Form) -> doc.Section:
    """The outcome of ``verify``: first its verdict, in red where equality was not shown."""
    alert = form not in doc.Form.TERMINAL and _is_bad(agreement)
    said = doc.Paragraph(text.proof(agreement), "proof", "alert" if alert else STYLES[agreement.shade])
    _, more = doc.cut(agreement.outputs, _MOST_ROWS.get(form), form, "outputs")
    details = doc.Facts(details_of(agreement, form))
    return doc.Section("proof", "Proof", (said, *outputs(agreement, form), *more, details))


def outputs(agreement: Agreement, form: doc.Form) -> tuple[doc.Table, ...]:
    """A row for each output; nothing without outputs."""
    every = agreement.outputs
    if not every:
        return ()
    return (doc.tabulated(every[: _MOST_ROWS.get(form)], OUTPUTS, form, sortable=len(every) > 5),)


def details_of(agreement: Agreement, form: doc.Form) -> list[doc.Line]:
    """A terminal's lines: what was allowed and why, the user's labels, how two formats met."""
    lines: list[doc.Line] = [("inputs", sizes(agreement.inputs))] if agreement.inputs else []
    lines += [("folds", sentence) for sentence in proved.between_folds(agreement)]
    allowed = proved.allowances(agreement)
    shown = allowed[:_MOST_ALLOWANCES] if form is doc.Form.BRIEF else allowed
    lines += [("allowed", sentence, "dim") for sentence in shown]
    if len(shown) < len(allowed):
        lines.append(("", f"{len(allowed) - len(shown)} more tolerances: -v shows them all", "dim"))
    lines += [("accuracy", sentence) for sentence in proved.accuracies(agreement)]
    return lines + [("note", note, "dim") for note in agreement.notes]


def _by_output(agreement: Agreement) -> tuple[doc.Block, ...]:
    """Markdown's: folded away, with where the tolerances come from."""
    if not agreement.outputs:
        return ()
    allowed = [f"allowed: {sentence}" for sentence in proved.allowances(agreement)]
    notes = doc.Notes((*allowed[: _MOST_ROWS[doc.Form.MARKDOWN]], *agreement.notes))
    title = doc.own(f"The proof, output by output ({len(agreement.outputs)})")
    return (doc.Subpart(title, (*outputs(agreement, doc.Form.MARKDOWN), notes)),)


def _evidence(agreement: Agreement) -> tuple[doc.Block, ...]:
    """HTML's; nothing where nothing was compared."""
    if agreement.status is Status.SKIPPED and not agreement.outputs:
        return ()
    words = "; ".join(part for part in (agreement.evidence, agreement.detail) if part)
    bases = dict.fromkeys(f"The tolerance: {output.basis}" for output in agreement.outputs if output.basis)
    blocks: list[doc.Block] = [doc.Paragraph(words)] if words else []
    blocks += [doc.Paragraph(f"Inputs: {sizes(agreement.inputs)}")] if agreement.inputs else []
    blocks += _culprit(agreement.culprit, agreement.suspects)
    blocks += [doc.Paragraph(f"Folds: {sentence}") for sentence in proved.between_folds(agreement)]
    blocks += outputs(agreement, doc.Form.HTML)
    if agreement.accuracy:
        labels = doc.tabulated(agreement.accuracy, _ACCURACY, doc.Form.HTML)
        blocks.append(doc.Subpart("Accuracy on your labels", (labels,)))
    return (*blocks, doc.Notes(tuple(bases)), doc.Notes(agreement.notes))


def _culprit(culprit: Culprit | None, suspects: tuple[str, ...]) -> list[doc.Block]:
    words: list[doc.Inline] = []
    if culprit is not None:
        into = doc.joined(map(doc.name, culprit.into)) or ("nothing",)
        fold = (f"Equality breaks with the fold of {culprit.op} ", doc.name(culprit.node))
        words += [*fold, f" ({culprit.split} into ", *into, ")."]
    if suspects:
        listed = doc.joined(map(doc.name, suspects[:_MOST_SUSPECTS]))
        words += [f"{' ' if words else ''}Under suspicion: ", *listed, "."]
    return [doc.Paragraph(tuple(words), style="alert")] if words else []
