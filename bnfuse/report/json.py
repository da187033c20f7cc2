"""The report as JSON, schema ``bnfuse.report/1`` (docs/report.schema.json): strict, for pipelines.

Numbers that JSON does not know (NaN, infinities) become null. Keys are only ever added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bnfuse.core.decisions import Decision, Fold, Keep, Narrowed, Plan
from bnfuse.core.reasons import Refusal
from bnfuse.report.groups import groups
from bnfuse.results import (
    Accuracy,
    Agreement,
    BenchRun,
    Culprit,
    Details,
    FileInfo,
    Latency,
    Percentiles,
    RanInput,
    Report,
)

SCHEMA = "bnfuse.report/1"
VERIFY_SCHEMA = "bnfuse.verify/1"
BENCH_SCHEMA = "bnfuse.bench/1"


def render(report: Report, explanation: Mapping[str, Any] | None = None) -> str:
    """The whole report as one JSON document, with an explanation where one was asked for."""
    extra = {} if explanation is None else {"explanation": explanation}
    return dumps(document(report) | extra)


def dumps(value: Mapping[str, Any]) -> str:
    """Strict JSON in ASCII, which every parser and every terminal encoding takes."""
    return json.dumps(_strict(value), indent=2, allow_nan=False) + "\n"


def document(report: Report) -> dict[str, Any]:
    """The report as plain values, keys as in the schema."""
    return {
        "schema": SCHEMA,
        "input": file_info(report.input),
        "output": file_info(report.output),
        "batchnorms": _counts(report.plan, batchnorm=True),
        "affines": _counts(report.plan, batchnorm=False),
        "decisions": [decided(decision) for decision in report.plan.decisions],
        "groups": _groups(report.plan),
        "operators": {"before": dict(report.operators_before), "after": dict(report.operators_after)},
        "verification": agreement(report.verification),
        "benchmark": latency(report.benchmark),
        "notes": list(report.notes),
        "subnormals_flushed": report.subnormals_flushed,
        "layers": layers(report.details),
        "seconds": dict(report.seconds),
        "versions": dict(report.versions),
    }


def layers(details: Details | None) -> list[dict[str, Any]] | None:
    """What became of each layer's weights; null where nobody looked. The graphs are for drawing only."""
    if details is None:
        return None
    return [
        {
            "name": layer.node,
            "op": layer.op,
            "kind": layer.kind,
            "shape": list(layer.shape),
            "dtype": layer.dtype or None,
            "factor_min": layer.factor_min,
            "factor_max": layer.factor_max,
            "largest_change": layer.largest_change,
            "bias": layer.bias or None,
            "folded": list(layer.folded),
            "largest_before": layer.ranges_before[-1] if layer.ranges_before else None,
            "largest_after": layer.ranges_after[-1] if layer.ranges_after else None,
            "spread_before": layer.spread_before,
            "spread_after": layer.spread_after,
        }
        for layer in details.layers
    ]


def verify_document(
    reference: FileInfo, candidate: FileInfo, result: Agreement, versions: Mapping[str, str]
) -> dict[str, Any]:
    """What ``bnfuse verify --json`` prints."""
    return {
        "schema": VERIFY_SCHEMA,
        "reference": file_info(reference),
        "candidate": file_info(candidate),
        "verification": agreement(result),
        "versions": dict(versions),
    }


def bench_document(
    before: FileInfo, after: FileInfo | None, result: Latency, versions: Mapping[str, str]
) -> dict[str, Any]:
    """What ``bnfuse bench --json`` prints."""
    return {
        "schema": BENCH_SCHEMA,
        "before": file_info(before),
        "after": file_info(after),
        "benchmark": latency(result),
        "versions": dict(versions),
    }


def file_info(info: FileInfo | None) -> dict[str, Any] | None:
    """One model file; ``sha256`` is null where it was not computed."""
    if info is None:
        return None
    return {
        "path": str(info.path),
        "format": info.format,
        "sha256": info.sha256 or None,
        "bytes": info.total_bytes,
    }


def agreement(result: Agreement) -> dict[str, Any]:
    """The outcome of a verification."""
    return {
        "status": result.status.value,
        "outputs": [
            {
                "name": output.name,
                "max_abs": output.max_abs,
                "max_rel": output.max_rel,
                "snr_db": output.snr_db,
                "tolerance": output.tolerance,
                "argmax_agreement": output.argmax_agreement,
                "rms": output.rms,
                "tolerance_basis": output.basis,
            }
            for output in result.outputs
        ],
        "samples": result.samples,
        "tolerance": result.tolerance,
        "evidence": result.evidence,
        "detail": result.detail,
        "own_samples": result.own_samples,
        "accuracy": [_accuracy(found) for found in result.accuracy],
        "notes": list(result.notes),
        "failing_sets": list(result.failing_sets),
        "culprit": _culprit(result.culprit),
        "suspects": list(result.suspects),
        "inside": None if result.inside is None else asdict(result.inside),
        "inputs": [ran(each) for each in result.inputs],
    }


