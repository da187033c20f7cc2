"""The JSON report's schema, as ``docs/`` publishes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

_SCHEMA = Path(__file__).resolve().parents[1] / "docs" / "report.schema.json"
_MANY = ("reports.schema.json", "report.schema.json", "error.schema.json")


def assert_fits(document: Any, part: str = "") -> None:
    """The document, or one ``part`` of ``$defs``, is as the schema says; raises what names the place."""
    schema = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    wanted = {**schema["$defs"][part], "$defs": schema["$defs"]} if part else schema
    jsonschema.Draft202012Validator(wanted).validate(document)


def assert_many_fit(document: Any) -> None:
    """The document on many models is as its schema says, and so are the reports and errors in it."""
    from referencing import Registry, Resource

    found = {name: json.loads(_SCHEMA.with_name(name).read_text(encoding="utf-8")) for name in _MANY}
    named = [(key, one) for name, one in found.items() for key in {name, one.get("$id", name)}]
    registry: Any = Registry().with_resources((key, Resource.from_contents(one)) for key, one in named)
    jsonschema.Draft202012Validator(found[_MANY[0]], registry=registry).validate(document)
