"""The schema of what ``diff`` tells as JSON, as ``docs/`` publishes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

_SCHEMA = Path(__file__).resolve().parents[1] / "docs" / "diff.schema.json"


def assert_fits(document: Any) -> None:
    """The document is as the schema says; raises what names the place."""
    schema = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
