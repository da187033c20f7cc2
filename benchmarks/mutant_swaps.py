"""What of a module a mutant changes, and how little of it must be made anew for that.

    body of a function    the function gets other code: it keeps its identity, so that tables, subclasses and
                          other modules that hold it run the mutant
    constant, table       the statement is run again in its module, and those behind it that use what it names
    all else              the module must be imported anew, and with it whatever took something from it: a
                          class, a default value, a constant that others have imported by name

The first two are done in a process that has everything imported and has collected the tests. What runs while
that happens cannot be changed afterwards: whatever stands in a line that runs then is imported anew.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

_Functions = dict[str, tuple[CodeType, CodeType]]
_TABLE = "ROWS"  # of a file of rows, which ops gathers
_OPS = "bnfuse.formats.onnx.rows.ops"


@dataclass(frozen=True, slots=True)
class Patch:
    """What is to be done to an imported module.

    Attributes:
        functions: code before and after, by qualified name.
        statements: to be run in it.
        table: whether its rows are others then.
    """

    functions: _Functions
    statements: CodeType | None = None
    table: bool = False


def patch_of(
    name: str, source: str, mutated: str, path: str, imports: Collection[int], taken: Collection[str]
) -> Patch | None:
    """What makes a module its mutant; None where it must be imported anew.

    Args:
        name: of the module.
        source: the module.
        mutated: the module with the mistake.
        path: where it is.
        imports: lines that run while it is imported, or before the first test.
        taken: names that other modules have taken from it.
    """
    before, dumped = _parsed(source)
    after = ast.parse(mutated)
    if len(before.body) != len(after.body):
        return None
    differ = [at for at, node in enumerate(after.body) if ast.dump(node) != dumped[at]]
    if all(isinstance(before.body[at], ast.FunctionDef | ast.ClassDef) for at in differ):
        return _bodies(source, mutated, path, imports)
    gathered = {_TABLE} if _gathered(name) else set()
    found = _again(after, differ, path, imports, set(taken) - gathered)
    return found if found is None or not found.table or gathered else None


def _gathered(name: str) -> bool:
    """Whether a module is one of those whose rows ops gathers, and nobody else does."""
    package, _, file = name.rpartition(".")
    return package == _OPS.rpartition(".")[0] and file.endswith("_ops")


@lru_cache(maxsize=1)
def _parsed(source: str) -> tuple[ast.Module, list[str]]:
    """The module, which is compared with many, and its statements as text."""
    tree = ast.parse(source)
    return tree, [ast.dump(node) for node in tree.body]


@lru_cache(maxsize=1)
def _compiled(source: str, path: str) -> CodeType:
    return compile(source, path, "exec", dont_inherit=True)


# --- constants and tables ----------------------------------------------------------------------------


def _again(
    tree: ast.Module, differ: Sequence[int], path: str, imports: Collection[int], taken: set[str]
) -> Patch | None:
    """The statements that differ, and those behind them that use what these name."""
    names: set[str] = set()
    again: list[ast.stmt] = []
    for at, statement in enumerate(tree.body):
        if at not in differ and not names & _used_now(statement):
            continue
        assigned = _assigned(statement)
        if not assigned:
            return None
        names |= assigned
        again.append(statement)
    if names & taken or any(_ran(statement, names, imports) for statement in tree.body):
        return None
    code = compile(ast.Module(again, []), path, "exec", dont_inherit=True)
    return Patch({}, code, _TABLE in names)


def _assigned(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def _used_now(node: ast.AST) -> set[str]:
    """Names that a statement needs when it is run."""
    return {n.id for n in _run_now(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _run_now(node: ast.AST) -> Iterator[ast.AST]:
    """What of a statement is run where it stands; bodies of functions wait until they are called."""
    yield node
    parts: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.FunctionDef):
        parts = [*node.decorator_list, *node.args.defaults]
        parts += [default for default in node.args.kw_defaults if default is not None]
    for part in parts:
        yield from _run_now(part)


def _ran(statement: ast.stmt, names: set[str], imports: Collection[int]) -> bool:
    """Whether a function that uses one of the names has run already."""
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef):
            uses = any(
                isinstance(n, ast.Name) and n.id in names for part in node.body for n in ast.walk(part)
            )
            lines = range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)
            if uses and not set(lines).isdisjoint(imports):
                return True
    return False


# --- bodies of functions -----------------------------------------------------------------------------


def _bodies(source: str, mutated: str, path: str, imports: Collection[int]) -> Patch | None:
    found: _Functions = {}
    old, new = _compiled(source, path), compile(mutated, path, "exec", dont_inherit=True)
    if not _collect(old, new, found) or not found:
        return None
    for was, _ in found.values():
        body = {line for line in _lines(was) if line is not None} - {was.co_firstlineno}
        if was.co_name.startswith("<") or not body.isdisjoint(imports):
            return None
    return Patch(found)


def _lines(code: CodeType) -> Iterator[int | None]:
    yield from (line for *_, line in code.co_lines())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines(constant)


def _collect(old: CodeType, new: CodeType, found: _Functions, prefix: str = "") -> bool:
    """Gather the functions that differ; whether all else is the same."""
    if _outer(old) != _outer(new) or len(old.co_consts) != len(new.co_consts):
        return False
    for was, now in zip(old.co_consts, new.co_consts, strict=True):
        if not (isinstance(was, CodeType) and isinstance(now, CodeType)):
            if _shape(was) != _shape(now):
                return False
        elif not was.co_flags & CO_OPTIMIZED:  # a class
            if not _collect(was, now, found, f"{prefix}{was.co_name}."):
                return False
        elif _shape(was) != _shape(now):
            name = prefix + was.co_name
            if was.co_name != now.co_name or name in found:
                return False
            found[name] = was, now
    return True


def _outer(code: CodeType) -> tuple[object, ...]:
    return (
        code.co_code,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        code.co_flags,
        code.co_argcount,
        getattr(code, "co_exceptiontable", b""),  # from Python 3.11 on
    )


def _shape(constant: object) -> object:
    """What a constant is, but for where it stands; 1, 1.0 and True are three."""
    if isinstance(constant, CodeType):
        return (*_outer(constant), tuple(_shape(inner) for inner in constant.co_consts))
    return type(constant), repr(constant)


# --- doing it ----------------------------------------------------------------------------------------


def reachable(name: str, patch: Patch) -> bool:
    """Whether the module is imported, and every function can be found and take the code."""
    if name not in sys.modules:
        return False
    for qualified, (old, new) in patch.functions.items():
        found = _function(sys.modules[name], qualified, old)
        if found is None or len(found.__closure__ or ()) != len(new.co_freevars):
            return False
    return not patch.table or _OPS in sys.modules


def apply(name: str, patch: Patch) -> None:
    """Make an imported module the mutant; raises whatever an import would."""
    module = sys.modules[name]
    for qualified, (old, new) in patch.functions.items():
        found = _function(module, qualified, old)
        assert found is not None, qualified
        found.__code__ = new
    if patch.statements is not None:
        exec(patch.statements, vars(module))  # noqa: S102 - a mutant of our own source
    if patch.table:
        _gather()


def _gather() -> None:
    """The rows of all files, and what other modules of the package make of them when they are imported."""
    ops = vars(sys.modules[_OPS])
    rows = {op: kind for file in ops["_FILES"] for kind in file.ROWS for op in kind.ops}
    ops[_TABLE].clear()
    ops[_TABLE].update(rows)
    for name, module in list(sys.modules.items()):
        if name.startswith("bnfuse.") and name != _OPS and vars(module).get(_TABLE) is ops[_TABLE]:
            path = str(module.__file__)
            tree = ast.parse(Path(path).read_text(encoding="utf-8"))
            again = [node for node in tree.body if _TABLE in _used_now(node)]
            assert all(_assigned(node) for node in again), name
            code = compile(ast.Module(again, []), path, "exec", dont_inherit=True)
            exec(code, vars(module))  # noqa: S102 - our own source


def _function(module: Any, qualified: str, old: CodeType) -> FunctionType | None:
    here = module
    for part in qualified.split("."):
        if part not in vars(here):
            return None
        here = vars(here)[part]
    match here:
        case property(fget=inner) | cached_property(func=inner):
            here = inner
        case staticmethod() | classmethod():
            here = here.__func__
    while hasattr(here, "__wrapped__"):
        here = here.__wrapped__
    if not isinstance(here, FunctionType) or here.__code__.co_firstlineno != old.co_firstlineno:
        return None
    return here


def names_taken(module: str, sources: Collection[str]) -> set[str]:
    """What modules have taken from another one by the time they are imported.

    By name; or as an attribute of something, in a module that knows this one: ``file.ROWS``.
    """
    found: set[str] = set()
    package, _, last = module.rpartition(".")
    for source in sources:
        if package not in source or last not in source:
            continue
        tree = ast.parse(source)
        taking = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        found |= {alias.name for node in taking if node.module == module for alias in node.names}
        if any(node.module == package and last in {alias.name for alias in node.names} for node in taking):
            found |= {node.attr for node in _run_now(tree) if isinstance(node, ast.Attribute)}
    return found