def ran(found: RanInput) -> dict[str, Any]:
    """One input as it was run."""
    return {
        "name": found.name,
        "dtype": found.dtype,
        "shape": list(found.shape),
        "axes": [axis.value for axis in found.axes],
        "guessed": bool(found.guessed),
        "more_shapes": found.more,
    }


def _accuracy(found: Accuracy) -> dict[str, Any]:
    return {
        "output": found.output,
        "samples": found.samples,
        "before": found.before,
        "after": found.after,
        "changed": found.changed,
        "rule": found.rule,
    }


def _culprit(found: Culprit | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"node": found.node, "op": found.op, "split": found.split, "into": list(found.into)}


def latency(result: Latency | None) -> dict[str, Any] | None:
    """The outcome of a bench."""
    if result is None:
        return None
    return {
        "device": result.device,
        "threads": result.threads,
        "providers": list(result.providers),
        "runs": [_run(run) for run in result.runs],
        "notes": list(result.notes),
        "runtime": result.runtime,
        "machine": None if result.machine is None else asdict(result.machine),
        "profile": None if result.profile is None else asdict(result.profile),
        "baseline": None if result.baseline is None else asdict(result.baseline),
    }


def _run(run: BenchRun) -> dict[str, Any]:
    return {
        "setting": run.setting,
        "batch": run.batch,
        "before_ms": _percentiles(run.before_ms),
        "after_ms": _percentiles(run.after_ms),
        "speedup": run.speedup,
        "ci95": run.ci95 and list(run.ci95),
        "control": run.control and list(run.control),
        "pairs": run.pairs,
        "verdict": run.verdict,
        "before_cold": None if run.before_cold is None else asdict(run.before_cold),
        "after_cold": None if run.after_cold is None else asdict(run.after_cold),
        "threads": run.threads,
        "before_ci95_ms": run.before_ci95_ms and list(run.before_ci95_ms),
        "before_quantiles_ms": list(run.before_quantiles_ms),
        "after_quantiles_ms": list(run.after_quantiles_ms),
        "before_items_per_s": run.before_items_per_s,
        "after_items_per_s": run.after_items_per_s,
        "detectable": run.detectable,
        "inputs": [ran(each) for each in run.inputs],
    }


def _percentiles(value: Percentiles | None) -> dict[str, float | None] | None:
    if value is None:
        return None
    return {"p50": value.p50, "p90": value.p90, "p99": value.p99, "min": value.least}


def _counts(plan: Plan, *, batchnorm: bool) -> dict[str, int]:
    found, folded, kept = plan.counts(batchnorm=batchnorm)
    return {"found": found, "folded": folded, "kept": kept}


def _groups(plan: Plan) -> list[dict[str, Any]]:
    """Kept nodes by reason and by the kind of node that refused."""
    return [
        {
            "reason": group.reason.name,
            "op": group.op or None,
            "count": len(group.nodes),
            "message": group.message,
            "nodes": list(group.nodes),
        }
        for group in groups(plan.decisions)
    ]


def decided(decision: Decision) -> dict[str, Any]:
    """One decision."""
    common: dict[str, Any] = {
        "name": decision.node,
        "op": decision.op,
        "kind": "batchnorm" if decision.is_batchnorm else "affine",
        "channels": decision.channels,
        "message": decision.message,
    }
    match decision:
        case Fold():
            return common | {
                "action": "fold",
                "split": decision.split.value,
                "into": list(decision.into),
                "through": list(decision.through),
                "reason": None,
                "refusals": [],
                "narrowed": None,
            }
        case Keep():
            return common | {
                "action": "keep",
                "split": None,
                "into": [],
                "through": [],
                "reason": decision.primary.reason.name,
                "refusals": [refused(refusal) for refusal in decision.refusals],
                "narrowed": _narrowed(decision.narrowed),
            }


def _narrowed(value: Narrowed | None) -> dict[str, Any] | None:
    """Where a node that stays does so on a part of its work only."""
    if value is None:
        return None
    return {
        "joint": value.joint,
        "port": value.port,
        "channels": value.channels,
        "into": list(value.into),
        "through": list(value.through),
    }


def refused(refusal: Refusal) -> dict[str, Any]:
    """One refusal; ``split`` is null where the node itself is at fault."""
    return {
        "split": refusal.split or None,
        "reason": refusal.reason.name,
        "node": refusal.node,
        "message": refusal.sentence,
    }


def _strict(value: Any) -> Any:
    """``value`` without what strict JSON cannot hold: non-finite numbers and lone surrogates."""
    match value:
        case Mapping():
            return {_strict(key): _strict(item) for key, item in value.items()}
        case list() | tuple():
            return [_strict(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case _:
            return value
