"""How what a file says stands in a sentence: a file may call a layer by a text of any length and kind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnfuse.errors import BnfuseError

_MOST_OF_A_NAME, _MOST_OF_A_SENTENCE = 80, 300
_QUOTED = re.compile(rf"(?<!\w)'([^']{{{_MOST_OF_A_NAME + 1},}})'(?!\w)")
_WORD = re.compile(rf"[^\s']{{{_MOST_OF_A_NAME + 1},}}")


def short(name: object, most: int = _MOST_OF_A_NAME) -> str:
    """A name of at most ``most`` characters, its middle left out."""
    text = str(name)
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


@contextmanager
def one_sentence(path: Path) -> Iterator[None]:
    """Errors about a file name it, in one line of at most 300 characters beside its path.

    Raises:
        BnfuseError: as it was raised, in these words.
    """
    try:
        yield
    except BnfuseError as error:
        error.args = (sentence(str(error), path),)
        raise


def sentence(text: str, path: Path) -> str:
    """A sentence about the file at ``path``: long names shortened, and what cannot be printed escaped."""
    if path.name not in text:
        text = f"{path}: {text[:1].lower()}{text[1:]}"
    before, named, after = text.partition(str(path) if str(path) in text else path.name)
    return _shortened(before) + named + short(_shortened(after), _MOST_OF_A_SENTENCE - len(before))


def _shortened(text: str) -> str:
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    quoted = _QUOTED.sub(lambda found: f"'{short(found[1])}'", printable)
    return _WORD.sub(lambda found: short(found[0]), quoted)
