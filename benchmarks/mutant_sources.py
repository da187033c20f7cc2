"""Mutants of a module: its source with one small mistake each.

The mistakes are mutmut's (operators and comparisons swapped, ``not`` removed, True for False, a ``case`` or
an argument left out …), and some of the kind that this code is prone to::

    a and b     → a, b            a guard forgotten
    1e-12       → 1e-9, 1e-15     a limit that does not limit, or always does
    if x:       → if not x:
    min, any, maximum …           → its opposite
    (A, B, C)   → (A, C)          an entry of a table forgotten

mutmut itself swaps functions in a running program, so it sees neither properties nor constants nor tables;
here the module is made anew, and whatever stands in it can be mutated.

Not mutated: what no test should notice. Docstrings and other text, annotations, decorators, imports, type
aliases, asserted types, and whatever is said while raising an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation import mutators

_MUTMUTS = [
    (cst.Name, mutators.operator_name),
    (cst.AugAssign, mutators.operator_augmented_assignment),
    (cst.UnaryOperation, mutators.operator_remove_unary_ops),
    (cst.CSTNode, mutators.operator_keywords),
    (cst.CSTNode, mutators.operator_swap_op),
    (cst.Match, mutators.operator_match),
    (cst.IfExp, mutators.operator_if_exp),
]
_OPPOSITES = {
    a: b
    for one, other in [("min", "max"), ("any", "all"), ("minimum", "maximum"), ("zeros", "ones")]
    for a, b in [(one, other), (other, one)]
}
_CHECK = "strict"  # of zip: it checks what holds, and is no more to be mutated than an assertion
_CONDITIONS = (cst.Name, cst.Attribute, cst.Call, cst.Subscript)  # others are mutated by what is in them


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: where, what it was and what it is; ``source`` is the module with it."""

    line: int
    last_line: int
    before: str
    after: str
    count: int  # of those with the same line and text, which one
    source: str

    @property
    def name(self) -> str:
        """The same as long as the line is."""
        again = f" ({self.count + 1})" if self.count else ""
        return f"{self.line}: {self.before} → {self.after}{again}"


def mutants(source: str) -> Iterator[Mutant]:
    """All mutants of a module, from its top on."""
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = _Mistakes()
    wrapper.visit(visitor)
    module, seen = wrapper.module, dict[tuple[int, str, str], int]()
    parts = [module.code_for_node(statement) for statement in module.body]
    head, tail = source.split("".join(parts)) if parts else ("", "")
    at = {node: index for index, statement in enumerate(module.body) for node in _nodes(statement)}
    for original, mutated, line, last in visitor.found:
        before, after = (_short(module, node) for node in (original, mutated))
        index = at[original]  # only the one statement is made anew: a whole module takes ten times as long
        statement = module.body[index].deep_replace(original, mutated)
        assert isinstance(statement, cst.CSTNode)
        changed = module.code_for_node(statement)
        code = "".join((head, *parts[:index], changed, *parts[index + 1 :], tail))
        if code == source or not _compiles(code):
            continue
        key = line, before, after
        seen[key] = seen.get(key, -1) + 1
        yield Mutant(line, last, before, after, seen[key], code)


