"""Makes the inputs that ``verify`` and ``bench`` feed to a model.

Decides three things:

1. **shapes**: the user's (``--shape``, ``--batch``, ``--inputs``) first; a free first axis is the batch; the
   same symbol has the same size everywhere; any other free axis is guessed (``shape_guesses``): as the file
   speaks for, else from a short ladder of sizes, by running the original model until one works. A size with
   which a run takes many seconds gives way to a smaller one;
2. **values** (``values``): each sample set has its own seed and magnitude, because an error that vanishes
   beside large values shows beside small ones, and the other way round; integers that the model does not
   run on are tried in other ranges;
3. **the user's own data**, which comes first, all of it in sets of a few samples, and then fixes the shapes
   of the generated sets (those have two samples where the model leaves that open).

Does not act where nothing can be guessed (no size of the ladder runs, no range of values): that is a
``UsageError`` or ``BnfuseError`` that names the input and the option that helps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from bnfuse.errors import BnfuseError, RuntimeLost, UsageError
from bnfuse.formats.hints import is_size, usual_sizes
from bnfuse.inputs.hinted import FileHints, file_state
from bnfuse.inputs.no_inputs import no_inputs
from bnfuse.inputs.settled import settle, settled_for
from bnfuse.inputs.shape_guesses import (
    NamedShapes,
    Shape,
    check_batch,
    check_shape,
    elements,
    guessing,
    ran_inputs,
    shape_guesses,
    with_batch,
)
from bnfuse.inputs.user_arrays import Feeds
from bnfuse.inputs.user_inputs import UserData, names_of, read_user_data
from bnfuse.inputs.values import Range, draw, value_trials
from bnfuse.results.inputs import Axis, RanInput

if TYPE_CHECKING:
    from bnfuse.formats.base import Runner, TensorSpec

__all__ = ["Feeds", "InputRequest", "Samples", "ample_batch", "draw", "fit"]

# Batch 2 shows whether samples of a batch get mixed up.
_LEAST_BATCH, _MOST_BATCH = 2, 16
_SMALL_MODEL_BYTES = 8 << 20
_AMPLE_ELEMENTS = 8192
# A guessed size with which one run takes longer gives way to one with at most a quarter of the elements.
_LONG_RUN_S, _SMALLER = 3.0, 4
# How long all trying may take.
_PATIENCE_S = 30.0


class InputRequest(Struct, frozen=True):
    """What the user said about inputs.

    ``batch`` is the size of a free first axis (None: the caller's default), and how many samples of the
    user's data are run at a time; ``shapes`` overrides whole shapes by input name; ``data`` is an ``.npz``
    (arrays by input name), for a model with one input an ``.npy`` file, or a folder of them. ``model`` is the
    file whose inputs they are: it may tell what sizes and values fit.
    """

    batch: int | None = None
    shapes: NamedShapes = field(default_factory=dict)
    data: Path | None = None
    seed: int = 0
    model: Path | None = None


class Samples(Struct, frozen=True, eq=False):
    """An endless, repeatable row of input sets: ``feeds(i)`` is the same at every call.

    ``ranges`` bound the whole numbers in an input, where they are known; ``given`` are the shapes that the
    user fixed.
    """

    specs: tuple[TensorSpec, ...]
    shapes: NamedShapes
    seed: int
    user: UserData | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    given: NamedShapes = field(default_factory=dict)

    @property
    def own_sets(self) -> int:
        """How many sets come first that are the user's own."""
        return 0 if self.user is None else len(self.user)

    def feeds(self, index: int) -> Feeds:
        """Input set number ``index``; the first are the user's own data, where there are any."""
        if self.user is not None and index < len(self.user):
            return self.user.feeds(index)
        at = index - self.own_sets
        rng = np.random.default_rng((self.seed, at))
        return {
            spec.name: draw(rng, spec.dtype, self.shapes[spec.name], at, self.ranges.get(spec.name))
            for spec in self.specs
        }

    @property
    def ran(self) -> tuple[RanInput, ...]:
        """The inputs, with where each of their sizes comes from; of the user's those of the first set."""
        if self.user is None:
            return ran_inputs(self.specs, self.shapes, self.given)
        own = {name: array.shape for name, array in self.user.feeds(0).items()}
        return tuple(
            replace(one, axes=(Axis.BATCH, *one.axes[1:]), more=self.user.other_shapes(one.name))
            if self.user.is_cut(one.name)
            else one
            for one in ran_inputs(self.specs, own, own)
        )

    @property
    def batch(self) -> int:
        """Length of the first axis of the first input that has one, else 1."""
        if self.user is not None:
            shapes = [array.shape for array in self.user.feeds(0).values()]
            return next((shape[0] for shape in shapes if shape), 1)
        return next((shape[0] for shape in self.shapes.values() if shape), 1)


def ample_batch(specs: Sequence[TensorSpec], model_bytes: int) -> int:
    """How many samples to draw at a time: more than two where they are small and so is the model.

    A network without images has a channel that an activation cuts off for every one of a few samples;
    what is wrong in it would not show. Depends on sizes alone, not on time, so that runs are alike.
    """
    if model_bytes > _SMALL_MODEL_BYTES:
        return _LEAST_BATCH
    one = {spec.name: tuple(_likely(spec.shape or ())) for spec in specs}
    return int(np.clip(_AMPLE_ELEMENTS // max(1, elements(one)), _LEAST_BATCH, _MOST_BATCH))


def _likely(shape: Sequence[int | str | None]) -> Iterator[int]:
    """About how long the axes behind the batch will be."""
    for dim in shape[1:]:
        yield dim if isinstance(dim, int) and is_size(dim) else usual_sizes(shape)[0]


def fit(
    runner: Runner, request: InputRequest, default_batch: int, specs: Sequence[TensorSpec] | None = None
) -> tuple[Samples, Feeds]:
    """Samples that the model accepts, and its outputs for the first of them.

    ``specs`` are what the inputs must fit where that is narrower than what the model declares.

    Raises:
        UsageError: the request does not fit the model's inputs, or its free axes cannot be guessed.
        RuntimeLost: the runtime crashes, hangs or takes too much memory.
        BnfuseError: the model does not run, though none of its axes is free.
    """
    specs = tuple(runner.inputs if specs is None else specs)
    fixed = _fixed_shapes(specs, request)
    if request.data is not None:
        return _fit_own(runner, request, request.data, default_batch, specs)
    hints = FileHints(request.model, specs)
    begin = time.perf_counter()
    failures: list[tuple[Samples, BnfuseError]] = []
    slow: tuple[Samples, Feeds] | None = None
    for samples in _candidates(specs, fixed, request, default_batch, hints):
        if slow is not None and elements(samples.shapes) * _SMALLER > elements(slow[0].shapes):
            continue
        if failures and time.perf_counter() - begin > _PATIENCE_S:
            break
        feeds = samples.feeds(0)
        try:
            first, long = _timed(runner, feeds)
        except RuntimeLost:
            raise  # of the next size nothing would be known
        except BnfuseError as error:
            failures.append((samples, error))
            continue
        slow = samples, first
        if not long or not guessing(specs, fixed):
            break
    if slow is None:
        raise no_inputs(specs, fixed, failures)
    settle(_key(request, specs), slow[0].shapes, slow[0].ranges)
    return slow


def _candidates(
    specs: tuple[TensorSpec, ...],
    fixed: NamedShapes,
    request: InputRequest,
    default_batch: int,
    hints: FileHints,
) -> Iterator[Samples]:
    """Samples to try, the likeliest first: what ran before, then of each size all ranges of values."""
    settled = settled_for(_key(request, specs))
    if settled is not None:
        shapes, ranges = settled
        for batch in dict.fromkeys((default_batch, 1) if request.batch is None else (request.batch,)):
            yield Samples(specs, with_batch(specs, shapes, fixed, batch), request.seed, None, ranges, fixed)
    trials = list(value_trials(specs, hints))
    for shapes in shape_guesses(specs, fixed, request.batch, default_batch, hints):
        yield from (Samples(specs, shapes, request.seed, None, ranges, fixed) for ranges in trials)


def _key(request: InputRequest, specs: tuple[TensorSpec, ...]) -> object:
    """What a guess is remembered by: the file as it is now, and what was wanted; None without a file."""
    state = file_state(request.model)
    return None if state is None else (state, specs, tuple(sorted(request.shapes.items())))


def _timed(runner: Runner, feeds: Feeds) -> tuple[Feeds, bool]:
    """The outputs, and whether a run takes long; the first may do for what it sets up.

    Raises:
        BnfuseError: the model does not run.
    """
    begin = time.perf_counter()
    first = runner.run(feeds)
    if time.perf_counter() - begin < _LONG_RUN_S:
        return first, False
    begin = time.perf_counter()
    runner.run(feeds)
    return first, time.perf_counter() - begin > _LONG_RUN_S


def _fit_own(
    runner: Runner, request: InputRequest, path: Path, default_batch: int, specs: tuple[TensorSpec, ...]
) -> tuple[Samples, Feeds]:
    """The user's samples, in sets that the model takes: half as many at a time until it does."""
    size = request.batch
    while True:
        user = read_user_data(path, specs, size)
        first = user.feeds(0)
        samples = Samples(specs, _shapes_like(first, user, default_batch), request.seed, user)
        try:
            return samples, runner.run(first)
        except RuntimeLost:
            raise
        except BnfuseError:
            rows = user.rows(0)
            if request.batch is not None or rows == 1 or not any(user.is_cut(name) for name in first):
                raise
            size = rows // 2


def _shapes_like(first: Feeds, user: UserData, default_batch: int) -> dict[str, Shape]:
    """Shapes for made-up inputs: those of the user's, with few samples where their number is free."""
    return {
        name: (min(default_batch, array.shape[0]), *array.shape[1:]) if user.is_cut(name) else array.shape
        for name, array in first.items()
    }


def _fixed_shapes(specs: Sequence[TensorSpec], request: InputRequest) -> dict[str, Shape]:
    """Shapes that the user gave by option, checked against the model."""
    known = {spec.name: spec for spec in specs}
    for name, shape in request.shapes.items():
        if name not in known:
            raise UsageError(f"--shape names '{name}', but the model's inputs are {names_of(specs)}")
        check_shape(known[name], shape, "--shape")
    for spec in specs:
        if spec.name not in request.shapes:
            check_batch(spec, request.batch)
    return dict(request.shapes)
