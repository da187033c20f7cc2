"""The models as a whole: files, interface, facts, operators."""

from __future__ import annotations

from collections.abc import Iterable

from bnfuse.difference.result import Difference, InterfaceChange, Side
from bnfuse.formats.base import TensorSpec
from bnfuse.inputs.interface import shape_text
from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content.difference.words import Row, number, section, short


def models_section(found: Difference) -> doc.Section:
    """Both side by side, with the notes on how they were compared."""
    a, b = found.before, found.after
    labels = dict.fromkeys([*a.storage, *b.storage])
    rows = [
        ("file", str(a.file.path), str(b.file.path)),
        *([("weights in", _weights_in(a), _weights_in(b))] if _weights_in(a) or _weights_in(b) else []),
        ("format", a.file.format, b.file.format),
        ("size", text.size(a.file.total_bytes), text.size(b.file.total_bytes)),
        *((label, a.storage.get(label, ""), b.storage.get(label, "")) for label in labels),
        ("nodes", number(sum(a.totals.values())), number(sum(b.totals.values()))),
        ("weights", _weights_of(a), _weights_of(b)),
        ("parameters", number(a.parameters), number(b.parameters)),
    ]
    if a.file.sha256:
        rows.append(("SHA-256", f"{a.file.sha256[:16]}…", f"{b.file.sha256[:16]}…"))
    notes = [("note", note) for note in found.notes]
    titled = doc.Form.MARKDOWN | doc.Form.HTML
    head = ("", "before", "after")
    return section("models", "The models", head, rows, lines=notes, texts=3, titled=titled)


def _weights_in(side: Side) -> str:
    """The file of the weights, where the model is an architecture in JSON."""
    return str(side.file.weights_path or "")


def _weights_of(side: Side) -> str:
    return f"{number(side.weights)}, {text.size(side.weight_bytes)}"


def interface_section(changes: Iterable[InterfaceChange]) -> doc.Section:
    """A row per input and output that differs."""
    rows = [
        (
            (change.before or change.after or TensorSpec("", "", None)).name,
            change.kind,
            ", ".join("other nodes compute it" if what == "source" else what for what in change.what),
            _spec(change.before),
            _spec(change.after),
        )
        for change in changes
    ]
    return section("interface", "Interface", ("name", "", "what", "before", "after"), rows, texts=5)


def _spec(spec: TensorSpec | None) -> str:
    if spec is None:
        return ""
    return f"{spec.name}: {spec.dtype or 'unknown type'} {shape_text(spec.shape)}"


def facts_section(found: Difference) -> doc.Section:
    """A row per fact that differs."""
    rows = [(f.label, short(f.before or ""), short(f.after or "")) for f in found.facts]
    return section("facts", "The file says", ("", "before", "after"), rows, texts=3)


def operators_section(found: Difference) -> doc.Section:
    """Operators whose number changed, then the total of all."""
    rows = text.operator_rows(found.before.totals, found.after.totals)
    return section("operators", "Operators", ("operator", "before", "after", "change"), _counts(rows))


def _counts(rows: Iterable[tuple[str, int, int]]) -> list[Row]:
    return [(op, str(before), str(after), text.change(before, after)) for op, before, after in rows]


def graphs_sections(found: Difference) -> list[doc.Section]:
    """Operators by graph, where there are several graphs."""
    before, after = found.before.operators, found.after.operators
    names = dict.fromkeys([*before, *after])
    if len(names) < 2:
        return []
    rows = [
        (name or "main graph", *row)
        for name in names
        for row in _counts(text.operator_rows(before.get(name, {}), after.get(name, {}))[:-1])
    ]
    head = ("graph", "operator", "before", "after", "change")
    return [section("graphs", "Operators by graph", head, rows, texts=2)]
