"""Writes docs/report-format.md: every field of the JSON documents, out of their schemas.

    python -m docs.report_format      (or make docs)

A schema's ``description`` is the only place where a field is explained: of a field without one, this tells
which it is, and makes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnfuse.core.reasons import Reason

DOCS = Path(__file__).parent
PAGE = DOCS / "report-format.md"
SCHEMAS = ("report", "verify", "bench", "error")
_HEAD = """# What the JSON says

`bnfuse optimize` and `inspect` print `bnfuse.report/1` with `--json`, and write it with `--report
FILE.json`; `verify` prints `bnfuse.verify/1`, `bench` `bnfuse.bench/1`, and any command that ends in an
error `bnfuse.error/1`. (`diff` has [diff.schema.json](diff.schema.json); many models have `bnfuse.reports/1`,
[reports.schema.json](reports.schema.json), which holds these documents: [many models](many-models.md).)
A document says in `schema` which it is. Within one version keys are only ever added: ignore those you do not
know.

**Units** are in the names: `_ms` milliseconds, `_s` seconds, `_bytes` bytes, `_db` decibels; ratios and
fractions have none (0.03 is 3 %). What is not finite is `null`. Times are of the wall clock.

    bnfuse optimize model.onnx --no-bench --json > report.json
    python -c 'import json; r = json.load(open("report.json")); print(r["verification"]["status"])'

This page is made from the schemas; a test holds that bnfuse writes nothing else.
"""


def page() -> str:
    """The whole page.

    Raises:
        ValueError: a field is not explained.
    """
    schemas = [json.loads((DOCS / f"{name}.schema.json").read_text(encoding="utf-8")) for name in SCHEMAS]
    parts = [_HEAD]
    told: dict[str, Any] = {}
    for name, schema in zip(SCHEMAS, schemas, strict=True):
        parts.append(f"## {schema['title']}\n\n{schema['description']} ([schema]({name}.schema.json))\n")
        parts.append(_table(schema, schema["title"]))
        told |= schema.get("$defs", {})
    parts.append("## Parts\n\nWhat the documents are made of, by the names that the column *type* gives.\n")
    for name, part in sorted(told.items()):
        parts.append(f"### {name}\n")
        if part.get("description"):
            parts.append(f"{_sentence(part['description'])}\n")
        if part.get("properties"):
            parts.append(_table(part, name))
        else:
            parts.append(f"{_sentence(_kind(part))}\n")
    parts.append("## Reason codes\n\n`reason` of a decision, a group or a refusal, and what it says.\n")
    rows = [f"| `{reason.name}` | {_meaning(reason)} |" for reason in Reason]
    return "\n".join([*parts, "| code | meaning |", "|---|---|", *rows, ""])


def _meaning(reason: Reason) -> str:
    """Its sentence, of a node and a value that have no names."""
    return reason.value.format(node="the node", value="…", detail="").replace("  ", " ")


def _table(schema: dict[str, Any], name: str) -> str:
    rows = [f"| `{path}` | {kind} | {words} |" for path, kind, words in _fields(schema, name, "")]
    return "\n".join(["| field | type | meaning |", "|---|---|---|", *rows, ""])


def _fields(schema: dict[str, Any], name: str, before: str) -> Iterator[tuple[str, str, str]]:
    """Path, type and meaning of each field, and of the fields of those that have their own."""
    required = schema.get("required", ())
    for field, one in schema["properties"].items():
        path = f"{before}{field}"
        if not one.get("description"):
            raise ValueError(f"{name}: {path} is not explained: give it a description in docs/*.schema.json")
        left_out = "" if field in required else " (may be left out)"
        yield path, _kind(one).replace("|", "\\|"), f"{one['description']}{left_out}".replace("|", "\\|")
        for inner, mark in _inner(one):
            yield from _fields(inner, name, f"{path}{mark}.")


def _inner(one: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for choice in (one, *one.get("anyOf", ())):
        if "properties" in choice:
            yield choice, ""
        if "properties" in choice.get("items", {}):
            yield choice["items"], "[]"


def _kind(one: dict[str, Any]) -> str:
    """What a field holds, in words: a part's name leads to it."""
    match one:
        case {"$ref": place}:
            name = place.rpartition("/")[2]
            return f"[{name}](#{name})"
        case {"const": value}:
            return f'"{value}"'
        case {"enum": values}:
            return ", ".join("null" if value is None else f'"{value}"' for value in values)
        case {"anyOf": choices}:
            return " or ".join(map(_kind, choices))
        case {"type": [*kinds]}:
            return " or ".join(_kind(one | {"type": kind}) for kind in kinds)
        case {"type": "array", "items": items, "minItems": least, "maxItems": most} if least == most:
            return f"{least} of {_kind(items)}"
        case {"type": "array", "items": items}:
            return f"list of {_kind(items)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"{_kind(values)} by name"
        case {"type": str(kind)}:
            return kind
        case _:
            raise ValueError(f"no words for {one}")


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}{'' if words.endswith('.') else '.'}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
