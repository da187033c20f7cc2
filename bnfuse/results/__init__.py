"""The one result object of every use case: frozen values that all reports read.

Units are in the names (``_ms``, ``_bytes``, ``_db``). Nothing here computes.
"""

from __future__ import annotations

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
from bnfuse.results.proof import Accuracy, Agreement, Culprit, OutputAgreement, SeamAgreement, Status
from bnfuse.results.report import FileInfo, Report

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
