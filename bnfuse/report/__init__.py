"""One result, several forms: which form a file name asks for, and writing it.

Content (``report.content``) turns a result into sections, and ``terminal``, ``markdown`` and ``html`` write
sections down; ``json`` writes the result itself, ``junit`` what a CI counts, ``sarif`` what a code host
shows. None computes a number or knows how it was found. Strings that come from a model are untrusted and
are escaped by each form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bnfuse.errors import OutputError, UsageError
from bnfuse.files.staging import output_errors, same_file, staging_folder

if TYPE_CHECKING:
    from bnfuse.core.explanation import Explanations

_MODULES = {".json": "json", ".md": "markdown", ".html": "html", ".xml": "junit", ".sarif": "sarif"}
FORMS = tuple(_MODULES)
_DETAILED = (".html", ".json")


def wants_details(paths: Sequence[Path]) -> bool:
    """Whether one of these report files shows ``Report.details``."""
    return any(path.suffix.lower() in _DETAILED for path in paths)


def check_reports(paths: Sequence[Path], *models: Path, results: Sequence[Path] = ()) -> None:
    """Refuse, before any work, report files that could not be written afterwards.

    Raises:
        UsageError: the suffix names none of ``FORMS``, or the file is one of the models, or of the
            ``results`` that are to be written.
        OutputError: a part of the way there is a file, or the path is a folder.
    """
    for path in paths:
        if path.suffix.lower() not in FORMS:
            known = ", ".join(FORMS)
            raise UsageError(f"'{path}' names no form of report: end its name in one of {known}")
        for what, files in (("model", models), ("result", results)):
            if any(same_file(path, file) for file in files):
                raise UsageError(f"the report '{path}' would overwrite the {what}: choose another name")
        if path.is_dir():
            raise OutputError(f"the report '{path}' is a folder: give it a file name")
        if any(folder.exists() and not folder.is_dir() for folder in path.parents):
            raise OutputError(
                f"the report '{path}' would lie in a file, not in a folder: choose another place"
            )


def render(found: Any, suffix: str, *, explanation: Explanations | None = None) -> str:
    """What a command found, of one model or many, as text in the form of ``suffix``, one of ``FORMS``.

    ``explanation`` is what ``inspect --explain`` adds to the JSON form; the others leave it out.
    """
    return "".join(pieces(found, suffix, explanation=explanation))


def pieces(found: Any, suffix: str, *, explanation: Explanations | None = None) -> Iterator[str]:
    """The same piece by piece: of many models all at once may be much."""
    form = import_module(f"bnfuse.report.{_MODULES[suffix.lower()]}")  # only when it is asked for
    extra = (explanation,) if explanation is not None and suffix.lower() == ".json" else ()
    return cast("Iterator[str]", form.pieces(found, *extra))


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
