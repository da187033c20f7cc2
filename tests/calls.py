"""The use case ``optimize``, called with what it is to do as keywords."""

from __future__ import annotations

from os import PathLike
from typing import Any

from bnfuse.results import Report
from bnfuse.results.doing import Progress
from bnfuse.use_cases import optimize as use_case
from bnfuse.use_cases.requests import requested


def optimize(
    model: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    force: bool = False,
    progress: Progress = lambda _: None,
    **asked: Any,
) -> Report:
    """``asked`` are those of ``requested``."""
    return use_case.optimize(model, output, request=requested(**asked), force=force, progress=progress)
