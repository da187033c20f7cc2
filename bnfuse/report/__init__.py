"""One result, several forms: which form a file name asks for, and writing it.

Content (``report.content``) turns a result into sections, and ``terminal``, ``markdown`` and ``html`` write
sections down; ``json`` writes the result itself, ``junit`` what a CI counts, ``sarif`` what a code host
shows. None computes a number or knows how it was found. Strings that come from a model are untrusted and
are escaped by each form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from bnfuse.errors import OutputError, UsageError
from bnfuse.staging import output_errors, staging_folder

if TYPE_CHECKING:
    from bnfuse.difference.result import Difference
    from bnfuse.results import Comparison, Failure, Report
    from bnfuse.results.many import Collected

_MODULES = {".json": "json", ".md": "markdown", ".html": "html", ".xml": "junit", ".sarif": "sarif"}
FORMS = tuple(_MODULES)
_DETAILED = (".html", ".json")


def wants_details(paths: Sequence[Path]) -> bool:
    """Whether one of these report files shows ``Report.details``."""
    return any(path.suffix.lower() in _DETAILED for path in paths)


def check_reports(paths: Sequence[Path], *models: Path) -> None:
    """Refuse, before any work, report files that could not be written afterwards.

    Raises:
        UsageError: the suffix names none of ``FORMS``, or the file is one of the models.
        OutputError: a part of the way there is a file, or the path is a folder.
    """
    for path in paths:
        if path.suffix.lower() not in FORMS:
            known = ", ".join(FORMS)
            raise UsageError(f"'{path}' names no form of report: end its name in one of {known}")
        for model in models:
            if path.exists() and model.exists() and path.samefile(model):
                raise UsageError(f"the report '{path}' would overwrite the model: choose another name")
        if path.is_dir():
            raise OutputError(f"the report '{path}' is a folder: give it a file name")
        if any(folder.exists() and not folder.is_dir() for folder in path.parents):
            raise OutputError(
                f"the report '{path}' would lie in a file, not in a folder: choose another place"
            )


def render(report: Report, suffix: str, *, explanation: Mapping[str, Any] | None = None) -> str:
    """The report as text in the form of ``suffix``, one of ``FORMS``.

    ``explanation`` is what ``inspect --explain`` adds to the JSON form; the others leave it out.
    """
    extra = (explanation,) if suffix.lower() == ".json" else ()
    return cast(str, _form(suffix).render(report, *extra))


def render_comparison(found: Comparison, suffix: str) -> str:
    """What ``verify`` or ``bench`` found, in the form of ``suffix``, one of ``FORMS``."""
    return cast(str, _form(suffix).render_comparison(found))


def render_failure(found: Failure, suffix: str) -> str:
    """An error in the form of ``suffix``, one of ``FORMS``."""
    return cast(str, _form(suffix).render_failure(found))


def render_difference(found: Difference, suffix: str) -> str:
    """The difference as text in the form of ``suffix``, one of ``FORMS``."""
    return cast(str, _form(suffix).render_difference(found))


def render_many(found: Collected, suffix: str) -> Iterator[str]:
    """Many models as one report in the form of ``suffix``, piece by piece: all at once may be much."""
    made = import_module(f"bnfuse.report.many.{_MODULES[suffix.lower()]}")
    return cast("Iterator[str]", made.parts(found))


def _form(suffix: str) -> ModuleType:
    """Imported only when it is asked for."""
    return import_module(f"bnfuse.report.{_MODULES[suffix.lower()]}")


def write(text: str | Iterable[str], path: Path) -> None:
    """Write a report, whole or in pieces, to ``path``; it replaces an old one, a missing folder is made.

    Raises:
        OutputError: no space, no permission.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(path) as folder, output_errors(path):
        staged = folder / path.name
        with staged.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines([text] if isinstance(text, str) else text)
        staged.replace(path)
