"""Everything that the report of one ``optimize`` or ``inspect`` shows, section by section.

A new section is one more function that ``document`` calls: each form shows what it yields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report import proved, text
from bnfuse.report.content.outcomes import gates
from bnfuse.report.content.plan import decisions, equalized, kept, operators
from bnfuse.report.content.proof import STYLES, details_of, proof, verdict
from bnfuse.report.sizes import sizes
from bnfuse.results import Status

if TYPE_CHECKING:
    from bnfuse.results import Agreement, FileInfo, Machine, Report

_MARK = {Status.EQUAL: "✅", Status.DIFFERENT: "❌", Status.INCONCLUSIVE: "⚠️", Status.SKIPPED: "⏭️"}
# What a form shows first, in this order.
_FIRST = {
    doc.Form.MARKDOWN: ("gates", "verdict", "files"),
    doc.Form.HTML: (
        "gates",
        "notes",
        "kept",
        "decisions",
        "equalized",
        "layers",
        "latency",
        "proof",
        "operators",
    ),
}


def document(report: Report, form: doc.Form) -> doc.Document:
    """A sentence on what went, and the sections that have something to show, in the order of the form."""
    first = _FIRST.get(form, ())
    every = [
        gates(report.gates, form),
        verdict(report, form),
        kept(report, form),
        decisions(report, form),
        operators(report, form),
        equalized(report.plan.equalized, form),
        layers(report, form),
        proof(report, form),
        outcome(report, form),
        latency(report, form),
        notes(report, form),
        environment(report, form),
    ]
    every.sort(key=lambda one: first.index(one.name) if one.name in first else len(first))
    return doc.Document(text.headline(report), [one for one in every if one.blocks])


def layers(report: Report, form: doc.Form) -> doc.Section:
    """What became of the weights, layer by layer; so much takes HTML to show."""
    found = report.details.layers if report.details else ()
    shown = form is doc.Form.HTML and found
    blocks = (doc.Hook("layers", report),) if shown else ()
    return doc.Section("layers", "Weights, layer by layer", blocks, word="Weights")


def outcome(report: Report, form: doc.Form) -> doc.Section:
    """What was read, counted, proved and written."""
    match form:
        case doc.Form.HTML:
            block: doc.Block = doc.Facts(_files(report))
        case doc.Form.MARKDOWN:
            block = doc.Table(("", ""), [(doc.own(label), words) for label, words in _summary(report)])
        case _:
            block = doc.Facts(_facts(report, form))
    return doc.Section("files", "Files", (block,))


def _files(report: Report) -> list[tuple[str, doc.Words]]:
    files = (("model", report.input), ("result", report.output))
    return [
        ("model", _places(report.input, " with ")),
        ("written", _written(report)),
        *((f"SHA-256 of the {what}", doc.name(file.sha256)) for what, file in files if file and file.sha256),
        *text.counts(report),
        ("proof", text.proof(report.verification)),
    ]


def _summary(report: Report) -> list[tuple[str, doc.Words]]:
    found = report.verification
    return [
        ("model", doc.joined(map(doc.name, report.input.names), " with ")),
        *((label, doc.own(counts)) for label, counts in text.counts(report)),
        ("proof", (doc.own(f"{_mark(found)} "), text.proof(found))),
        *([("inputs", sizes(found.inputs))] if found.inputs else []),
        *(("folds", sentence) for sentence in proved.between_folds(found)),
        *(("accuracy", sentence) for sentence in proved.accuracies(found)),
        ("size", text.size_change(report.input, report.output)),
        ("written", _written(report)),
    ]


def _mark(found: Agreement) -> str:
    return "🟡" if found.partial and found.status is Status.EQUAL else _MARK[found.status]


def _written(report: Report) -> doc.Words:
    return _places(report.output, " and ") if report.output else "nothing"


def _places(file: FileInfo, between: str) -> doc.Words:
    """Where the file is, and that of its weights where they are one of their own."""
    places = [str(path) for path in (file.path, file.weights_path) if path is not None]
    return doc.joined(map(doc.name, places), between)


def _facts(report: Report, form: doc.Form) -> list[doc.Line]:
    """A terminal's lines."""
    found = report.verification
    lines: list[doc.Line] = [("size", text.size_change(report.input, report.output))]
    if report.output is not None or found.status is not Status.SKIPPED:
        lines.append(("proof", text.proof(found), STYLES[found.shade]))
        lines += details_of(found, form)
    if report.output is not None:
        lines.append(("written", _written(report), "bold"))
    return lines + [("note", note, "dim") for note in (*report.notes, *_flushed(report))]


def latency(report: Report, form: doc.Form) -> doc.Section:
    """What ``bench`` measured; what that takes is imported where it ran."""
    if report.benchmark is None:
        return doc.Section("latency", "Latency", ())
    from bnfuse.report.content.latency import latency

    return latency(report.benchmark, form)


def notes(report: Report, form: doc.Form) -> doc.Section:
    """What the user should know, as sentences; a terminal has them in ``outcome``."""
    flushed = _flushed(report) if form is doc.Form.HTML else ()
    every = () if form in doc.Form.TERMINAL else (*report.notes, *flushed)
    return doc.Section("notes", "Notes", (doc.Notes(every),) if every else ())


def _flushed(report: Report) -> tuple[str, ...]:
    count = report.subnormals_flushed
    were = "s were" if count > 1 else " was"
    return (f"{count} subnormal weight{were} set to zero",) if count else ()


def environment(report: Report, form: doc.Form) -> doc.Section:
    """Versions and machine (HTML), and where the time went."""
    lines: list[doc.Line] = []
    if form is doc.Form.HTML:
        found = report.benchmark.machine if report.benchmark else None
        versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
        lines += [("versions", versions)] if versions else []
        lines += [("machine", _machine(found))] if found else []
    if report.seconds and form in doc.Form.VERBOSE | doc.Form.HTML:
        lines.append(("time", text.seconds(report), "dim"))
    return doc.Section("environment", "Made with", (doc.Facts(lines),) if lines else (), word="")


def _machine(machine: Machine) -> str:
    cores = f"{machine.processors} processor{'s' if machine.processors != 1 else ''}"
    memory = "" if machine.memory_bytes is None else f"{text.size(machine.memory_bytes)} of memory"
    return ", ".join(filter(None, (machine.cpu, cores, memory, machine.gpu, machine.system)))
