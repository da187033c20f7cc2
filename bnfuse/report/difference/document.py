"""The difference as JSON, schema ``bnfuse.diff/1`` (docs/diff.schema.json): strict, complete, for pipelines.

Numbers that JSON does not know (NaN, infinities) become null. Keys are only ever added.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bnfuse.difference.result import (
    Changed,
    Difference,
    InterfaceChange,
    NodeChange,
    NodeName,
    Side,
    WeightChange,
    WeightName,
)
from bnfuse.formats.base import TensorSpec
from bnfuse.report.json import dumps, file_info

SCHEMA = "bnfuse.diff/1"


def render(difference: Difference) -> str:
    """The whole difference as one JSON document."""
    return dumps(document(difference))


def document(found: Difference) -> dict[str, Any]:
    """The difference as plain values, keys as in the schema."""
    return {
        "schema": SCHEMA,
        "differs": found.differs,
        "comparable": found.comparable,
        "before": _side(found.before),
        "after": _side(found.after),
        "interface": [_interface(change) for change in found.interface],
        "facts": [{"label": f.label, "before": f.before, "after": f.after} for f in found.facts],
        "nodes": {
            "same": found.nodes_same,
            "renamed": _renamed(found.nodes_renamed),
            "changed": [_node_change(change) for change in found.nodes_changed],
            "removed": [_node(node) for node in found.nodes_removed],
            "added": [_node(node) for node in found.nodes_added],
        },
        "weights": {
            "same": found.weights_same,
            "renamed": _renamed(found.weights_renamed),
            "ignored": found.weights_ignored,
            "largest_ignored": found.largest_ignored,
            "changed": [_weight_change(change) for change in found.weights_changed],
            "removed": [_weight(weight) for weight in found.weights_removed],
            "added": [_weight(weight) for weight in found.weights_added],
        },
        "notes": list(found.notes),
        "seconds": dict(found.seconds),
        "versions": dict(found.versions),
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "file": file_info(side.file),
        "operators": side.totals,
        "scopes": {scope: dict(counts) for scope, counts in side.operators.items()},
        "weights": side.weights,
        "parameters": side.parameters,
        "weight_bytes": side.weight_bytes,
        "storage": dict(side.storage),
    }


def _interface(change: InterfaceChange) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "what": list(change.what),
        "before": change.before and _spec(change.before),
        "after": change.after and _spec(change.after),
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    shape = None if spec.shape is None else list(spec.shape)
    return {"name": spec.name, "dtype": spec.dtype or None, "shape": shape}


def _renamed(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"before": before, "after": after} for before, after in pairs]


def _node(node: NodeName) -> dict[str, str]:
    return {"name": node.name, "operator": node.operator}


def _node_change(change: NodeChange) -> dict[str, Any]:
    return {
        "before": _node(change.before),
        "after": _node(change.after),
        "settings": [_changed(setting) for setting in change.settings],
        "inputs": [_changed(link) for link in change.inputs],
    }


def _changed(change: Changed) -> dict[str, Any]:
    return {"label": change.label, "before": change.before, "after": change.after}


def _weight(weight: WeightName) -> dict[str, Any]:
    return {
        "name": weight.name,
        "shape": list(weight.shape),
        "dtype": weight.dtype,
        "bytes": weight.size_bytes,
        "reader": weight.reader and _node(weight.reader),
        "slot": weight.slot or None,
    }


def _weight_change(change: WeightChange) -> dict[str, Any]:
    figures = change.figures
    return {
        "before": _weight(change.before),
        "after": _weight(change.after),
        "what": list(change.what),
        "shared": change.shared or None,
        "elements_changed": None if figures is None else figures.changed,
        "max_abs": None if figures is None else figures.max_abs,
        "max_rel": None if figures is None else figures.max_rel,
        "rms": None if figures is None else figures.rms,
    }
