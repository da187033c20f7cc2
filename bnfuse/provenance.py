"""Which files and which versions took part in a result, so that it can be repeated."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path

from bnfuse import __version__
from bnfuse.formats import detect
from bnfuse.formats.base import ReadOptions
from bnfuse.results import FileInfo

_CHUNK_BYTES = 1 << 20


def file_info(path: Path, *, hashes: bool = True) -> FileInfo:
    """One model file: format, SHA-256, size with its external data.

    Raises:
        UnreadableModel: missing, or not a model.
    """
    form = detect(path)
    total = form.read(path, ReadOptions()).total_bytes()
    return FileInfo(path, form.name, sha256(path) if hashes else "", total)


def versions(*, runtimes: bool) -> dict[str, str]:
    """Versions of what took part; read from the packages' metadata, so nothing is imported."""
    packages = ("numpy", "onnxruntime") if runtimes else ("numpy",)
    known = {package: _version(package) for package in packages}
    known = {"bnfuse": __version__, "python": platform.python_version(), **known}
    return {name: version for name, version in known.items() if version}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
