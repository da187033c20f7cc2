"""Weights: what came and went, and what changed by how much."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bnfuse.difference.result import Difference, WeightChange, WeightName
from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content.difference.words import Row, arrow, equal, number, renames, section
from bnfuse.results.figures import digits

_WEIGHT_HEAD: Row = ("weight", "shape", "read by", "also", "largest change", "relative", "RMS", "elements")


def weights_section(found: Difference) -> doc.Section:
    """How many are the same, what came and went by who reads it, and a row per weight that changed."""
    lines = [("same", equal(found.weights_same, "weight"))] if found.comparable else []
    if found.weights_ignored:
        below = f"{number(found.weights_ignored)} changed by less than asked for"
        lines.append(("ignored", f"{below}, {found.largest_ignored:.3g} of their largest value at most"))
    for verb, every in (("removed", found.weights_removed), ("added", found.weights_added)):
        lines += [(verb, line) for line in _by_reader(every)]
    lines += renames(found.weights_renamed)
    rows = [_weight_row(change) for change in found.weights_changed]
    head, texts = _WEIGHT_HEAD, 4
    if not any(row[texts - 1] for row in rows):  # nothing but values changed
        head, *rows = (line[: texts - 1] + line[texts:] for line in (head, *rows))
        texts -= 1
    return section("weights", "Weights", head, rows, lines=lines, texts=texts)


def _by_reader(weights: Iterable[WeightName]) -> list[str]:
    """``212 of BatchNormalization, 12.3 kB (a, b, c and 209 more)``, a line per operator that reads them."""
    groups: dict[str, list[WeightName]] = {}
    for weight in weights:
        groups.setdefault(weight.reader.operator if weight.reader else "no node", []).append(weight)
    return [
        f"{number(len(group))} of {operator}, {text.size(sum(w.size_bytes for w in group))} "
        f"({text.names([w.name for w in group])})"
        for operator, group in groups.items()
    ]


def _weight_row(change: WeightChange) -> Row:
    before, after, figures = change.before, change.after, change.figures
    sizes = ("", "", "", "")
    if figures is not None:
        changed = "all" if figures.changed == figures.elements else f"{number(figures.changed)} of"
        elements = f"{changed} {number(figures.elements)}"
        sizes = (_figure(figures.max_abs), _figure(figures.max_rel), _figure(figures.rms), elements)
    elif "values" in change.what:
        sizes = ("other shape", "", "", "")
    return (
        arrow(before.name, after.name),
        arrow(_shape(before), _shape(after)),
        _reader(before),
        _also(change),
        *sizes,
    )


def _also(change: WeightChange) -> str:
    parts = []
    if "dtype" in change.what:
        parts.append(f"{change.before.dtype} → {change.after.dtype}")
    if change.shared:
        parts.append("a copy of its own" if change.shared == "split" else "merged with others")
    return ", ".join(parts)


def _shape(weight: WeightName) -> str:
    return f"[{', '.join(map(str, weight.shape))}]"


def _reader(weight: WeightName) -> str:
    return f"{weight.reader.operator} {weight.reader.name}" if weight.reader else ""


def _figure(value: float) -> str:
    if math.isnan(value):
        return ""
    return digits(value).replace("inf", "∞").replace("-", "−")


def single_sections(found: Difference) -> list[doc.Section]:
    """A row per weight that came, went or has another name."""
    rows = [
        (weight.name, verb, f"{_shape(weight)} {weight.dtype}", _reader(weight))
        for verb, every in (("removed", found.weights_removed), ("added", found.weights_added))
        for weight in every
    ]
    rows += [(before, f"now called {after}", "", "") for before, after in found.weights_renamed]
    head = ("weight", "", "shape", "read by")
    return [section("single", "Weights that came, went or were renamed", head, rows, texts=4)] if rows else []
