"""The same result under another name: what was read or run from a file that the user never sees.

A model in memory, or one that comes packed, lies in a temporary file while it is worked on. Wherever a result
or an error names that file, it is to name what the user gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast

from msgspec import Struct
from msgspec.structs import asdict, replace

from bnfuse.errors import BnfuseError

T = TypeVar("T")
Names = Mapping[Path, str]  # what stands for a file that was worked on


def renamed(found: T, names: Names) -> T:
    """A frozen result in which names stand for files, in paths and sentences; itself where none is named."""
    return cast(T, _renamed(found, names))


@contextmanager
def renamed_errors(names: Names) -> Iterator[None]:
    """Errors that come of working on files, in the names that stand for those.

    Raises:
        BnfuseError: as it was raised, in these words; a report that it carries, too.
    """
    try:
        yield
    except BnfuseError as error:
        error.args = tuple(_renamed(each, names) for each in error.args)
        report = getattr(error, "report", None)
        if report is not None:
            error.report = _renamed(report, names)  # type: ignore[attr-defined]
        raise


def _renamed(found: Any, names: Names) -> Any:
    match found:
        case Enum() | None | bool() | int() | float():
            return found
        case str():
            return _said(found, names)
        case Path():
            return Path(names[found]) if found in names else found
        case tuple() if type(found) is tuple:
            made = tuple(_renamed(each, names) for each in found)
            return found if all(a is b for a, b in zip(made, found, strict=True)) else made
        case dict():
            values = {key: _renamed(value, names) for key, value in found.items()}
            return found if all(values[key] is found[key] for key in found) else values
        case Struct():
            return _of_fields(found, names)
    return found


def _said(text: str, names: Names) -> str:
    for path, name in names.items():
        if str(path) in text:
            text = text.replace(str(path), name)
    return text


def _of_fields(found: Any, names: Names) -> Any:
    changed = {}
    for field, value in asdict(found).items():
        made = _renamed(value, names)
        if made is not value:
            changed[field] = made
    return replace(found, **changed) if changed else found
