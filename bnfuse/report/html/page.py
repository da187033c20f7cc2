"""The frame of the page: one file, no network, nothing runs but the page's own script.

The content security policy allows the one style sheet and the one script by their hashes and forbids
everything else, so even a string that escaped its place could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files

from bnfuse.report.html.markup import esc


def page(title: str, contents: str, body: str, data: str) -> str:
    """The whole document; ``contents`` and ``body`` are HTML, ``data`` a block of JSON or ""."""
    before, after = frame(title, contents, data)
    return f"{before}{body}{after}"


def frame(title: str, contents: str, data: str = "") -> tuple[str, str]:
    """What stands before the body of ``page``, and what behind it."""
    style, script = _own("style.css"), _own("script.js")
    policy = f"default-src 'none'; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'"
    before = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{esc(title)}</title>
<style>{style}</style>
</head>
<body>
{contents}
<main>
"""
    after = f"""
</main>
{data}
<script>{script}</script>
</body>
</html>
"""
    return before, after


@lru_cache
def _own(name: str) -> str:
    """A file of this package, wrapped in newlines as it stands in the page."""
    return "\n" + files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
