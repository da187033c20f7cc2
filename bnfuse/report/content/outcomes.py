"""Gates, comparisons and errors, section by section, for every form but JSON's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.results import Status
from bnfuse.results.outcomes import Failure

if TYPE_CHECKING:
    from bnfuse.results.outcomes import Comparison, Gate


def gates(every: Sequence[Gate], form: doc.Form) -> doc.Section:
    """A line for each, red where it said no; a terminal has those on stderr."""
    said = [] if form in doc.Form.TERMINAL else every
    blocks = (*(_gate(gate) for gate in sorted(said, key=lambda gate: gate.passed)),)
    return doc.Section("gates", "Gates", blocks)


def _gate(gate: Gate) -> doc.Block:
    if gate.passed:
        return doc.Paragraph(f"{gate.option} passed: {gate.message}")
    return doc.Paragraph(f"{gate.option} said no: {gate.message}", style="alert")


def _headline(found: Comparison) -> str:
    """One sentence on two models, or on one."""
    files = [file for file in (found.before, found.after) if file is not None]
    names = [" with ".join(f"'{name}'" for name in file.names) for file in files]
    if found.agreement is None:
        return f"latency of {' and '.join(names)}"
    status = found.agreement.status
    if status is Status.EQUAL:
        return f"{' and '.join(names)} are {text.outcome(found.agreement)}"
    said = "differ" if status is Status.DIFFERENT else "could not be compared for certain"
    return f"{' and '.join(names)} {said}"


def document(found: Comparison | Failure, form: doc.Form) -> doc.Document:
    """What was compared, and what came out, or why nothing did."""
    if isinstance(found, Failure):
        return doc.Document("error", _failure(found), found.command)
    every = [gates(found.gates, form)]
    if found.agreement is not None:
        from bnfuse.report.content.proof import compared

        every.append(compared(found.agreement, form))
    if found.latency is not None:
        from bnfuse.report.content.latency import latency

        every.append(latency(found.latency, form))
    if form in doc.Form.TERMINAL:
        return doc.Document("", every)
    sections = [one for one in (*every, _files(found)) if one.blocks]
    return doc.Document(_headline(found), sections, found.command)


def _files(found: Comparison) -> doc.Section:
    files = [("model", found.before)] if found.after is None else [("A", found.before), ("B", found.after)]
    lines: list[doc.Line] = []
    for label, file in files:
        digest = f", SHA-256 {file.sha256}" if file.sha256 else ""
        weights = () if file.weights_path is None else (" with ", doc.name(str(file.weights_path)))
        told = f": {text.size(file.total_bytes)}{digest}"
        lines.append((label, (doc.name(str(file.path)), *weights, told)))
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return doc.Section("files", "Files", (doc.Facts([*lines, ("versions", versions)]),))


def _failure(found: Failure) -> list[doc.Section]:
    """The sentence, in red, and what command it ended."""
    lines: list[doc.Line] = [("command", f"bnfuse {found.command}"), ("exit code", str(found.exit_code))]
    lines += [("model", doc.name(str(found.path)))] if found.path is not None else []
    blocks = (doc.Paragraph(found.message, style="alert"), doc.Facts(lines))
    return [doc.Section("error", "Error", blocks)]
