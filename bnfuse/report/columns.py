"""How wide the columns of a table are, so that no word and no number is cut.

Where a table is too wide for its place, words go onto more lines, those of the widest column first. Names
of a model may be cut where they are long; nothing else is. Where even that does not fit, there is no table.
"""

from __future__ import annotations

from collections.abc import Sequence

# A name longer than this may go onto several lines.
_WHOLE_NAME = 24


def fitted(columns: Sequence[Sequence[tuple[str, bool]]], available: int) -> list[int] | None:
    """Widths of the columns that sum up to at most ``available``; None where no such widths are enough.

    Each column is its cells, the head among them: (text, whether it is a name of the model's).
    """
    widths = [max(len(text) for text, _ in cells) for cells in columns]
    least = [max(_least(text, is_name=is_name) for text, is_name in cells) for cells in columns]
    if sum(least) > available:
        return None
    while sum(widths) > available:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _least(text: str, *, is_name: bool) -> int:
    longest = max(map(len, text.split()), default=0)
    return min(longest, _WHOLE_NAME) if is_name else longest
