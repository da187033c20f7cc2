"""``--help`` and the pages tell of the same options, and a page's commands can be called as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from bnfuse.cli import main
from tests.documented import PAGES, ROOT, blocks, commands, options

# Options of other programs that the pages name: docker, git, make's Python modules, mypy, pip.
OTHERS = {
    *("--build-arg", "--network", "--rm"),
    *("--no-deps", "--upgrade", "--yes"),
    *("--most", "--strict", "--tests"),
    "--help",
}
COMMANDS = main.commands
LINKING = [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]


def _known() -> set[str]:
    everywhere = [*main.params, *(param for command in COMMANDS.values() for param in command.params)]
    return {name for param in everywhere for name in param.opts if name.startswith("--")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_of_a_page_exists(page: Path) -> None:
    assert options(page) <= _known() | OTHERS


def test_every_option_is_told_on_some_page() -> None:
    told = set().union(*map(options, PAGES))
    assert _known() <= told
    assert told >= OTHERS, "an option of another program that no page names any more"


def test_every_command_is_told_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {name for name in COMMANDS if f"bnfuse {name}" in text} == set(COMMANDS)


CALLS = [(page.name, words) for page in PAGES for block in blocks(page) for words in commands(block)]


@pytest.mark.parametrize(("page", "words"), CALLS, ids=[f"{page}-{words[0]}" for page, words in CALLS])
def test_every_command_of_a_page_is_one(page: str, words: list[str]) -> None:
    """Its options belong to it, and it names as many models as it takes; no file is looked at."""
    command = COMMANDS[words[0]]
    above = click.Context(main, **main.context_settings)  # else click remembers a --help without -h
    context = click.Context(command, above, words[0])
    given, left, order = command.make_parser(context).parse_args(words[1:])
    assert not left
    wanted = [param for param in order if isinstance(param, click.Argument) and param.required]
    assert all(given[str(param.name)] is not None for param in wanted), page


def test_there_are_commands_to_look_at() -> None:
    assert {"README.md", "ci.md", "gates.md", "verify.md", "diff.md"} <= {page for page, _ in CALLS}
    assert {words[0] for _, words in CALLS} == set(COMMANDS)


def test_every_target_of_make_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*(?: [a-z][a-z-]*)*):(?![=])", makefile, re.MULTILINE))
    targets = {word for line in targets for word in line.split()}
    pages = {page: [words for block in blocks(page) for words in commands(block, "make")] for page in PAGES}
    called = {words[0] for found in pages.values() for words in found if words}
    assert called <= targets and {"demo", "test", "lint", "test-oldest"} <= called
    helped = set(re.findall(r"^#   make ([a-z-]+)", makefile, re.MULTILINE))
    assert helped <= targets


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    places = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for place in places:
        if not place.startswith(("https://", "#")):
            assert (page.parent / place.partition("#")[0]).exists(), place
