"""Opening a model as the user asked for: which BatchNormalizations are meant, and which are to stay.

A name stands for itself first, and only then for a pattern: names of nodes may hold ``*`` and ``[``.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from bnfuse.core.graph import Graph
from bnfuse.core.reasons import Reason
from bnfuse.core.rules.base import Opaque
from bnfuse.errors import UsageError
from bnfuse.formats.base import Format, Model, ReadOptions

_MOST_SUGGESTIONS = 5


def open_model(form: Format, path: Path, options: ReadOptions) -> Model:
    """Open a model; what is to stay refuses everything, so that what it reads and writes stays as it is.

    Raises:
        UnreadableModel: not a whole, valid model of this format.
        UnsafeModel: it reaches outside its own folder.
        UsageError: no candidate has a name that is to stay.
    """
    model = form.read(path, options)
    try:
        names = {name for pattern in options.keep for name in matches(model.graph, pattern, path)}
    except UsageError:
        model.close()
        raise
    for node in model.graph.candidates if names else ():
        if node.name in names:
            model.graph.overrule(node, Opaque(Reason.BY_REQUEST))
    return model


def matches(graph: Graph, pattern: str, path: Path) -> set[str]:
    """The candidates that a name or pattern means, at least one.

    Raises:
        UsageError: none; the sentence lists similar names.
    """
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
        f"'{pattern}' ({other.op}) is no BatchNormalization"
        if other is not None
        else f"no BatchNormalization of '{path}' is called '{pattern}'"
    )
    raise UsageError(f"{what}: {_suggestion(candidates, pattern)}")


def _suggestion(candidates: Sequence[str], pattern: str) -> str:
    """The names most like it: those that contain it, then those spelled like it."""
    from difflib import get_close_matches

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
