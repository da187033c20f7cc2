"""What README.md and docs/ tell a reader to type: commands, recipes and options, as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def blocks(page: Path, language: str | None = None) -> list[str]:
    """Blocks of code, in order; of one ``language`` ("" for blocks that are indented)."""
    found = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    code = [token for token in found if token.type in ("fence", "code_block")]
    return [token.content for token in code if language is None or token.info == language]


def commands(text: str, program: str = "bnfuse") -> list[list[str]]:
    """The words of each command in a block that begins with a program, without it; a comment ends a command.

    A line that ends in a backslash goes on; so does what a prompt (``$``), a list of YAML, ``run:`` or a step
    of Jenkins begins. What the shell does with the output is left off.
    """
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        start = re.match(rf"\s*(?:\$ |- )?(?:run: |script: |sh '\S*/)?{program} (?!=)", line)
        if start:
            rest = line[start.end() :].removesuffix("'") if "sh '" in start[0] else line[start.end() :]
            words = shlex.split(rest, comments=True)
            found.append(words[: min(map(words.index, {"|", ">", ">>"} & {*words}), default=None)])
    return found


def options(page: Path) -> set[str]:
    """Every long option in code, be it a block or a word of the text."""
    return {option for code in _code(page) for option in _OPTION.findall(code.replace("&#45;", "-"))}


def _code(page: Path) -> Iterator[str]:
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            yield token.content
        for inner in token.children or ():
            if inner.type == "code_inline":
                yield inner.content
            elif inner.type == "text" and token.type == "inline":
                yield inner.content  # headings and cells name options without marks
