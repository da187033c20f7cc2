"""The one result object of every use case: frozen values that all reports read.

Units are in the names (``_ms``, ``_bytes``, ``_db``). Nothing here computes.
"""

from bnfuse.results.details import Details, DrawnNode, LayerChange, Neighbourhood
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
)
from bnfuse.results.proof import Accuracy, Agreement, Culprit, OutputAgreement, Status
from bnfuse.results.report import FileInfo, Report

__all__ = [
    "Accuracy",
    "Agreement",
    "Baseline",
    "BaselineRun",
    "BenchRun",
    "ColdStart",
    "Culprit",
    "Details",
    "DrawnNode",
    "FileInfo",
    "Latency",
    "LayerChange",
    "Machine",
    "Neighbourhood",
    "OperatorTime",
    "OutputAgreement",
    "Percentiles",
    "Profile",
    "Report",
    "Status",
]
