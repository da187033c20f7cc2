"""The models as a whole: files, interface, facts, operators."""

from __future__ import annotations

from collections.abc import Iterable

from bnfuse.difference.result import Difference, InterfaceChange, Side
from bnfuse.formats.base import TensorSpec
from bnfuse.report import text
from bnfuse.report.difference.section import Row, Section, number, short


def models_section(found: Difference) -> Section:
    """Both side by side, with the notes on how they were compared."""
    a, b = found.before, found.after
    labels = dict.fromkeys([*a.storage, *b.storage])
    rows = [
        ("file", str(a.file.path), str(b.file.path)),
        ("format", a.file.format, b.file.format),
        ("size", text.size(a.file.total_bytes), text.size(b.file.total_bytes)),
        *((label, a.storage.get(label, ""), b.storage.get(label, "")) for label in labels),
        ("nodes", number(sum(a.totals.values())), number(sum(b.totals.values()))),
        ("weights", _weights_of(a), _weights_of(b)),
        ("parameters", number(a.parameters), number(b.parameters)),
    ]
    if a.file.sha256:
        rows.append(("SHA-256", f"{a.file.sha256[:16]}…", f"{b.file.sha256[:16]}…"))
    notes = tuple(("note", note) for note in found.notes)
    return Section("models", "The models", notes, ("", "before", "after"), tuple(rows), texts=3)


def _weights_of(side: Side) -> str:
    return f"{number(side.weights)}, {text.size(side.weight_bytes)}"


def interface_section(changes: Iterable[InterfaceChange]) -> Section:
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
    return Section(
        "interface", "Interface", (), ("name", "", "what", "before", "after"), tuple(rows), texts=5
    )


def _spec(spec: TensorSpec | None) -> str:
    if spec is None:
        return ""
    shape = "any shape" if spec.shape is None else f"[{', '.join(_axis(axis) for axis in spec.shape)}]"
    return f"{spec.name}: {spec.dtype or 'unknown type'} {shape}"


def _axis(axis: int | str | None) -> str:
    return "?" if axis is None else str(axis)


def facts_section(found: Difference) -> Section:
    """A row per fact that differs."""
    rows = [(f.label, short(f.before or ""), short(f.after or "")) for f in found.facts]
    return Section("facts", "The file says", (), ("", "before", "after"), tuple(rows), texts=3)


def operators_section(found: Difference) -> Section:
    """Operators whose number changed, then the total of all."""
    before, after = found.before.totals, found.after.totals
    rows = _operator_rows(before, after)
    if not rows:
        return Section("operators", "Operators")
    rows.append(("all nodes", *_figures(sum(before.values()), sum(after.values()))))
    return Section("operators", "Operators", (), ("operator", "before", "after", "change"), tuple(rows))


def _operator_rows(before: dict[str, int], after: dict[str, int]) -> list[Row]:
    counts = [(op, before.get(op, 0), after.get(op, 0)) for op in {*before, *after}]
    changed = sorted((line for line in counts if line[1] != line[2]), key=lambda c: (c[2] - c[1], c[0]))
    return [(op, *_figures(a, b)) for op, a, b in changed]


def _figures(before: int, after: int) -> Row:
    return str(before), str(after), f"{after - before:+d}".replace("-", "−")


def graphs_sections(found: Difference) -> list[Section]:
    """Operators by graph, where there are several graphs."""
    names = dict.fromkeys([*found.before.operators, *found.after.operators])
    if len(names) < 2:
        return []
    rows = [
        (name or "main graph", *row)
        for name in names
        for row in _operator_rows(
            dict(found.before.operators.get(name, {})), dict(found.after.operators.get(name, {}))
        )
    ]
    head = ("graph", "operator", "before", "after", "change")
    return [Section("graphs", "Operators by graph", (), head, tuple(rows), texts=2)]
