"""Reads what onnxruntime's profiler wrote: which node took how long, call by call.

The file is a JSON array of events with ``ts`` and ``dur`` in whole microseconds, an event on each line.
Two kinds matter: ``model_run`` of category ``Session``, one per call, and those of category ``Node``
that end in ``_kernel_time``, one per node that ran. A node with subgraphs (If, Loop, Scan) spans the
nodes inside it; their time is taken off its own, so that nothing counts twice.

The clock is the host's. On a GPU most nodes only start work there: their time is that of starting it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import CallTimes, NodeTime

_KERNEL = "_kernel_time"
_NS_PER_US = 1000


class _Event(Struct, frozen=True):
    """One event, in µs; ``op`` is "" for a call of the whole model."""

    start: int
    end: int
    name: str
    op: str
    provider: str


def read_trace(path: Path) -> list[CallTimes]:
    """The calls in the order they were made.

    Raises:
        BnfuseError: not a profile, or one of no call.
    """
    try:
        events = sorted(_events(path), key=lambda e: (e.start, -e.end))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BnfuseError(f"onnxruntime's profile cannot be read: {error}") from error
    calls = [event for event in events if not event.op]
    if not calls:
        raise BnfuseError("onnxruntime's profile holds no call of the model")
    nodes = [event for event in events if event.op]
    return [_call(call, nodes) for call in calls]


def _events(path: Path) -> Iterator[_Event]:
    """Events that matter, without holding the whole file."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            text = line.strip().rstrip(",")
            if text in ("", "[", "]"):
                continue
            event: dict[str, Any] = json.loads(text)
            name, args = str(event["name"]), event.get("args") or {}
            start, end = int(event["ts"]), int(event["ts"]) + int(event["dur"])
            if event["cat"] == "Session" and name == "model_run":
                yield _Event(start, end, name, "", "")
            elif event["cat"] == "Node" and name.endswith(_KERNEL):
                at = f"{name.removesuffix(_KERNEL)} {args.get('node_index', '')}"
                yield _Event(start, end, at, str(args["op_name"]), str(args.get("provider", "")))


def _call(call: _Event, nodes: Sequence[_Event]) -> CallTimes:
    inside = [node for node in nodes if call.start <= node.start and node.end <= call.end]
    spent = _own_times(inside)
    times = (
        NodeTime(node.name, node.op, node.provider, us * _NS_PER_US)
        for node, us in zip(inside, spent, strict=True)
    )
    return CallTimes((call.end - call.start) * _NS_PER_US, tuple(times))


def _own_times(nodes: Sequence[_Event]) -> list[int]:
    """µs of each node less those of the nodes inside it; ``nodes`` by start, the longer first."""
    own = [node.end - node.start for node in nodes]
    open_nodes: list[int] = []
    for at, node in enumerate(nodes):
        while open_nodes and nodes[open_nodes[-1]].end <= node.start:
            open_nodes.pop()
        if open_nodes and node.end <= nodes[open_nodes[-1]].end:
            own[open_nodes[-1]] -= node.end - node.start
        open_nodes.append(at)
    return [max(0, us) for us in own]
