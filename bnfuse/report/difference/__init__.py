"""What ``bnfuse diff`` found out as a report: on a terminal, as JSON, Markdown or an HTML page.

All forms but JSON show the same sections (``sections``); a form only writes them down. Strings that come
from a model are untrusted, and each form escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bnfuse.errors import UsageError
from bnfuse.report import check_reports
from bnfuse.staging import output_errors, staging_folder

if TYPE_CHECKING:
    from bnfuse.difference.result import Difference

_FORMS = {
    ".json": "bnfuse.report.difference.document",
    ".md": "bnfuse.report.difference.markdown",
    ".html": "bnfuse.report.difference.html",
}


def check_files(paths: Sequence[Path], models: Sequence[Path]) -> None:
    """Refuse, before any work, report files that could not be written afterwards.

    Raises:
        UsageError: the suffix names no form, or the file is one of the models.
        OutputError: the folder is missing, or the path is a folder.
    """
    for path in paths:
        if path.suffix.lower() not in _FORMS:
            raise UsageError(f"'{path}' names no form of report: end its name in one of {', '.join(_FORMS)}")
    for model in models:
        check_reports(paths, model)


def render(difference: Difference, suffix: str) -> str:
    """The report as text in the form of ``suffix`` (``.json``, ``.md`` or ``.html``)."""
    form = import_module(_FORMS[suffix.lower()])
    return cast("Callable[[Difference], str]", form.render)(difference)


def write_file(difference: Difference, path: Path) -> None:
    """Write the report to ``path`` in the form its suffix asks for; a finished file replaces an old one.

    Raises:
        OutputError: no space, no permission.
    """
    text = render(difference, path.suffix)
    with staging_folder(path) as folder, output_errors(path):
        staged = folder / path.name
        staged.write_text(text, encoding="utf-8", newline="\n")
        staged.replace(path)
