"""Which models are meant: files as they are named, those in folders, and those that patterns match.

A name stands for itself first, and only then for a pattern: files may be called ``a[1].onnx``. From a
folder comes what looks like a model by its suffix. Left out there are

- results of bnfuse (``NAME.fused.EXT``, ``NAME.fused``), and the folder that results go to;
- hidden files and folders, so what a run is just writing, too;
- ``NAME.weights.h5``, which hold weights without a model.

A folder that *is* a model (Keras' ``save(…, zipped=False)``) is one model, wherever it is met. A model that
was found twice, by whatever name, is taken once. What is named and not there is found all the same: it is
told as a model that cannot be read, and stops no other.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from bnfuse.errors import UnreadableModel
from bnfuse.results.places import is_address

SUFFIXES = (".onnx", ".keras", ".h5", ".hdf5")  # also with .gz behind them
_PACKED = ".gz"
_FUSED = ".fused"
_WEIGHTS_ALONE = ".weights.h5"


class Found(Struct, frozen=True):
    """A model: its path or address, and where below the folder that was named it lies.

    ``problem`` says why it is none, for what was named and holds no model.
    """

    model: str
    below: str
    problem: str = ""


def discover(names: Sequence[str], *, recursive: bool, without: Path | None = None) -> list[Found]:
    """Every model that is meant, in the order of the names, folders sorted.

    Args:
        names: paths, folders, patterns (``*``, ``?``, ``[…]``, ``**``) and addresses.
        recursive: whether folders within folders are looked into.
        without: a folder that is left out: the one that results go to.

    Raises:
        RuntimeMissing: an address needs a package that is not installed.
    """
    found: dict[str, Found] = {}
    for name in names:
        for each in _meant(name, recursive=recursive, without=without):
            found.setdefault(each.model if is_address(each.model) else os.path.realpath(each.model), each)
    return list(found.values())


def means_one(name: str) -> bool:
    """Whether a name can mean but one model: no folder of several, and no pattern that matches something."""
    if is_address(name):
        from bnfuse.use_cases.many.remote import may_be_many

        try:
            return not may_be_many(name)
        except UnreadableModel:  # told as that of one model
            return True
    path = Path(name)
    if os.path.lexists(path):
        return is_model_folder(path) or not path.is_dir()
    return not (glob.has_magic(name) and next(glob.iglob(name, recursive=True), None))  # noqa: PTH207


def is_model_folder(path: Path) -> bool:
    """Whether a folder is one model: what Keras writes where it does not pack it into one file."""
    parts = ("model.weights.h5", "metadata.json")
    return (path / "config.json").is_file() and any((path / part).is_file() for part in parts)


def is_candidate(name: str) -> bool:
    """Whether a file of a folder is taken for a model, by its name."""
    plain = name.lower().removesuffix(_PACKED)
    if name.startswith(".") or Path(plain).suffix not in SUFFIXES:
        return False
    return not Path(plain).stem.endswith(_FUSED) and not plain.endswith(_WEIGHTS_ALONE)


def _meant(name: str, *, recursive: bool, without: Path | None) -> Iterator[Found]:
    if is_address(name):
        from bnfuse.use_cases.many.remote import listed

        try:
            every = listed(name, recursive=recursive, wanted=is_candidate)
        except UnreadableModel as error:
            every = []
            yield Found(name, name.rpartition("/")[2], str(error))
        for address, below in every:
            yield Found(address, below)
        return
    path = Path(name)
    if not os.path.lexists(path) and glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  (it may be absolute)
        for match in map(Path, matches):
            # a pattern picks files by itself; a result of an earlier run is none that was meant
            if match.is_dir() and not is_model_folder(match):
                continue
            if is_model_folder(match) or not _is_result(match):
                yield Found(str(match), match.name)
        if matches:
            return
    if path.is_dir() and not is_model_folder(path):
        yield from _in_folder(path, recursive=recursive, without=without)
    else:
        yield Found(name, path.name)


def _is_result(path: Path) -> bool:
    name = path.name.lower().removesuffix(_PACKED)
    return name.endswith(_FUSED) or Path(name).stem.endswith(_FUSED)


def _in_folder(folder: Path, *, recursive: bool, without: Path | None) -> Iterator[Found]:
    some = False
    for path in _walk(folder, recursive=recursive, without=without and Path(os.path.realpath(without))):
        some = True
        yield Found(str(path), str(path.relative_to(folder)))
    if not some:
        shallow = not recursive and any(entry.is_dir() for entry in folder.iterdir())
        deeper = "; --recursive looks into the folders within it, too" if shallow else ""
        looked = f"'{folder}' holds no model ({', '.join(SUFFIXES)}){deeper}"
        yield Found(str(folder), folder.name, looked)


def _walk(folder: Path, *, recursive: bool, without: Path | None) -> Iterator[Path]:
    """Models in a folder, sorted; links to folders are not followed, so there is an end."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if is_candidate(entry.name):
                yield entry
        elif is_model_folder(entry):
            if not _is_result(entry):
                yield entry
        elif recursive and not entry.is_symlink() and Path(os.path.realpath(entry)) != without:
            yield from _walk(entry, recursive=True, without=without)
