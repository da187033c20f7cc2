"""What 8 bits would leave of each layer's weight, in the one model and in the other."""

from __future__ import annotations

from collections.abc import Callable

from bnfuse.core.quantising.channel_ranges import ChannelRanges
from bnfuse.difference.result import RangeChange, Ranges
from bnfuse.report import document as doc
from bnfuse.report import text
from bnfuse.report.content.difference.words import arrow, number
from bnfuse.results.figures import digits

# Two of 8 bits, each worth 6.02 dB: a layer that loses more is named.
_MUCH_DB = 12.0
_EXPLAINED = (
    "dB: signal to noise of a layer's weight in 8 bits, the mean over its output channels, with one step for "
    "the whole weight (per tensor) and with one per channel. Range: a channel's largest |weight|"
)
_FIGURES = ("largest / median", "largest / least", "per tensor, dB", "per channel, dB", "loss, dB")
_HEAD = ("layer", "operator", "channels", *_FIGURES)


def ranges_section(found: Ranges, form: doc.Form) -> doc.Section:
    """Who suffers from one step per tensor, before and after, then a row per layer, the worst first."""
    drawn = form is doc.Form.HTML
    head = (*_HEAD, "channel ranges") if drawn else _HEAD
    rows = [_row(layer, drawn=drawn) for layer in found.layers]
    lines: list[doc.Line] = [("8 bits", _verdict(found))]
    if found.left_out:
        lines.append(("left out", f"{number(found.left_out)} weights: integers already, zero, or not finite"))
    blocks: tuple[doc.Block, ...] = (doc.Facts(lines),)
    if rows:
        table = doc.Table(head, rows, texts=2, aligned=True, sortable=drawn)
        blocks += table, doc.Paragraph(_EXPLAINED, style="dim")
    return doc.Section("ranges", "Channel ranges in 8 bits", blocks)


def _verdict(found: Ranges) -> str:
    before, after = (_suffering(found, side) for side in (lambda one: one.before, lambda one: one.after))
    much = f"lose more than {_MUCH_DB:.0f} dB (2 of 8 bits) with one step per tensor"
    if not before and not after:
        return f"no layer would {much}"
    named = f" ({text.names(after)})" if after else ""
    return f"layers that would {much}: {_count(before)} before, {_count(after)} after{named}"


def _count(names: list[str]) -> str:
    return number(len(names)) if names else "none"


def _suffering(found: Ranges, side: Callable[[RangeChange], ChannelRanges | None]) -> list[str]:
    every = (side(layer) for layer in found.layers)
    return [one.node for one in every if one is not None and one.loss_db > _MUCH_DB]


def _row(layer: RangeChange, *, drawn: bool) -> list[doc.Words | doc.Cell]:
    one, other = layer.before, layer.after
    any_side = other or one
    assert any_side is not None, "a layer is in one of the two models"

    def both(figure: Callable[[ChannelRanges], str], key: Callable[[ChannelRanges], float]) -> doc.Cell:
        told = ["–" if side is None else figure(side) for side in (one, other)]
        return doc.Cell(arrow(*told), key(any_side))

    cells: list[doc.Words | doc.Cell] = [
        doc.name(arrow(*(side.node for side in (one or any_side, any_side)))),
        any_side.op,
        both(lambda side: number(side.channels), lambda side: side.channels),
        both(lambda side: digits(side.spread), lambda side: side.spread),
        both(lambda side: digits(side.ratio), lambda side: side.ratio),
        both(lambda side: f"{side.per_tensor_db:.1f}", lambda side: side.per_tensor_db),
        both(lambda side: f"{side.per_channel_db:.1f}", lambda side: side.per_channel_db),
        both(lambda side: f"{side.loss_db:.1f}", lambda side: side.loss_db),
    ]
    if drawn:
        lines = tuple(() if side is None else side.points for side in (one, other))
        cells.append(doc.Chart("sparkline", lines))
    return cells
