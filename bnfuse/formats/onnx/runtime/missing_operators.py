"""Why onnxruntime does not load a model, as a clause: which operator, of which domain and opset, it lacks.

A row is what onnxruntime (1.23 to 1.32) says, and what that means; the first that is found in its message
counts. What no row knows is told in onnxruntime's own words (``runtime.reason``).
"""

from __future__ import annotations

import re
from pathlib import Path

from bnfuse.formats.onnx.runtime.module import reason

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


# What a clause names: parts of the message, ``which`` operator, and ``at`` which node.
_ROWS = (
    (_UNREGISTERED, "it has no {which}"),
    (_NODE + r"No Op registered for \S+ with domain_version of (?P<opset>\d+)", "it has no {which}"),
    (_NODE + r"is deprecated in domain_version of (?P<opset>\d+)", "it has no {which}, which withdrew it"),
    (
        _NODE + r"No opset import for domain",
        "it has no {which}, and the model declares no opset of that domain",
    ),
    (
        _NO_KERNEL,
        "it has not implemented operator {op} (version {since}), or not for the types used{at}",
    ),
    (_TYPE, "its operator {op} takes no {type}{at}"),
    (_OPSET, "it knows {domain} up to opset {most}, and the model is of opset {opset}"),
    (_IR, "it knows IR versions up to {most}, and the model is of version {ir}"),
)


def refusal(error: Exception, path: Path) -> str:
    """What the runtime lacks to load the model at ``path``, as a clause about "it", or its own words."""
    for pattern, clause in _ROWS:
        if match := re.search(pattern, str(error), re.DOTALL):
            found = match.groupdict()
            if found.get("domain") and "opset" not in found:
                found["opset"] = _declared_opset(path, found["domain"])
            at = f" (node '{found['node']}')" if found.get("node") else ""
            opset = f", opset {found['opset']}" if found.get("opset") else ""
            which = f"operator {found.get('op')} of domain {found.get('domain') or 'ai.onnx'}{opset}{at}"
            return clause.format(**found, which=which, at=at)
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
