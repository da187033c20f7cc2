"""Many small models in folders, and what takes them through a use case without any process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bnfuse.results import Report, Status
from bnfuse.results.many import Outcome
from bnfuse.results.outcomes import Failure
from tests.cli_models import convnet
from tests.html_pages import whole_report


class Inline(Executor):
    """Calls at once, in this process; remembers how many calls were handed over, and of what."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The answer is there already."""
        self.calls.append((call, *args))
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future


def save(path: Path, **how: bool) -> Path:
    """A small convnet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(convnet(**how).SerializeToString())
    return path


def grown(folder: Path) -> dict[str, Path]:
    """A folder of models, and of what is none; by name, those that are to be found in it."""
    found = {
        "a": save(folder / "a.onnx"),
        "b": save(folder / "deep" / "er" / "b.ONNX", relu_first=True),
        "broken": folder / "deep" / "broken.onnx",
    }
    found["broken"].write_bytes(b"this is no model")
    save(folder / "a.fused.onnx")
    save(folder / ".hidden" / "h.onnx")
    save(folder / ".h.onnx")
    (folder / "deep" / "m.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (folder / "README.md").write_text("no model")
    return found


def outcomes() -> list[Outcome]:
    """One that is done with everything to show, one that was skipped, two that failed."""
    whole = whole_report("node")
    proof = replace(whole.verification, status=Status.EQUAL)
    report: Report = replace(whole, gates=(), verification=proof)
    failed = Failure("optimize", "UnreadableModel", "'c.onnx' is empty: <b>", 3, Path("c.onnx"))
    bug = Failure("optimize", "ValueError", "internal error", 70, Path("e.onnx"), {"bnfuse": "1"})
    return [
        Outcome("a.onnx", report, seconds=1.25, read=(("a.onnx", "00"),), wrote=(("a.fused.onnx", "11"),)),
        Outcome("sub/<b>.onnx", report, seconds=2.0, resumed=True),
        Outcome("c.onnx", failure=failed, seconds=0.125),
        Outcome("e.onnx", report, bug, trace="Traceback …"),
    ]
