"""A model that is loaded into a child process, as a ``Runner``: asks, and puts errors into sentences."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np

from bnfuse.errors import BnfuseError, RuntimeLost, UsageError
from bnfuse.formats.base import CallTimes, NodeTime, Probe, Tensors, TensorSpec
from bnfuse.formats.child.messages import Arrays, Head
from bnfuse.formats.child.pool import Process, release
from bnfuse.formats.child.process import ProcessLost, Reply

R = TypeVar("R", bound="ChildRunner")
Folder = tempfile.TemporaryDirectory[str]

# Calls to come may take longer than those before.
_SLOWER = 3.0


class Host(Protocol):
    """Where models are: a ``Process``, or this very one where nothing else is to run in it."""

    facts: Head

    def ask(
        self, head: Head, arrays: Mapping[str, np.ndarray] | None = None, *, extra_s: float = 0.0
    ) -> tuple[Head, Arrays]:
        """As ``ChildProcess.ask``."""

    def ask_again(
        self, head: Head, arrays: Mapping[str, np.ndarray], *, extra_s: float = 0.0
    ) -> tuple[Head, Arrays]:
        """As ``Process.ask_again``."""


class ChildRunner:
    """A model loaded into a child process (the ``Runner`` protocol).

    Args:
        host: the process.
        loaded: its answer to "load".
        name: what the model's file is called, for sentences.
        folder: where the process writes what it was asked for: it goes with the runner, however that ends.
        probe: how it was opened up: what it forces, every call must be given beside the inputs.
    """

    def __init__(
        self,
        host: Host,
        loaded: Head,
        name: str,
        folder: Folder | None = None,
        *,
        probe: Probe | None = None,
    ) -> None:
        self._host: Host | None = host
        self._folder = folder
        self._model = int(loaded["model"])
        self._name = name
        self._forced = probe.seams if probe is not None and probe.forced else ()
        self._call_s = 0.0  # what a call took at most
        self.inputs: Sequence[TensorSpec] = tuple(_spec(entry) for entry in loaded["inputs"])
        self.outputs: Sequence[TensorSpec] = tuple(_spec(entry) for entry in loaded["outputs"])
        self.providers: Sequence[str] = tuple(loaded["providers"])
        self.runtime = str(loaded["runtime"])
        self.versions: Mapping[str, str] = loaded["versions"]
        self.optimises = str(loaded.get("optimises", ""))
        self.load_s = float(loaded["load_s"])

    def run(self, feeds: Tensors) -> dict[str, np.ndarray]:
        """All outputs by name, and the seams of a probe.

        Raises:
            UsageError: an input is missing.
            RuntimeLost: the runtime crashes, takes too long or too much memory.
            BnfuseError: the model stops while it runs.
        """
        with self._asked(feeds) as (host, given):
            begin = time.perf_counter()
            answer = host.ask({"op": "run", "model": self._model}, given)[1]
            self._call_s = max(self._call_s, time.perf_counter() - begin)
            return answer

    def time(self, feeds: Tensors, calls: int) -> list[int]:
        """Nanoseconds of each of ``calls`` calls in a row, by the clock of the process that runs them.

        The inputs are on the device before the first call; getting outputs back is not part of it. Where they
        are the very arrays of the call before, they are there already: they must not have been changed.

        Raises:
            UsageError, RuntimeLost, BnfuseError: as ``run``.
        """
        with self._asked(feeds) as (host, given):
            request = {"op": "time", "model": self._model, "calls": calls}
            times = [int(ns) for ns in host.ask_again(request, given, extra_s=self._extra_s(calls))[0]["ns"]]
            self._call_s = max(self._call_s, max(times, default=0) / 1e9)
            return times

    def _extra_s(self, calls: int) -> float:
        """How much longer than one answer this many calls may take."""
        return _SLOWER * calls * self._call_s

    @contextlib.contextmanager
    def _asked(self, feeds: Tensors) -> Iterator[tuple[Host, dict[str, np.ndarray]]]:
        """The process and what to send; errors of asking become sentences."""
        if self._host is None:
            raise BnfuseError("this model was closed before it was run")
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            raise UsageError(f"the model needs a value for its input '{missing[0]}'")
        unset = [name for name in self._forced if name not in feeds]
        if unset:
            raise UsageError(f"no value was given to force at {unset[0]}")
        try:
            yield self._host, {name: np.asarray(array) for name, array in feeds.items()}
        except ProcessLost as error:
            raise RuntimeLost(f"{self.runtime} {error} while it was running '{self._name}'") from error
        except Reply as error:
            raise told(error, f"the model stopped while running in {self.runtime}") from error

    def __enter__(self: R) -> R:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        host, self._host = self._host, None
        with contextlib.ExitStack() as stack:
            if self._folder is not None:
                stack.callback(self._folder.cleanup)
            self._leave(host, failed=kind is not None)

    def _leave(self, host: Host | None, *, failed: bool) -> None:
        if not isinstance(host, Process):
            return  # closed before, or the process is our own and ends soon
        if host.alive():
            with contextlib.suppress(ProcessLost, Reply):  # it is gone, and the model with it
                host.close_model(self._model, keep=not failed)
        release(host)


class ProfiledRunner(ChildRunner):
    """One whose runtime tells what each node costs (the ``Profiling`` protocol)."""

    def profile(self, feeds: Tensors, calls: int) -> Sequence[CallTimes]:
        """Some calls in a row, node by node; see ``formats.base.Profiling``.

        Raises:
            UsageError, RuntimeLost, BnfuseError: as ``run``; no profile was written.
        """
        with self._asked(feeds) as (host, given):
            request = {"op": "profile", "model": self._model, "calls": calls}
            answer, _ = host.ask(request, given, extra_s=self._extra_s(calls))
            return [CallTimes(ns, tuple(NodeTime(*node) for node in nodes)) for ns, nodes in answer["calls"]]


def told(error: Reply, what: str) -> Exception:
    """What to raise for an error that came as an answer; ``what`` happened, where it says that not itself."""
    if error.kind == "internal":
        return RuntimeError(str(error))
    return error.as_raised() or BnfuseError(f"{what}: {error}")


def _spec(entry: Head) -> TensorSpec:
    shape = entry["shape"]
    return TensorSpec(entry["name"], entry["dtype"], None if shape is None else tuple(shape))
