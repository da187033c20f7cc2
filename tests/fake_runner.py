"""A runner that computes what a test says, and logs what is done to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnfuse.formats.base import Runner, RunSettings, TensorSpec
from bnfuse.results import Agreement
from bnfuse.use_cases.verify import VerifyRequest, verify


@dataclass
class Fake:
    """A Runner around a function of one float input; counts itself to show what is in memory."""

    function: Callable[[np.ndarray], np.ndarray]
    log: list[str] = field(default_factory=list)
    name: str = ""
    dtype: str = "float32"
    shape: tuple[int | str | None, ...] | None = ("N", 4)
    providers: Sequence[str] = ("Fake",)
    runtime: str = "fake 1"
    versions: Mapping[str, str] = field(default_factory=lambda: {"fake": "1"})
    optimises: str = ""
    load_s: float = 0.0

    def __post_init__(self) -> None:
        self.inputs: Sequence[TensorSpec] = (TensorSpec("x", self.dtype, self.shape),)
        self.outputs: Sequence[TensorSpec] = (TensorSpec("y", "float32", None),)

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        return {"y": self.function(feeds["x"])}

    def time(self, feeds: Any, calls: int) -> list[int]:
        raise AssertionError("a proof takes no time")

    def __enter__(self) -> Runner:
        self.log.append(f"open {self.name}")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(f"close {self.name}")


def confront(
    tmp_path: Path, a: Callable[[np.ndarray], np.ndarray], b: Callable[[np.ndarray], np.ndarray], **fake: Any
) -> tuple[Agreement, list[str]]:
    log: list[str] = []
    paths = {}
    for name, function in (("a", a), ("b", b)):
        path = tmp_path / name
        path.write_bytes(b"")
        paths[path] = Fake(function, log, name, **fake)

    def load_fake(path: Path, settings: RunSettings) -> Runner:
        assert settings.optimise is False
        return paths[path]

    return verify(*paths, request=VerifyRequest(), load=load_fake), log
