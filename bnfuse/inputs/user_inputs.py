"""The user's own inputs: arrays from numpy's files, checked against what the model declares, cut into sets.

Reads an ``.npz`` file (arrays by input name), an ``.npy`` file (for a model with one input), or a folder of
them. In a folder, ``.npy`` files that are named after the inputs hold one input each; otherwise
every file holds samples, one or a batch of them, and they follow one another by file name.

All samples are used, a few at a time, so that neither they nor what the model makes of them must fit into
memory at once. Samples are cut along the first axis where the model leaves it free; where it is fixed, each
set has that many, the last one filled up with copies of its last sample. Nothing is cut where inputs have
first axes of different lengths: then all is one set.

An array of another dtype is refused, not converted: only what numpy's files cannot hold (text as objects,
bfloat16) and the order of bytes is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from bnfuse.errors import UsageError
from bnfuse.inputs.shape_guesses import check_shape
from bnfuse.inputs.user_arrays import ArrayFiles, Feeds, StoredArray, numpy_dtype
from bnfuse.inputs.user_parts import Cut, Given, SampleFile

if TYPE_CHECKING:
    from bnfuse.formats.base import TensorSpec

# Samples in one set, fewer where they are large.
SET_SIZE = 32
_SET_BYTES = 32 << 20
_SUFFIXES = (".npy", ".npz")


class UserData(Struct, frozen=True, eq=False):
    """The user's samples as input sets: ``feeds(i)`` reads set ``i``, ``rows(i)`` counts its samples."""

    sets: tuple[tuple[Cut, ...], ...]

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def samples(self) -> int:
        """How many there are in all."""
        return sum(self.rows(index) for index in range(len(self)))

    def rows(self, index: int) -> int:
        """Samples of one set, without those that only fill it up."""
        return sum(cut.stop - cut.start for cut in self.sets[index])

    def where(self, index: int) -> str:
        """Which samples a set holds, for a message."""
        first = sum(self.rows(at) for at in range(index))
        last = first + self.rows(index) - 1
        return f"sample {first}" if first == last else f"samples {first} to {last}"

    def feeds(self, index: int) -> Feeds:
        """The arrays of one set by input name.

        Raises:
            UsageError: a file has gone, or was changed.
        """
        cuts = self.sets[index]
        parts = [cut.part.read(cut.start, cut.stop) for cut in cuts]
        missing = max(0, cuts[0].part.exactly - self.rows(index))
        feeds = {}
        for name in parts[0]:
            arrays = [part[name] for part in parts]
            if missing and name in cuts[0].part.cut:
                arrays += [arrays[-1][-1:]] * missing
            feeds[name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return feeds

    def other_shapes(self, name: str) -> int:
        """How many shapes of samples there are beside the first set's."""
        parts = {id(cut.part): cut.part for cuts in self.sets for cut in cuts}.values()
        shapes = {given.shape[1:] for part in parts for given in part.arrays if given.spec.name == name}
        return len(shapes) - 1

    def is_cut(self, name: str) -> bool:
        """Whether an input's first axis counts samples, and may have another length."""
        part = self.sets[0][0].part
        return name in part.cut and not part.exactly


def read_user_data(path: Path, specs: Sequence[TensorSpec], size: int | None = None) -> UserData:
    """The user's own inputs, in sets of at most ``size`` samples (None: what fits well into memory).

    Raises:
        UsageError: no such file, not numpy's format, or arrays that do not fit the model's inputs.
    """
    files = ArrayFiles()
    parts = _folder(path, specs, files) if path.is_dir() else [_part(path, specs, files, in_folder=False)]
    return UserData(tuple(tuple(cuts) for cuts in _sets(parts, size)))


def _folder(folder: Path, specs: Sequence[TensorSpec], files: ArrayFiles) -> list[SampleFile]:
    """A part per file; one in all where the files are named after the inputs."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        if path.is_dir() or path.suffix.lower() not in _SUFFIXES:
            raise UsageError(f"{folder} holds '{path.name}', which is neither .npy nor .npz")
    if not paths:
        raise UsageError(f"{folder} is an empty folder: put .npy or .npz files into it")
    names = {spec.name for spec in specs}
    by_name = {path.stem: path for path in paths if path.suffix.lower() == ".npy"}
    if names & set(by_name) and (len(specs) > 1 or len(paths) == 1):
        arrays = {stem: files.stored(path).get("") for stem, path in by_name.items()}
        others = [path for path in paths if path.suffix.lower() != ".npy"]
        if others:
            raise UsageError(f"{folder} holds '{others[0].name}' beside an .npy file for each input")
        found = {name: array for name, array in arrays.items() if array is not None}
        return [_fitted(folder, specs, found, in_folder=False)]
    return [_part(path, specs, files, in_folder=True) for path in paths]


def _part(path: Path, specs: Sequence[TensorSpec], files: ArrayFiles, *, in_folder: bool) -> SampleFile:
    arrays = files.stored(path)
    if "" in arrays and len(arrays) == 1:
        if len(specs) != 1:
            raise UsageError(
                f"{path} holds one array, but the model's inputs are {names_of(specs)}: use .npz"
            )
        arrays = {specs[0].name: arrays[""]}
    return _fitted(path, specs, arrays, in_folder=in_folder)


def _fitted(
    path: Path, specs: Sequence[TensorSpec], arrays: dict[str, StoredArray], *, in_folder: bool
) -> SampleFile:
    """Arrays by input name as one part, checked against all inputs."""
    unknown = sorted(set(arrays) - {spec.name for spec in specs})
    if unknown:
        raise UsageError(f"{path} holds '{unknown[0]}', but the model's inputs are {names_of(specs)}")
    given = []
    for spec in specs:
        if spec.name not in arrays:
            raise UsageError(f"{path} holds no array for the input '{spec.name}'")
        stored = arrays[spec.name]
        _check_dtype(path, spec, stored.dtype)
        # One sample, without the axis that counts them?
        single = in_folder and spec.shape is not None and len(stored.shape) == len(spec.shape) - 1
        given.append(Given(spec, stored, single))
    return _counted(path, given)


def _counted(path: Path, given: Sequence[Given]) -> SampleFile:
    """Find out which inputs count samples along their first axis, and how many there are.

    Raises:
        UsageError: a shape that does not fit, or inputs that count differently.
    """
    arrays = tuple(given)
    sizes = {g.spec.name: _set_size(g) for g in arrays}
    for g in arrays:
        size = sizes[g.spec.name]
        check_shape(g.spec, g.shape if size is None else (size, *g.shape[1:]), str(path))
    fixed = {size for size in sizes.values() if size}
    declared = {g.spec.name: g.shape[0] for g in arrays if g.spec.shape is not None and _cuttable(g, sizes)}
    counts = set(declared.values())
    if len(fixed) > 1 or (fixed and len(counts) > 1):
        told = ", ".join(f"{count} for '{name}'" for name, count in declared.items())
        raise UsageError(f"{path} holds a different number of samples per input ({told})")
    if not counts and all(g.spec.shape is None and g.shape for g in arrays):
        counts = {g.shape[0] for g in arrays}
    if len(counts) != 1:
        return _uncut(arrays)
    (count,) = counts
    if count == 0:
        raise UsageError(f"{path} holds no samples: its arrays have a first axis of length 0")
    same = [g for g in arrays if g.shape and g.shape[0] == count]
    stuck = [g for g in same if g.spec.shape and g.spec.shape[0] == count]
    if stuck and not fixed:  # the model fixes an axis of just this length: it may count the same samples
        return _uncut(arrays)
    cut = frozenset(g.spec.name for g in same if g not in stuck)
    return SampleFile(arrays, count, cut, next(iter(fixed), 0))


def _cuttable(given: Given, sizes: dict[str, int | None]) -> bool:
    first = given.spec.shape[0] if given.spec.shape else None
    return bool(given.shape) and (not isinstance(first, int) or sizes[given.spec.name] is not None)


def _set_size(given: Given) -> int | None:
    """How many samples the model takes at a time where it fixes that and the array has another number."""
    first = given.spec.shape[0] if given.spec.shape else None
    rank = len(given.spec.shape or ())
    if not isinstance(first, int) or first < 1 or rank < 2 or len(given.shape) != rank:
        return None
    more = given.shape[0] > first or (given.single and given.shape[0] < first)
    return first if more else None


def _uncut(arrays: tuple[Given, ...]) -> SampleFile:
    firsts = {g.shape[0] for g in arrays if g.shape}
    return SampleFile(arrays, firsts.pop() if len(firsts) == 1 else 1, frozenset(), 0)


def _sets(parts: Iterable[SampleFile], size: int | None) -> Iterable[list[Cut]]:
    """Samples in order, as many to a set as it takes; a part that cannot be cut is a set of its own."""
    made: list[Cut] = []
    for part in parts:
        if not part.cut:
            if made:
                yield made
            made = []
            yield [Cut(part, 0, part.rows)]
            continue
        most = part.exactly or size or max(1, min(SET_SIZE, _SET_BYTES // max(1, part.sample_bytes())))
        if made and made[0].part.kind != part.kind:
            yield made
            made = []
        start = 0
        while start < part.rows:
            room = most - sum(cut.stop - cut.start for cut in made)
            stop = min(part.rows, start + room)
            made.append(Cut(part, start, stop))
            if stop - start == room:
                yield made
                made = []
            start = stop
    if made:
        yield made


def _check_dtype(path: Path, spec: TensorSpec, dtype: np.dtype[Any]) -> None:
    text = spec.dtype == "string" and dtype.kind in "US"
    narrowed = spec.dtype == "bfloat16" and dtype == np.float32
    if not text and not narrowed and dtype.newbyteorder("=") != numpy_dtype(spec.dtype):
        raise UsageError(
            f"{path} gives input '{spec.name}' as {dtype}, but it needs {spec.dtype}: convert it first"
        )


def names_of(specs: Sequence[TensorSpec]) -> str:
    """The names of inputs or outputs for a message."""
    return ", ".join(f"'{spec.name}'" for spec in specs) or "none"
