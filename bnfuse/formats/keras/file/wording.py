"""How names out of a file stand in a sentence: a file may call a layer by a text of any length."""

from __future__ import annotations

MOST_CHARACTERS = 80


def short(name: object, most: int = MOST_CHARACTERS) -> str:
    """A name of at most ``most`` characters, its middle left out."""
    text = str(name)
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
