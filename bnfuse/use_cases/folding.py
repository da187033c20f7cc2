"""Read, plan, apply and write: what ``optimize`` does before anything is proved or measured."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bnfuse.core.apply import OverflowingFold, Patch, Planned, apply
from bnfuse.core.decisions import Plan
from bnfuse.core.merge import merge_affines as merge_chains
from bnfuse.core.plan import plan as plan_folds
from bnfuse.formats import detect
from bnfuse.formats.base import Format, Model, ReadOptions, Written
from bnfuse.staging import output_errors
from bnfuse.use_cases.reading import open_model

Progress = Callable[[str], None]


@dataclass(slots=True)
class Phases:
    """Wall time by phase, in seconds; tells ``progress`` what is being done."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, doing: str) -> Iterator[None]:
        """One phase, for as long as the context lasts."""
        self.progress(doing)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def read_model(path: Path, options: ReadOptions, phases: Phases) -> tuple[Model, Format]:
    """Open a model of whatever format it is.

    Raises:
        UnreadableModel: not a whole, valid model of a known format.
        UnsafeModel: it reaches outside its own folder.
        UsageError: no candidate has a name that is to stay.
    """
    form = detect(path)
    with phases("read", "reading"):
        return open_model(form, path, options), form


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A model, what was planned for it, and the file that was written.

    ``near`` is what the nodes near the folds compute with in the original (``Model.constants_of``), where a
    proof is to come.
    """

    model: Model
    plan: Plan
    patch: Patch
    written: Written
    near: tuple[str, ...]


def fitting(model: Model) -> tuple[Planned, Patch, dict[str, int]]:
    """A plan without folds whose small new weights would overflow, its patch, and nodes as it leaves them.

    Large weights are worked out only when they are written: of those that overflow, ``fold`` learns there.
    """
    banned: frozenset[str] = frozenset()
    while True:
        planned = plan_folds(model.graph, banned=banned)
        patch = apply(model.graph, planned)
        try:
            return planned, patch, model.operators_after(patch)
        except OverflowingFold as overflow:
            if overflow.nodes <= banned:
                raise
            banned |= overflow.nodes


def fold(
    model: Model,
    form: Format,
    options: ReadOptions,
    path: Path,
    phases: Phases,
    *,
    merge: bool = False,
    prove: bool = True,
) -> Folded:
    """Plan, apply and write; a fold whose weights overflow is planned to stay, and all begins anew."""
    folder, name = path.parent, path.name
    banned: frozenset[str] = frozenset()
    while True:
        with phases("plan", "planning"):
            planned = plan_folds(model.graph, banned=banned)
            patch = apply(model.graph, planned)
            if merge:
                patch = replace(patch, merged=merge_chains(model.graph, patch))
            near = model.constants_of(patch.near) if prove else ()
        fresh = folder / str(len(banned))
        with phases("write", "writing"), output_errors(fresh / name):
            fresh.mkdir()
            outcome = _write(model, patch, fresh / name)
        if isinstance(outcome, Written):
            return Folded(model, planned.plan, patch, outcome, near)
        if outcome.nodes <= banned:
            raise outcome
        banned |= outcome.nodes
        shutil.rmtree(fresh)
        model.close()
        model = open_model(form, model.path, options)  # what was written from is spent


def _write(model: Model, patch: Patch, path: Path) -> Written | OverflowingFold:
    try:
        return model.write(patch, path)
    except OverflowingFold as overflow:
        return overflow
