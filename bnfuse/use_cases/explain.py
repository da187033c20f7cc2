"""The use case ``inspect --explain``: read → plan → explain the decisions on the nodes that were named.

Runs nothing and writes nothing. A name stands for itself first, and only then for a pattern: names of
nodes may hold ``*`` and ``[``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from bnfuse.core.explain import explain as explain_decisions
from bnfuse.core.explanation import Explanation
from bnfuse.core.graph import Graph
from bnfuse.core.plan import plan
from bnfuse.errors import UsageError
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.garbage import without_collections

_MOST_SUGGESTIONS = 5


@without_collections()
def explain(model: str | Path, pattern: str, *, read: ReadOptions | None = None) -> tuple[Explanation, ...]:
    """How the decisions on the named BatchNormalizations came about, in graph order.

    Args:
        model: the file to read.
        pattern: the name of a node, or a pattern with ``*``, ``?`` and ``[…]``.
        read: what to make of initializers that are also inputs.

    Raises:
        UnreadableModel: not a whole, valid model of a known format.
        UnsafeModel: it reaches outside its own folder.
        UsageError: no candidate has such a name; the sentence lists similar ones.
    """
    path = Path(model)
    opened = detect(path).read(path, read or ReadOptions())
    with closing(opened):
        graph = opened.graph
        names = _matches(graph, pattern, path)
        return explain_decisions(graph, plan(graph).plan, names)


def _matches(graph: Graph, pattern: str, path: Path) -> set[str]:
    candidates = [node.name for node in graph.candidates]
    if pattern in candidates:
        return {pattern}
    found = {name for name in candidates if fnmatchcase(name, pattern)}
    if found:
        return found
    if not candidates:
        raise UsageError(f"'{path}' has no BatchNormalization to explain")
    other = next((node for node in graph.nodes if node.name == pattern), None)
    what = (
        f"'{pattern}' is a {other.op}, no BatchNormalization"
        if other is not None
        else f"no BatchNormalization of '{path}' is called '{pattern}'"
    )
    raise UsageError(f"{what}: {_suggestion(candidates, pattern)}")


def _suggestion(candidates: Sequence[str], pattern: str) -> str:
    """The names most like it: those that contain it, then those spelled like it."""
    wanted = pattern.strip("*").lower()
    containing = [name for name in candidates if wanted and wanted in name.lower()]
    spelled = get_close_matches(pattern, candidates, n=_MOST_SUGGESTIONS, cutoff=0.5)
    similar = list(dict.fromkeys([*containing, *spelled]))[:_MOST_SUGGESTIONS]
    listed = ", ".join(f"'{name}'" for name in similar or candidates[:_MOST_SUGGESTIONS])
    return (
        f"did you mean {listed}?"
        if similar
        else f"there are {listed}" + (" and more" if len(candidates) > _MOST_SUGGESTIONS else "")
    )
