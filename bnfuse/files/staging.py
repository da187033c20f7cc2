"""Where results are made: a hidden folder beside the target, so on the same file system.

It goes when it is no longer needed, whatever happens; what a killed process left is removed by the next one
that works in that folder. A process that lives holds a lock on its folder, which the system lets go of with
the process. ``placing`` puts what was finished into place. Nothing here decides *whether* a result
deserves that.
"""

from __future__ import annotations

import errno
import os
import platform
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from bnfuse.errors import OutputError, UsageError

_PREFIX, _LOCK = ".bnfuse-", "lock"
_PATIENCE_S = 5.0
_ATTEMPTS = 5


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
    if same_file(target, model):
        raise UsageError(f"'{target}' is the input itself, which is never overwritten: choose another output")
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise OutputError(f"'{target}' is {kind}: give the output a file name of its own")
    check_free(target, force=force)
    check_folder(target.parent)


def check_folder(folder: Path) -> None:
    """Refuse, before any work, a folder into which nothing could be put.

    Raises:
        OutputError: it is missing, or cannot be written to.
    """
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
        raise OutputError.of(target, error) from error


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A fresh hidden folder beside ``target``, removed in the end whatever happens."""
    with ExitStack() as stack:
        with output_errors(target):
            sweep(target.parent)
            folder = _claimed(target.parent, stack)
        yield folder


def _claimed(parent: Path, stack: ExitStack) -> Path:
    """A folder with a lock that says whose it is; ``stack`` removes it.

    Another run may take it for left behind as long as it is not locked: then there is another.
    """
    import tempfile  # only who writes has need of it: `inspect` does not

    for attempt in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with ExitStack() as made, suppress(FileNotFoundError):
            made.callback(_remove, folder)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            made.callback(os.close, lock)
            locked = _lock(lock)
            if locked:
                os.write(lock, _system().encode())  # from now on it is swept where nobody holds the lock
            # where there are no locks nobody sweeps either
            if _is_at(lock, folder / _LOCK) and (locked or not has_locks() or attempt == _ATTEMPTS - 1):
                stack.push(made.pop_all())
                return folder
    raise FileNotFoundError(errno.ENOENT, "temporary folders beside it vanish")


def _remove(folder: Path) -> None:
    """The lock last: without it nobody knows what is left to be anybody's."""
    import shutil

    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _LOCK:
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _is_at(descriptor: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(descriptor), path.stat())


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Be the only bnfuse that changes names in a folder; False where that cannot be had (not on Windows)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY) if has_locks() else None
    except OSError:
        descriptor = None
    if descriptor is None:
        yield False
        return
    try:
        end = time.monotonic() + _PATIENCE_S
        while not (got := _lock(descriptor)) and time.monotonic() < end:
            time.sleep(0.01)
        yield got
    finally:
        os.close(descriptor)


def has_locks() -> bool:
    """Whether there are locks that go with the process (not on Windows)."""
    try:
        import fcntl
    except ImportError:
        return False
    return hasattr(fcntl, "flock")


def _lock(descriptor: int) -> bool:
    """Whether a lock was got that nobody else has, and that goes with this process."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows, or somebody else has it
        return False
    return True


def sweep(folder: Path) -> None:
    """Remove what processes of this system left that live no more.

    Only where the lock file says that it was locked on this very system, as a lock may not reach another one;
    or where nothing was in it yet.
    """
    for path in folder.glob(f"{_PREFIX}*") if os.name == "posix" else ():
        with suppress(OSError, ValueError):
            info = path.lstat()
            if info.st_uid == os.geteuid() and stat.S_ISDIR(info.st_mode):
                _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        path.rmdir()  # which removes what is empty, and nothing else
        return
    try:
        if _lock(descriptor):
            said = os.read(descriptor, 256).decode()
            if said == _system() or (not said and os.listdir(path) == [_LOCK]):  # noqa: PTH208
                _remove(path)
    finally:
        os.close(descriptor)


@cache
def _system() -> str:
    """What tells this system from others that see the same folder: containers of one have it in common."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return platform.node()


def check_free(target: Path, *, force: bool) -> None:
    """Raises ``OutputError`` where something is there that is not to be overwritten."""
    if os.path.lexists(target) and not force:
        raise OutputError(f"'{target}' exists: choose another output or overwrite it with --force")


def same_file(one: Path, other: Path) -> bool:
    """Whether both names reach one file: also through links and through different spellings."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return one.samefile(other)
    except OSError:
        return False
