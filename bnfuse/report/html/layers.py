"""What became of the weights, layer by layer: by how much they changed, and what a quantiser will meet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bnfuse.core.quantising.growth import GROWTH, MOST
from bnfuse.report import document as doc
from bnfuse.report.html.blocks import table
from bnfuse.report.html.charts import dumbbells
from bnfuse.report.text import shortened
from bnfuse.results import LayerChange, Report
from bnfuse.results.figures import figure

# What a quantiser with one step for the whole weight has for its largest channel.
_BITS = 8
_EXPLANATION = """<details class="how"><summary>How to read this</summary><ul class="notes">
<li><b>Factors</b>: the least and the largest number (without its sign) that a weight was multiplied by.</li>
<li><b>Largest change</b>: the largest difference of a weight, in percent of the layer's largest
old weight.</li>
<li><b>Spread</b>: the largest channel's range over the median channel's, where a channel's range is its
largest |weight|. Below it: how many of 8 bits the median channel keeps if one step serves
the whole weight.</li>
<li><b>Channel ranges</b>: all output channels from the narrowest to the widest,
<span class="key before">before</span> and <span class="key after">after</span>; the height is the range as a
share of the widest, 8 bits (a factor of 256) from top to bottom, the line in the middle at 4.</li>
</ul></details>"""
# A table of more layers than this scrolls in a frame of its own.
_MOST_WHOLE = 30
# Fewer layers than this need no chart beside the table.
_FEWEST_DRAWN = 4
_KINDS = {"weight": "", "scale": "scale", "constant": "constant"}


def layers(report: Report) -> str:
    """A table of all rewritten layers, words about them, and a chart of their spreads."""
    every = report.details.layers if report.details is not None else ()
    head = (
        "layer",
        "shape, type",
        "folds",
        "factors",
        "largest change",
        "largest |weight|",
        "spread",
        "channel ranges",
        "bias",
    )
    steepest = max((layer.largest_change or 0.0 for layer in every), default=0.0)
    rows = [_row(layer, steepest) for layer in every]
    tall = " tall" if len(every) > _MOST_WHOLE else ""
    made = f'<div class="layers{tall}">{table(doc.Table(head, rows, texts=2, sortable=True))}</div>'
    words = _words(every, done=report.output is not None)
    return "\n".join(filter(None, (words, _chart(every), made, _EXPLANATION)))


def _words(layers: Sequence[LayerChange], *, done: bool) -> str:
    """What folding did, or would do."""
    biases, wide = sum(layer.bias == "made" for layer in layers), sum(map(_is_wide, layers))
    rewrote, got, do = ("rewrote", "got", "do") if done else ("would rewrite", "would get", "would")
    spread = "spread" if done else "would spread"
    count = f"{len(layers)} layer{'s' if len(layers) != 1 else ''}"
    made = f" {biases} of them {got} a bias they did not have." if biases else ""
    worse = (
        f' <strong class="warn">In {wide} the ranges of the channels {spread} by far more than before: '
        "quantise per channel, not per tensor.</strong>"
        if wide
        else f" In none of them {do} the ranges of the channels spread by far more than before."
    )
    return f"<p>Folding {rewrote} {count}.{made}{worse}</p>"


def _is_wide(layer: LayerChange) -> bool:
    return layer.spread_after > MOST and layer.spread_after > GROWTH * layer.spread_before


def _chart(layers: Sequence[LayerChange]) -> str:
    """Spread before and after over all layers, in graph order."""
    ranged = [layer for layer in layers if layer.ranges_after]
    if len(ranged) < _FEWEST_DRAWN:
        return ""
    pairs = [
        (
            layer.spread_before,
            layer.spread_after,
            f"{shortened(layer.node, 80)}: {figure(layer.spread_before)} → {figure(layer.spread_after)}",
        )
        for layer in ranged
    ]
    drawn = dumbbells(pairs, MOST, "Spread of the channel ranges of each layer, before and after")
    caption = (
        "Spread of each layer's channel ranges, in the model's order: "
        '<span class="key before">before</span> <span class="key after">after</span>, '
        f'<span class="key limit">above {MOST:.0f} a typical channel is left with 4 of 8 bits</span>'
    )
    return f'<figure><div class="wide" tabindex="0">{drawn}</div><figcaption>{caption}</figcaption></figure>'


def _row(layer: LayerChange, steepest: float) -> tuple[doc.Words | doc.Cell, ...]:
    shape = "×".join(str(n) for n in layer.shape) or "one number"
    kind = _KINDS[layer.kind]
    return (
        (doc.name(layer.node), doc.Span(f"{layer.op}{' ' + kind if kind else ''}", "small")),
        (shape, doc.Span(layer.dtype, "small")),
        doc.Cell(doc.Span(str(len(layer.folded)), "folds"), len(layer.folded)),
        doc.Cell(_factors(layer), layer.factor_max),
        _change(layer, steepest),
        *(_ranges(layer) if layer.ranges_after else ("", "", "")),
        layer.bias or doc.Span("as it was", "dim"),
    )


def _factors(layer: LayerChange) -> str:
    least, most = figure(layer.factor_min), figure(layer.factor_max)
    return least if least == most else f"{least} … {most}"


def _change(layer: LayerChange, steepest: float) -> doc.Cell:
    """In percent of the layer's largest old value; from tenfold on as a factor."""
    change = layer.largest_change
    if change is None:
        return doc.Cell("from zeros", math.inf)
    told = doc.Number(100 * change, 3, " %") if change < 10 else doc.Number(change, 3, "×")
    bar = math.log1p(change) / math.log1p(steepest) if steepest > 0 else 0.0
    return doc.Cell((told, doc.Chart("meter", ([(bar, "after")], 60))), change)


def _ranges(layer: LayerChange) -> tuple[doc.Cell, doc.Cell, doc.Cell]:
    """The largest weight, the spread, and the ranges drawn."""
    before, after = layer.ranges_before[-1], layer.ranges_after[-1]
    spread = doc.Span(figure(layer.spread_after), "strong warn" if _is_wide(layer) else "strong")
    bits = doc.Span(f"{_bits(layer.spread_before)} → {_bits(layer.spread_after)} bits", "small")
    drawn = doc.Chart("sparkline", (layer.ranges_before, layer.ranges_after))
    return (
        doc.Cell(f"{figure(before)} → {figure(after)}", after),
        doc.Cell((f"{figure(layer.spread_before)} → ", spread, bits), layer.spread_after),
        doc.Cell(drawn, layer.spread_after / layer.spread_before),
    )


def _bits(spread: float) -> str:
    """How many of 8 bits the median channel is left with."""
    return f"{max(0.0, _BITS - math.log2(max(1.0, spread))):.1f}"
