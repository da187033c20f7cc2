"""The child's end of ``bnfuse.formats.child.pool``: holds models by number, and does with them what is asked.

Requests are heads of messages (``bnfuse.formats.child.messages``) with an ``op``:

======= =========================== ==================================================================
op      with                        answer
======= =========================== ==================================================================
start   setup                       what the runtime says of itself
load    what the format says        "model", its number, "load_s", and what it declares
run     model; arrays: inputs       arrays: outputs by name, seams of a probe among them
time    model, calls, kept; arrays  "ns" of each call
profile model, calls; arrays        "calls": of each its ns, and [name, op, provider, ns] of its nodes
close   model, keep                 nothing; it may stay loaded for another "load"
forget                              nothing: no closed model stays
======= =========================== ==================================================================

Inputs that are timed stay here until another model is closed or other inputs come: a bench asks for the same
call many times, and sending hundreds of MB each time would empty every cache. An error is an answer.
"""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

from bnfuse.errors import BnfuseError
from bnfuse.formats.base import CallTimes
from bnfuse.formats.child.loop import serve
from bnfuse.formats.child.messages import Arrays, Head
from bnfuse.formats.child.spare_models import FileIdentity, SpareModels

M = TypeVar("M")


class LoadRefused(Exception):
    """An error that is an answer; ``kind`` is for whoever asked."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Engine(ABC, Generic[M]):
    """One runtime, in the process that exists for it. ``M`` is a model loaded into it.

    ``spares`` are models that were closed and may be taken where one of the same file is to be loaded.
    """

    spares: SpareModels[M]

    def prepare(self) -> None:
        """What can be done before anybody asks; what fails is told when asked for."""

    @abstractmethod
    def start(self, setup: Head) -> Head:
        """Import the runtime; what it says of itself."""

    @abstractmethod
    def load(self, request: Head) -> tuple[M, Head]:
        """A model, perhaps one of ``spares``, and what it declares.

        That is "runtime", "versions", "providers", "inputs" and "outputs", the last two with "name", "dtype",
        "shape", as a ``TensorSpec`` has them; "load_s", too, where the model was there already.
        """

    @abstractmethod
    def run(self, model: M, arrays: Arrays) -> Arrays:
        """Everything the model answers with, by name."""

    @abstractmethod
    def time(self, model: M, arrays: Arrays, calls: int) -> list[int]:
        """Nanoseconds of each of some calls in a row, the inputs being on the device already."""

    def profile(self, model: M, arrays: Arrays, calls: int) -> Sequence[CallTimes]:
        """Some calls in a row, node by node."""
        raise LoadRefused("run", "it has no profiler")

    def close(self, model: M) -> None:
        """Let go of what a model holds."""

    def spare(self, model: M) -> tuple[FileIdentity, Hashable] | None:
        """Make a closed model as it was loaded: of which file, and how; None where another must be loaded."""
        return None

    def closed(self, left: int) -> None:
        """Models are gone, as far as this side holds them; ``left`` others are still loaded."""

    def told(self, error: Exception) -> Head:
        """What to answer for an error that is no ``LoadRefused`` and none of bnfuse's own."""
        return {"error": "internal", "text": f"{type(error).__name__}: {error}"}


class Server(Generic[M]):
    """Holds the models of an engine; answers requests."""

    def __init__(self, engine: Engine[M]) -> None:
        self._engine = engine
        self._spares = engine.spares = SpareModels()
        self._models: dict[int, M] = {}
        self._count = 0
        self._kept: Arrays = {}

    def respond(self, head: Head, arrays: Arrays) -> tuple[Head, Arrays]:
        """The answer, which may be an error. Nothing but the end of the process escapes."""
        try:
            return self._answer(head, arrays)
        except LoadRefused as error:
            return {"error": error.kind, "text": str(error)}, {}
        except BnfuseError as error:
            return {"error": type(error).__name__, "text": str(error)}, {}
        except MemoryError:
            return {"error": "memory"}, {}
        except Exception as error:  # noqa: BLE001  (a runtime raises anything; all of it is reported)
            return self._engine.told(error), {}

    def _answer(self, head: Head, arrays: Arrays) -> tuple[Head, Arrays]:
        match head["op"]:
            case "start":
                return self._engine.start(head["setup"]), {}
            case "load":
                return self._load(head), {}
            case "run":
                return {}, self._engine.run(self._models[head["model"]], arrays)
            case "time":
                return {"ns": self._time(head, arrays)}, {}
            case "profile":
                calls = self._engine.profile(self._models[head["model"]], arrays, head["calls"])
                return {"calls": [_told(call) for call in calls]}, {}
            case "close":
                self._close(head["model"], keep=head["keep"])
                return {}, {}
            case "forget":
                self._let_go(self._spares.clear())
                return {}, {}
            case other:
                raise LoadRefused("run", f"'{other}' is no request")

    def _load(self, head: Head) -> Head:
        begin = time.perf_counter()
        model, declared = self._engine.load(head)
        self._count += 1
        self._models[self._count] = model
        return {"model": self._count, "load_s": time.perf_counter() - begin, **declared}

    def _time(self, head: Head, arrays: Arrays) -> list[int]:
        if not head["kept"]:
            self._kept = arrays
        gc.disable()
        try:
            return self._engine.time(self._models[head["model"]], self._kept, head["calls"])
        finally:
            gc.enable()

    def _close(self, number: int, *, keep: bool) -> None:
        self._kept = {}
        gone = [self._models.pop(number)]
        known = self._engine.spare(gone[0]) if keep else None
        if known is not None:
            gone = self._spares.put(*known, gone[0])
        self._let_go(gone)

    def _let_go(self, models: list[M]) -> None:
        """Close models, of which this list is the last that holds any: when memory is freed, none is held."""
        if models:
            while models:
                self._engine.close(models.pop())
            self._engine.closed(len(self._models) + len(self._spares))


def _told(call: CallTimes) -> list[Any]:
    return [call.ns, [[node.name, node.op, node.provider, node.ns] for node in call.nodes]]


def serve_engine(token: str, engine: Engine[Any]) -> None:
    """Answer requests until they end."""
    serve(token, Server(engine).respond, engine.prepare)
