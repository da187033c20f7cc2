"""Which files and which versions took part in a result, so that it can be repeated."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from bnfuse import __version__
from bnfuse.errors import BnfuseError
from bnfuse.files.stamps import watched
from bnfuse.formats import detect
from bnfuse.formats.base import Loader, ReadOptions, Runner, RunSettings
from bnfuse.results import FileInfo
from bnfuse.results.doing import Doing, Progress

_CHUNK_BYTES = 1 << 20


def file_info(path: Path, *, hashes: bool = True) -> FileInfo:
    """One model file: format, SHA-256, size with its external data.

    Raises:
        UnreadableModel: missing, or not a model; or it changed meanwhile.
    """
    with watched(path) as files:
        form = detect(path)
        with closing(form.read(path, ReadOptions())) as model:
            total = model.total_bytes()
        found = FileInfo(path, form.name, sha256(path) if hashes else "", total)
        files.check()
    return found


def with_parts(info: FileInfo, path: Path) -> FileInfo:
    """The same, with what weights and an optimiser's state take of it; ``path`` is where it lies now.

    A file that bnfuse reads and cannot list is told as a whole.
    """
    try:
        with closing(detect(path).contents(path)) as found:
            weights = sum(item.size_bytes for item in found.weights.values())
            return replace(info, weight_bytes=weights, state_bytes=found.state_bytes)
    except BnfuseError:
        return info


def versions(ran: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions of what took part: our own, and those of the runtimes that ``ran``, as they told them."""
    known = {"bnfuse": __version__, "python": platform.python_version(), "numpy": np.__version__}
    return {name: version for name, version in {**known, **(ran or {})}.items() if version}


def telling(load: Loader, names: Mapping[Path, str], budget_s: float, progress: Progress) -> Loader:
    """A loader that tells what is loaded, and then for how long at most the proof runs it."""

    def loaded(path: Path, settings: RunSettings) -> Runner:
        name = names.get(path, path.name)
        progress(f"verifying: loading {name}")
        runner = load(path, settings)
        progress(Doing(f"verifying: running {name}", budget_s))
        return runner

    return loaded


class Witnessed:
    """A loader that remembers which runtimes it loaded models into: ``versions`` by package."""

    def __init__(self, load: Loader) -> None:
        self._load = load
        self.versions: dict[str, str] = {}

    def load(self, path: Path, settings: RunSettings) -> Runner:
        """Loader a model."""
        runner = self._load(path, settings)
        self.versions.update(runner.versions)
        return runner


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal, read piece by piece."""
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
