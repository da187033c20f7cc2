"""Many models as JSON: ``bnfuse.reports/1`` (docs/reports.schema.json), which holds the report of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bnfuse.report.json import MANY_SCHEMA, outcome_document
from bnfuse.report.many.content import summary

if TYPE_CHECKING:
    from bnfuse.results.many import Collected

_INDENT = 2


def parts(collected: Collected) -> Iterator[str]:
    """One document, with the models in the order in which they were found."""
    found = summary(collected)
    codes = [row.exit_code for row in found.rows]
    head = {
        "schema": MANY_SCHEMA,
        "command": collected.command,
        "exit_code": int(found.exit_code),
        "models": {
            "found": len(codes),
            "done": sum(code == 0 for code in codes),
            "failed": sum(code != 0 for code in codes),
            "resumed": found.resumed,
        },
        "batchnorms": {"found": found.found, "folded": found.folded, "kept": found.found - found.folded},
        "jobs": collected.jobs,
        "seconds": collected.seconds,
        "versions": dict(collected.versions),
    }
    yield f'{_written(head)[: -len("}") - 1]},\n  "reports": ['
    for number, outcome in enumerate(collected.outcomes):
        yield ",\n" if number else "\n"
        # no string of JSON has an end of line in it
        yield "\n".join(f"    {line}" for line in _written(outcome_document(outcome)).splitlines())
    yield "\n  ]\n}\n"


def _written(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=_INDENT, allow_nan=False)
