"""What ``--equalize`` made of the ranges: layer by layer, as far as they changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfuse.report import document as doc
from bnfuse.report.document import Form

if TYPE_CHECKING:
    from bnfuse.core.decisions import Equalized, Spread

_MOST = {Form.BRIEF: 8, Form.MARKDOWN: 100}
_TITLE = "Channel ranges, equalised"

_COLUMNS: tuple[doc.Column[Spread], ...] = (
    doc.Column("layer", lambda one: doc.name(one.node)),
    doc.Column("spread folded", lambda one: doc.Cell(f"{one.before:.3g}", one.before)),
    doc.Column("equalised", lambda one: doc.Cell(f"{one.after:.3g}", one.after)),
)


def equalized(found: Equalized | None, form: Form) -> doc.Section:
    """The layers whose channel ranges lay apart or do now, the widest first."""
    return doc.Section("equalized", _TITLE, () if found is None else _blocks(found, form), word="Ranges")


def _blocks(found: Equalized, form: Form) -> tuple[doc.Block, ...]:
    changed = [one for one in found.spreads if f"{one.before:.3g}" != f"{one.after:.3g}"]
    changed.sort(key=lambda one: -max(one.before, one.after))
    if not changed:
        return ()
    shown, more = doc.cut(changed, _MOST.get(form), form, "layers")
    explained = doc.Paragraph(
        "spread: largest over median |weight| range of a layer's output channels", style="dim"
    )
    table = doc.tabulated(shown, _COLUMNS, form, sortable=form is Form.HTML)
    blocks: tuple[doc.Block, ...] = (table, explained, *more)
    return (doc.Subpart(_TITLE, blocks),) if form is Form.MARKDOWN else blocks
