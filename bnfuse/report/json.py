"""Reports as JSON: ``bnfuse.report/1`` (docs/report.schema.json), ``bnfuse.diff/1`` (docs/diff.schema.json).

The documents are the results' own dataclasses, field by field; ``_KEYS`` says where the schema differs from
them. Strict: numbers that JSON does not know (NaN, infinities) become null. Keys are only ever added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfuse.report.groups import groups

if TYPE_CHECKING:
    from bnfuse.core.decisions import Decision
    from bnfuse.core.explanation import Explanation
    from bnfuse.difference.result import Difference
    from bnfuse.results import Agreement, Comparison, Failure, FileInfo, Latency, Report
    from bnfuse.results.many import Outcome

SCHEMA = "bnfuse.report/1"
VERIFY_SCHEMA = "bnfuse.verify/1"
BENCH_SCHEMA = "bnfuse.bench/1"
DIFF_SCHEMA = "bnfuse.diff/1"
MANY_SCHEMA = "bnfuse.reports/1"
ERROR_SCHEMA = "bnfuse.error/1"
DOCTOR_SCHEMA = "bnfuse.doctor/1"

# Keys in their order as `key` or `key=attribute`, for classes that are not written field by field. A dotted
# key is one in an object of its own, a dotted attribute that of an attribute (null where one on the way is
# None); `?` writes null for what is empty. By the class's name: most of them are imported only where needed.
_DECISION = "name=node op kind channels message action split into through becomes reason refusals narrowed"
_KEYS = {
    "Report": "input output batchnorms affines decisions=plan.decisions groups equalized=plan.equalized "
    "operators.before=operators_before operators.after=operators_after verification benchmark notes "
    "gates subnormals_flushed rounded_biases layers=details.layers unsafe limits seconds versions",
    "FileInfo": "path format sha256? bytes=total_bytes weight_bytes state_bytes container_bytes",
    "Fold": _DECISION,
    "Keep": _DECISION,
    "Refusal": "split? reason=reason.name node message=sentence",
    "Narrowed": "joint port channels into through",
    "Group": "reason=reason.name op? count message nodes",
    "Agreement": "status outputs samples tolerance evidence detail own_samples accuracy notes failing_sets "
    "culprit suspects inside inputs planned cut?",
    "OutputAgreement": "name max_abs max_rel snr_db tolerance argmax_agreement rms tolerance_basis=basis",
    "RanInput": "name dtype shape axes guessed=has_guesses more_shapes=more",
    "Latency": "device threads providers runs notes runtime machine profile baseline",
    "Percentiles": "p50 p90 p99 min=least",
    "LayerChange": "name=node op kind shape dtype? factor_min factor_max largest_change bias? folded "
    "largest_before largest_after spread_before spread_after",
    "Explanation": "decision numbers numbers_then absorbed splits=trials",
    "AffineFigures": "channels positive negative zero scale_min=least scale_max=most shifted "
    "shift_max=largest_shift",
    "Trial": "split outcome refusal into through makes attempts steps",
    "Step": "node op value scale=asked.scale shift=asked.shift negative=asked.negative size=asked.size "
    "answer",
    "Difference": "differs comparable before after interface facts nodes.same=nodes_same nodes.renamed "
    "nodes.changed=nodes_changed nodes.removed=nodes_removed nodes.added=nodes_added "
    "weights.same=weights_same weights.renamed weights.ignored=weights_ignored "
    "weights.largest_ignored=largest_ignored weights.changed=weights_changed "
    "weights.removed=weights_removed weights.added=weights_added ranges gates notes seconds versions",
    "ChannelRanges": "name=node operator=op channels largest spread ratio per_tensor_db per_channel_db "
    "loss_db",
    "Side": "file operators=totals scopes=operators weights parameters weight_bytes storage",
    "TensorSpec": "name dtype? shape",
    "WeightName": "name shape dtype bytes=size_bytes reader slot?",
    "WeightChange": "before after what shared? elements_changed=figures.changed max_abs=figures.max_abs "
    "max_rel=figures.max_rel rms=figures.rms",
}
# Keys that are no attribute.
_MADE: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("Report", "batchnorms"): lambda report: _counts(report, batchnorm=True),
    ("Report", "affines"): lambda report: _counts(report, batchnorm=False),
    ("Report", "groups"): lambda report: groups(report.plan.decisions),
    ("Fold", "kind"): lambda fold: _kind(fold),
    ("Fold", "action"): lambda _: "fold",
    ("Fold", "becomes"): lambda fold: dict(fold.becomes),
    ("Fold", "reason"): lambda _: None,
    ("Fold", "refusals"): lambda _: (),
    ("Fold", "narrowed"): lambda _: None,
    ("Keep", "kind"): lambda keep: _kind(keep),
    ("Keep", "action"): lambda _: "keep",
    ("Keep", "split"): lambda _: None,
    ("Keep", "into"): lambda _: (),
    ("Keep", "through"): lambda _: (),
    ("Keep", "becomes"): lambda keep: {keep.node: " and ".join(keep.becomes)} if keep.becomes else {},
    ("Keep", "reason"): lambda keep: keep.primary.reason.name,
    ("Group", "count"): lambda group: len(group.nodes),
    ("RanInput", "has_guesses"): lambda ran: bool(ran.guessed),
    ("LayerChange", "largest_before"): lambda layer: layer.ranges_before[-1] if layer.ranges_before else None,
    ("LayerChange", "largest_after"): lambda layer: layer.ranges_after[-1] if layer.ranges_after else None,
    ("Trial", "outcome"): lambda trial: outcome(trial),
    ("Difference", "nodes.renamed"): lambda found: _pairs(found.nodes_renamed),
    ("Difference", "weights.renamed"): lambda found: _pairs(found.weights_renamed),
}


def render(report: Report, explanation: Mapping[str, Any] | None = None) -> str:
    """The whole report as one JSON document, with an explanation where one was asked for."""
    extra = {} if explanation is None else {"explanation": explanation}
    return dumps(document(report) | extra)


def dumps(document: Mapping[str, Any]) -> str:
    """A document of this module as ASCII, which every parser and every terminal encoding takes."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def document(report: Report) -> dict[str, Any]:
    """The report as plain values, keys as in the schema."""
    return {"schema": SCHEMA, **_plain(report)}


