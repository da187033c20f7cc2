"""docs/python.md says what is so: its snippets are run in order, and print what it shows."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def snippets() -> list[tuple[str, str, int]]:
    """Code, what the page says that it prints, and its line there."""
    found: list[tuple[str, str, int]] = []
    for token in MarkdownIt().parse(PAGE.read_text(encoding="utf-8")):
        if token.type == "fence" and token.info == "python":
            assert token.map is not None
            found.append((token.content, "", token.map[0] + 1))
        elif token.type == "fence" and token.info == "text":
            code, _, line = found.pop()
            found.append((code, token.content, line))
    return found


@pytest.mark.slow
def test_every_snippet_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keras3: Any
) -> None:
    """Beginning with an empty folder; Keras last, where it is installed."""
    monkeypatch.chdir(tmp_path)
    page: dict[str, Any] = {}
    every = snippets()
    assert len(every) >= 9 and sum(bool(shown) for _, shown, _ in every) >= 8
    for code, shown, line in every:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * line + code, str(PAGE), "exec"), page)  # noqa: S102 - our own page
        assert out.getvalue() == shown, f"line {line}"
