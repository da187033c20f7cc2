"""Opens the file that a tensor's data is said to lie in, where that is the model's own.

A location must be a relative name that leads, by real path, into the model's own folder: through no
symbolic link out of it, to a regular file without a second name, which could be one elsewhere
(CVE-2022-25882, -2024-27318, -2025-51480 and later ones of the same kind). What is looked at is what was
opened: the real path is walked folder by folder, through no link at all, so one that is put in the way
meanwhile leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack
from pathlib import Path, PurePosixPath, PureWindowsPath

from bnfuse.errors import UnreadableModel, UnsafeModel
from bnfuse.formats.onnx.file.positioned import BINARY

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0) | BINARY
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)


def open_contained(model: Path, place: str, tensor: str) -> tuple[Path, int]:
    """The real path of external data, and a descriptor of it.

    Args:
        model: the file whose tensor it is.
        place: its location, as the tensor says it.
        tensor: its name, for sentences.

    Raises:
        UnsafeModel: outside the model's folder, or no file of its own.
        UnreadableModel: it is not there.
    """
    if _escapes(place):
        raise UnsafeModel(
            f"{model}: tensor '{tensor}' asks for data at '{place}', outside the model's folder; "
            "bnfuse does not follow it"
        )
    path = Path(os.path.realpath(model.parent / place))
    homes = {Path(os.path.realpath(model.parent)), Path(os.path.realpath(model)).parent}
    home = next((home for home in homes if path.is_relative_to(home)), None)
    if home is None:
        raise UnsafeModel(
            f"{model}: external data '{place}' leads to {path}, outside the model's folder; "
            "put the data beside the model"
        )
    try:
        descriptor = _opened(home, path)
    except OSError as error:
        if error.errno != errno.EMFILE or not _allow_more_files():
            raise _refusal(error, model, place) from error
        return open_contained(model, place, tensor)
    info = os.fstat(descriptor)
    if stat.S_ISREG(info.st_mode) and info.st_nlink <= 1:
        return path, descriptor
    os.close(descriptor)
    raise UnsafeModel(
        f"{model}: external data '{place}' is "
        f"{'hard-linked from elsewhere' if stat.S_ISREG(info.st_mode) else 'not a regular file'}; "
        "copy it to a file of its own"
    )


def _escapes(place: str) -> bool:
    """Whether a location says by itself that it leads out of the folder."""
    name = PurePosixPath(place)
    return (
        not place
        or "\0" in place
        or name.is_absolute()
        or ".." in name.parts
        or bool(PureWindowsPath(place).drive)
        or "\\" in place
    )


def _opened(home: Path, path: Path) -> int:
    """Open a file below a folder, following no link on the way."""
    if os.open not in os.supports_dir_fd:  # Windows
        return os.open(path, _FILE)
    with ExitStack() as stack:
        at = os.open(home, _FOLDER)
        stack.callback(os.close, at)
        *folders, name = path.relative_to(home).parts or (".",)
        for folder in folders:
            at = os.open(folder, _FOLDER | _NO_LINK, dir_fd=at)
            stack.callback(os.close, at)
        return os.open(name, _FILE, dir_fd=at)


def _allow_more_files() -> bool:
    """Some exporters write a file per tensor; whether more may be open now than a moment ago."""
    try:
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ImportError, OSError, ValueError):
        return False
    return now != most


def _refusal(error: OSError, model: Path, place: str) -> UnreadableModel | UnsafeModel:
    if error.errno in (errno.ELOOP, errno.EMLINK):
        return UnsafeModel(f"{model}: external data '{place}' became a link while it was opened")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UnreadableModel(
            f"{model}: its weights are in '{place}', which is missing; put it beside the model"
        )
    return UnreadableModel(f"{model}: its weights are in '{place}', which cannot be read: {error.strerror}")
