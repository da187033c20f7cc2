"""Read, plan, apply and write: what ``optimize`` does before anything is proved or measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.core.apply import OverflowingFold, Patch, apply, check_fit
from bnfuse.core.decisions import Plan
from bnfuse.core.planning.plan import plan as plan_folds
from bnfuse.errors import OutputError
from bnfuse.files.staging import output_errors
from bnfuse.formats import detect
from bnfuse.formats.base import Format, Model, ReadOptions, Written
from bnfuse.results.doing import Progress
from bnfuse.use_cases.reading import open_model


class Phases(Struct):
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


Outcome = TypeVar("Outcome")

_MOST_PLANS = 8  # in which only what overflowed is kept


class Settled(Struct, Generic[Outcome], frozen=True, eq=False):
    """A plan whose new weights fit their types, the model that it is for, and what was made of it."""

    model: Model
    plan: Plan
    patch: Patch
    outcome: Outcome


def planned_to_fit(
    model: Model,
    form: Format,
    options: ReadOptions,
    phases: Phases,
    attempt: Callable[[Model, Patch, int], Outcome],
    *,
    merge: bool = False,
) -> Settled[Outcome]:
    """Plan and apply; a fold whose weights overflow in ``attempt`` is planned to stay, and all begins anew.

    What had to stay sends others elsewhere, where they may overflow as well. A model made so that this goes
    on and on keeps all that would have gone at last.

    ``attempt`` also gets the number of folds that were found to overflow so far. Where it fails, the model is
    closed.
    """
    banned: frozenset[str] = frozenset()
    plans = 0
    while True:
        plans += 1
        with ExitStack() as failed:
            failed.callback(model.close)
            with phases("plan", "planning"):
                planned = plan_folds(model.graph, banned=banned, equalizes=options.equalize)
                patch = apply(model.graph, planned)
                if merge:
                    from bnfuse.core.merge import merge_affines

                    patch = replace(patch, merged=merge_affines(model.graph, patch))
            try:
                settled = Settled(model, planned.plan, patch, attempt(model, patch, len(banned)))
            except OverflowingFold as overflow:
                found = _overflowing(overflow, patch)
                if plans > _MOST_PLANS:
                    found |= {fold.node for fold in planned.plan.order}
                if found <= banned:
                    raise
                banned |= found
            else:
                failed.pop_all()
                return settled
        model = open_model(form, model.path, options)  # what was tried on is spent


def _overflowing(overflow: OverflowingFold, patch: Patch) -> frozenset[str]:
    """Whatever overflows beside what was met first: each by itself would take as many plans."""
    try:
        check_fit(patch.new_weights)
    except OverflowingFold as others:
        return overflow.nodes | others.nodes
    return overflow.nodes


class Folded(Struct, frozen=True, eq=False):
    """A model, what was planned for it, and the file that was written.

    ``near`` is what the nodes near the folds compute with in the original (``Model.constants_of``), where a
    proof is to come.
    """

    model: Model
    plan: Plan
    patch: Patch
    written: Written
    near: tuple[str, ...]


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
    """Plan, apply and write; ``path`` is in a staging folder beside where the result is to be."""
    folder = path.parent.parent

    def attempt(model: Model, patch: Patch, number: int) -> tuple[Written, tuple[str, ...]]:
        near = model.constants_of(patch.near) if prove else ()
        fresh = path.parent / str(number)
        with phases("write", "writing"), output_errors(folder / path.name):
            fresh.mkdir()
            try:
                return model.write(patch, fresh / path.name), near
            except OverflowingFold:
                from shutil import rmtree

                rmtree(fresh)
                raise
            except OutputError as error:  # the user knows of no staging folder
                raise OutputError(str(error).replace(f"{fresh}", f"{folder}")) from error

    done = planned_to_fit(model, form, options, phases, attempt, merge=merge)
    return Folded(done.model, done.plan, done.patch, *done.outcome)