def verify_document(
    reference: FileInfo,
    candidate: FileInfo,
    result: Agreement,
    versions: Mapping[str, str],
    *,
    unsafe: bool = False,
) -> dict[str, Any]:
    """What ``bnfuse verify --json`` prints."""
    return _document(
        schema=VERIFY_SCHEMA,
        reference=reference,
        candidate=candidate,
        verification=result,
        unsafe=unsafe,
        versions=versions,
    )


def bench_document(
    before: FileInfo,
    after: FileInfo | None,
    result: Latency,
    versions: Mapping[str, str],
    *,
    unsafe: bool = False,
) -> dict[str, Any]:
    """What ``bnfuse bench --json`` prints."""
    return _document(
        schema=BENCH_SCHEMA, before=before, after=after, benchmark=result, unsafe=unsafe, versions=versions
    )


def render_comparison(found: Comparison) -> str:
    """What ``verify --json`` or ``bench --json`` prints, and what ``--report`` of theirs writes."""
    if found.agreement is not None and found.after is not None:
        made = verify_document(
            found.before, found.after, found.agreement, found.versions, unsafe=found.unsafe
        )
    else:
        assert found.latency is not None
        made = bench_document(found.before, found.after, found.latency, found.versions, unsafe=found.unsafe)
    return dumps(made | _document(gates=found.gates))


def render_failure(found: Failure) -> str:
    """What any command prints with ``--json`` where it ends in an error."""
    return dumps(failure_document(found))


def failure_document(found: Failure) -> dict[str, Any]:
    """The error as plain values."""
    return {"schema": ERROR_SCHEMA, **_plain(found)}


def outcome_document(found: Outcome) -> dict[str, Any]:
    """What became of one model of many, with its report and its error as they would be by themselves."""
    return {
        **_document(
            model=found.model, exit_code=int(found.exit_code), resumed=found.resumed, seconds=found.seconds
        ),
        "report": None if found.report is None else document(found.report),
        "error": None if found.failure is None else failure_document(found.failure),
    }


def doctor_document(found: object) -> dict[str, Any]:
    """What ``bnfuse doctor --json`` prints."""
    return {"schema": DOCTOR_SCHEMA, **_plain(found)}


def explanation_document(pattern: str, explanations: Sequence[Explanation]) -> dict[str, Any]:
    """The value of ``explanation`` in the report that ``bnfuse inspect --explain --json`` prints."""
    return _document(pattern=pattern, nodes=explanations)


def render_difference(found: Difference) -> str:
    """What ``bnfuse diff --json`` prints."""
    return dumps({"schema": DIFF_SCHEMA, **_plain(found)})


def outcome(trial: Any) -> str:
    """What came of a ``Trial``: taken, possible or refused."""
    if trial.taken:
        return "taken"
    return "possible" if trial.refusal is None else "refused"


def _document(**parts: object) -> dict[str, Any]:
    return {key: _plain(value) for key, value in parts.items()}


def _kind(decision: Decision) -> str:
    return "batchnorm" if decision.is_batchnorm else "affine"


def _counts(report: Report, *, batchnorm: bool) -> dict[str, int]:
    return dict(zip(("found", "folded", "kept"), report.plan.counts(batchnorm=batchnorm), strict=True))


def _pairs(renamed: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"before": before, "after": after} for before, after in renamed]


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types, without what strict JSON cannot hold: lone surrogates, too."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Enum():
            return _plain(value.value)
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case Mapping():
            return {_plain(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return _plain(str(value))
        case _:
            return _object(value)


def _object(value: Any) -> dict[str, Any]:
    """One of the results' dataclasses."""
    made: dict[str, Any] = {}
    for key, source in _keys(value.__class__):
        *outer, last = key.split(".")
        into = made.setdefault(outer[0], {}) if outer else made
        into[last] = _plain(_attribute(value, source))
    return made


@cache
def _keys(kind: Any) -> list[tuple[str, str]]:
    """(key, attribute) of a class; the attribute ends in ``?`` where null stands for what is empty."""
    if kind.__name__ not in _KEYS:
        return [(field.name, field.name) for field in fields(kind)]
    split = (entry.partition("=") for entry in _KEYS[kind.__name__].split())
    return [(key.rstrip("?"), source or key) for key, _, source in split]


def _attribute(value: Any, source: str) -> Any:
    made = _MADE.get((type(value).__name__, source))
    if made is not None:
        return made(value)
    for name in source.rstrip("?").split("."):
        value = None if value is None else getattr(value, name)
    return (value or None) if source.endswith("?") else value
