"""What each kind of result shows, section by section, whatever the form.

Its module is found by the class's name, and makes a ``Document`` of it: what is not shown is not imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from bnfuse.report import document as doc

_MODULES = {
    "Collected": "many",
    "Comparison": "outcomes",
    "Diagnosis": "doctor",
    "Difference": "difference",
    "Explanations": "explanation",
    "Failure": "outcomes",
    "Report": "whole",
}


def document(found: Any, form: doc.Form) -> doc.Document:
    """What a form shows of what a command found."""
    module = import_module(f"{__name__}.{_MODULES[type(found).__name__]}")
    return cast(doc.Document, module.document(found, form))
