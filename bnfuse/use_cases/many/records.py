"""What was done before, so that it need not be done again: a record for each model that was done well.

A record is found by the hash of the model's bytes, of the options, of the version of bnfuse and of where
the model is and its result goes. It holds for as long as the files beside the model that hold its weights,
and all files of the result, are as they were, by their hashes. What failed leaves no record.

Records lie in the user's cache (``BNFUSE_CACHE``, else ``XDG_CACHE_HOME/bnfuse``, else ``~/.cache/bnfuse``)
and go after 90 days without use. They are data (``results.archive``): reading one runs nothing. Where they
cannot be written, nothing is said: the next run does the work again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bnfuse import __version__
from bnfuse.errors import ExitCode
from bnfuse.results.archive import archived, packed, restored
from bnfuse.results.many import Outcome
from bnfuse.results.places import is_address
from bnfuse.use_cases.many.addresses import identity
from bnfuse.use_cases.many.tasks import Task
from bnfuse.use_cases.provenance import sha256

_KEPT_S = 90 * 24 * 3600.0
_OWN = {"inputs", "labels"}  # options that name files, whose content counts


def default_folder() -> Path:
    """Where records lie."""
    own = os.environ.get("BNFUSE_CACHE")
    if own:
        return Path(own, "records")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")  # noqa: PTH118
    return Path(os.path.expanduser(home), "bnfuse", "records")  # noqa: PTH111  (never fails)


class Records:
    """The records of one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or default_folder()

    def find(self, task: Task) -> Outcome | None:
        """The outcome of an earlier run, where nothing has changed since; None where it is to be run."""
        for key in _keys(task):
            path = self._path(key)
            with suppress(OSError, ValueError):
                found = restored(path.read_text(encoding="ascii"))
                # the model's own bytes are part of the key
                own = found.read[:1] and found.read[0][0] == os.path.basename(task.model)  # noqa: PTH119
                if _same(task.model, found.read[1:] if own else found.read) and _same(
                    task.output, found.wrote
                ):
                    os.utime(path)
                    return replace(found, resumed=True, seconds=0.0)
        return None

    def keep(self, task: Task, outcome: Outcome) -> None:
        """Remember what was done well."""
        keys = _keys(task) if outcome.exit_code == ExitCode.DONE and outcome.read else []
        if not keys:
            return
        path = self._path(keys[0])
        with suppress(OSError, TypeError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = path.with_suffix(f".{os.getpid()}")
            fresh.write_text(archived(outcome), encoding="ascii")
            fresh.replace(path)

    def forget_old(self) -> None:
        """Remove what nobody has used for long."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                if time.time() - path.stat().st_mtime > _KEPT_S:
                    path.unlink()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _keys(task: Task) -> list[str]:
    """What tells this task, with this model as it is now, from all others; none where nothing does.

    The first is its own. A run that was asked for the details of a page as well has done no less: the second.
    """
    options = {name: each for name, each in sorted(task.options.items()) if name != "force"}
    try:
        content = _identity(task.model)
        every = [packed(options)]
        if options.get("details") is False:
            every.append(packed({**options, "details": True}))
    except (OSError, TypeError):
        return []
    where = [_whole(task.model), _whole(task.output or "")]
    samples = _samples(task.options)
    parts = [[__version__, task.command, content, asked, where, samples] for asked in every]
    return [
        hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest() for each in parts if content
    ]


def _identity(place: str) -> str:
    """The hash of a file's bytes, or what a store says of what lies at an address; "" where nobody knows."""
    if is_address(place):
        return identity(place)
    path = Path(place)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        return json.dumps([(str(each.relative_to(path)), sha256(each)) for each in files])
    return sha256(path) if path.is_file() else ""


def _same(place: str | None, stamps: tuple[tuple[str, str], ...]) -> bool:
    """Whether these files, which lie where ``place`` does, are still what they were."""
    if place is None:
        return not stamps
    home = place.rpartition("/")[0] if is_address(place) else os.path.dirname(place)  # noqa: PTH120  (may be "")
    return all(_identity(f"{home}/{name}" if home else name) == digest for name, digest in stamps)


def _whole(place: str) -> str:
    return place if not place or is_address(place) else os.path.realpath(place)


def _samples(options: Mapping[str, Any]) -> list[Any]:
    """Stamps of the user's own samples and labels, which requests name by path."""
    named: list[Path] = []
    for request in (options.get("verify"), options.get("bench")):
        own = [getattr(request, name, None) for name in sorted(_OWN)]
        for value in own:
            every = value.values() if isinstance(value, Mapping) else [value] if value else []
            named += map(Path, every)
    stamps = []
    for path in named:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            with suppress(OSError):
                info = file.stat()
                stamps.append([str(file), info.st_size, info.st_mtime_ns])
    return stamps
