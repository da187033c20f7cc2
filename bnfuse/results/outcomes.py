"""What a command found beside the report of ``optimize``: gates, a comparison of two models, an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

if TYPE_CHECKING:
    from bnfuse.results.latency import Latency
    from bnfuse.results.proof import Agreement
    from bnfuse.results.report import FileInfo


class Gate(Struct, frozen=True):
    """An option that may stop a pipeline: ``message`` is one sentence, why it said no or that it did not."""

    option: str
    passed: bool
    message: str


class Comparison(Struct, frozen=True):
    """What ``verify`` (``agreement``) or ``bench`` (``latency``) found of two models, or of one.

    ``unsafe`` is as in ``Report``.
    """

    command: str
    before: FileInfo
    after: FileInfo | None = None
    agreement: Agreement | None = None
    latency: Latency | None = None
    gates: tuple[Gate, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    unsafe: bool = False


class Failure(Struct, frozen=True):
    """A command that ended in an error: ``kind`` is its class, ``path`` the model, if there is one."""

    command: str
    kind: str
    message: str
    exit_code: int
    path: Path | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
