"""Makes the inputs that ``verify`` and ``bench`` feed to a model.

Decides three things:

1. **shapes**: the user's (``--shape``, ``--batch``, ``--inputs``) first; a free first axis is the
   batch; the same symbol has the same size everywhere; any other free axis is guessed from a short
   ladder of sizes, by running the original model until one works;
2. **values**: each sample set has its own seed and magnitude, because an error that vanishes
   beside large values shows beside small ones, and the other way round;
3. **the user's own data**, which comes first, all of it in sets of a few samples, and then fixes the shapes
   of the generated sets (those have two samples where the model leaves that open).

Does not act where nothing can be guessed (no size of the ladder runs): that is a ``UsageError``
that names the input and the option that helps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bnfuse.errors import BnfuseError, RuntimeLost, UsageError
from bnfuse.inputs.shape_guesses import (
    LADDER,
    Shape,
    Shapes,
    check_batch,
    check_shape,
    no_shape,
    shape_guesses,
)
from bnfuse.inputs.user_arrays import Feeds, numpy_dtype
from bnfuse.inputs.user_inputs import UserData, names_of, read_user_data

if TYPE_CHECKING:
    from bnfuse.formats.base import Runner, TensorSpec

__all__ = ["Feeds", "InputRequest", "Samples", "ample_batch", "draw", "fit", "with_tables"]

_WORDS = ("", "a", "bnfuse", "0", "7", "the cat sat")
_UNITS_OF_SPREAD = (  # (what it is called, how it is drawn)
    ("normal(0, 1)", lambda rng, shape: rng.standard_normal(shape)),
    ("uniform(0, 255)", lambda rng, shape: rng.uniform(0.0, 255.0, shape)),
    ("uniform(0, 1)", lambda rng, shape: rng.uniform(0.0, 1.0, shape)),
    ("normal(0, 0.1)", lambda rng, shape: 0.1 * rng.standard_normal(shape)),
    ("normal(0, 10)", lambda rng, shape: 10.0 * rng.standard_normal(shape)),
    ("zeros", lambda rng, shape: np.zeros(shape)),
)
# Upper bounds for integers, mostly small: they are often indices, masks or lengths.
_INTEGER_BOUNDS = (2, 10, 2, 100, 5, 1)
# An index into a table is drawn from the whole table, every so many sets, where its size is found out.
_TABLE_SETS = 3
# Batch 2 shows whether samples of a batch get mixed up.
_LEAST_BATCH, _MOST_BATCH = 2, 16
_SMALL_MODEL_BYTES = 8 << 20
_AMPLE_ELEMENTS = 8192
_LEAST_TABLE, _LARGEST_TABLE = 4, 1 << 18


@dataclass(frozen=True, slots=True)
class InputRequest:
    """What the user said about inputs.

    ``batch`` is the size of a free first axis (None: the caller's default), and how many samples of the
    user's data are run at a time; ``shapes`` overrides whole shapes by input name; ``data`` is an ``.npz``
    (arrays by input name), for a model with one input an ``.npy`` file, or a folder of them.
    """

    batch: int | None = None
    shapes: Shapes = field(default_factory=dict)
    data: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """An endless, repeatable row of input sets: ``feeds(i)`` is the same at every call.

    ``tables`` are the sizes of the tables that inputs of integers look things up in, where known.
    """

    specs: tuple[TensorSpec, ...]
    shapes: Shapes
    seed: int
    user: UserData | None = None
    tables: Mapping[str, int] = field(default_factory=dict)

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
        return {spec.name: self._draw(rng, spec, at) for spec in self.specs}

    def _draw(self, rng: np.random.Generator, spec: TensorSpec, at: int) -> np.ndarray:
        size = self.tables.get(spec.name)
        if size is not None and at % _TABLE_SETS == 1:
            return np.asarray(rng.integers(0, size, self.shapes[spec.name])).astype(spec.dtype)
        return draw(rng, spec.dtype, self.shapes[spec.name], at)

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
    sizes = [[dim if isinstance(dim, int) else LADDER[0] for dim in (spec.shape or ())[1:]] for spec in specs]
    elements = sum(int(np.prod(size, dtype=object)) for size in sizes)
    return int(np.clip(_AMPLE_ELEMENTS // max(1, elements), _LEAST_BATCH, _MOST_BATCH))


def draw(rng: np.random.Generator, dtype: str, shape: Shape, index: int) -> np.ndarray:
    """Random values of a dtype; ``index`` picks the magnitude.

    Raises:
        UsageError: inputs of this dtype cannot be made up.
    """
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape), dtype=bool)
    if dtype == "string":
        words = np.array(_WORDS, dtype=object)
        return np.asarray(words[rng.integers(0, len(_WORDS), shape)], dtype=object)
    if dtype.startswith(("int", "uint")):
        bytes_of_image = dtype == "uint8" and index % 2 == 0
        high = 256 if bytes_of_image else _INTEGER_BOUNDS[index % len(_INTEGER_BOUNDS)]
        return np.asarray(rng.integers(0, high, shape)).astype(dtype)
    if dtype.startswith(("float", "bfloat")):
        values = _UNITS_OF_SPREAD[index % len(_UNITS_OF_SPREAD)][1](rng, shape)
        return np.asarray(values).astype(numpy_dtype(dtype))
    numpy_dtype(dtype)  # says so where no file can hold such inputs either
    raise UsageError(f"inputs of type {dtype} cannot be made up: give them with --inputs")


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
    guesses = shape_guesses(specs, fixed, request.batch, default_batch)
    failure: BnfuseError | None = None
    for shapes in guesses:
        samples = Samples(specs, shapes, request.seed)
        try:
            return samples, runner.run(samples.feeds(0))
        except RuntimeLost:
            raise  # of the next size nothing would be known
        except BnfuseError as error:
            failure = failure or error
    raise no_shape(specs, fixed, failure)


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


def with_tables(samples: Samples, accepts: Callable[[Feeds], bool]) -> Samples:
    """The same samples, with the sizes of the tables that integers look things up in.

    Found out by trying ever larger indices in one input, the others as in the first made-up set, until
    the model stops. ``accepts`` also says no where an output changes its shape: then the integer is a
    length, and a large one would ask for all the memory there is.
    """
    tables = {}
    base = samples.feeds(samples.own_sets)
    for spec in samples.specs:
        shape = samples.shapes[spec.name]
        if spec.dtype not in ("int32", "int64", "uint32", "uint64") or len(shape) < 2 or 0 in shape:
            continue

        def takes(size: int, spec: TensorSpec = spec, shape: Shape = shape) -> bool:
            return accepts({**base, spec.name: np.full(shape, size - 1, spec.dtype)})

        if (size := _table_size(takes)) is not None:
            tables[spec.name] = size
    return replace(samples, tables=tables)


def _table_size(takes: Callable[[int], bool]) -> int | None:
    """The largest size taken, within 2 %; None where even the least is not, or the largest is."""
    low = _LEAST_TABLE
    if not takes(low):
        return None
    while takes(2 * low):
        low *= 2
        if low >= _LARGEST_TABLE:
            return None  # a value like any other, not an index
    high = 2 * low
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) else (low, middle)
    return low


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
