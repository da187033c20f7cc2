"""Where to look inside two models: the seams of a patch, by the names that their runtimes know.

Made from the plan's own state before and after the patch is written; pure data, so that a proof needs
neither graph nor weights. Folds that end where no runtime shows what is made of them (a body ends in values
that its node hands on) are ``hidden``, and only the outputs can prove them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from bnfuse.core.apply import NewLinear, Patch
from bnfuse.core.graph import Graph
from bnfuse.core.rules.affine import Affine
from bnfuse.core.seams import Seam, seams
from bnfuse.core.weights.tensor import FilledTensor, size
from bnfuse.formats.base import Model
from bnfuse.proof.deviation import ROUNDOFF


class Point(Struct, frozen=True):
    """One seam: its names in both models, the folds felt there, and the points that its stretch begins at.

    ``told`` is how people are told of it.
    """

    original: str
    result: str
    told: str
    folds: tuple[int, ...]
    before: tuple[int, ...]


class SeamPair(Struct, frozen=True):
    """All that is needed to look inside.

    Attributes:
        points: in graph order; ``Point.before`` counts among them.
        folds: names of the folded nodes; ``Point.folds`` counts among them.
        parts: how many of the folds leave a part of their node.
        rescalings: how many of them scale channels anew, and fold nothing.
        hidden: folds with a seam that nobody can be asked for.
        exits: folds that are felt in an output of the model at once, and the points right before all outputs.
        original, result: what the nodes near the folds compute with, for ``Probe.shaken``.
        alike: how many terms a sum has at most that is taken over weights which are one number repeated.
        exact: whether what is shown at a seam is, to the last digit, what goes on from there.
        coarsest: the coarsest type of floats among their weights and what they put out, as far as is known.
    """

    points: tuple[Point, ...]
    folds: tuple[str, ...]
    hidden: frozenset[int]
    exits: tuple[frozenset[int], frozenset[int]]
    original: tuple[str, ...]
    result: tuple[str, ...]
    coarsest: str
    alike: int = 0
    parts: int = 0
    rescalings: int = 0
    exact: bool = False


def inside(model: Model, patch: Patch, original: Sequence[str]) -> SeamPair:
    """Where to look.

    Args:
        model: opened, its patch planned.
        patch: what is written.
        original: ``model.constants_of(patch.near)``, asked before the patch was looked at or written.
    """
    names = model.probe_points([v for node in model.graph.nodes for v in node.outputs if v], patch)
    found = seams(model.graph, patch.steps, names)
    shown = [seam for seam in found if seam.value in names]
    at = {seam.value: k for k, seam in enumerate(shown)}
    ends = [seam for seam in found if seam.is_output]

    begins = _beginnings(found, at)
    return SeamPair(
        points=tuple(
            Point(*names[seam.value], _told(model.graph, seam.value, names), seam.folds, begins[seam.value])
            for seam in shown
        ),
        folds=tuple(step.node.name for step in patch.steps),
        hidden=frozenset(f for s in found if s.value not in at and not s.is_output for f in s.folds),
        exits=(
            frozenset(f for seam in ends for f in seam.folds),
            frozenset(k for seam in ends for k in begins[seam.value]),
        ),
        original=tuple(original),
        result=model.constants_of(patch.near, patch),
        coarsest=_coarsest(model.graph, patch),
        alike=max((_terms(new) for new in patch.linears.values()), default=0),
        parts=len(patch.steps) - patch.rescalings - len({step.node for step in patch.steps} & patch.removed),
        rescalings=patch.rescalings,
        exact=model.exact_seams,
    )


def _told(graph: Graph, value: str, names: Mapping[str, tuple[str, str]]) -> str:
    """A value by its name, if that is the file's, else by who writes it."""
    writer = graph.writer(value)
    if writer is None or value == names[value][0]:
        return f"the value '{value}'"
    return f"what {writer.label} puts out"


def _beginnings(found: Sequence[Seam], at: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The points that each seam's stretch begins at; a seam that is none is looked past."""
    behind: dict[str, frozenset[int]] = {}
    begins: dict[str, tuple[int, ...]] = {}
    for seam in found:
        before = frozenset[int]().union(*(behind[found[k].value] for k in seam.before))
        begins[seam.value] = tuple(sorted(before))
        behind[seam.value] = frozenset((at[seam.value],)) if seam.value in at else before
    return begins


def _terms(new: NewLinear) -> int:
    """The terms of a sum over weights that are one number (ConstantOfShape): all are rounded the same way."""
    weight = new.rule.weight
    return size(weight) // new.rule.form.channels_out if isinstance(weight, FilledTensor) else 0


def _coarsest(graph: Graph, patch: Patch) -> str:
    gone = [graph.rule(step.node) for step in patch.steps]
    types = {rule.computes.name for rule in gone if isinstance(rule, Affine) and rule.computes is not None}
    types |= {new.rule.weight.dtype.name for new in patch.linears.values()}
    types |= {new.rule.computes.name for new in patch.linears.values() if new.rule.computes is not None}
    return max(types & ROUNDOFF.keys(), key=ROUNDOFF.__getitem__, default="")
