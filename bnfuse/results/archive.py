"""Results as JSON and back, with nothing lost: what is kept of a run, and read again by the next one.

Unlike the documents of ``bnfuse.report.json``, which are for others, this is for bnfuse of the same version
alone. A result's own struct becomes ``{"of": its name, "has": its fields}``; only the classes of the
modules below are ever made of such a text, so that reading one can run nothing.

Does not take arrays: no result holds any.
"""

from __future__ import annotations

import json
import math
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from bnfuse.results.many import Outcome
from bnfuse.results.places import place_of

_HOLD_RESULTS = (
    "bnfuse.core.decisions",
    "bnfuse.core.reasons",
    "bnfuse.results.annotations",
    "bnfuse.results.inputs",
    "bnfuse.results.latency",
    "bnfuse.results.many",
    "bnfuse.results.outcomes",
    "bnfuse.results.proof",
    "bnfuse.results.report",
)


def archived(outcome: Outcome) -> str:
    """The outcome as one line of ASCII."""
    return json.dumps(packed(outcome), separators=(",", ":"))


def restored(text: str) -> Outcome:
    """The outcome that ``archived`` made this of.

    Raises:
        ValueError: it is none, or of a version with other results.
    """
    try:
        found = _made(json.loads(text))
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"this is no archived outcome: {error}") from error
    if not isinstance(found, Outcome):
        raise ValueError("this is no archived outcome")
    return found


def packed(value: Any) -> Any:
    """Any value that results and requests are made of, in JSON's own types.

    Raises:
        TypeError: it holds something else.
    """
    match value:
        case Enum():
            return {"enum": type(value).__name__, "name": value.name}
        case None | bool() | int():
            return value
        case str():
            return str(value)
        case float():
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        case tuple():
            return {"tuple": [packed(item) for item in value]}
        case list():
            return [packed(item) for item in value]
        case frozenset():
            return {"set": sorted(packed(item) for item in value)}
        case dict():
            return {"map": [[packed(key), packed(item)] for key, item in value.items()]}
        case Path():
            return {"path": str(value)}
        case Struct():
            has = {name: packed(each) for name, each in asdict(value).items()}
            return {"of": type(value).__name__, "has": has}
        case _:
            raise TypeError(f"a {type(value).__name__} is part of no result")


def _made(value: Any) -> Any:
    match value:
        case list():
            return [_made(item) for item in value]
        case {"of": name, "has": has}:
            return _classes()[name](**{key: _made(item) for key, item in has.items()})
        case {"enum": name, "name": member}:
            return _classes()[name][member]
        case {"tuple": items}:
            return tuple(_made(item) for item in items)
        case {"map": pairs}:
            return {_made(key): _made(item) for key, item in pairs}
        case {"set": items}:
            return frozenset(_made(item) for item in items)
        case {"path": text}:
            return place_of(text)
        case {"float": text}:
            return float(text)
        case dict():
            raise KeyError("an unknown kind of value")
        case _:
            return value


@cache
def _classes() -> dict[str, Any]:
    """The results' structs and enums by name."""
    return {
        name: found
        for module in map(import_module, _HOLD_RESULTS)
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, (Struct, Enum))
    }
