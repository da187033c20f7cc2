"""The use case ``inspect --explain``: read → plan → explain the decisions on the nodes that were named.

Runs nothing and writes nothing.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from os import PathLike
from pathlib import Path

from bnfuse.core.explanation import Explanation
from bnfuse.core.planning.explain import explain as explain_decisions
from bnfuse.core.planning.plan import plan
from bnfuse.files.stamps import watched
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.garbage import without_collections
from bnfuse.use_cases.reading import matches, open_model
from bnfuse.use_cases.unpacking import unpacked


@without_collections()
def explain(
    model: str | PathLike[str], pattern: str, *, read: ReadOptions | None = None
) -> tuple[Explanation, ...]:
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
    options = read or ReadOptions()
    with ExitStack() as stack:
        path = stack.enter_context(unpacked(Path(model), options.weights)).path
        files = stack.enter_context(watched(path))
        opened = stack.enter_context(closing(open_model(detect(path), path, options)))
        graph = opened.graph
        names = matches(graph, pattern, path)
        found = explain_decisions(graph, plan(graph).plan, names)
        files.check()
        return found
