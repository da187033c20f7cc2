"""Why onnxruntime does not load a model, as a clause: which operator, of which domain and opset, it lacks.

A row is what onnxruntime (1.23 to 1.32) says, and what that means; the first that is found in its message
counts. What no row knows is told in onnxruntime's own words (``runtime.reason``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bnfuse.formats.onnx.runtime.module import reason

Found = dict[str, str]

_NODE = r'In Node, \("(?P<node>.*?)", (?P<op>[^\s,]+), "(?P<domain>.*?)", .*?'
_UNREGISTERED = r"Fatal error: (?P<domain>[^\s:]*):(?P<op>\S+?)\(-?\d+\) is not a registered function/op"
_NO_KERNEL = (
    r"Could not find an implementation for (?P<op>[^\s(]+)\((?P<since>\d+)\)"
    r"(?: node with name '(?P<node>[^']*)')?"
)
_TYPE = (
    r"Type '(?P<type>[^']*)' of input parameter \(.*?\) of operator \((?P<op>.*?)\) in node \((?P<node>.*?)\)"
)
_OPSET = r"Opset (?P<opset>\d+) is under development.*domain (?P<domain>\S+) is till opset (?P<most>\d+)"
_IR = r"Unsupported model IR version: (?P<ir>\d+), max supported IR version: (?P<most>\d+)"


def _operator(found: Found) -> str:
    domain = found.get("domain") or "ai.onnx"
    opset = f", opset {found['opset']}" if found.get("opset") else ""
    return f"operator {found['op']} of domain {domain}{opset}{_named(found)}"


def _named(found: Found) -> str:
    return f" (node '{found['node']}')" if found.get("node") else ""


def _lacks(found: Found) -> str:
    return f"it has no {_operator(found)}"


def _lost(found: Found) -> str:
    return f"it has no {_operator(found)}, which withdrew it"


def _undeclared(found: Found) -> str:
    return f"it has no {_operator(found)}, and the model declares no opset of that domain"


def _not_for_types(found: Found) -> str:
    return (
        f"it has not implemented operator {found['op']} (version {found['since']}), "
        f"or not for the types used{_named(found)}"
    )


def _takes_not(found: Found) -> str:
    return f"its operator {found['op']} takes no {found['type']}{_named(found)}"


def _opset_too_new(found: Found) -> str:
    return (
        f"it knows {found['domain']} up to opset {found['most']}, and the model is of opset {found['opset']}"
    )


def _file_too_new(found: Found) -> str:
    return f"it knows IR versions up to {found['most']}, and the model is of version {found['ir']}"


_ROWS: tuple[tuple[str, Callable[[Found], str]], ...] = (
    (_UNREGISTERED, _lacks),
    (_NODE + r"No Op registered for \S+ with domain_version of (?P<opset>\d+)", _lacks),
    (_NODE + r"is deprecated in domain_version of (?P<opset>\d+)", _lost),
    (_NODE + r"No opset import for domain", _undeclared),
    (_NO_KERNEL, _not_for_types),
    (_TYPE, _takes_not),
    (_OPSET, _opset_too_new),
    (_IR, _file_too_new),
)


def refusal(error: Exception, path: Path) -> str:
    """What the runtime lacks to load the model at ``path``, as a clause about "it", or its own words."""
    for pattern, clause in _ROWS:
        if match := re.search(pattern, str(error), re.DOTALL):
            found = match.groupdict()
            if found.get("domain") and "opset" not in found:
                found["opset"] = _declared_opset(path, found["domain"])
            return clause(found)
    return reason(error)


def _declared_opset(path: Path, domain: str) -> str:
    """The opset of a domain that the model declares, "" where it does not."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        declared = onnx.load(path, load_external_data=False).opset_import
    except (OSError, DecodeError):
        return ""
    return next((str(entry.version) for entry in declared if entry.domain == domain), "")
