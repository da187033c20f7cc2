"""Where a model is: a path of this machine, or an address (``s3://bucket/model.onnx``) in its place."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_address(text: str) -> bool:
    """Whether this names a place that the operating system has no path to; a drive letter is none."""
    return bool(_ADDRESS.match(text)) and not text.lower().startswith("file://")


class Address(type(Path())):  # type: ignore[misc]  # Path itself cannot be subclassed before Python 3.12
    """An address where results hold a path: it has a name and a suffix, and nothing is ever opened by it."""

    url = ""

    def __new__(cls, url: str, *more: Any) -> Address:
        """Its parts are those of a path; the two slashes are kept apart."""
        made = super().__new__(cls, url, *more)
        made.url = "" if more else url
        return made  # type: ignore[no-any-return]

    def __init__(self, url: str, *more: Any) -> None:
        if sys.version_info >= (3, 12):
            super().__init__(url, *more)

    def __str__(self) -> str:
        return self.url or super().__str__()

    def __reduce__(self) -> Any:
        return (type(self), (str(self),))

    def resolve(self, strict: bool = False) -> Address:
        """As it is."""
        return self

    def as_uri(self) -> str:
        """The address itself."""
        return str(self)


def place_of(text: str) -> Path:
    """A path, or an address as one."""
    return Address(text) if is_address(text) else Path(text)
