"""The house stays easy to enter: short files, short chains of imports, no circles, few parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "bnfuse").rglob("*.py"))

MOST_LINES = 300
LONGEST_CHAIN = 12  # of imports that run when a module is imported
MOST_PARAMETERS = 8


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.fixture(scope="module", autouse=True)
def trees_are_dropped() -> Iterator[None]:
    """Half a million objects, which every garbage collection of a later test would look at."""
    yield
    _modules.cache_clear()


@cache
def _modules() -> dict[str, ast.Module]:
    """Parsed once, where the tests run: every worker imports this file."""
    return {_module(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def _run_on_import(body: Sequence[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Neither what a function imports when it is called, nor what a type checker alone looks at."""
    for statement in body:
        match statement:
            case ast.Import() | ast.ImportFrom():
                yield statement
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from _run_on_import(statement.orelse)
            case ast.If() | ast.Try() | ast.With() | ast.ClassDef():
                yield from _run_on_import(statement.body)


def _imported(module: str) -> set[str]:
    found: set[str] = set()
    modules = _modules().keys()
    for statement in _run_on_import(_modules()[module].body):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        else:
            names = {f"{statement.module}.{alias.name}" for alias in statement.names}
            found |= names & modules or {str(statement.module)}
    return (found & modules) - {module}


@cache
def _graph() -> dict[str, set[str]]:
    return {module: _imported(module) for module in _modules()}


@cache
def _chain(module: str) -> tuple[str, ...]:
    return (module, *max((_chain(other) for other in _graph()[module]), key=len, default=()))


def test_there_are_no_circles() -> None:
    """``TopologicalSorter`` raises ``CycleError``, which names one."""
    assert len(list(TopologicalSorter(_graph()).static_order())) == len(_modules()) > 100


def test_no_chain_of_imports_is_long() -> None:
    longest = max(map(_chain, _modules()), key=len)
    assert 5 < len(longest) <= LONGEST_CHAIN, " → ".join(longest)


def test_no_file_is_long() -> None:
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lines.items() if n > MOST_LINES} == {}


def test_no_function_has_many_parameters() -> None:
    many = {
        f"{module}.{node.name}": len(names)
        for module, tree in _modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and len(names := [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                          if a.arg not in ("self", "cls")]) > MOST_PARAMETERS
    }  # fmt: skip
    assert many == {}
