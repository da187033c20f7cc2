"""The one result object of every use case: frozen values that all reports read.

Units are in the names (``_ms``, ``_bytes``, ``_db``). Nothing here computes.

What a bench and the details of reports hold is imported when somebody names it: making a dozen dataclasses
takes as long as folding a small model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bnfuse.results.proof import Accuracy, Agreement, Culprit, OutputAgreement, SeamAgreement, Status
from bnfuse.results.report import FileInfo, Report

if TYPE_CHECKING:
    from bnfuse.results.annotations import Details, DrawnNode, LayerChange, Neighbourhood
    from bnfuse.results.inputs import Axis, RanInput
    from bnfuse.results.latency import (
        Baseline,
        BaselineRun,
        BenchRun,
        ColdStart,
        Latency,
        Machine,
        OperatorTime,
        Percentiles,
        Profile,
        Share,
        Typical,
    )
    from bnfuse.results.outcomes import Comparison, Failure, Gate

__all__ = [
    "Accuracy",
    "Agreement",
    "Axis",
    "Baseline",
    "BaselineRun",
    "BenchRun",
    "ColdStart",
    "Comparison",
    "Culprit",
    "Details",
    "DrawnNode",
    "Failure",
    "FileInfo",
    "Gate",
    "Latency",
    "LayerChange",
    "Machine",
    "Neighbourhood",
    "OperatorTime",
    "OutputAgreement",
    "Percentiles",
    "Profile",
    "RanInput",
    "Report",
    "SeamAgreement",
    "Share",
    "Status",
    "Typical",
]


_LATER = (
    "bnfuse.results.latency",
    "bnfuse.results.annotations",
    "bnfuse.results.inputs",
    "bnfuse.results.outcomes",
)


def __getattr__(name: str) -> Any:
    """A class of ``latency`` or ``details``."""
    if name in __all__:
        for module in map(import_module, _LATER):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
