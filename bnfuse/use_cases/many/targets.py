"""Where the result of each of many models goes: beside it, or below one folder; never two to one place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path, PurePosixPath

from bnfuse.errors import BnfuseError, UsageError
from bnfuse.files.staging import default_output
from bnfuse.formats import detect
from bnfuse.packed import packing_of
from bnfuse.results.places import is_address
from bnfuse.use_cases.many.discovery import Found

AnyPath = str | PathLike[str] | None  # the weights of an architecture in JSON


def placed(found: Sequence[Found], output_dir: str | None, weights: AnyPath = None) -> list[str | None]:
    """The place of each result, ``NAME.fused.EXT``; None for what is no model.

    Below ``output_dir`` the folders are as they are below the folder that was named.

    Raises:
        UsageError: two models would write one file, a result would be one of the models, or an address
            cannot be written to.
    """
    targets = [_target(each, output_dir, weights) for each in found]
    models = {_identity(each.model): each.model for each in found}
    writers: dict[str, str] = {}
    for each, target in zip(found, targets, strict=True):
        if target is None:
            continue
        key = _identity(target)
        if key in writers:
            raise UsageError(
                f"'{writers[key]}' and '{each.model}' would both be written to '{target}': name the folder "
                "that holds both, with --recursive, or run them apart"
            )
        if key in models:
            raise UsageError(
                f"the result of '{each.model}' would be written to '{models[key]}', which is one of the "
                "models: leave that out, or give an --output-dir"
            )
        writers[key] = each.model
    return targets


def one_target(model: str, output_dir: str, weights: AnyPath = None) -> Path | None:
    """The place of the result of one model in a folder; None for what is no model.

    Raises:
        UsageError: that is the model itself.
    """
    (target,) = placed([Found(model, Path(model).name)], output_dir, weights)
    return None if target is None else Path(target)


def _target(found: Found, output_dir: str | None, weights: AnyPath) -> str | None:
    if found.problem:
        return None
    below = _renamed(found, weights)
    if below is None:
        return None
    if output_dir is not None:
        return f"{output_dir.rstrip('/')}/{below}" if is_address(output_dir) else str(Path(output_dir, below))
    if is_address(found.model):
        from bnfuse.use_cases.many.remote import check_writable

        check_writable(found.model)
        return f"{found.model.rpartition('/')[0]}/{PurePosixPath(below).name}"
    return str(Path(found.model).with_name(Path(below).name))


def _renamed(found: Found, weights: AnyPath) -> str | None:
    """The result's path below the folder that was named; None where there is no model to have one."""
    below = Path(found.below)
    if is_address(found.model):
        inner = Path(below.stem).suffix if below.suffix.lower() == ".gz" else ""
        return str(default_output(below, f"{inner}{below.suffix}"))
    model = Path(found.model)
    try:
        packing = packing_of(model, weights)
        if packing is not None:
            return str(below.with_name(packing.default_output().name))
        return str(default_output(below, detect(model).suffix(model)))
    except BnfuseError:  # it is told where the model is read
        return None


def _identity(place: str) -> str:
    """One text for every spelling of a place."""
    return place if is_address(place) else os.path.normcase(os.path.realpath(place))
