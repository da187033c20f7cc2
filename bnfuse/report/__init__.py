"""One result object, several forms: which form a file name asks for, and writing it.

The forms only read ``bnfuse.results``; none computes a number or knows how it was found. Strings
that come from a model are untrusted and are escaped by each form (``bnfuse.report.text.plain``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bnfuse.errors import OutputError, UsageError
from bnfuse.staging import output_errors, staging_folder

if TYPE_CHECKING:
    from bnfuse.results import Report

_FORMS = {
    ".json": "bnfuse.report.json",
    ".md": "bnfuse.report.markdown",
    ".html": "bnfuse.report.html",
    ".xml": "bnfuse.report.junit",
}
_DETAILED = (".html", ".json")


def wants_details(paths: Sequence[Path]) -> bool:
    """Whether one of these report files shows ``Report.details``."""
    return any(path.suffix.lower() in _DETAILED for path in paths)


def check_reports(paths: Sequence[Path], model: Path) -> None:
    """Refuse, before any work, report files that could not be written afterwards.

    Raises:
        UsageError: the suffix names no form, or the file is the model itself.
        OutputError: the folder is missing, or the path is a folder.
    """
    for path in paths:
        if path.suffix.lower() not in _FORMS:
            known = ", ".join(_FORMS)
            raise UsageError(f"'{path}' names no form of report: end its name in one of {known}")
        if path.exists() and model.exists() and path.samefile(model):
            raise UsageError(f"the report '{path}' would overwrite the model: choose another name")
        if path.is_dir():
            raise OutputError(f"the report '{path}' is a folder: give it a file name")
        if not path.parent.is_dir():
            raise OutputError(f"the folder of the report '{path}' does not exist: create it first")


def render(report: Report, suffix: str, *, explanation: Mapping[str, Any] | None = None) -> str:
    """The report as text in the form of ``suffix`` (``.json``, ``.md``, ``.html`` or ``.xml``).

    ``explanation`` is what ``inspect --explain`` adds to the JSON form; the others leave it out.
    """
    if suffix.lower() == ".json":
        from bnfuse.report.json import render as render_json

        return render_json(report, explanation)
    form = import_module(_FORMS[suffix.lower()])
    return cast("Callable[[Report], str]", form.render)(report)


def write_report(report: Report, path: Path, *, explanation: Mapping[str, Any] | None = None) -> None:
    """Write the report to ``path`` in the form its suffix asks for; a finished file replaces an old one.

    ``explanation`` is as for ``render``.

    Raises:
        OutputError: no space, no permission.
    """
    text = render(report, path.suffix, explanation=explanation)
    with staging_folder(path) as folder, output_errors(path):
        staged = folder / path.name
        staged.write_text(text, encoding="utf-8", newline="\n")
        staged.replace(path)
