"""The process that runs ONNX models for bnfuse in onnxruntime (``bnfuse.formats.child.server``)."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from pathlib import Path

from msgspec import to_builtins
from msgspec.structs import replace

from bnfuse.errors import RuntimeMissing
from bnfuse.formats.base import CallTimes, RunSettings
from bnfuse.formats.child.messages import Arrays, Head
from bnfuse.formats.child.server import Engine, serve_engine
from bnfuse.formats.child.settings import settings_from_json
from bnfuse.formats.child.spare_models import FileIdentity
from bnfuse.formats.onnx.runtime.module import import_runtime
from bnfuse.formats.onnx.runtime.session import OrtRunner, load_session


class OrtEngine(Engine[OrtRunner]):
    """onnxruntime."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[FileIdentity, RunSettings]] = {}  # by id, of what is loaded

    def prepare(self) -> None:
        """Import it."""
        with contextlib.suppress(RuntimeMissing):
            import_runtime()

    def start(self, setup: Head) -> Head:
        """What it is."""
        return {"runtime": f"onnxruntime {import_runtime().__version__}"}

    def load(self, request: Head) -> tuple[OrtRunner, Head]:
        """A session."""
        traces = request["traces"] and Path(request["traces"])
        settings = replace(settings_from_json(request["settings"]), runtime="")
        known = FileIdentity.of(request["path"]), settings
        model = self.spares.take(*known) or load_session(Path(request["path"]), settings, traces)
        self._known[id(model)] = known
        return model, {
            "load_s": model.load_s,
            "runtime": model.runtime,
            "versions": dict(model.versions),
            "optimises": model.optimises,
            "providers": list(model.providers),
            "inputs": [to_builtins(spec) for spec in model.inputs],
            "outputs": [to_builtins(spec) for spec in model.outputs],
        }

    def run(self, model: OrtRunner, arrays: Arrays) -> Arrays:
        """See ``OrtRunner.run``."""
        return model.run(arrays)

    def time(self, model: OrtRunner, arrays: Arrays, calls: int) -> list[int]:
        """See ``OrtRunner.time``."""
        return model.time(arrays, calls)

    def profile(self, model: OrtRunner, arrays: Arrays, calls: int) -> Sequence[CallTimes]:
        """See ``OrtRunner.profile``."""
        return model.profile(arrays, calls)

    def spare(self, model: OrtRunner) -> tuple[FileIdentity, RunSettings] | None:
        """A session has no state; one that was opened up or profiled is not what another one asks for.

        Nor is one whose weights lie in other files: this one shows neither their size nor a change of them.
        """
        file, settings = self._known[id(model)]
        is_plain = settings.probe is None and not settings.profile
        return (file, settings) if is_plain and file.is_small and not _names_others(Path(file.path)) else None

    def close(self, model: OrtRunner) -> None:
        """Free session and traces."""
        del self._known[id(model)]
        model.__exit__(None, None, None)


def _names_others(path: Path) -> bool:
    """Whether the model may have external data: it says so with this word, be it in its names alone."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            return held.find(b"location") >= 0
    except (OSError, ValueError):  # it is gone, or empty now
        return True


def main(token: str) -> None:
    """Answer requests until they end."""
    serve_engine(token, OrtEngine())
