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

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfuse.errors import BnfuseError, UsageError

if TYPE_CHECKING:
    from bnfuse.formats.base import Runner, TensorSpec

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Feeds = dict[str, np.ndarray]

# Sizes to try for axes of unknown length, the likeliest first; 3 channels before 1.
LADDER = (64, 224, 32, 16, 1, 128)
CHANNELS = (3, 1)
_MAX_ELEMENTS = 1 << 28
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


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a ``TensorSpec.dtype``; the narrow floats come from ``ml_dtypes``."""
    if name == "string":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # numpy cannot find its types by name

        found = getattr(ml_dtypes, name, None)
        if found is None:
            raise UsageError(f"inputs of type {name} cannot be made up: give them with --inputs") from None
        dtype: np.dtype[Any] = np.dtype(found)
        return dtype


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
    raise _no_shape(specs, fixed, failure)


def _no_shape(specs: Sequence[TensorSpec], fixed: Shapes, failure: BnfuseError | None) -> BnfuseError:
    """The error for a model that ran with none of the guesses."""
    reason = f" ({failure})" if failure is not None else ""
    for spec in specs:
        if spec.name in fixed or (spec.shape is not None and all(isinstance(d, int) for d in spec.shape)):
            continue
        example = ",".join(str(d) if isinstance(d, int) else "N" for d in spec.shape or (1, 3, 224, 224))
        return UsageError(
            f"no size for the free axes of input '{spec.name}' could be guessed{reason}: "
            f"give its shape with --shape {spec.name}={example}, whole numbers for N"
        )
    return failure or BnfuseError("the model has no inputs that could be made up")


def _fixed_shapes(
    specs: Sequence[TensorSpec], request: InputRequest, user: Mapping[str, np.ndarray] | None
) -> dict[str, Shape]:
    """Shapes that the user gave, by option or by data, checked against the model."""
    known = {spec.name: spec for spec in specs}
    for name, shape in request.shapes.items():
        if name not in known:
            raise UsageError(f"--shape names '{name}', but the model's inputs are {_names(specs)}")
        _check_shape(known[name], shape, "--shape")
    if user is not None:
        return {name: array.shape for name, array in user.items()}
    for spec in specs:
        if spec.name not in request.shapes:
            _check_batch(spec, request.batch)
    return dict(request.shapes)


def _check_batch(spec: TensorSpec, batch: int | None) -> None:
    """Whether the batch that was asked for is one the model takes.

    Raises:
        UsageError: the first axis has another, fixed size.
    """
    first = spec.shape[0] if spec.shape else None
    if batch is not None and isinstance(first, int) and first != batch:
        text = f"input '{spec.name}' has a fixed first axis of {first}, which --batch {batch} does not fit"
        raise UsageError(text)


def _check_shape(spec: TensorSpec, shape: Shape, source: str) -> None:
    """Whether a given shape is one that the model declares possible.

    Raises:
        UsageError: another rank, or another size of a fixed axis.
    """
    if spec.shape is None:
        return
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(want, int) or want == got for want, got in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if d is None else str(d) for d in spec.shape)
        raise UsageError(
            f"{source} gives input '{spec.name}' the shape {list(shape)}, but it needs [{wanted}]"
        )


def shape_guesses(
    specs: Sequence[TensorSpec], fixed: Shapes, batch: int | None, default_batch: int
) -> Iterator[dict[str, Shape]]:
    """Shapes to try for all inputs, the likeliest first, without repetition."""
    batches = (batch,) if batch is not None else tuple(dict.fromkeys((default_batch, 1)))
    tried: set[tuple[tuple[str, Shape], ...]] = set()
    for size, channels, first in itertools.product(LADDER, CHANNELS, batches):
        shapes = _resolve(specs, fixed, first, channels, size)
        key = tuple(shapes.items())
        if key not in tried and sum(int(np.prod(s, dtype=object)) for s in shapes.values()) <= _MAX_ELEMENTS:
            tried.add(key)
            yield shapes


def _resolve(
    specs: Sequence[TensorSpec], fixed: Shapes, batch: int, channels: int, size: int
) -> dict[str, Shape]:
    """Every free axis filled in: by the same symbol elsewhere, as batch, as channels, or by size."""
    symbols = _symbols(specs, fixed, batch)
    shapes: dict[str, Shape] = {}
    for spec in specs:
        if spec.name in fixed:
            shapes[spec.name] = tuple(fixed[spec.name])
            continue
        dims: list[int] = []
        for axis, dim in enumerate(spec.shape or ()):
            if isinstance(dim, int):
                dims.append(dim)
            elif isinstance(dim, str) and dim in symbols:
                dims.append(symbols[dim])
            elif axis == 0:
                dims.append(batch)
            else:
                is_channel = axis == 1 and len(spec.shape or ()) == 4
                dims.append(channels if is_channel else size)
        shapes[spec.name] = tuple(dims)
    return shapes


def _symbols(specs: Sequence[TensorSpec], fixed: Shapes, batch: int) -> dict[str, int]:
    """Sizes of named axes: what the user fixed, then the batch for symbols of a first axis."""
    sizes: dict[str, int] = {}
    for spec in specs:
        if spec.name in fixed and spec.shape is not None:
            for dim, size in zip(spec.shape, fixed[spec.name], strict=True):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
    for spec in specs:
        first = spec.shape[0] if spec.shape else None
        if isinstance(first, str):
            sizes.setdefault(first, batch)
    return sizes


def read_inputs(path: Path, specs: Sequence[TensorSpec]) -> Feeds:
    """The user's own inputs from ``.npz`` (arrays by input name) or ``.npy`` (one input).

    Raises:
        UsageError: no such file, not numpy's format, or arrays that do not fit the model's inputs.
    """
    arrays = _load_arrays(path, specs)
    unknown = sorted(set(arrays) - {spec.name for spec in specs})
    if unknown:
        raise UsageError(f"{path} holds '{unknown[0]}', but the model's inputs are {_names(specs)}")
    for spec in specs:
        if spec.name not in arrays:
            raise UsageError(f"{path} holds no array for the input '{spec.name}'")
        arrays[spec.name] = _check_array(path, spec, arrays[spec.name])
    return {spec.name: arrays[spec.name] for spec in specs}


def _load_arrays(path: Path, specs: Sequence[TensorSpec]) -> Feeds:
    import zipfile

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(specs) != 1:
                raise UsageError(
                    f"{path} holds one array, but the model's inputs are {_names(specs)}: use .npz"
                )
            return {specs[0].name: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{path} cannot be read as a numpy .npz or .npy file: {reason}") from error


def _check_array(path: Path, spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    """The array as the model wants it; only what numpy's files cannot hold is converted."""
    if spec.dtype == "string" and array.dtype.kind in "US":
        array = array.astype(str).astype(object)
    elif spec.dtype == "bfloat16" and array.dtype == np.float32:
        array = array.astype(numpy_dtype("bfloat16"))
    elif array.dtype != numpy_dtype(spec.dtype):
        raise UsageError(
            f"{path} gives input '{spec.name}' as {array.dtype}, but it needs {spec.dtype}: convert it first"
        )
    _check_shape(spec, array.shape, str(path))
    return array


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"'{spec.name}'" for spec in specs) or "none"
