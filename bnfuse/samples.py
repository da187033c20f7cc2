"""Makes the inputs that ``verify`` and ``bench`` feed to a model.

Decides three things:

1. **shapes**: the user's (``--shape``, ``--batch``, ``--inputs``) first; a free first axis is the
   batch; the same symbol has the same size everywhere; any other free axis is guessed from a short
   ladder of sizes, by running the original model until one works;
2. **values**: each sample set has its own seed and magnitude, because an error that vanishes
   beside large values shows beside small ones, and the other way round;
3. **the user's own data**, which comes first and then fixes the shapes of the generated sets.

Does not act where nothing can be guessed (no size of the ladder runs): that is a ``UsageError``
that names the input and the option that helps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bnfuse.errors import BnfuseError, UsageError
from bnfuse.shape_guesses import Shape, Shapes, check_batch, check_shape, no_shape, shape_guesses
from bnfuse.user_inputs import Feeds, names_of, numpy_dtype, read_inputs

if TYPE_CHECKING:
    from bnfuse.formats.base import Runner, TensorSpec

__all__ = ["Feeds", "InputRequest", "Samples", "draw", "fit"]

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


@dataclass(frozen=True, slots=True)
class InputRequest:
    """What the user said about inputs.

    ``batch`` is the size of a free first axis (None: the caller's default); ``shapes`` overrides
    whole shapes by input name; ``data`` is an ``.npz`` (arrays by input name) or, for a model with
    one input, an ``.npy`` file.
    """

    batch: int | None = None
    shapes: Shapes = field(default_factory=dict)
    data: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """An endless, repeatable row of input sets: ``feeds(i)`` is the same at every call."""

    specs: tuple[TensorSpec, ...]
    shapes: Shapes
    seed: int
    user: Mapping[str, np.ndarray] | None = None

    def feeds(self, index: int) -> Feeds:
        """Input set number ``index``; number 0 is the user's own data, where there is any."""
        if self.user is not None and index == 0:
            return dict(self.user)
        at = index if self.user is None else index - 1
        rng = np.random.default_rng((self.seed, at))
        return {spec.name: draw(rng, spec.dtype, self.shapes[spec.name], at) for spec in self.specs}

    @property
    def batch(self) -> int:
        """Length of the first axis of the first input that has one, else 1."""
        return next((shape[0] for shape in self.shapes.values() if shape), 1)


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
    raise UsageError(f"inputs of type {dtype} cannot be made up: give them with --inputs")


def fit(runner: Runner, request: InputRequest, default_batch: int) -> tuple[Samples, Feeds]:
    """Samples that the model accepts, and its outputs for the first of them.

    Raises:
        UsageError: the request does not fit the model's inputs, or its free axes cannot be guessed.
        BnfuseError: the model does not run, though none of its axes is free.
    """
    specs = tuple(runner.inputs)
    user = None if request.data is None else read_inputs(request.data, specs)
    fixed = _fixed_shapes(specs, request, user)
    guesses = [fixed] if user is not None else shape_guesses(specs, fixed, request.batch, default_batch)
    failure: BnfuseError | None = None
    for shapes in guesses:
        samples = Samples(specs, shapes, request.seed, user)
        try:
            return samples, runner.run(samples.feeds(0))
        except BnfuseError as error:
            failure = failure or error
    raise no_shape(specs, fixed, failure)


def _fixed_shapes(
    specs: Sequence[TensorSpec], request: InputRequest, user: Mapping[str, np.ndarray] | None
) -> dict[str, Shape]:
    """Shapes that the user gave, by option or by data, checked against the model."""
    known = {spec.name: spec for spec in specs}
    for name, shape in request.shapes.items():
        if name not in known:
            raise UsageError(f"--shape names '{name}', but the model's inputs are {names_of(specs)}")
        check_shape(known[name], shape, "--shape")
    if user is not None:
        return {name: array.shape for name, array in user.items()}
    for spec in specs:
        if spec.name not in request.shapes:
            check_batch(spec, request.batch)
    return dict(request.shapes)
