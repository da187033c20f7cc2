"""The user's labels: one integer per sample, from ``.npy``, ``.npz`` (with one array) or ``.csv``.

A ``.csv`` has one column, or a header that calls one of its columns label, class, target or y. Numbers
such as ``3.0`` are taken as integers; anything else is refused, one-hot rows among them.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnfuse.errors import UsageError
from bnfuse.inputs.user_arrays import ArrayFiles

_NAMES = ("label", "labels", "class", "target", "y")
_NUMPY = (".npy", ".npz")
_TEXT = (".csv", ".txt")

Labels = NDArray[np.int64]


def read_labels(path: Path) -> Labels:
    """The labels in a file, shape (samples,).

    Raises:
        UsageError: no such file, of another kind, or not one integer per sample.
    """
    suffix = path.suffix.lower()
    if suffix in _NUMPY:
        values = _from_numpy(path)
    elif suffix in _TEXT:
        values = np.array(_from_text(path))
    else:
        raise UsageError(f"the labels '{path}' must be a .npy, .npz or .csv file")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        hint = ": give the number of the class, not one column per class" if values.ndim == 2 else ""
        raise UsageError(
            f"the labels in '{path}' have the shape {list(values.shape)}, not one per sample{hint}"
        )
    whole = values.dtype.kind in "biu" or (
        values.dtype.kind == "f" and bool((values == np.rint(values)).all())
    )
    if not whole:
        raise UsageError(f"the labels in '{path}' are {values.dtype}, not integers")
    return values.astype(np.int64)


def _from_numpy(path: Path) -> np.ndarray:
    arrays = ArrayFiles().stored(path)
    if len(arrays) != 1:
        raise UsageError(f"'{path}' holds {len(arrays)} arrays: put the labels alone into a file")
    (stored,) = arrays.values()
    return stored.read()


def _from_text(path: Path) -> list[float]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the labels '{path}' cannot be read as text: {error}") from error
    head = [cell.strip().lower() for cell in lines[0]] if lines else []
    has_header = bool(head) and not any(_number(cell) is not None for cell in head)
    columns = [index for index, name in enumerate(head) if name in _NAMES] if has_header else []
    if len(head) > 1 and len(columns) != 1:
        raise UsageError(
            f"'{path}' has {len(head)} columns: give one, or a header that calls one of them 'label'"
        )
    column = columns[0] if columns else 0
    numbered = list(enumerate(lines, start=1))[1 if has_header else 0 :]
    return [_label(path, number, line, column) for number, line in numbered]


def _label(path: Path, number: int, line: list[str], column: int) -> float:
    text = line[column].strip() if column < len(line) else ""
    value = _number(text)
    if value is None:
        raise UsageError(f"line {number} of '{path}' has '{text}' where a label should be: give integers")
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
