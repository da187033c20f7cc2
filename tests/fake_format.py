"""A format whose model, plan, proof and bench are what a test says: for placing failures at every step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from bnfuse.core.apply import OverflowingFold
from bnfuse.core.decisions import Decision, Fold, Keep, Plan, Split
from bnfuse.core.reasons import Reason, Refusal
from bnfuse.errors import UnreadableModel
from bnfuse.formats.base import ReadOptions, RunSettings, Written
from bnfuse.results import Agreement, Latency

use_case = import_module("bnfuse.use_cases.optimize")
verify_module = import_module("bnfuse.use_cases.verify")
bench_module = import_module("bnfuse.use_cases.bench")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _fold(name: str) -> Fold:
    return Fold(name, "BatchNormalization", True, 4, Split.UP, ("conv",), ())


def _kept(name: str) -> Keep:
    return Keep(name, "BatchNormalization", True, 4, (Refusal(Reason.OVERFLOW, name, detail="float16"),))


@dataclass
class FakeModel:
    """Two BNs, ``bn1`` and ``bn2``; writing one of ``overflowing`` overflows."""

    path: Path
    candidates: tuple[str, ...] = ("bn1", "bn2")
    overflowing: frozenset[str] = frozenset()
    side_file: bool = True
    failure: BaseException | None = None
    notes: tuple[str, ...] = ("a note",)
    side_files: tuple[Path, ...] = ()
    writes: list[frozenset[str]] = field(default_factory=list)
    exact_seams: bool = False

    @property
    def graph(self) -> FakeModel:
        return self

    def operators(self) -> dict[str, int]:
        return {"BatchNormalization": len(self.candidates), "Conv": 1}

    def operators_after(self, patch: frozenset[str]) -> dict[str, int]:
        return {"BatchNormalization": len(self.candidates) - len(patch), "Conv": 1}

    def check_fit(self, patch: Any) -> None:
        """Whether it overflows is told by writing."""

    def constants_of(self, nodes: Iterable[Any], patch: Any = None) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        pass

    def total_bytes(self) -> int:
        return self.path.stat().st_size

    def write(self, patch: frozenset[str], path: Path) -> Written:
        self.writes.append(patch)
        assert names_in(path.parent) == []
        path.write_bytes(self.path.read_bytes() if not patch else b"FAKE folded " + " ".join(patch).encode())
        if patch & self.overflowing:
            raise OverflowingFold(sorted(patch & self.overflowing)[:1])
        if self.failure is not None:
            raise self.failure
        side = path.with_name(path.name + ".data")
        if self.side_file and patch:
            side.write_bytes(b"weights")
        return Written(path, (side,) if side.exists() else (), 3)


class FakePatch(frozenset[str]):
    """The names of the BNs that go; no weights."""

    linears: ClassVar[dict[Any, Any]] = {}
    steps: ClassVar[tuple[Any, ...]] = ()
    new_weights: ClassVar[tuple[Any, ...]] = ()
    near: ClassVar[tuple[Any, ...]] = ()
    merged: ClassVar[tuple[Any, ...]] = ()


@dataclass
class Fake:
    """The format, and what the proof and the bench say."""

    model: FakeModel
    agreement: Agreement | BaseException
    latency: Latency | BaseException
    proved: list[tuple[Path, Path, Any]] = field(default_factory=list)
    name: str = "FAKE"

    def accepts(self, head: bytes, path: Path) -> bool:
        return head.startswith(b"FAKE")

    def suffix(self, path: Path) -> str:
        return ".fake"

    def prepare(self, settings: RunSettings) -> None:
        pass

    def read(self, path: Path, options: ReadOptions) -> FakeModel:
        return self.model

    def contents(self, path: Path) -> Any:
        raise UnreadableModel("it has none")


def fake_plan(model: FakeModel, banned: frozenset[str] = frozenset(), **_: bool) -> SimpleNamespace:
    decisions: list[Decision] = [_kept(n) if n in banned else _fold(n) for n in model.candidates]
    plan = Plan(tuple(decisions), tuple(d for d in decisions if isinstance(d, Fold)))
    return SimpleNamespace(plan=plan)  # a ``Planned`` without the state of a graph


@contextmanager
def nothing_changed(folder: Path) -> Iterator[None]:
    """The folder holds the same files, with the same bytes and times, as before."""

    def state() -> dict[str, tuple[bytes, int]]:
        return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file()}

    before, names = state(), names_in(folder)
    yield
    assert state() == before
    assert names_in(folder) == names
