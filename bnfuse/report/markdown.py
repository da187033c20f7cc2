"""Sections as Markdown, for a pull-request comment or a CI job summary on GitHub.

Model strings stand in ``<code>`` with every character that could be markup written as an entity:
no link, mention, image, table cell or HTML can come out of a node's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content import document
from bnfuse.results.figures import digits

_MOST_CHARACTERS = 200
_ZERO_WIDTH_SPACE = "&#8203;"


def pieces(found: Any) -> Iterator[str]:
    """What a command found as one Markdown document, in one piece: it is short."""
    made = document(found, doc.Form.MARKDOWN)
    command = f" {made.command}" if made.command else ""
    yield written(f"bnfuse{command}: {prose(made.headline)}", made.sections)


def written(title: str, sections: Iterable[doc.Section]) -> str:
    """Sections under a title, which is Markdown already."""
    parts = [f"## {title}"]
    for section in sections:
        if doc.Form.MARKDOWN in section.titled:
            parts.append(f"### {section.title}")
        parts += filter(None, map(_write, section.blocks))
    return "\n\n".join(parts) + "\n"


def _write(block: doc.Block) -> str:
    match block:
        case doc.Facts(lines):
            return "\n".join(f"- {label}: {_words(words)}" for label, words, *_ in lines)
        case doc.Notes(sentences):
            return "\n".join(f"- {_words(sentence)}" for sentence in sentences)
        case doc.Paragraph(words, _, "alert"):
            return f"> [!CAUTION]\n> ❌ {_words(words)}"
        case doc.Paragraph(words):
            return _words(words)
        case doc.Table():
            return _table(block)
        case doc.Subpart(title, blocks):
            inner = "\n\n".join(map(_write, blocks))
            return f"<details><summary>{_words(title)}</summary>\n\n{inner}\n\n</details>"
        case _:
            return ""  # drawings are HTML's


def _table(block: doc.Table) -> str:
    right = "---:" if block.aligned else "---"
    rule = ["---" if i < block.texts else right for i in range(len(block.head))]
    cells = (
        [_words(cell.words if isinstance(cell, doc.Cell) else cell) for cell in row] for row in block.rows
    )
    head = map(prose, block.head)
    lines = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *cells))
    return f"{lines}\n\n{block.caption}" if block.caption else lines


def _words(words: doc.Words) -> str:
    return "".join(_part(part) for part in doc.spans(words))


def _part(part: object) -> str:
    match part:
        case str():
            return prose(part)
        case doc.Span(words, "name"):
            return _code(words)
        case doc.Span(words, "own"):
            return words
        case doc.Span(words):
            return prose(words)
        case doc.Number(value, count, unit):
            return prose(f"{digits(value, count)}{unit}")
        case _:
            return ""


def prose(value: str) -> str:
    """``value`` as text that is no markup: entities, and no @mention or #reference."""
    escaped = _escaped(text.plain(value))
    return escaped.replace("&#64;", "&#64;" + _ZERO_WIDTH_SPACE).replace("&#35;", "&#35;" + _ZERO_WIDTH_SPACE)


def _code(value: str) -> str:
    """``value``, shortened, in a ``<code>`` element."""
    short = value if len(value) <= _MOST_CHARACTERS else value[: _MOST_CHARACTERS - 1] + "…"
    return f"<code>{_escaped(text.plain(short))}</code>"


def _escaped(value: str) -> str:
    """Every ASCII sign as an entity, but where it begins neither markup nor a link: a log is to read well."""
    return "".join(
        c if _is_harmless(c, value[:at], value[at + 1 : at + 2]) else f"&#{ord(c)};"
        for at, c in enumerate(value)
    )


def _is_harmless(c: str, before: str, after: str) -> bool:
    if c.isalnum() or not c.isascii() or c in " ,;%('/":
        return True
    if c in ".)" and before.strip().isdigit() and after in ("", " "):
        return False  # a list
    if c == "." and before[-3:].lower() == "www":
        return False
    if c == ".":
        return before[-1:].isalnum()
    if c == "-":  # no list, no rule, and no GH-1
        return before[-1:].isalnum() and before[-2:].lower() != "gh"
    return c == ")" or (c == ":" and after in ("", " "))
