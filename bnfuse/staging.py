"""Putting finished files into place: all of them, or none.

A result is written into a fresh folder beside its target (so on the same file system), and only a
finished one is renamed into place: side files first, the model last, since it refers to them. With
``force`` the files that were there are kept until the end and come back if anything fails. Nothing
here decides *whether* a result deserves to be put into place.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from bnfuse.errors import OutputError, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def default_output(model: Path, suffix: str) -> Path:
    """``a.onnx`` → ``a.fused.onnx``, beside the input."""
    stem = model.name[: -len(suffix)] if model.name.lower().endswith(suffix.lower()) else model.stem
    return model.with_name(f"{stem or model.name}.fused{suffix}")


def check_target(target: Path, model: Path, *, force: bool) -> None:
    """Refuse, before any work, a target that the result could not or must not be put at.

    Raises:
        UsageError: the target is the input itself, by whatever name.
        OutputError: it exists and ``force`` is not set, or its folder is missing or unwritable.
    """
    if _same_file(target, model):
        raise UsageError(f"'{target}' is the input itself, which is never overwritten: choose another output")
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise OutputError(f"'{target}' is {kind}: give the output a file name of its own")
    _check_free(target, force=force)
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"the output folder '{folder}' does not exist: create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the output folder '{folder}' cannot be written to: check its permissions")


@contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into one sentence about ``target``.

    Raises:
        OutputError: for any OSError inside.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            why = "the disk is full: free some space and try again"
        else:
            why = error.strerror or str(error)
        raise OutputError(f"'{target}' cannot be written: {why}") from error


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A fresh hidden folder beside ``target``, removed in the end whatever happens."""
    with output_errors(target):
        folder = Path(tempfile.mkdtemp(prefix=".bnfuse-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(staged: Sequence[Path], target: Path, protected: Sequence[Path], *, force: bool) -> None:
    """Rename the staged files into ``target``'s folder in the order given: all, or none.

    ``protected`` are the input's own files, over which nothing is ever put.

    Raises:
        OutputError: a file of that name exists (or would be the input's), or a rename fails.
    """
    folder = target.parent
    for source in staged:
        _check_protected(folder / source.name, protected)
        _check_free(folder / source.name, force=force)
    with output_errors(target), ExitStack() as undo:
        mode = _umask_mode(staged[0].parent)
        for number, source in enumerate(staged):
            source.chmod(mode)
            undo.callback(_set_aside(folder / source.name, source.parent / f"old-{number}"))
            source.replace(folder / source.name)
        undo.pop_all()


def _set_aside(target: Path, backup: Path) -> Callable[[], object]:
    """Keep what is at ``target`` under ``backup``; returns what brings the old state back."""
    if not os.path.lexists(target):
        return partial(target.unlink, missing_ok=True)
    _hold(target, backup)
    return partial(backup.replace, target)


def _hold(target: Path, backup: Path) -> None:
    """Give ``target`` a second name, so that there is no moment without it; else move it."""
    if not target.is_symlink():
        with suppress(OSError):  # file systems without hard links
            os.link(target, backup)
            return
    target.replace(backup)


def _umask_mode(folder: Path) -> int:
    """The mode a new file gets here, asked of a new file: os.umask would have to set it to read it."""
    probe = folder / "mode-probe"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        probe.unlink()


def _check_free(target: Path, *, force: bool) -> None:
    if os.path.lexists(target) and not force:
        raise OutputError(f"'{target}' exists: choose another output or overwrite it with --force")


def _check_protected(target: Path, protected: Sequence[Path]) -> None:
    if any(_same_file(target, path) for path in protected):
        raise OutputError(
            f"'{target}' belongs to the input, which is never overwritten: choose another output name"
        )


def _same_file(one: Path, other: Path) -> bool:
    """Whether both names reach one file: also through links and through different spellings."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False
