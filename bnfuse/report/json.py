"""Reports as JSON: ``bnfuse.report/1`` (docs/report.schema.json), ``bnfuse.diff/1`` (docs/diff.schema.json).

The documents are the results' own structs, field by field; ``_KEYS`` says where the schema differs from
them. Strict: numbers that JSON does not know (NaN, infinities) become null. Keys are only ever added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfuse.report.groups import groups

if TYPE_CHECKING:
    from bnfuse.core.decisions import Decision
    from bnfuse.core.explanation import Explanations
    from bnfuse.results import Report
    from bnfuse.results.many import Collected

SCHEMAS = {
    "Report": "bnfuse.report/1",
    "verify": "bnfuse.verify/1",
    "bench": "bnfuse.bench/1",
    "Difference": "bnfuse.diff/1",
    "Collected": "bnfuse.reports/1",
    "Failure": "bnfuse.error/1",
    "Diagnosis": "bnfuse.doctor/1",
}

# Keys in their order as `key` or `key=attribute`, for classes that are not written field by field. A dotted
# key is one in an object of its own, a dotted attribute that of an attribute (null where one on the way is
# None); `?` writes null for what is empty. By the class's name (most of them are imported only where needed),
# those of a comparison by its command's.
_DECISION = "name=node op kind channels message action split into through becomes reason refusals narrowed"
_KEYS = {
    "Report": "input output batchnorms affines decisions=plan.decisions groups settled=plan.settled "
    "equalized=plan.equalized operators.before=operators_before operators.after=operators_after "
    "verification benchmark notes gates subnormals_flushed rounded_biases "
    "layers=details.layers unsafe limits seconds versions",
    "verify": "reference=before candidate=after verification=agreement unsafe versions gates",
    "bench": "before after benchmark=latency unsafe versions gates",
    "Outcome": "model exit_code resumed seconds report error=failure",
    "FileInfo": "path format sha256? bytes=total_bytes weight_bytes state_bytes container_bytes weights_path",
    "Fold": _DECISION,
    "Keep": _DECISION,
    "Refusal": "split? reason=reason.name node message=sentence",
    "Narrowed": "joint port channels into through",
    "Settled": "node op part split into through becomes",
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
    ("Settled", "becomes"): lambda part: dict(part.becomes),
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


def pieces(found: Any, explanation: Explanations | None = None) -> Iterator[str]:
    """One document, with an explanation where one was asked for; of many models piece by piece."""
    if type(found).__name__ == "Collected":
        yield from _many(found)
        return
    extra = {} if explanation is None else {"explanation": _plain(explanation)}
    # ASCII, which every parser and every terminal encoding takes
    yield _dumps(document(found) | extra) + "\n"


def document(found: Any) -> dict[str, Any]:
    """What a command found as plain values, keys as in its schema."""
    made: dict[str, Any] = _plain(found)
    return made


def _dumps(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False)


def _many(collected: Collected) -> Iterator[str]:
    """One document, with the models in the order in which they were found."""
    from bnfuse.report.content.many import summary

    found = summary(collected)
    codes = [row.exit_code for row in found.rows]
    head = {
        "schema": SCHEMAS["Collected"],
        "command": collected.command,
        "exit_code": int(found.exit_code),
        "models": {
            "found": len(codes),
            "done": sum(code == 0 for code in codes),
            "failed": sum(code != 0 for code in codes),
            "resumed": found.resumed,
        },
        "batchnorms": {"found": found.found, "folded": found.folded, "kept": found.found - found.folded},
        "jobs": collected.jobs,
        "seconds": collected.seconds,
        "versions": dict(collected.versions),
    }
    yield f'{_dumps(head)[: -len("}") - 1]},\n  "reports": ['
    for number, outcome in enumerate(collected.outcomes):
        yield ",\n" if number else "\n"
        # no string of JSON has an end of line in it
        yield "\n".join(f"    {line}" for line in _dumps(document(outcome)).splitlines())
    yield "\n  ]\n}\n"


def outcome(trial: Any) -> str:
    """What came of a ``Trial``: taken, possible or refused."""
    if trial.taken:
        return "taken"
    return "possible" if trial.refusal is None else "refused"


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
    """One of the results' structs, with its schema where it is a document."""
    name = type(value).__name__
    name = value.command if name == "Comparison" else name
    made: dict[str, Any] = {"schema": SCHEMAS[name]} if name in SCHEMAS else {}
    for key, source in _keys(name, value.__class__):
        *outer, last = key.split(".")
        into = made.setdefault(outer[0], {}) if outer else made
        into[last] = _plain(_attribute(value, source))
    return made


@cache
def _keys(name: str, kind: Any) -> list[tuple[str, str]]:
    """(key, attribute) of a class; the attribute ends in ``?`` where null stands for what is empty."""
    if name not in _KEYS:
        return [(field, field) for field in kind.__struct_fields__]
    split = (entry.partition("=") for entry in _KEYS[name].split())
    return [(key.rstrip("?"), source or key) for key, _, source in split]


def _attribute(value: Any, source: str) -> Any:
    made = _MADE.get((type(value).__name__, source))
    if made is not None:
        return made(value)
    for name in source.rstrip("?").split("."):
        value = None if value is None else getattr(value, name)
    return (value or None) if source.endswith("?") else value
