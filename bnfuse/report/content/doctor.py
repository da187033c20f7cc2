"""What ``bnfuse doctor`` found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report import text

if TYPE_CHECKING:
    from bnfuse.use_cases.doctor import Diagnosis, Found

_RUNTIMES: tuple[doc.Column[Found], ...] = (
    doc.Column("runtime", lambda found: found.package),
    doc.Column("version", lambda found: found.version or "not installed"),
    doc.Column("for", lambda found: found.serves),
    doc.Column("", lambda found: _state(found)),
)


def _state(found: Found) -> doc.Words:
    if not found.version:
        return found.get
    if found.problem:
        return doc.Span(f"does not work: {found.problem}", "kept")
    return doc.Span(f"works on {', '.join(found.devices)}" if found.devices else "is here", "folded")


def document(found: Diagnosis, form: doc.Form) -> doc.Document:
    """Machine, runtimes, versions, and what to do."""
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    blocks = (
        doc.Facts([("machine", text.hardware(found.machine, no_gpu="no GPU")), ("versions", versions)]),
        doc.tabulated(found.runtimes, _RUNTIMES, form, texts=4),
        doc.Notes(found.notes),
    )
    return doc.Document("", [doc.Section("doctor", "", blocks)])
