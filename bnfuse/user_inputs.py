"""The user's own inputs: arrays from numpy's files, checked against what the model declares.

Nothing is unpickled. An array of another dtype is refused, not converted: only what numpy's files cannot
hold (strings as objects, bfloat16) is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfuse.errors import UsageError
from bnfuse.shape_guesses import check_shape

if TYPE_CHECKING:
    from bnfuse.formats.base import TensorSpec

Feeds = dict[str, np.ndarray]


def read_inputs(path: Path, specs: Sequence[TensorSpec]) -> Feeds:
    """The user's own inputs from ``.npz`` (arrays by input name) or ``.npy`` (one input).

    Raises:
        UsageError: no such file, not numpy's format, or arrays that do not fit the model's inputs.
    """
    arrays = _load_arrays(path, specs)
    unknown = sorted(set(arrays) - {spec.name for spec in specs})
    if unknown:
        raise UsageError(f"{path} holds '{unknown[0]}', but the model's inputs are {names_of(specs)}")
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
                    f"{path} holds one array, but the model's inputs are {names_of(specs)}: use .npz"
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
    check_shape(spec, array.shape, str(path))
    return array


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


def names_of(specs: Sequence[TensorSpec]) -> str:
    """The inputs' names for a message."""
    return ", ".join(f"'{spec.name}'" for spec in specs) or "none"
