"""Draws the README's picture, docs/images/what-it-does*.svg: once for light pages, once for dark ones.

    python -m docs.picture      (or make docs)

Words are set in whatever sans-serif the reader has; boxes leave room for the widest of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 760, 300
_FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Palette:
    """Colours of one page: of text, of what is said beside it, of lines, and of three kinds of box."""

    text: str
    quiet: str
    line: str
    plain: str
    gone: str
    new: str


LIGHT = Palette("#1f2328", "#59636e", "#818b98", "#f6f8fa", "#fff1e5", "#ddf4ff")
DARK = Palette("#f0f6fc", "#9198a1", "#9198a1", "#212830", "#3d2a1b", "#12324f")


def picture(colours: Palette) -> str:
    """The whole picture as SVG."""
    before = [("x", "", None), ("Conv", "W, b", "plain"), ("BatchNormalization", "γ, β, μ, σ²", "gone")]
    after = [("x", "", None), ("Conv", "a·W,  a·b + c", "new")]
    ends = [("Relu", "", "plain"), ("y", "", None)]
    parts = [
        _words(40, 34, "model.onnx", colours.quiet, anchor="start"),
        *_chain(40, 52, [*before, *ends], colours),
        _arrow(343, 112, 343, 170, colours),
        _words(359, 138, "bnfuse optimize", colours.text, anchor="start", weight=600),
        _words(359, 158, "a = γ / √(σ² + ε)      c = β − μ·a", colours.quiet, anchor="start", size=13),
        _words(40, 160, "model.fused.onnx", colours.quiet, anchor="start"),
        *_chain(40, 178, [*after, *ends], colours),
        *_promises(["exact", "proved equal", "measured", "every one accounted for"], 268, colours),
    ]
    body = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="{_FONT}" aria-label="A BatchNormalization goes into the weights before it">\n'
        f'  <defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{colours.line}"/></marker></defs>\n'
        f"  {body}\n</svg>\n"
    )


def _chain(left: float, top: float, nodes: list[tuple[str, str, str | None]], colours: Palette) -> list[str]:
    """Boxes in a row, arrows between; of each its word, what stands below it and its kind (None: no box)."""
    parts, at = [], left
    for index, (word, below, kind) in enumerate(nodes):
        width = 26 if kind is None else max(84, 9.6 * len(word), 9 * len(below)) + 20
        if index:
            parts.append(_arrow(at - 34, top + 26, at - 4, top + 26, colours))
        if kind is not None:
            fill = {"plain": colours.plain, "gone": colours.gone, "new": colours.new}[kind]
            dashed = ' stroke-dasharray="5 4"' if kind == "gone" else ""
            parts.append(
                f'<rect x="{at:g}" y="{top:g}" width="{width:g}" height="52" rx="8" fill="{fill}" '
                f'stroke="{colours.line}"{dashed}/>'
            )
        middle = at + width / 2
        parts.append(_words(middle, top + (24 if below else 31), word, colours.text, weight=600))
        if below:
            parts.append(_words(middle, top + 42, below, colours.quiet, size=13))
        at += width + 38
    return parts


def _promises(words: list[str], y: float, colours: Palette) -> list[str]:
    step = 155
    return [
        _words(40 + step * index, y, f"✓ {word}", colours.text, anchor="start")
        for index, word in enumerate(words)
    ]


def _arrow(x1: float, y1: float, x2: float, y2: float, colours: Palette) -> str:
    return (
        f'<path d="M{x1:g} {y1:g} {x2:g} {y2:g}" stroke="{colours.line}" stroke-width="1.5" '
        f'fill="none" marker-end="url(#tip)"/>'
    )


def _words(
    x: float, y: float, words: str, colour: str, *, anchor: str = "middle", size: int = 15, weight: int = 400
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}" xml:space="preserve">{escape(words)}</text>'
    )


PICTURES = {IMAGES / "what-it-does.svg": LIGHT, IMAGES / "what-it-does-dark.svg": DARK}

if __name__ == "__main__":
    for path, palette in PICTURES.items():
        path.write_text(picture(palette), encoding="utf-8")