def _nodes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _compiles(code: str) -> bool:
    try:
        compile(code, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def _short(module: cst.Module, node: cst.CSTNode) -> str:
    text = " ".join(module.code_for_node(node).split())
    return text if len(text) <= 90 else f"{text[:60]} … {text[-27:]}"


class _Mistakes(cst.CSTVisitor):
    """Collects (node, mutated node, first line, last line)."""

    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self) -> None:
        self.found: list[tuple[cst.CSTNode, cst.CSTNode, int, int]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Mutate this node, and say whether to go on with what is in it."""
        if self._passes_unnoticed(node):
            return False
        for mutated in _mistakes(node, self.get_metadata(ParentNodeProvider, node, None)):
            lines = self.get_metadata(PositionProvider, node)
            self.found.append((node, mutated, lines.start.line, lines.end.line))
        return True

    def _passes_unnoticed(self, node: cst.CSTNode) -> bool:
        match node:
            case (
                cst.Annotation()
                | cst.Decorator()
                | cst.BaseString()
                | cst.Import()
                | cst.ImportFrom()
                | cst.Raise()
                | cst.Assert()
            ):
                return True
            case (
                cst.Assign(value=cst.Subscript())
                | cst.Assign(value=cst.BinaryOperation(operator=cst.BitOr()))
            ):
                return self._at_the_top(node)  # a type alias
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value="__slots__" | "__all__"))]):
                return True
            case cst.Arg(keyword=cst.Name(value=name)) if name == _CHECK:
                return True
            case cst.If(test=cst.Name(value="TYPE_CHECKING")):
                return True
            case cst.Call(func=cst.Name(value="cast" | "TypeVar" | "len" | "isinstance")):
                return True
        return False

    def _at_the_top(self, node: cst.CSTNode) -> bool:
        line = self.get_metadata(ParentNodeProvider, node)
        return isinstance(self.get_metadata(ParentNodeProvider, line), cst.Module)


def _mistakes(node: cst.CSTNode, parent: cst.CSTNode | None) -> Iterator[cst.CSTNode]:
    yield from _own(node, parent)
    if isinstance(node, cst.BooleanOperation):
        return  # each side alone says more than `or` for `and`
    for kind, operator in _MUTMUTS:
        if isinstance(node, kind):
            yield from operator(node)


def _own(node: cst.CSTNode, parent: cst.CSTNode | None) -> Iterable[cst.CSTNode]:
    match node:
        case cst.BooleanOperation():
            yield from (node.left, node.right)
        case cst.Integer():
            yield node.with_changes(value=repr(node.evaluated_value + 1))
        case cst.Float():
            value = node.evaluated_value
            yield from _floats(
                node, (value * 1e3, value / 1e3) if value not in (0.0, 1.0, -1.0) else (value + 1,)
            )
        case cst.Name() if node.value in _OPPOSITES and _is_called(node, parent):
            yield node.with_changes(value=_OPPOSITES[node.value])
        case cst.If() | cst.While() | cst.CompIf() if isinstance(node.test, _CONDITIONS):
            yield node.with_changes(test=_negated(node.test))
        case cst.Tuple() | cst.List() | cst.Set() | cst.Dict() if _is_table(node, parent):
            for at in range(len(node.elements)):
                rest = [*node.elements[:at], *node.elements[at + 1 :]]
                if rest:
                    yield node.with_changes(elements=_spaced(node, rest))
        case cst.Call(args=args):
            for at, arg in enumerate(args):
                if arg.keyword is not None and arg.keyword.value != _CHECK and len(args) > 1:
                    yield node.with_changes(args=[*args[:at], *args[at + 1 :]])


def _is_called(node: cst.Name, parent: cst.CSTNode | None) -> bool:
    """As a function or a method; a parameter of the same name is not."""
    return (isinstance(parent, cst.Call) and parent.func is node) or (
        isinstance(parent, cst.Attribute) and parent.attr is node
    )


def _floats(node: cst.Float, values: Iterable[float]) -> Iterator[cst.Float]:
    yield from (node.with_changes(value=repr(value)) for value in values)


def _negated(test: cst.BaseExpression) -> cst.BaseExpression:
    return cst.UnaryOperation(cst.Not(), test)


def _is_table(node: cst.Tuple | cst.List | cst.Set | cst.Dict, parent: cst.CSTNode | None) -> bool:
    """A set, a dictionary, what is asked for with ``in``, or what a name stands for."""
    if any(isinstance(e, cst.StarredElement | cst.StarredDictElement) for e in node.elements):
        return False
    return isinstance(node, cst.Set | cst.Dict) or isinstance(
        parent, cst.ComparisonTarget | cst.AnnAssign | cst.For | cst.CompFor
    )


def _spaced(
    node: cst.Tuple | cst.List | cst.Set | cst.Dict, rest: list[cst.BaseElement]
) -> list[cst.BaseElement]:
    """A tuple of one keeps its comma."""
    if isinstance(node, cst.Tuple) and len(rest) == 1:
        return [rest[0].with_changes(comma=cst.Comma())]
    return rest
