"""Putting finished files into place: all of them or none, whenever the process is killed or the power fails.

The one switch is the rename of the model. Before it, files with weights come to lie beside the target under
names that say what they hold (``side_files``), so none that the old model means is touched; after it,
those that no model means any more go. A reader finds the old model or the new one, each with its own weights.
"""

from __future__ import annotations

import errno
import filecmp
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from bnfuse.errors import OutputError
from bnfuse.files.exchanging import exchange
from bnfuse.files.side_files import superseded
from bnfuse.files.staging import check_free, folder_lock, output_errors, same_file

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}


def place(staged: Sequence[Path], target: Path, protected: Sequence[Path], *, force: bool) -> None:
    """Put staged files into ``target``'s folder: side files, then the last one, the model, as ``target``.

    ``protected`` are the input's own files, over which nothing is ever put. All is on the disk on return.

    Raises:
        OutputError: a file of that name exists (or would be the input's), or a rename fails.
    """
    *side_files, model = staged
    for source in staged:
        _check_protected(target.parent / source.name, protected)
    check_free(target, force=force)
    with output_errors(target):
        mode = _umask_mode(model.parent)
        for source in staged:
            source.chmod(mode)
            _flush(source)
    with folder_lock(target.parent) as locked, output_errors(target):
        with ExitStack() as undo:
            for source in side_files:
                _add(source, target.parent / source.name, undo, model=(model, target), force=force)
            _flush(target.parent)
            _switch(model, target, force=force)
            undo.pop_all()
        _flush(target.parent)
        for path in superseded(target) if locked else ():
            if not any(same_file(path, own) for own in protected):
                with suppress(OSError):
                    path.unlink()


def place_folder(staged: Path, target: Path, protected: Sequence[Path]) -> None:
    """Put a staged folder into place, in one step where the system can; a folder of that name gives way.

    What is there was looked at before; ``protected``, the input's own files, must not lie in it. Where the
    system cannot exchange two names, there is a moment without a folder of that name, and on a failure the
    old one comes back.

    Raises:
        OutputError: a rename fails.
    """
    if any(target in path.parents for path in protected):
        raise OutputError(
            f"'{target}' holds the input, which is never overwritten: choose another output name"
        )
    with output_errors(target):
        mode = _umask_mode(staged.parent)
        for path in (staged, *staged.rglob("*")):
            path.chmod(mode | (mode & 0o444) >> 2 if path.is_dir() else mode)
            _flush(path)
        with folder_lock(target.parent):
            if not os.path.lexists(target):
                staged.rename(target)
            elif not exchange(staged, target):
                old = staged.with_name("old")
                target.rename(old)
                try:
                    staged.rename(target)
                except BaseException:
                    old.rename(target)
                    raise
        _flush(target.parent)


def _add(source: Path, final: Path, undo: ExitStack, *, model: tuple[Path, Path], force: bool) -> None:
    """A side file under its own name; one that holds the same is left as it is, as an earlier run left it."""
    if os.path.lexists(final):
        if _own_file(final) and filecmp.cmp(source, final, shallow=False):
            return
        check_free(final, force=force)
    else:
        undo.callback(_take_back, final, *model)
    source.replace(final)


def _take_back(side: Path, staged: Path, target: Path) -> None:
    """Remove a side file, unless an interruption came just behind the switch."""
    if os.path.lexists(staged) and not same_file(staged, target):
        with suppress(OSError):
            side.unlink()


def _switch(model: Path, target: Path, *, force: bool) -> None:
    """The model under its final name, in one step; without ``force`` a step that fails if that exists.

    Raises:
        OutputError: it exists.
    """
    if force:
        model.replace(target)
        return
    try:
        target.hardlink_to(model)
    except FileExistsError:
        check_free(target, force=False)
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        check_free(target, force=False)
        model.replace(target)
    else:
        model.unlink()


def _own_file(path: Path) -> bool:
    """Whether it is a regular file with one name only."""
    info = path.lstat()
    return stat.S_ISREG(info.st_mode) and info.st_nlink == 1


def _flush(path: Path) -> None:
    """Have the disk hold a file's bytes, or a folder's names, where the system can tell it to."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that have no such thing
            raise
    finally:
        os.close(descriptor)


def _umask_mode(folder: Path) -> int:
    """The mode a new file gets here, asked of a new file: os.umask would have to set it to read it."""
    probe = folder / "mode-probe"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        probe.unlink()


def _check_protected(target: Path, protected: Sequence[Path]) -> None:
    if any(same_file(target, path) for path in protected):
        raise OutputError(
            f"'{target}' belongs to the input, which is never overwritten: choose another output name"
        )
