"""The JSON report's schema, as ``docs/`` publishes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

_SCHEMA = Path(__file__).resolve().parents[1] / "docs" / "report.schema.json"


def assert_fits(document: Any, part: str = "") -> None:
    """The document, or one ``part`` of ``$defs``, is as the schema says; raises what names the place."""
    schema = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    wanted = {**schema["$defs"][part], "$defs": schema["$defs"]} if part else schema
    jsonschema.Draft202012Validator(wanted).validate(document)
